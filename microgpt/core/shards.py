"""Shards: a batch's gradient as the sum of several, in an order that does not depend on where each was computed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from .program import aligned

T = TypeVar("T")


class Ranks(Protocol):
    """What a trainer needs of the processes that compute the shards of each step together."""

    def share(self, value: T) -> T:
        """The value that rank 0 has."""

    def part(self, shards: Sequence[T]) -> Sequence[T]:
        """The shards of this process.  Raises ConfigError when a tree cannot divide them."""

    def total(self, gradient: Any, loss: float) -> float:
        """Sum the gradients of all processes in place; return the sum of their losses."""


class Tree:
    """The sum of gradients that come one after the other, and of their losses, by one binary tree.

    Neighbours are added, then neighbouring sums, and so on: a half, a quarter or an eighth of the tree is a tree, which
    others can have summed.  As in a binary counter there is at most one sum of each level that waits for its neighbour.
    """

    def __init__(self, n_shards: int, gradient: Any) -> None:
        """`gradient` is where each gradient is found, and in the end their sum; n_shards is a power of two."""
        self.gradient, self.n_shards = gradient, n_shards
        n_levels = n_shards.bit_length() - 1
        self._sums = [aligned(gradient.size, gradient.dtype) for _ in range(n_levels)]
        self._losses = [0.0] * n_levels

    def add(self, i: int, loss: float) -> float:
        """Take in the i-th gradient and its loss; the sum of the losses as far as the tree is whole."""
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
    """(first document, how many) of each shard of a batch."""
    ends = [batch_size * i // n_shards for i in range(n_shards + 1)]
    return [(begin, end - begin) for begin, end in pairwise(ends)]
