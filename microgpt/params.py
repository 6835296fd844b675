"""Parameters: one flat buffer, and a column-major view of it for every name in one table."""

import numpy as np


def table(config, vocab_size):
    """(name, rows, columns) of every matrix, in the order in which they are drawn and lie in the buffer.

    The embeddings have one column per token and per position: what the reference calls a row of wte or wpe.
    """
    n = config.n_embd
    rows = [("wte", n, vocab_size), ("wpe", n, config.block_size), ("lm_head", vocab_size, n)]
    for layer in range(config.n_layer):
        rows += [(f"layer{layer}.attn_{w}", n, n) for w in ("wq", "wk", "wv", "wo")]
        rows += [(f"layer{layer}.mlp_fc1", 4 * n, n), (f"layer{layer}.mlp_fc2", n, 4 * n)]
    return rows


def aligned(size, dtype):
    """A zeroed 1-D array that begins at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(size + 64 // itemsize, dtype)
    skip = -raw.ctypes.data % 64 // itemsize
    return raw[skip : skip + size]


class Parameters:
    """A model: its settings, its vocabulary, and a flat buffer of its parameters (or of as many gradients).

    `flat` is the buffer, params["layer0.attn_wq"] and so on are the matrices in it.
    """

    def __init__(self, config, vocab):
        self.config, self.vocab = config, vocab
        self.table = table(config, len(vocab) + 1)  # the characters and BOS
        self.flat = aligned(sum(rows * columns for _, rows, columns in self.table), config.dtype)
        self.views = {}
        start = 0
        for name, rows, columns in self.table:
            self.views[name] = self.flat[start : start + rows * columns].reshape(rows, columns, order="F")
            start += rows * columns

    def __getitem__(self, name):
        return self.views[name]

    def draw(self, rng, std):
        """Fill with N(0, std) from `rng`, a random.Random, in the reference's order: row by row of n_out x n_in."""
        for name, rows, columns in self.table:
            draws = np.array([rng.gauss(0, std) for _ in range(rows * columns)])
            if name in ("wte", "wpe"):  # n_out is the number of tokens or positions: our columns
                self.views[name][:] = draws.reshape(rows, columns, order="F")
            else:
                self.views[name][:] = draws.reshape(rows, columns)

    def copy_from(self, arrays):
        """Fill with the arrays of the same names."""
        for name, view in self.views.items():
            view[:] = arrays[name]
