"""Shards: a batch's gradient as a sum of parts, added in an order that does not depend on where each is computed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from .program import aligned

T = TypeVar("T")


class Ranks(Protocol):
    """What a trainer needs of the MPI processes that together compute the shards of each step."""

    def share(self, value: T) -> T:
        """The value on rank 0."""

    def part(self, shards: Sequence[T]) -> Sequence[T]:
        """The shards of this process.  Raises ConfigError if a tree cannot divide them."""

    def total(self, gradient: Any, loss: float) -> float:
        """Sum the gradients of all processes in place; return the sum of their losses."""


class Tree:
    """Adds gradients that arrive one after the other, and their losses, in one binary tree.

    Neighbors are added, then neighboring sums, and so on.  Half, a quarter or an eighth of the tree is a tree itself,
    which another process can sum.  As in a binary counter, at most one sum of each level waits for its neighbor.
    """

    def __init__(self, n_shards: int, gradient: Any) -> None:
        """`gradient` receives each gradient, and holds their sum at the end; n_shards is a power of two."""
        self.gradient, self.n_shards = gradient, n_shards
        n_levels = n_shards.bit_length() - 1
        self._sums = [aligned(gradient.size, gradient.dtype) for _ in range(n_levels)]
        self._losses = [0.0] * n_levels

    def add(self, i: int, loss: float) -> float:
        """Add the i-th gradient and its loss; returns the sum of the losses in the complete part of the tree."""
        level = 0
        while i >> level & 1:
            np.add(self._sums[level], self.gradient, out=self.gradient)
            loss += self._losses[level]
            level += 1
        if i + 1 < self.n_shards:
            self._sums[level][:] = self.gradient
            self._losses[level] = loss
        return loss


def cut(batch_size: int, n_shards: int) -> list[tuple[int, int]]:
    """(first document, number of documents) of each shard of a batch."""
    ends = [batch_size * i // n_shards for i in range(n_shards + 1)]
    return [(begin, end - begin) for begin, end in pairwise(ends)]
