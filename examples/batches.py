"""Shared by both training loops: batches of packed names, and the initial weights of a small GPT."""

import random
from pathlib import Path

import numpy as np

N_EMBD, N_HEAD, BLOCK_SIZE, BATCH_SIZE = 16, 4, 16, 16


def read(path):
    """Return the names in a file, shuffled, and their sorted characters; the next id marks both ends of a name."""
    names = Path(path).read_text(encoding="utf-8").split()
    random.Random(42).shuffle(names)
    return names, sorted(set("".join(names)))


def batch(names, vocab, step):
    """Return tokens, positions and targets, (n,) each, with the names one after the other, and offsets.

    offsets: (BATCH_SIZE + 1,), the column at which each name begins, and n.
    """
    chosen = [names[(step * BATCH_SIZE + i) % len(names)] for i in range(BATCH_SIZE)]
    rows = [[len(vocab), *map(vocab.index, name), len(vocab)][: BLOCK_SIZE + 1] for name in chosen]
    tokens = np.concatenate([row[:-1] for row in rows])
    targets = np.concatenate([row[1:] for row in rows])
    positions = np.concatenate([np.arange(len(row) - 1) for row in rows])
    offsets = np.cumsum([0, *(len(row) - 1 for row in rows)])
    return tokens, positions, targets, offsets


def weights(vocab_size):
    """Return {name: column-major matrix}, outputs x inputs; each column of wte and wpe is the vector of a token."""
    rng = np.random.default_rng(42)
    shapes = {"wte": (N_EMBD, vocab_size), "wpe": (N_EMBD, BLOCK_SIZE), "lm_head": (vocab_size, N_EMBD)}
    shapes |= dict.fromkeys(("wq", "wk", "wv", "wo"), (N_EMBD, N_EMBD))
    shapes |= {"fc1": (4 * N_EMBD, N_EMBD), "fc2": (N_EMBD, 4 * N_EMBD)}
    return {name: np.asfortranarray(rng.normal(0, 0.08, shape)) for name, shape in shapes.items()}
