"""What both training loops here begin from: batches of packed names, and the weights of a small GPT."""

import random
from pathlib import Path

import numpy as np

N_EMBD, N_HEAD, BLOCK_SIZE, BATCH_SIZE = 16, 4, 16, 16


def read(path):
    """The names of a file, shuffled, and its characters; the token after the last is begin and end."""
    names = Path(path).read_text(encoding="utf-8").split()
    random.Random(42).shuffle(names)
    return names, sorted(set("".join(names)))


def batch(names, vocab, step):
    """tokens, positions, targets: (n,) each, the names one after the other; offsets: (BATCH_SIZE + 1,), where each
    begins, and the end of the last."""
    chosen = [names[(step * BATCH_SIZE + i) % len(names)] for i in range(BATCH_SIZE)]
    rows = [[len(vocab), *map(vocab.index, name), len(vocab)][: BLOCK_SIZE + 1] for name in chosen]
    tokens = np.concatenate([row[:-1] for row in rows])
    targets = np.concatenate([row[1:] for row in rows])
    positions = np.concatenate([np.arange(len(row) - 1) for row in rows])
    offsets = np.cumsum([0, *(len(row) - 1 for row in rows)])
    return tokens, positions, targets, offsets


def weights(vocab_size):
    """{name: a column-major matrix, features out x features in}; of wte and wpe each column is a vector of a token."""
    rng = np.random.default_rng(42)
    shapes = {"wte": (N_EMBD, vocab_size), "wpe": (N_EMBD, BLOCK_SIZE), "lm_head": (vocab_size, N_EMBD)}
    shapes |= dict.fromkeys(("wq", "wk", "wv", "wo"), (N_EMBD, N_EMBD))
    shapes |= {"fc1": (4 * N_EMBD, N_EMBD), "fc2": (N_EMBD, 4 * N_EMBD)}
    return {name: np.asfortranarray(rng.normal(0, 0.08, shape)) for name, shape in shapes.items()}
