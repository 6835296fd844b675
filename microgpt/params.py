"""Parameters: one flat buffer, and a column-major view of it for every name in one table."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from .config import Config
from .program import Array, aligned


def table(config: Config, vocab_size: int) -> list[Array]:
    """Every matrix, in the order in which they are drawn and lie in the buffer.

    The embeddings have one column per token and per position: what the reference calls a row of wte or wpe.
    """
    n = config.n_embd
    rows = [Array("wte", n, vocab_size), Array("wpe", n, config.block_size), Array("lm_head", vocab_size, n)]
    for layer in range(config.n_layer):
        rows += [Array(f"layer{layer}.attn_{w}", n, n) for w in ("wq", "wk", "wv", "wo")]
        rows += [Array(f"layer{layer}.mlp_fc1", 4 * n, n), Array(f"layer{layer}.mlp_fc2", n, 4 * n)]
    return rows


def size(array: Array) -> int:
    return array.rows * (array.columns or 0)


class Parameters:
    """A model: its settings, its vocabulary, and a flat buffer of its parameters (or of as many gradients).

    `flat` is the buffer, params["layer0.attn_wq"] and so on are the matrices in it.
    """

    def __init__(self, config: Config, vocab: list[str]) -> None:
        self.config, self.vocab = config, vocab
        self.table = table(config, len(vocab) + 1)  # the characters and BOS
        self.flat = aligned(sum(map(size, self.table)), config.dtype)
        self.views: dict[str, Any] = {}
        start = 0
        for array in self.table:
            end = start + size(array)
            self.views[array.name] = self.flat[start:end].reshape(array.rows, array.columns, order="F")
            start = end

    def __getitem__(self, name: str) -> Any:
        return self.views[name]

    def draw(self, rng: random.Random, std: float) -> None:
        """Fill with N(0, std) from `rng`, in the reference's order: row by row of n_out x n_in."""
        for name, view in self.views.items():
            draws = np.array([rng.gauss(0, std) for _ in range(view.size)])
            if name in ("wte", "wpe"):  # n_out is the number of tokens or positions: our columns
                view[:] = draws.reshape(view.shape, order="F")
            else:
                view[:] = draws.reshape(view.shape)

    def copy_from(self, arrays: Mapping[str, Any]) -> None:
        """Fill with the arrays of the same names."""
        for name, view in self.views.items():
            view[:] = arrays[name]
