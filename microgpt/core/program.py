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

from ..base import memory
from ..kernels import compiled
from ..kernels.table import KERNELS, Operand, extent


class Array(NamedTuple):
    """rows x columns numbers; `columns` is None where there is one for each token."""

    name: str
    rows: int = 1
    columns: int | None = None


Call = tuple[str, list[str | None], dict[str, Any]]  # kernel, arrays (outputs first), other fields of C's record
APART = {"probs", "work", "keys", "values"}  # what attention lays out for itself


class Program:
    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}  # all that the calls make
        self.calls: list[Call] = []

    def __getattr__(self, kernel: str) -> Callable[..., Any]:
        if kernel not in KERNELS:
            raise AttributeError(f"expected the name of a kernel, found {kernel!r}")
        return partial(self._record, kernel)

    def _record(
        self,
        kernel: str,
        outputs: Array | str | tuple[Array | str | None, ...],
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
        # an Array is a tuple too
        asked_for: tuple[Array | str | None, ...] = (outputs,) if isinstance(outputs, (Array, str)) else outputs
        named = asked_for
        first = named[0].name if isinstance(named[0], Array) else named[0]
        for operand in row.outputs[len(named) :]:
            named += ("work" if operand.name == "work" else f"{first}.{operand.name}",)
        made: list[Any] = []
        for operand, output in zip(row.outputs, named, strict=True):
            if isinstance(output, str):
                output = self._array(output, extent(operand.rows, sizes), size(operand.columns))
            elif output is not None:
                fit(operand, output)
            elif not operand.optional:
                raise ValueError(f"{kernel}: {operand.name}: expected an Array or the name of one, found None")
            made.append(output)
        arrays = [*made, *inputs]
        n_gradients = sum(operand.name != "work" for operand in row.outputs)
        added_to = accumulate if isinstance(accumulate, tuple) else (accumulate,) * n_gradients
        if len(added_to) != n_gradients:
            raise ValueError(f"{kernel}: accumulate: expected {n_gradients} of them, found {len(added_to)}")
        fields: dict[str, Any] = {"kernel": row.number, "accumulate": compiled.bits(added_to), "eps": eps, **sizes}
        if row.strided:
            fields["ld"] = [array.rows if array else 0 for array in arrays]
        self.calls.append((kernel, [array.name if array else None for array in arrays], fields))
        return made[0] if isinstance(outputs, (Array, str)) else tuple(made[: len(asked_for)])

    def _array(self, name: str, rows: int, columns: int | None) -> Array:
        array = Array(name, rows, columns)
        before = self.arrays.setdefault(name, array)
        if name == "work":  # scratch is as large as the largest needs it
            self.arrays[name] = max(before, array)
        elif before != array:
            raise ValueError(f"{name}: expected {before}, as before, found {array}")
        return array

    def in_order(self) -> list[Call]:
        """The calls, each that sums over tokens as late as what it reads is still there.

        A call that does both, per token and over tokens, is two.  Threads share out tokens, or else results, and so
        have to wait for each other wherever one kind of call follows the other.
        """
        ordered: list[Call] = []
        late: list[Call] = []
        for kernel, names, fields in (part for call in self.calls for part in parts(*call)):
            row = KERNELS[kernel]
            writes = names[: len(row.outputs)]
            if not any(name and operand.columns == "n" for operand, name in zip(row.outputs, writes)):
                late.append((kernel, names, fields))
                continue
            if any(name in read for name in writes if name for _, read, _ in late):
                ordered += late
                late = []
            ordered.append((kernel, names, fields))
        return ordered + late

    def count(self, max_tokens: int, n_threads: int = 1) -> int:
        """How many numbers the arrays take, with columns for so many tokens."""
        width = columns_for(max_tokens, n_threads)
        return sum(rows * (width if columns is None else columns) for _, rows, columns in self.arrays.values())


def parts(kernel: str, names: list[str | None], fields: dict[str, Any]) -> list[Call]:
    """The call, or two of it where some results may be left out: one for those per token, one for those over tokens."""
    row = KERNELS[kernel]
    of_token = [operand.columns == "n" for operand in row.outputs]
    if all(of_token) or not any(of_token) or not all(operand.optional for operand in row.outputs):
        return [(kernel, names, fields)]
    writes, reads = names[: len(row.outputs)], names[len(row.outputs) :]
    divided = [[name if yes == wanted else None for name, yes in zip(writes, of_token)] for wanted in (True, False)]
    return [(kernel, some + reads, fields) for some in divided if any(some)]


class Replay:
    """A program with memory for batches of up to max_tokens, to be worked on by so many threads.

    Threads share out whole documents, unless there are none: then each column stands for itself.

    `given` has the memory of the arrays that the program does not make.  Those among them with a column for each token
    may be longer than a batch, which is a slice of them.
    """

    def __init__(
        self,
        program: Program,
        dtype: Any,
        max_tokens: int,
        given: Mapping[str, Any],
        n_threads: int = 1,
        documents: bool = True,
    ) -> None:
        self.max_tokens = max_tokens
        memory.require(
            program.count(max_tokens, n_threads) * np.dtype(dtype).itemsize, f"arrays of {max_tokens} tokens"
        )
        width = columns_for(max_tokens, n_threads)
        self.values = {  # every array that the program makes, for whoever wants to look
            name: aligned(rows * (columns or width), dtype).reshape(rows, columns or width, order="F")
            for name, rows, columns in program.arrays.values()
        }
        self._given, self._n_threads = given, n_threads
        self.calls = [self._record(*call) for call in program.in_order()]
        # over(start, n) runs the program on the batch of the columns start .. start + n of the given arrays
        self.over = compiled.recorded(dtype, self.calls, given.get("positions") if documents else None, n_threads)

    def _record(self, kernel: str, names: list[str | None], fields: dict[str, Any]) -> dict[str, Any]:
        """The call as C has it: see struct microgpt_call in csrc/program.h."""
        row = KERNELS[kernel]
        arrays: list[Any] = []
        columns: list[int] = []
        record = {**fields, "array": arrays, "column": columns, "given": 0, "apart": 0, "private": 0}
        record["sums"] = sums = not any(name and operand.columns == "n" for operand, name in zip(row.outputs, names))
        for i, (operand, name) in enumerate(zip(row.outputs + row.inputs, names)):
            array, column, bit = None, 0, 1 << i
            if name is not None:
                array = self._given[name] if name in self._given else self.values[name]
                if operand.columns == "n":
                    column = array[..., :1].nbytes
                    record["given"] |= bit if name in self._given else 0
                    record["apart"] |= bit if operand.name in APART else 0
                elif i < len(row.outputs) and not sums:  # what is made beside columns each thread makes for itself
                    column = array.nbytes
                    array = aligned(array.size * self._n_threads, array.dtype)
                    self.values[name] = array.reshape(-1, self._n_threads, order="F")[:, :1]  # that of the first thread
                    record["private"] |= bit
            arrays.append(array)
            columns.append(column)
        return record


def columns_for(max_tokens: int, n_threads: int) -> int:
    """How many columns every array has: those of attention need a few more, for each thread."""
    return compiled.attention_rows(max_tokens) + (n_threads - 1) * compiled.attention_rows(0)


def aligned(size: int, dtype: Any) -> Any:
    """A zeroed 1-D array that begins at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(size + 64 // itemsize, dtype)
    skip = -compiled.address(raw) % 64 // itemsize
    return raw[skip : skip + size]
