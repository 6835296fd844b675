"""The table of kernels (csrc/table.h): the names and shapes of what each takes and gives."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from . import compiled


class Operand(NamedTuple):
    """An array that a kernel takes or gives."""

    name: str
    shape: tuple[str, ...]  # sizes, or sums and products of them: n, 7*m+block_size
    limit: str | None  # integers below this size; None for real numbers
    optional: bool  # may be left out

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(sizes[size] if size in sizes else extent(size, sizes) for size in self.shape)

    @property
    def rows(self) -> str:
        return self.shape[0] if len(self.shape) == 2 else "1"

    @property
    def columns(self) -> str:
        return self.shape[-1]


class Kernel(NamedTuple):
    """A row of the table."""

    number: int
    strided: bool  # takes blocks of larger matrices
    outputs: list[Operand]
    inputs: list[Operand]


OPERAND = re.compile(r"(?P<name>\w+)(?P<optional>\??)\[(?P<shape>[^]]+)\](<(?P<limit>\w+))?")


def operands(text: str) -> list[Operand]:
    return [
        Operand(match["name"], tuple(match["shape"].split(",")), match["limit"], bool(match["optional"]))
        for match in OPERAND.finditer(text)
    ]


def extent(text: str, sizes: Mapping[str, int]) -> int:
    """The number that '7*m+block_size' stands for; KeyError for a size that is not known."""
    return sum(math.prod(int(f) if f.isdigit() else sizes[f] for f in term.split("*")) for term in text.split("+"))


KERNELS = {
    name: Kernel(index, strided, *map(operands, shapes.split("=")))
    for index, (name, shapes, strided) in enumerate(compiled.table())
}
