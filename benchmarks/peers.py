"""The training step in other libraries: each function takes a Config and returns a function step().

NumPy's BLAS takes its number of threads from the environment; plain Python has one.
"""

import itertools
import random
import sys
from pathlib import Path

import numpy as np

from microgpt.core.data import Dataset
from microgpt.core.documents import Documents
from microgpt.core.params import table
from microgpt.core.tokens import Tokens

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def documents_and_vocab(config):
    documents = Documents(config, config.input, random.Random(config.seed))
    return documents.training, documents.vocab


def torch_step(config, n_threads):
    """PyTorch, eager: documents padded to the longest of the batch, PyTorch's attention and its fused Adam."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(n_threads)
    torch.manual_seed(config.seed)
    dtype = getattr(torch, config.dtype)
    documents, vocab = documents_and_vocab(config)
    bos = len(vocab)
    ids = {char: i for i, char in enumerate(vocab)}
    batches = []
    for first in range(0, min(len(documents), 256 * config.batch_size) - config.batch_size + 1, config.batch_size):
        rows = [[bos, *(ids[c] for c in d), bos] for d in documents[first : first + config.batch_size]]
        n = min(config.block_size, max(map(len, rows)) - 1)
        tokens = torch.tensor([(row[:-1] + [bos] * n)[:n] for row in rows])
        targets = torch.tensor([(row[1:] + [-100] * n)[:n] for row in rows])
        weight = 1 / (targets != -100).sum(1, keepdim=True) / len(rows)
        batches.append((tokens, targets, weight.to(dtype)))
    batches = itertools.cycle(batches)
    std = config.init_std
    p = {
        name: (torch.randn(columns, rows) if name in ("wte", "wpe") else torch.randn(rows, columns)).to(dtype).mul_(std)
        for name, rows, columns in table(config, bos + 1)
    }
    for tensor in p.values():
        tensor.requires_grad_()
    adam = torch.optim.Adam(
        p.values(), lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )

    def norm(x):
        return F.rms_norm(x, (config.n_embd,), eps=1e-5)

    def heads(x):
        return x.unflatten(-1, (config.n_head, -1)).transpose(1, 2)

    def step():
        tokens, targets, weight = next(batches)
        x = norm(p["wte"][tokens] + p["wpe"][: tokens.shape[1]])
        for layer in range(config.n_layer):
            w = {
                name: p[f"layer{layer}.{name}"]
                for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2")
            }
            h = norm(x)
            q, k, v = (heads(F.linear(h, w[name])) for name in ("attn_wq", "attn_wk", "attn_wv"))
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(h.transpose(1, 2).flatten(-2), w["attn_wo"])
            x = x + F.linear(F.relu(F.linear(norm(x), w["mlp_fc1"])), w["mlp_fc2"])
        logits = F.linear(x, p["lm_head"])
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        loss = (losses * weight).sum()
        loss.backward()
        adam.step()
        adam.zero_grad()
        return loss.item()

    return step


def numpy_step(config, n_threads):
    """NumPy: the packed batches of this project, matrix products by BLAS, attention document by document."""
    documents, vocab = documents_and_vocab(config)
    tokens = Tokens(vocab, config.split)
    dataset = Dataset(documents, tokens, config, config.batch_size)
    rng = np.random.default_rng(config.seed)
    p = {
        name: (rng.standard_normal((rows, columns)) * config.init_std).astype(config.dtype)
        for name, rows, columns in table(config, tokens.size)
    }
    m = {name: np.zeros_like(w) for name, w in p.items()}
    v = {name: np.zeros_like(w) for name, w in p.items()}
    head_dim = config.n_embd // config.n_head
    counter = itertools.count()

    def norm(x):
        rstd = 1 / np.sqrt((x * x).mean(axis=0) + 1e-5)
        return x * rstd, rstd

    def norm_backward(dy, y, rstd):
        return rstd * (dy - y * (dy * y).mean(axis=0))

    def split(x, i, j):  # n_embd x tokens -> n_head x tokens x head_dim
        return x[:, i:j].reshape(config.n_head, head_dim, j - i).transpose(0, 2, 1)

    def join(x):
        return x.transpose(0, 2, 1).reshape(config.n_embd, -1)

    def step():
        t = next(counter)
        start, n = dataset.batch(t)
        token, position, target, weight = (a[start : start + n] for a in dataset.arrays.values())
        spans = [*np.flatnonzero(position == 0).tolist(), n]
        spans = list(itertools.pairwise(spans))
        g, saved = {}, []
        x0, rstd0 = norm(p["wte"][:, token] + p["wpe"][:, position])
        x = x0
        for layer in range(config.n_layer):
            w = {
                name: p[f"layer{layer}.{name}"]
                for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2")
            }
            h1, rstd1 = norm(x)
            q, k, value = w["attn_wq"] @ h1, w["attn_wk"] @ h1, w["attn_wv"] @ h1
            out, probs = np.empty_like(q), []
            for i, j in spans:
                s = split(q, i, j) @ split(k, i, j).transpose(0, 2, 1) * head_dim**-0.5
                s[:, np.triu(np.ones((j - i, j - i), bool), 1)] = -np.inf
                s = np.exp(s - s.max(axis=-1, keepdims=True))
                s /= s.sum(axis=-1, keepdims=True)
                probs.append(s)
                out[:, i:j] = join(s @ split(value, i, j))
            x = x + w["attn_wo"] @ out
            h2, rstd2 = norm(x)
            hidden = np.maximum(w["mlp_fc1"] @ h2, 0)
            x = x + w["mlp_fc2"] @ hidden
            saved.append((w, h1, rstd1, q, k, value, out, probs, h2, rstd2, hidden))
        logits = p["lm_head"] @ x
        e = np.exp(logits - logits.max(axis=0))
        probabilities = e / e.sum(axis=0)
        loss = -(weight * np.log(probabilities[target, np.arange(n)])).sum()
        probabilities[target, np.arange(n)] -= 1
        dlogits = probabilities * weight
        g["lm_head"] = dlogits @ x.T
        dx = p["lm_head"].T @ dlogits
        for layer in reversed(range(config.n_layer)):
            w, h1, rstd1, q, k, value, out, probs, h2, rstd2, hidden = saved[layer]
            name = f"layer{layer}."
            dhidden = (w["mlp_fc2"].T @ dx) * (hidden > 0)
            g[name + "mlp_fc2"], g[name + "mlp_fc1"] = dx @ hidden.T, dhidden @ h2.T
            dx = dx + norm_backward(w["mlp_fc1"].T @ dhidden, h2, rstd2)
            g[name + "attn_wo"] = dx @ out.T
            dout = w["attn_wo"].T @ dx
            dq, dk, dv = np.empty_like(q), np.empty_like(q), np.empty_like(q)
            for (i, j), s in zip(spans, probs):
                do = split(dout, i, j)
                ds = do @ split(value, i, j).transpose(0, 2, 1)
                ds = s * (ds - (ds * s).sum(axis=-1, keepdims=True)) * head_dim**-0.5
                dq[:, i:j], dk[:, i:j] = join(ds @ split(k, i, j)), join(ds.transpose(0, 2, 1) @ split(q, i, j))
                dv[:, i:j] = join(s.transpose(0, 2, 1) @ do)
            g[name + "attn_wq"], g[name + "attn_wk"], g[name + "attn_wv"] = dq @ h1.T, dk @ h1.T, dv @ h1.T
            dh1 = w["attn_wq"].T @ dq + w["attn_wk"].T @ dk + w["attn_wv"].T @ dv
            dx = dx + norm_backward(dh1, h1, rstd1)
        dembedding = norm_backward(dx, x0, rstd0)
        for name, index in (("wte", token), ("wpe", position)):
            g[name] = np.zeros_like(p[name])
            np.add.at(g[name].T, index, dembedding.T)
        rate = config.learning_rate * (1 - t / config.num_steps)
        for name in p:
            m[name] = config.beta1 * m[name] + (1 - config.beta1) * g[name]
            v[name] = config.beta2 * v[name] + (1 - config.beta2) * g[name] ** 2
            m_hat, v_hat = m[name] / (1 - config.beta1 ** (t + 1)), v[name] / (1 - config.beta2 ** (t + 1))
            p[name] -= rate * m_hat / (np.sqrt(v_hat) + config.eps)
        return float(loss)

    return step


def python_step(config, n_threads):
    """Plain Python: loss and gradients from the scalar tape of the tests, without Adam, which takes 1 % of the time."""
    import reference

    documents, vocab = documents_and_vocab(config)
    bos = len(vocab)
    encoded = itertools.cycle([[bos, *map(vocab.index, d), bos] for d in documents[:200]])
    rng = random.Random(config.seed)
    params = {}
    for name, rows, columns in table(config, bos + 1):
        if name in ("wte", "wpe"):
            rows, columns = columns, rows  # the reference has a row for each token
        params[name] = [[rng.gauss(0, config.init_std) for _ in range(columns)] for _ in range(rows)]
    return lambda: reference.loss_and_gradients(config, params, [next(encoded) for _ in range(config.batch_size)])[0]
