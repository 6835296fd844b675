"""Parameters: one flat array, and a column-major matrix in it for each name."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..base.config import Config
from .program import Array, aligned
from .tokens import Tokens

EMBEDDINGS = "wte", "wpe"  # of tokens and positions


def table(config: Config, vocab_size: int) -> list[tuple[str, int, int]]:
    """(name, rows, columns) of every matrix, in the order in which they are drawn and stored.

    The embeddings have one column per token and per position; the reference has one row for each.
    """
    n = config.n_embd
    rows = [("wte", n, vocab_size), ("wpe", n, config.block_size), ("lm_head", vocab_size, n)]
    for layer in range(config.n_layer):
        rows += [(f"layer{layer}.attn_{w}", n, n) for w in ("wq", "wk", "wv", "wo")]
        rows += [(f"layer{layer}.mlp_fc1", 4 * n, n), (f"layer{layer}.mlp_fc2", n, 4 * n)]
    return rows


def count(config: Config, vocab_size: int) -> int:
    """The number of parameters."""
    return sum(rows * columns for _, rows, columns in table(config, vocab_size))


def arrays(config: Config, vocab_size: int) -> dict[str, Array]:
    """The matrices as a program's Arrays, by name."""
    return {name: Array(name, rows, columns) for name, rows, columns in table(config, vocab_size)}


def by_rows(matrices: Mapping[str, Any]) -> dict[str, Any]:
    """The matrices with the layout of other libraries: outputs x inputs, and a row for each token or position.

    Applying it twice gives the original: it only transposes the embeddings.
    """
    return {name: matrix.T if name in EMBEDDINGS else matrix for name, matrix in matrices.items()}


def row_shapes(config: Config, vocab_size: int) -> dict[str, tuple[int, int]]:
    """The shapes of the matrices from by_rows()."""
    matrices = table(config, vocab_size)
    return {name: (columns, rows) if name in EMBEDDINGS else (rows, columns) for name, rows, columns in matrices}


class Parameters(Mapping[str, Any]):
    """The parameters of a model, or as many gradients, with the model's settings and vocabulary.

    `flat` has all numbers.  The object is a mapping from names to the matrices in it, such as params["layer0.attn_wq"].
    """

    def __init__(self, config: Config, vocab: list[str]) -> None:
        self.config, self.vocab, self.tokens = config, vocab, Tokens(vocab, config.split)
        vocab_size = self.tokens.size
        self.table, self.arrays = table(config, vocab_size), arrays(config, vocab_size)
        self.flat = aligned(count(config, vocab_size), config.dtype)
        self.views = self.matrices(self.flat)

    def __repr__(self) -> str:
        return f"<Parameters: {self.flat.size} numbers in {len(self)} matrices, {self.config.dtype}>"

    def matrices(self, flat: Any) -> dict[str, Any]:
        """Views by name of another flat array with this layout, such as Adam's."""
        views, start = {}, 0
        for name, rows, columns in self.table:
            end = start + rows * columns
            views[name] = flat[start:end].reshape(rows, columns, order="F")
            start = end
        return views

    def __getitem__(self, name: str) -> Any:
        return self.views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

    def draw(self, rng: random.Random, std: float) -> None:
        """Fill with N(0, std) from `rng`, in the reference's order: row by row."""
        for rows in by_rows(self.views).values():
            rows[:] = np.array([rng.gauss(0, std) for _ in range(rows.size)]).reshape(rows.shape)

    def copy_from(self, arrays: Mapping[str, Any]) -> None:
        """Copy the values from the arrays of the same names."""
        for name, view in self.views.items():
            view[:] = arrays[name]
