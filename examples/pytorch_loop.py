"""The model of kernels_loop.py in PyTorch, with the same losses.  Autograd calls the kernels' backward passes.

python examples/pytorch_loop.py          (needs torch)
"""

import sys

import torch
from batches import N_HEAD, batch, read, weights

from microgpt.torch import add, attention, cross_entropy, embedding, matmul, relu, rmsnorm


def loss_of(w, tokens, positions, targets, offsets):
    x = rmsnorm(embedding(w["wte"], w["wpe"], tokens, positions))
    a = rmsnorm(x)
    q, k, v = (matmul(w[name], a) for name in ("wq", "wk", "wv"))
    x = add(x, matmul(w["wo"], attention(q, k, v, offsets, N_HEAD)))
    x = add(x, matmul(w["fc2"], relu(matmul(w["fc1"], rmsnorm(x)))))
    return cross_entropy(matmul(w["lm_head"], x), targets)


def main(path="input.txt", n_steps=300):
    names, vocab = read(path)
    w = {name: torch.from_numpy(value).requires_grad_() for name, value in weights(len(vocab) + 1).items()}
    adam = torch.optim.Adam(w.values(), lr=0.01, betas=(0.85, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / n_steps)
    for step in range(n_steps):
        loss = loss_of(w, *map(torch.from_numpy, batch(names, vocab, step)))
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        if step % 100 == 0 or step == n_steps - 1:
            print(f"step {step + 1:4d} | loss {loss.item():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
