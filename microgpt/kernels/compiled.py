"""The one door to C: the compiled module for this machine's instruction set, and all that is asked of it.

MICROGPT_ISA forces an instruction set (scalar, avx2, avx512, or neon on Arm); unset, the best this machine can run is
taken.  Nothing here checks arguments: see checks.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module, util
from itertools import count, takewhile
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

# Functions of cffi take no Python objects, so csrc/call.c puts functions that do into this dictionary.  They find
# there NumPy's objects, and `careful`, to which `call` leaves what is not the common case: checks.py adds it.
_functions: dict[str, Any] = {
    "ndarray": np.ndarray,
    "empty": np.empty,
    "float32": np.float32,
    "float64": np.float64,
}
if not _lib.microgpt_add_functions(id(_functions)):
    raise ImportError("the compiled kernels could not add their functions to Python: build them again")
call: Callable[..., Any] = _functions["call"]  # call(kernel, out, accumulate, eps, *inputs) runs a kernel
replay: Callable[..., None] = _functions["replay"]  # of recorded calls
step: Callable[..., float] = _functions["step"]
draw: Callable[..., bool] = _functions["draw"]
set_threads: Callable[[int], int] = _functions["set_threads"]
address: Callable[[Any], int] = _functions["address"]  # where an array's memory begins


def set_careful(careful: Callable[..., Any]) -> None:
    """Let `call` leave unusual arguments to this function, which takes the same ones."""
    _functions["careful"] = careful


def attention_rows(n_tokens: int) -> int:
    """How many tokens the arrays of attention must have room for, to work on so many."""
    return int(_lib.microgpt_attention_rows(n_tokens))


def part_offset(begin: int, thread: int) -> int:
    """Where, in columns, a thread's part of an array of attention begins that begins with this column."""
    return int(_lib.microgpt_part_offset(begin, thread))


def token_rows(n_tokens: int) -> int:
    """The same for the cache of attention_cached."""
    return int(_lib.microgpt_token_rows(n_tokens))


def n_blocks(size: int) -> int:
    """How many sums of squares a gradient of so many numbers has, see struct microgpt_update."""
    return -(-size // int(_lib.MICROGPT_BLOCK))


def compiler() -> str:
    """Name and version of the compiler that made the kernels."""
    return _text(_lib.microgpt_compiler())


def table() -> list[tuple[str, str, bool, bool]]:
    """(name, shapes, strided, split) of every kernel, in the order of csrc/table.h."""
    rows, row = [], _lib.microgpt_kernels
    while row.name != _ffi.NULL:
        rows.append((_text(row.name), _text(row.shapes), bool(row.strided), bool(row.split)))
        row += 1
    return rows


def sizes() -> list[str]:
    """The names of the table's sizes beside n, in C's order."""
    return [_text(name) for name in takewhile(_ffi.NULL.__ne__, map(_lib.microgpt_sizes.__getitem__, count()))]


def _text(chars: Any) -> str:
    return str(_ffi.string(chars).decode())


SIZES = sizes()


def bits(flags: Iterable[bool]) -> int:
    """Bit i says whether the i-th is true: that a gradient is added to, or what an array is like."""
    return sum(1 << i for i, flag in enumerate(flags) if flag)


def _pointer(array: Any) -> Any:
    return _ffi.NULL if array is None else _ffi.cast("void *", address(array))


def recorded(
    dtype: Any, calls: Iterable[dict[str, Any]], position: Any = None, n_threads: int = 1, early: bool = False
) -> Callable[..., None]:
    """A function over(start, n) that replays kernel calls, without the GIL, on n columns from column `start` on.

    A call has the fields of struct microgpt_call (csrc/program.h): `array` is a list of arrays, or None for those left
    out; `sizes` has the table's sizes by name.  `early` says that updates need not wait for the last call.  The arrays
    live as long as the function, which raises RuntimeError in a thread whose stack is too small.
    """
    calls = list(calls)
    records = _ffi.new("struct microgpt_call[]", [_record(**call) for call in calls])
    begin = int(_ffi.cast("uintptr_t", records))
    where = 0 if position is None else address(position)
    over = partial(replay, np.dtype(dtype).char, begin, len(calls), where, n_threads, early)
    over.keep = records, calls, position  # type: ignore[attr-defined]
    return over


def _record(array: list[Any], sizes: Mapping[str, int], **fields: Any) -> dict[str, Any]:
    """The initializer of a struct microgpt_call."""
    in_order = [sizes.get(name, 0) for name in SIZES]
    return {**fields, "array": [*map(_pointer, array)], "n_arrays": len(array), "size": in_order}


def stepping(over: Any, losses: Any, weights: Any, adam: Any, squares: Any, clip: float) -> Callable[..., float]:
    """A function of (start, n) and Adam's seven numbers that does what `over` does and the update; the loss.

    `adam` has its arrays: param, m, v, grad.  A `clip` above 0 shortens gradients, see struct microgpt_update.
    """
    arrays = losses, weights, *adam, squares
    advance = partial(step, *over.args, *map(address, arrays), adam[0].size, clip)
    advance.keep = over, arrays  # type: ignore[attr-defined]
    return advance


def drawing(
    token: Any, probs: Any, work: Any, logits: Any, uniform: Any, m: int, n_threads: int = 1
) -> Callable[..., bool]:
    """A function of n, temperature, top_k and top_p: microgpt_draw on these arrays; whether all logits are finite.

    For each thread probs needs room for a column more than there are, and work for one.
    """
    arrays = token, probs, work, logits, uniform
    function = partial(draw, logits.dtype.char, *map(address, arrays), m, n_threads)
    function.keep = arrays  # type: ignore[attr-defined]
    return function
