"""A program: kernel calls recorded once, given memory, and then replayed on batch after batch by one call of C.

Recording needs no memory: it deals in Arrays, which are names and shapes.  The methods that record are the kernels (see
csrc/table.h): outputs, inputs, and the sizes that no input has, as in

    q = program.matmul_forward("layer0.q", wq, x)
    _, dx = program.matmul_backward((dwq, "dx"), dq, wq, x, accumulate=(True, False))

An output is an Array, or the name of one, which is made when it is new.  Arrays of one name are one: what is recorded
under it later overwrites what came before, so a name that is used again for every layer takes memory once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import c, memory
from .table import KERNELS, Operand, extent


class Array(NamedTuple):
    """rows x columns numbers; `columns` is None where there is one for each token."""

    name: str
    rows: int = 1
    columns: int | None = None


class Program:
    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}  # all that the calls make
        self.calls: list[tuple[str, list[str], dict[str, Any]]] = []  # kernel, arrays, other fields of C's record

    def __getattr__(self, kernel: str) -> Callable[..., Any]:
        if kernel not in KERNELS:
            raise AttributeError(f"expected the name of a kernel, found {kernel!r}")
        return partial(self._record, kernel)

    def _record(
        self,
        kernel: str,
        outputs: Array | str | tuple[Array | str, ...],
        *inputs: Array,
        accumulate: bool | tuple[bool, ...] = False,
        eps: float = 0.0,
        **sizes: int,
    ) -> Array | tuple[Array, ...]:
        """Record a call; returns the outputs that were named: the Array of a name, or a tuple of them for a tuple.

        An output that was not named is called after the first ("attn" leads to "attn.probs"), and scratch is "work".
        `accumulate` says which outputs are added to: none, all, or one by one.
        """
        row = KERNELS[kernel]

        def size(text: str) -> int | None:
            """The number that a size of the table stands for; None for as many as there are tokens."""
            return None if text == "n" else extent(text, sizes)

        def fit(operand: Operand, array: Array) -> Array:
            """Sizes that are not known yet are the array's; the others must be."""
            for text, found in ((operand.rows, array.rows), (operand.columns, array.columns)):
                if text.isidentifier() and text != "n":
                    sizes.setdefault(text, found or 0)
                if found != size(text):
                    raise ValueError(f"{kernel}: {operand.name}: expected {text} = {size(text)}, found {array}")
            return array

        for operand, array in zip(row.inputs, inputs, strict=True):
            fit(operand, array)
        single = isinstance(outputs, (Array, str))  # an Array is a tuple too
        named: tuple[Array | str, ...] = (outputs,) if isinstance(outputs, (Array, str)) else outputs
        first = named[0].name if isinstance(named[0], Array) else named[0]
        for operand in row.outputs[len(named) :]:
            named += ("work" if operand.name == "work" else f"{first}.{operand.name}",)
        made = [
            fit(operand, output)
            if isinstance(output, Array)
            else self._array(output, extent(operand.rows, sizes), size(operand.columns))
            for operand, output in zip(row.outputs, named, strict=True)
        ]
        arrays = [*made, *inputs]
        n_gradients = sum(operand.name != "work" for operand in row.outputs)
        added_to = accumulate if isinstance(accumulate, tuple) else (accumulate,) * n_gradients
        if len(added_to) != n_gradients:
            raise ValueError(f"{kernel}: accumulate: expected {n_gradients} of them, found {len(added_to)}")
        fields: dict[str, Any] = {"kernel": row.number, "accumulate": c.bits(added_to), "eps": eps, **sizes}
        if row.strided:
            fields["ld"] = [array.rows for array in arrays]
        self.calls.append((kernel, [array.name for array in arrays], fields))
        return made[0] if single else tuple(made[: len(outputs)])

    def _array(self, name: str, rows: int, columns: int | None) -> Array:
        array = Array(name, rows, columns)
        before = self.arrays.setdefault(name, array)
        if name == "work":  # scratch is as large as the largest needs it
            self.arrays[name] = max(before, array)
        elif before != array:
            raise ValueError(f"{name}: expected {before}, as before, found {array}")
        return array

    def count(self, max_tokens: int) -> int:
        """How many numbers the arrays take, with columns for so many tokens."""
        width = c.attention_rows(max_tokens)
        return sum(rows * (width if columns is None else columns) for _, rows, columns in self.arrays.values())


class Replay:
    """A program with memory for batches of up to max_tokens.

    `given` has the memory of the arrays that the program does not make.  Those among them with a column for each token
    may be longer than a batch, which is a slice of them.
    """

    def __init__(self, program: Program, dtype: Any, max_tokens: int, given: Mapping[str, Any]) -> None:
        self.max_tokens = max_tokens
        memory.require(program.count(max_tokens) * np.dtype(dtype).itemsize, f"arrays of {max_tokens} tokens")
        width = c.attention_rows(max_tokens)  # that every array has: attention's need a few columns more
        self.values = {  # every array that the program makes, for whoever wants to look
            name: aligned(rows * (columns or width), dtype).reshape(rows, columns or width, order="F")
            for name, rows, columns in program.arrays.values()
        }
        every = {**self.values, **given}
        calls = []
        for kernel, names, fields in program.calls:
            row = KERNELS[kernel]
            steps = [
                every[name][..., :1].nbytes if name in given and operand.columns == "n" else 0
                for operand, name in zip(row.outputs + row.inputs, names)
            ]
            arrays = [every[name] for name in names]
            calls.append({**fields, "array": arrays, "step": steps, "moves": any(steps)})
        self.calls = calls
        # over(start, n) runs the program on the batch of the columns start .. start + n of the given arrays
        self.over = c.recorded(dtype, calls)


def aligned(size: int, dtype: Any) -> Any:
    """A zeroed 1-D array that begins at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(size + 64 // itemsize, dtype)
    skip = -c.address(raw) % 64 // itemsize
    return raw[skip : skip + size]
