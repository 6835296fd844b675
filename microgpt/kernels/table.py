"""The table of kernels (csrc/table.h): the names and shapes of each kernel's inputs and outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from . import compiled


class Operand(NamedTuple):
    """An input or output array of a kernel."""

    name: str
    shape: tuple[str, ...]  # sizes, or sums and products of sizes: n, 7*m+block_size
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
        """Whether the array has a column for each token; an output without one is a sum over tokens."""
        return self.columns in (TOKENS, OWN_LAYOUT)

    @property
    def own_layout(self) -> bool:
        """Whether only the kernel knows the order of its numbers."""
        return self.columns == OWN_LAYOUT


class Kernel(NamedTuple):
    """A row of the table."""

    number: int
    strided: bool  # accepts blocks of larger matrices
    split: bool  # can compute a range of columns of a sum over tokens
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
    """The value of a size such as '7*m+block_size'; KeyError for an unknown name."""
    return sum(math.prod(int(f) if f.isdigit() else sizes[f] for f in term.split("*")) for term in text.split("+"))


KERNELS = {
    name: Kernel(index, strided, split, *map(operands, shapes.split("=")))
    for index, (name, shapes, strided, split) in enumerate(compiled.table())
}
