"""A program: kernel calls that are recorded once, then given memory, then replayed on each batch by one call of C.

Recording uses only Arrays, which are names and shapes, and needs no memory.  The methods that record are named after
the kernels (see csrc/table.h).  Their arguments are outputs, inputs, and the sizes that no input has:

    q = program.matmul_forward("layer0.q", wq, x)
    _, dx = program.matmul_backward((dwq, "dx"), dq, wq, x, accumulate=(True, False))

An output is an Array or a name.  A new name makes a new Array; a known name is the same memory again, so a later call
overwrites what an earlier one wrote.  Names that all layers use therefore take memory once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..base import memory
from ..kernels import compiled
from ..kernels.table import KERNELS, OWN_LAYOUT, TOKENS, Kernel, Operand, extent


class Array(NamedTuple):
    """A matrix, rows x columns; `columns` is None for one column per token."""

    name: str
    rows: int = 1
    columns: int | None = None


class Call(NamedTuple):
    """A recorded call."""

    kernel: str
    arrays: list[str | None]  # outputs first; None for an output that is left out
    added_to: tuple[bool, ...]  # for each output except scratch: whether it is added to
    eps: float
    sizes: dict[str, int]

    @property
    def row(self) -> Kernel:
        return KERNELS[self.kernel]

    @property
    def writes(self) -> list[str | None]:
        return self.arrays[: len(self.row.outputs)]

    @property
    def reads(self) -> list[str | None]:
        """The arrays that the call reads: its inputs, and the outputs that it adds to."""
        return self.arrays[len(self.row.outputs) :] + [name for name, adds in zip(self.writes, self.added_to) if adds]

    @property
    def sums(self) -> bool:
        """Whether the call sums over tokens."""
        return not any(name and operand.per_token for operand, name in zip(self.row.outputs, self.writes))

    def parts(self) -> list[Call]:
        """The call split in two kinds: one call for all results per token, and one for each sum over tokens."""
        outputs = self.row.outputs
        groups = [[operand for operand in outputs if operand.per_token]]
        groups += [[operand] for operand in outputs if not operand.per_token]
        chosen = [[name if o in group else None for o, name in zip(outputs, self.writes)] for group in groups]
        return [self._replace(arrays=some + self.arrays[len(outputs) :]) for some in chosen if any(some)]


class Program:
    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}  # all outputs of the calls
        self.own_layout: set[str] = set()  # arrays with a layout internal to their kernel: scratch, attention weights
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
        """Record a call.  Returns the named outputs: an Array for one name or Array, a tuple for a tuple.

        Other outputs are named after the first ("attn" leads to "attn.probs").  `accumulate` says which outputs are
        added to: True or False for all, or one for each.
        """
        row = KERNELS[kernel]
        for operand, array in zip(row.inputs, inputs, strict=True):
            fit(kernel, operand, array, sizes)
        # test for Array first: it is a tuple too
        named: tuple[Array | str | None, ...] = (outputs,) if isinstance(outputs, (Array, str)) else outputs
        first = named[0].name if isinstance(named[0], Array) else named[0]
        others = [operand.name if operand.scratch else f"{first}.{operand.name}" for operand in row.outputs]
        made: list[Any] = [
            self._output(kernel, operand, output, sizes)
            for operand, output in zip(row.outputs, (*named, *others[len(named) :]), strict=True)
        ]
        n_results = sum(not operand.scratch for operand in row.outputs)
        added_to = accumulate if isinstance(accumulate, tuple) else (accumulate,) * n_results
        if len(added_to) != n_results:
            raise ValueError(f"{kernel}: accumulate: expected {n_results} values, found {len(added_to)}")
        self.calls.append(Call(kernel, [array and array.name for array in (*made, *inputs)], added_to, eps, sizes))
        return made[0] if isinstance(outputs, (Array, str)) else tuple(made[: len(named)])

    def _output(self, kernel: str, operand: Operand, output: Array | str | None, sizes: dict[str, int]) -> Array | None:
        """The Array of an output, which is given as an Array or a name; None for an output that is left out."""
        if output is None:
            if not operand.optional:
                raise ValueError(f"{kernel}: {operand.name}: expected an Array or a name, found None")
            return None
        if isinstance(output, Array):
            fit(kernel, operand, output, sizes)
            return output
        columns = None if operand.per_token else extent(operand.columns, sizes)
        array = Array(output, extent(operand.rows, sizes), columns)
        before = self.arrays.setdefault(output, array)
        if operand.scratch:  # all calls share one array of the largest size
            self.arrays[output] = max(before, array)
        elif before != array:
            raise ValueError(f"{output}: expected {before}, as in an earlier call, found {array}")
        if operand.scratch or operand.own_layout:
            self.own_layout.add(output)
        return array

    def phases(self) -> list[list[Call]]:
        """The calls in order, in phases that alternate: results per token, then sums over tokens.

        Threads divide the tokens, or else parts of sums, and wait for each other between phases.  A sum therefore comes
        as late as its inputs allow, and no call reads another sum of its phase.
        """
        done: list[list[Call]] = []
        columns, sums = list[Call](), list[Call]()
        read, written = set[str | None](), set[str | None]()  # by this phase's sums
        for call in [part for recorded in self.calls for part in recorded.parts()]:
            writes = {name for name in call.writes if name}
            if not (written.isdisjoint([*call.reads, *writes]) and read.isdisjoint(writes)):
                done += [columns, sums]
                columns, sums, read, written = [], [], set(), set()
            if call.sums:
                sums.append(call)
                read.update(call.reads)
                written |= writes
            else:
                columns.append(call)
        return [*done, columns, sums]

    def count(self, max_tokens: int, n_threads: int = 1) -> int:
        """How many numbers the arrays hold, with columns for max_tokens tokens."""
        width = columns_for(max_tokens, n_threads)
        return sum(rows * (width if columns is None else columns) for _, rows, columns in self.arrays.values())


def fit(kernel: str, operand: Operand, array: Array, sizes: dict[str, int]) -> None:
    """Add the array's sizes to `sizes`.  Raises ValueError if they contradict sizes that are already there."""
    for text, found in ((operand.rows, array.rows), (operand.columns, array.columns)):
        per_token = text in (TOKENS, OWN_LAYOUT)
        if text.isidentifier() and not per_token:
            sizes.setdefault(text, found or 0)
        expected = None if per_token else extent(text, sizes)
        if found != expected:
            raise ValueError(f"{kernel}: {operand.name}: expected {text} = {expected}, found {array}")


def permits_early_updates(phases: list[list[Call]], gradients: Mapping[str, str]) -> bool:
    """Whether each parameter may be updated as soon as its gradient is complete.

    `gradients` maps gradients to parameters.  The answer is yes if a single call computes the whole gradient, and no
    other call of its phase, or of a later one, reads the parameter or the gradient.
    """
    for gradient, parameter in gradients.items():
        makers = [(i, call) for i, phase in enumerate(phases) for call in phase if gradient in call.writes]
        if len(makers) != 1 or not makers[0][1].sums or gradient in makers[0][1].reads:
            return False
        begin, maker = makers[0]
        others = (call for phase in phases[begin:] for call in phase if call is not maker)
        if any(name in call.reads for call in others for name in (gradient, parameter)):
            return False
    return True


class Replay:
    """A program with memory for batches of up to max_tokens, run by n_threads threads.

    Threads divide whole documents, or single columns if `documents` is False.  `given` has the arrays that the program
    does not compute.  Those with a column for each token may be longer than a batch, which is a slice of them.
    `gradients` maps gradients to parameters if parameters are to be updated.
    """

    def __init__(
        self,
        program: Program,
        dtype: Any,
        max_tokens: int,
        given: Mapping[str, Any],
        n_threads: int = 1,
        documents: bool = True,
        gradients: Mapping[str, str] | None = None,
    ) -> None:
        self.max_tokens = max_tokens
        memory.require(
            program.count(max_tokens, n_threads) * np.dtype(dtype).itemsize, f"arrays of {max_tokens} tokens"
        )
        width = columns_for(max_tokens, n_threads)
        self.values = {  # every array that the program computes, also for inspection
            name: aligned(rows * (columns or width), dtype).reshape(rows, columns or width, order="F")
            for name, rows, columns in program.arrays.values()
        }
        self._given, self._gradients = given, gradients or {}
        phases = program.phases()
        self.early = bool(gradients) and permits_early_updates(phases, self._gradients)
        self.calls = [self._record(call) | {"needs_barrier": call is phase[0]} for phase in phases for call in phase]
        # over(start, n) runs the program on the batch of the columns start .. start + n of the given arrays
        positions = given.get("positions") if documents else None
        self.over = compiled.recorded(dtype, self.calls, positions, n_threads, self.early)

    def _record(self, call: Call) -> dict[str, Any]:
        """The call as fields of struct microgpt_call (csrc/program.h)."""
        row = call.row
        known = {**self.values, **self._given}
        arrays: list[Any] = [None if name is None else known[name] for name in call.arrays]
        operands = row.outputs + row.inputs
        per_token = [operand.per_token and array is not None for operand, array in zip(operands, arrays)]
        record = {
            "kernel": row.number,
            "accumulate": compiled.bits(call.added_to),
            "eps": call.eps,
            "sizes": call.sizes,
            "array": arrays,
            "ld": [0 if array is None else len(array) for array in arrays] if row.strided else [],
            "column": [array[..., :1].nbytes if yes else 0 for array, yes in zip(arrays, per_token)],
            "given": compiled.bits(yes and name in self._given for name, yes in zip(call.arrays, per_token)),
            "own_layout": compiled.bits(operand.own_layout for operand in operands),
        }
        return record | self._sum(call, operands, arrays) if call.sums else record

    def _sum(self, call: Call, operands: list[Operand], arrays: list[Any]) -> dict[str, Any]:
        """The fields of a sum over tokens: its result, and how threads divide it."""
        result = next(i for i, name in enumerate(call.arrays) if name)
        made, split = arrays[result], operands[result].columns
        found = {"sums": True, "result": result, "is_gradient": self.early and call.arrays[result] in self._gradients}
        if not call.row.split:
            return found | {"rows": made.size, "n_columns": 1, "split": -1}

        def part(operand: Operand, array: Any) -> int:
            """The bytes between an array's data for one column of the result and for the next."""
            if array is None or split not in operand.shape:
                return 0
            return int(array[..., :1].nbytes if operand.columns == split else array.itemsize)

        shape = {"rows": made.size // made.shape[-1], "n_columns": made.shape[-1]}
        parts = list(map(part, operands, arrays))
        return found | shape | {"split": compiled.SIZES.index(split), "part": parts}


def columns_for(max_tokens: int, n_threads: int) -> int:
    """How many columns every array has, with the padding that kernels with a layout of their own need per thread."""
    return compiled.attention_rows(max_tokens) + (n_threads - 1) * compiled.attention_rows(0)


def aligned(size: int, dtype: Any) -> Any:
    """A zeroed 1-D array that starts at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(size + 64 // itemsize, dtype)
    skip = -compiled.address(raw) % 64 // itemsize
    return raw[skip : skip + size]
