"""Checks of a kernel's arguments, from its row in the table, before C gets them.

Each argument is converted once, to an array or number that no other code holds, and only that is checked and used.  So
it cannot change between its check and its use.  TypeError reports a wrong type or dtype; ValueError reports a wrong
shape, layout or range, or an overlap.  Each names the argument, and no byte of an output has changed then.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..base.terminal import shown
from . import compiled
from .table import KERNELS, Operand

PLAIN = np.ndarray, np.memmap  # a memmap means nothing more than its numbers
MAX_SIZE = 2**30 - 1  # of any one dimension, so that sums of sizes fit into C's int


# ---- from anything to an ndarray ----


def view(name: str, a: Any, copy: bool | None = None) -> Any:
    """A new ndarray object over a's memory.

    No other code holds it, so its shape and dtype cannot change after they are checked.  `a` may come from another
    library.  copy=False refuses one that can only be copied, because a result written to the copy would be lost.
    """
    if type(a) in PLAIN:
        return a.view(np.ndarray)
    found = f"{name}: expected a numpy.ndarray (or an object with __dlpack__ or __array__), found {type(a).__name__}"
    if isinstance(a, np.ndarray):  # such as a masked array, whose mask would be lost
        raise TypeError(f"{name}: expected a numpy.ndarray, found its subclass {type(a).__name__}")
    if not (hasattr(a, "__dlpack__") or hasattr(a, "__array__")):
        raise TypeError(found)

    def convert() -> Any:
        b = a
        for resolve in ("resolve_conj", "resolve_neg"):  # PyTorch leaves a conjugation or negation to those who read
            b = getattr(b, resolve)() if hasattr(b, resolve) else b
        return np.from_dlpack(b) if hasattr(b, "__dlpack__") else np.asanyarray(b, copy=copy)

    try:
        array = convert()
        once_more = array if copy is None else convert()  # a copy has another address while the first is alive
    except MemoryError:
        raise
    except Exception as error:  # the other library may raise anything
        which = f" ({a.dtype} on {a.device})" if hasattr(a, "dtype") and hasattr(a, "device") else ""
        raise TypeError(f"{found}{which}: {error}") from error
    if type(array) not in PLAIN:
        raise TypeError(found)
    if array.size and array.ctypes.data != once_more.ctypes.data:
        raise TypeError(f"{name}: expected an array to write to, found a {type(a).__name__} that only gives copies")
    return array.view(np.ndarray)


def reals(name: str, a: Any, dtype: Any = None, ndim: int = 2) -> Any:
    """The input a as an ndarray over the same memory, with its type, dtype and number of dimensions checked."""
    a = view(name, a)
    if dtype is None:
        if a.dtype not in compiled.REALS:
            raise TypeError(f"{name}: expected float32 or float64, found {a.dtype}")
    elif a.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype} like the other arrays, found {a.dtype}")
    if a.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimension{'s' * (ndim > 1)}, found shape {a.shape}")
    if max(a.shape) > MAX_SIZE:
        raise ValueError(f"{name}: expected sizes below 2**30, found shape {a.shape}")
    return a


def indices(name: str, a: Any, limit: int) -> Any:
    """The integers a, each in range(limit), as int32.

    Always a copy, so that no other thread can change an index between this check and its use in C.
    """
    a = view(name, a)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, found {a.dtype}")
    if a.ndim != 1 or a.size > MAX_SIZE:
        raise ValueError(f"{name}: expected 1 dimension, shorter than 2**30, found shape {a.shape}")
    a = np.array(a)
    if a.size and not (a.min() >= 0 and a.max() < limit):
        wrong = a[(a < 0) | (a >= limit)][0]
        raise ValueError(f"{name}: expected integers in range({limit}), found {wrong}")
    return a.astype(np.int32)


def number(name: str, x: Any) -> float:
    """x as a float from 0 to 3e38, which float32 can hold too."""
    if not isinstance(x, (int, float, np.floating, np.integer)):
        raise TypeError(f"{name}: expected a number, found {type(x).__name__}")
    try:
        value = (
            float.__float__(x) if isinstance(x, float) else float(int.__index__(x)) if isinstance(x, int) else float(x)
        )
    except OverflowError:
        value = float("inf")
    if not 0 <= value <= 3e38:
        raise ValueError(f"{name}: expected a number from 0 to 3e38, found {value}")
    return value


def count(name: str, n: Any) -> int:
    """n, or the integer its __index__() returns, as an int from 0 to MAX_SIZE."""
    try:
        value = int.__index__(n) if isinstance(n, int) else operator.index(n)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, found {type(n).__name__}") from None
    if not 0 <= value <= MAX_SIZE:
        raise ValueError(f"{name}: expected an integer from 0 to 2**30 - 1, found {shown(value)}")
    return value


def true_or_false(name: str, x: Any) -> bool:
    if type(x) is not bool:
        raise TypeError(f"{name}: expected True or False, found {shown(x)}")
    return x


# ---- shape, layout and memory ----


def expect_shape(name: str, a: Any, expected: tuple[int, ...]) -> None:
    if a.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, found {a.shape}")


def leading_dimension(a: Any) -> int | None:
    """ld if element (i, j) of the matrix a lies at j*ld + i and a is aligned; otherwise None."""
    (m, _), (down, along), itemsize = a.shape, a.strides, a.itemsize
    if a.flags.f_contiguous and a.flags.aligned:
        return int(m)
    ld, rest = divmod(along, itemsize)
    ok = a.flags.aligned and (down == itemsize or m == 1) and m <= ld <= MAX_SIZE and rest == 0
    return int(ld) if ok else None


def whole(a: Any) -> Any:
    """The input a, copied unless it is column-major without gaps between its columns."""
    return a if a.flags.f_contiguous and a.flags.aligned else np.array(a, order="F")


def overlap(a: Any, b: Any) -> bool:
    max_work: Any = 10_000  # deciding exactly takes exponential time for some strides
    try:
        return np.may_share_memory(a, b) and np.shares_memory(a, b, max_work)
    except np.exceptions.TooHardError:
        return True


def expect_no_overlap(name: str, a: Any, other: Any) -> None:
    if overlap(a, other):
        raise ValueError(f"{name}: expected memory that no other argument uses, found an overlap")


def new(shape: tuple[int, ...], dtype: Any, make: Any = np.empty) -> Any:
    try:
        return make(shape, dtype, "F")
    except ValueError:
        raise ValueError(f"out: expected a result that fits into the address space, found shape {shape}") from None


def output(name: str, out: Any, shape: tuple[int, ...], dtype: Any, others: list[Any], strided: bool = False) -> Any:
    """The checked output as an ndarray over the same memory, or a new array if `out` is None."""
    if out is None:
        return new(shape, dtype)
    a = view(name, out, copy=False)
    if a.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype} like the inputs, found {a.dtype}")
    expect_shape(name, a, shape)
    if not a.flags.writeable:
        raise ValueError(f"{name}: expected a writeable array, found a read-only one")
    if not a.flags.aligned:
        raise ValueError(f"{name}: expected an aligned array, found one that is not")
    if not a.flags.f_contiguous and (a.ndim != 2 or leading_dimension(a) is None):
        raise ValueError(f"{name}: expected a column-major array, found strides {a.strides} for shape {shape}")
    if not a.flags.f_contiguous and not strided:
        raise ValueError(f"{name}: expected no gaps between columns, found strides {a.strides} for shape {shape}")
    for other in others:
        if other is not None:
            expect_no_overlap(name, a, other)
    return a


def members(out: Any, operands: list[Operand]) -> tuple[Any, ...]:
    """The output arrays in `out`: a tuple of one for each operand, or `out` itself if there is one operand."""
    if len(operands) == 1:
        return (out,)
    if out is None:
        return (None,) * len(operands)
    if type(out) is not tuple or len(out) != len(operands):
        found = f"a tuple of {len(out)}" if type(out) is tuple else type(out).__name__
        raise TypeError(f"out: expected a tuple of {len(operands)} arrays, found {found}")
    for i, (a, operand) in enumerate(zip(out, operands)):
        if a is None and not operand.optional:
            raise TypeError(f"out[{i}]: expected an array, found None")
    return out


# ---- any kernel ----


def careful(kernel: str, out: Any, accumulate: Any, eps: Any, *inputs: Any, **sizes: Any) -> Any:
    """Check every argument and run the kernel of this name; returns `out`, or the new outputs if that is None.

    `sizes` are the sizes that follow from the shape of no input, such as vocab_size in embedding_backward.
    """
    row = KERNELS[kernel]
    adds = true_or_false("accumulate", accumulate) and out is not None
    numbers = {name: count(name, n) for name, n in sizes.items()}
    eps = number("eps", eps)
    dtype, arrays, memory = None, [], []
    for operand, a in zip(row.inputs, inputs, strict=True):
        a = view(operand.name, a)
        memory.append(a)  # also of integers: `arrays` has copies of them
        if operand.limit is None:
            a = reals(operand.name, a, dtype, len(operand.shape))
            dtype = a.dtype
        else:
            a = indices(operand.name, a, numbers[operand.limit])
        expect_shape(operand.name, a, tuple(map(numbers.get, operand.shape, a.shape)))
        numbers |= zip(operand.shape, a.shape)
        arrays.append(a)
    outputs: list[Any] = []
    given = members(out, row.outputs)
    for i, (operand, a) in enumerate(zip(row.outputs, given)):
        name = f"out[{i}]" if len(given) > 1 else "out"
        left_out = a is None and out is not None
        shape = operand.sized(numbers)
        outputs.append(None if left_out else output(name, a, shape, dtype, memory + outputs, row.strided))
    run(kernel, dtype, [*outputs, *arrays], numbers, adds, eps)
    if out is not None:
        return out
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def run(
    kernel: str, dtype: Any, arrays: list[Any], sizes: Mapping[str, int], accumulate: bool = False, eps: float = 0.0
) -> None:
    """Run a kernel on checked arrays, copying inputs whose layout C cannot read."""
    row = KERNELS[kernel]
    placed, ld = [], []
    for i, a in enumerate(arrays):
        distance = 0  # between columns
        if a is not None:
            known = leading_dimension(a) if row.strided and a.ndim == 2 else None
            if known is None and i >= len(row.outputs):
                a = whole(a)
            distance = len(a) if known is None else known
        placed.append(a)
        ld.append(distance)
    call = {"kernel": row.number, "accumulate": -accumulate, "eps": eps, "array": placed, "ld": ld, "sizes": sizes}
    compiled.recorded(dtype, [call])(0, sizes["n"])


compiled.set_careful(careful)
call = compiled.call
