"""The table of kernels (csrc/table.h): the names and shapes of what each takes and gives."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from . import compiled


class Operand(NamedTuple):
    """An array that a kernel takes or makes."""

    name: str
    shape: tuple[str, ...]  # sizes, or sums and products of them: n, 7*m+block_size
    limit: str | None  # integers below this size; None for real numbers
    optional: bool  # may be left out
    scratch: bool

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(extent(size, sizes) for size in self.shape)

    @property
    def rows(self) -> str:
        return self.shape[0] if len(self.shape) == 2 else "1"

    @property
    def columns(self) -> str:
        return self.shape[-1]

    @property
    def per_token(self) -> bool:
        """Whether it has a column for each token; an output that has none is a sum over tokens."""
        return self.columns in (TOKENS, OWN_LAYOUT)

    @property
    def own_layout(self) -> bool:
        """Whether only the kernel knows the order of its numbers."""
        return self.columns == OWN_LAYOUT


class Kernel(NamedTuple):
    """A row of the table."""

    number: int
    strided: bool  # takes blocks of larger matrices
    split: bool  # can compute some columns of a sum over tokens alone
    outputs: list[Operand]
    inputs: list[Operand]


TOKENS, OWN_LAYOUT = "n", "n+"
OPERAND = re.compile(r"(?P<name>\w+)(?P<mark>[?!]?)\[(?P<shape>[^]]+)\](<(?P<limit>\w+))?")


def operands(text: str) -> list[Operand]:
    return [
        Operand(
            match["name"], tuple(match["shape"].split(",")), match["limit"], match["mark"] == "?", match["mark"] == "!"
        )
        for match in OPERAND.finditer(text)
    ]


def extent(text: str, sizes: Mapping[str, int]) -> int:
    """The number that '7*m+block_size' stands for; KeyError for an unknown size."""
    return sum(math.prod(int(f) if f.isdigit() else sizes[f] for f in term.split("*")) for term in text.split("+"))


KERNELS = {
    name: Kernel(index, strided, split, *map(operands, shapes.split("=")))
    for index, (name, shapes, strided, split) in enumerate(compiled.table())
}
