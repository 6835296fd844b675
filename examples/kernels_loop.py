"""A GPT of one layer and its training loop, written with the public kernels only:  python examples/kernels_loop.py

The backward pass takes the lines of the forward pass in the opposite order.  Activations are features x tokens.
"""

import sys

import numpy as np
from batches import N_HEAD, batch, read, weights

from microgpt import kernels as k

LEARNING_RATE, BETA1, BETA2, EPS = 0.01, 0.85, 0.99, 1e-8


def loss_and_gradients(w, tokens, positions, targets, offsets):
    """Return the mean loss per token, and {name: gradient of the loss with respect to w[name]}."""
    g = {}
    embedded = k.embedding_forward(w["wte"], w["wpe"], tokens, positions)
    x0, rstd0 = k.rmsnorm_forward(embedded)

    a, rstd1 = k.rmsnorm_forward(x0)
    q, key, v = (k.matmul_forward(w[name], a) for name in ("wq", "wk", "wv"))
    heads, cache = k.attention_forward(q, key, v, offsets, N_HEAD)
    x1 = k.add_forward(x0, k.matmul_forward(w["wo"], heads))

    b, rstd2 = k.rmsnorm_forward(x1)
    hidden = k.relu_forward(k.matmul_forward(w["fc1"], b))
    x2 = k.add_forward(x1, k.matmul_forward(w["fc2"], hidden))

    logits = k.matmul_forward(w["lm_head"], x2)
    loss, _, probs = k.cross_entropy_forward(logits, targets)

    dlogits = k.cross_entropy_backward(probs, targets)
    g["lm_head"], dx2 = k.matmul_backward(dlogits, w["lm_head"], x2)

    g["fc2"], dhidden = k.matmul_backward(dx2, w["fc2"], hidden)
    g["fc1"], db = k.matmul_backward(k.relu_backward(dhidden, hidden), w["fc1"], b)
    dx1 = k.add_forward(dx2, k.rmsnorm_backward(db, b, rstd2))

    g["wo"], dheads = k.matmul_backward(dx1, w["wo"], heads)
    dq, dkey, dv = k.attention_backward(dheads, cache)
    g["wq"], da_q = k.matmul_backward(dq, w["wq"], a)
    g["wk"], da_k = k.matmul_backward(dkey, w["wk"], a)
    g["wv"], da_v = k.matmul_backward(dv, w["wv"], a)
    da = k.add_forward(k.add_forward(da_q, da_k), da_v)
    dx0 = k.add_forward(dx1, k.rmsnorm_backward(da, a, rstd1))

    dembedded = k.rmsnorm_backward(dx0, x0, rstd0)
    sizes = {"vocab_size": w["wte"].shape[1], "block_size": w["wpe"].shape[1]}
    g["wte"], g["wpe"] = k.embedding_backward(dembedded, tokens, positions, **sizes)
    return loss, g


def main(path="input.txt", n_steps=300):
    names, vocab = read(path)
    w = weights(len(vocab) + 1)
    m = {name: np.zeros_like(value) for name, value in w.items()}
    s = {name: np.zeros_like(value) for name, value in w.items()}
    for step in range(n_steps):
        loss, g = loss_and_gradients(w, *batch(names, vocab, step))
        for name in w:  # Adam
            m[name] = BETA1 * m[name] + (1 - BETA1) * g[name]
            s[name] = BETA2 * s[name] + (1 - BETA2) * g[name] ** 2
            m_hat, s_hat = m[name] / (1 - BETA1 ** (step + 1)), s[name] / (1 - BETA2 ** (step + 1))
            w[name] -= LEARNING_RATE * (1 - step / n_steps) * m_hat / (np.sqrt(s_hat) + EPS)
        if step % 100 == 0 or step == n_steps - 1:
            print(f"step {step + 1:4d} | loss {loss:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
