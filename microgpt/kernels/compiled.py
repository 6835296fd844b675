"""The only access to C: loads the compiled module for this machine's instruction set and calls its functions.

MICROGPT_ISA forces an instruction set (scalar, avx2, avx512, or neon on Arm).  The default is the best one that this
machine can run.  This module checks no arguments: see checks.py.
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
        raise ImportError(f"expected compiled kernels, found no module {name}: build them with 'pip install -e .'")
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

# Functions of cffi take no Python objects.  So csrc/call.c adds functions that do to this dictionary.  They read from
# it NumPy's objects, and `careful`, which checks.py adds: `call` passes it everything but the common case.
_functions: dict[str, Any] = {
    "ndarray": np.ndarray,
    "empty": np.empty,
    "float32": np.float32,
    "float64": np.float64,
}
if not _lib.microgpt_add_functions(id(_functions)):
    raise ImportError("cannot add the compiled functions to Python: rebuild the kernels with 'pip install -e .'")
call: Callable[..., Any] = _functions["call"]  # call(kernel, out, accumulate, eps, *inputs) runs a kernel
replay: Callable[..., None] = _functions["replay"]  # runs recorded calls
step: Callable[..., float] = _functions["step"]
draw: Callable[..., bool] = _functions["draw"]
set_threads: Callable[[int], int] = _functions["set_threads"]
address: Callable[[Any], int] = _functions["address"]  # where an array's memory begins


def set_careful(careful: Callable[..., Any]) -> None:
    """Make `call` pass unusual arguments on to this function, which has the same parameters."""
    _functions["careful"] = careful


def attention_rows(n_tokens: int) -> int:
    """How many rows the arrays of attention need for n_tokens tokens, with padding."""
    return int(_lib.microgpt_attention_rows(n_tokens))


def part_offset(begin: int, thread: int) -> int:
    """The column of an attention array at which a thread's part starts, if its first token is `begin`."""
    return int(_lib.microgpt_part_offset(begin, thread))


def token_rows(n_tokens: int) -> int:
    """How many rows the cache of attention_cached needs for n_tokens columns, with padding."""
    return int(_lib.microgpt_token_rows(n_tokens))


def n_blocks(size: int) -> int:
    """How many sums of squares a gradient of `size` numbers has: see struct microgpt_update."""
    return -(-size // int(_lib.MICROGPT_BLOCK))


def compiler() -> str:
    """Name and version of the compiler that built the kernels."""
    return _text(_lib.microgpt_compiler())


def table() -> list[tuple[str, str, bool, bool]]:
    """(name, shapes, strided, split) of every kernel, in the order of csrc/table.h."""
    rows, row = [], _lib.microgpt_kernels
    while row.name != _ffi.NULL:
        rows.append((_text(row.name), _text(row.shapes), bool(row.strided), bool(row.split)))
        row += 1
    return rows


def sizes() -> list[str]:
    """The names of all sizes in the table but n, in C's order."""
    return [_text(name) for name in takewhile(_ffi.NULL.__ne__, map(_lib.microgpt_sizes.__getitem__, count()))]


def _text(chars: Any) -> str:
    return str(_ffi.string(chars).decode())


SIZES = sizes()


def bits(flags: Iterable[bool]) -> int:
    """The flags as an integer: bit i is set if the i-th flag is true."""
    return sum(1 << i for i, flag in enumerate(flags) if flag)


def _pointer(array: Any) -> Any:
    return _ffi.NULL if array is None else _ffi.cast("void *", address(array))


def recorded(
    dtype: Any, calls: Iterable[dict[str, Any]], position: Any = None, n_threads: int = 1, early: bool = False
) -> Callable[..., None]:
    """A function over(start, n) that replays kernel calls, without the GIL, on the n columns from column `start`.

    A call has the fields of struct microgpt_call (csrc/program.h): `array` is a list of arrays, with None for each
    one left out; `sizes` maps the table's sizes to numbers.  `early` means that updates need not wait for the last
    call.  The function keeps the arrays alive.  It raises RuntimeError in a thread whose stack is too small.
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
    """A function of (start, n) and Adam's seven numbers that runs `over`, then the update, and returns the loss.

    `adam` has Adam's arrays: param, m, v, grad.  A `clip` above 0 clips the gradient: see struct microgpt_update.
    """
    arrays = losses, weights, *adam, squares
    advance = partial(step, *over.args, *map(address, arrays), adam[0].size, clip)
    advance.keep = over, arrays  # type: ignore[attr-defined]
    return advance


def drawing(
    token: Any, probs: Any, work: Any, logits: Any, uniform: Any, m: int, n_threads: int = 1
) -> Callable[..., bool]:
    """A function of n, temperature, top_k and top_p that runs microgpt_draw on these arrays.

    It returns whether all logits are finite.  `probs` needs room for m * (columns + n_threads) numbers, `work` for
    m * n_threads.
    """
    arrays = token, probs, work, logits, uniform
    function = partial(draw, logits.dtype.char, *map(address, arrays), m, n_threads)
    function.keep = arrays  # type: ignore[attr-defined]
    return function
