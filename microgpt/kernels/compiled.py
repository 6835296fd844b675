"""The one door to C: the compiled module for this machine's instruction set, and all that is asked of it.

MICROGPT_ISA forces an instruction set (scalar, avx2, avx512, or neon on Arm); unset, the best this machine can run is
taken.  Nothing here checks anything: see arguments.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module, util
from typing import Any

import numpy as np

from ..base.errors import EnvironmentVariableError


def _load(isa: str) -> Any:
    name = f"microgpt._kernels_{isa}"
    if util.find_spec(name) is None:
        raise ImportError(f"expected compiled kernels, found no module {name}: build them with `pip install -e .`")
    return import_module(name)


def _choose_isa() -> str:
    best = _load("scalar").lib.microgpt_best_isa()
    order = [("scalar", 0), ("neon", 1), ("avx2", 1), ("avx512", 2)]
    runnable = [isa for isa, level in order if level <= best and util.find_spec(f"microgpt._kernels_{isa}")]
    forced = os.environ.get("MICROGPT_ISA", "")
    if not forced:
        return runnable[-1]
    if forced not in runnable:
        found = f"expected one of {', '.join(runnable)} on this machine, found {forced!r}"
        raise EnvironmentVariableError(f"MICROGPT_ISA: {found}")
    return forced


ISA = _choose_isa()
_module = _load(ISA)
_lib, _ffi = _module.lib, _module.ffi

REALS = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}

# call(kernel, out, accumulate, eps, *inputs) runs a kernel.  C adds it and the others here, since functions of
# cffi take no objects: csrc/call.c, which looks at the common case and leaves the rest to `careful`, arguments.py's.
ndarray, empty, float32, float64 = np.ndarray, np.empty, np.float32, np.float64  # which C looks up here
call: Callable[..., Any]
replay: Callable[..., None]  # of recorded calls
step: Callable[..., float]
draw: Callable[..., bool]
set_threads: Callable[[int], int]
address: Callable[[Any], int]  # where an array's memory begins
careful: Callable[..., Any]
if not _lib.microgpt_add_functions(id(globals())):
    raise ImportError("microgpt.c: expected Python to take a function from C, found that it does not")


def attention_rows(n_tokens: int) -> int:
    """How many tokens the arrays of attention must have room for, to work on so many."""
    return int(_lib.microgpt_attention_rows(n_tokens))


def columns_apart(begin: int, thread: int) -> int:
    """Where, in columns, a thread's part of an array of attention begins that begins with this column."""
    return int(_lib.microgpt_columns_apart(begin, thread))


def token_rows(n_tokens: int) -> int:
    """The same for the cache of attention_cached."""
    return int(_lib.microgpt_token_rows(n_tokens))


def n_blocks(size: int) -> int:
    """How many sums of squares a gradient of so many numbers has, see struct microgpt_update."""
    return -(-size // int(_lib.MICROGPT_BLOCK))


def compiler() -> str:
    """Name and version of the compiler that made the kernels."""
    return str(_ffi.string(_lib.microgpt_compiler()).decode())


def table() -> list[tuple[str, str, bool]]:
    """(name, shapes, strided) of every kernel, in the order of csrc/table.h."""
    rows, row = [], _lib.microgpt_kernels
    while row.name != _ffi.NULL:
        rows.append((_ffi.string(row.name).decode(), _ffi.string(row.shapes).decode(), bool(row.strided)))
        row += 1
    return rows


def bits(flags: Iterable[bool]) -> int:
    """Bit i says whether the i-th is true: that a gradient is added to, or what an array is like."""
    return sum(1 << i for i, flag in enumerate(flags) if flag)


def _pointer(array: Any) -> Any:
    return _ffi.NULL if array is None else _ffi.cast("void *", address(array))  # noqa: F821


def recorded(
    dtype: Any, calls: Iterable[dict[str, Any]], position: Any = None, n_threads: int = 1
) -> Callable[..., None]:
    """A function over(start, n) that replays kernel calls, without the GIL, on n columns from column `start` on.

    A call has the fields of struct microgpt_call (csrc/program.h), `array` being a list of arrays, or None for those
    left out.  They live as long as the function, which raises RuntimeError in a thread whose stack is too small.
    """
    calls = list(calls)
    records = _ffi.new(
        "struct microgpt_call[]",
        [call | {"array": [*map(_pointer, call["array"])], "n_arrays": len(call["array"])} for call in calls],
    )
    begin = int(_ffi.cast("uintptr_t", records))
    where = 0 if position is None else address(position)  # noqa: F821
    over = partial(replay, np.dtype(dtype).char, begin, len(calls), where, n_threads)  # noqa: F821
    over.keep = records, calls, position  # type: ignore[attr-defined]
    return over


def stepping(over: Any, losses: Any, weights: Any, adam: Any, squares: Any, clip: float) -> Callable[..., float]:
    """A function of (start, n) and Adam's seven numbers that does what `over` does and the update; the loss.

    `adam` has its arrays: param, m, v, grad.  A `clip` above 0 shortens gradients, see struct microgpt_update.
    """
    arrays = losses, weights, *adam, squares
    advance = partial(step, *over.args, *map(address, arrays), adam[0].size, clip)  # noqa: F821
    advance.keep = over, arrays  # type: ignore[attr-defined]
    return advance


def drawing(
    token: Any, probs: Any, work: Any, logits: Any, uniform: Any, m: int, n_threads: int = 1
) -> Callable[..., bool]:
    """A function of n, temperature, top_k and top_p: microgpt_draw on these arrays; whether all logits are finite.

    For each thread probs needs room for a column more than there are, and work for one.
    """
    arrays = token, probs, work, logits, uniform
    function = partial(draw, logits.dtype.char, *map(address, arrays), m, n_threads)  # noqa: F821
    function.keep = arrays  # type: ignore[attr-defined]
    return function
