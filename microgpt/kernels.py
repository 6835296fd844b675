"""The C kernels as NumPy functions, each forward pass beside its backward pass.

    >>> import numpy as np
    >>> from microgpt import kernels
    >>> x = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    >>> p = kernels.softmax_forward(x)                       # down each column
    >>> p.round(4)
    array([[0.3333, 0.09  ],
           [0.3333, 0.2447],
           [0.3333, 0.6652]])
    >>> kernels.softmax_backward(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), p).round(4)
    array([[ 0.2222, -0.0599],
           [-0.1111, -0.1628],
           [-0.1111,  0.2227]])

A matrix is features x tokens, one column per token.  What holds for every function:

- Inputs are float32 or float64, all of one dtype, in any layout.  Column-major ones (order F, and blocks of rows or
  columns of such an array where the kernel takes a leading dimension: matmul, softmax, rmsnorm) are read where they
  are; any other is copied first.  Whatever has __dlpack__ or __array__, such as a PyTorch tensor, is read in place too.
- Results are new column-major arrays, or go into `out` and are returned as it: exactly the right dtype and shape,
  column-major, aligned, writeable, and overlapping no input and no other output.
- `accumulate=True` adds a gradient to what `out` holds; otherwise `out` is overwritten.
- TypeError for a wrong type or dtype, ValueError for a wrong shape, layout, range or overlap, each naming the argument;
  no byte of an output has then changed.  Every size is below 2**30.
- NaN and infinity spread as arithmetic has it.  Same arguments, same bits (but for which NaN a NaN is), on any machine
  and in any number of threads: the kernels run without the GIL, keep no state, and no sum depends on a vector's width.

This is the only importer of the compiled modules, one for each instruction set.  MICROGPT_ISA forces one (scalar, avx2,
avx512, or neon on Arm); unset, the best this machine can run is taken.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module, util
from typing import Any, NamedTuple, SupportsIndex, TypeVar, overload

import numpy as np


def _load(isa: str) -> Any:
    return import_module(f"._kernels_{isa}", __package__)


def _choose_isa() -> str:
    best = _load("scalar").lib.best_isa()
    order = [("scalar", 0), ("neon", 1), ("avx2", 1), ("avx512", 2)]
    runnable = [isa for isa, level in order if level <= best and util.find_spec(f"{__package__}._kernels_{isa}")]
    forced = os.environ.get("MICROGPT_ISA", "")
    if not forced:
        return runnable[-1]
    if forced not in runnable:
        raise ImportError(f"MICROGPT_ISA: expected one of {', '.join(runnable)} on this machine, found {forced!r}")
    return forced


ISA = _choose_isa()
_module = _load(ISA)
lib, ffi = _module.lib, _module.ffi

Real = TypeVar("Real", np.float32, np.float64)
Array = np.ndarray[Any, np.dtype[Real]]
Integers = np.ndarray[Any, np.dtype[Any]]


# ---- what C is given ----

MAX_SIZE = 2**30 - 1  # of any one dimension, so that C's int sizes have room for their sums

_ndarray = np.ndarray

# _data[id(a) >> 3] is the pointer to the data of the ndarray a.  An array's object holds it right behind the object
# header, as NumPy's ABI says.  Reading it there takes a tenth of a microsecond; a.ctypes.data, the same number, one.
_data = ffi.cast("void **", object.__basicsize__)

_SUFFIX = {np.dtype(np.float32): "_f32", np.dtype(np.float64): "_f64"}


def _run(name: str, dtype: Any, *arguments: Any) -> None:
    """Call the kernel of this name and precision, with a pointer for each array and NULL for None."""
    kernel = getattr(lib, name + _SUFFIX[dtype])
    kernel(*[_data[id(a) >> 3] if type(a) is _ndarray else ffi.NULL if a is None else a for a in arguments])


# Tried first where it can be: plain arrays are checked in C (csrc/arrays.h), and 0 means that they need a closer look.
_call_plain = lib.call_plain
_NUMPY = ffi.new("struct numpy *", [id(_ndarray), id(np.dtype(np.float32)), id(np.dtype(np.float64))])

_x, _y = np.ones((1, 1)), np.zeros((1, 1))
if (
    sys.implementation.name != "cpython"
    or ffi.sizeof("void *") != 8
    or _data[id(_x) >> 3] != ffi.from_buffer("double[]", _x)
    or not _call_plain(_NUMPY, lib.RELU_FORWARD, 0, 0, id(_y), id(_x), 0, 0, 0)
    or _y[0, 0] != 1
):
    raise ImportError("microgpt.kernels: expected 64-bit CPython, where id() is the address of an array's object")


def _own_view(name: str, a: Any, copy: bool | None = None) -> Any:
    """An ndarray over the memory of a that nobody else has, so that its shape and dtype stay what they are found to be.

    a may be another library's; copy=False: and then not a copy of its memory."""
    if type(a) is _ndarray:
        return a.view()
    found = f"{name}: expected a numpy.ndarray (or an object with __dlpack__ or __array__), found {type(a).__name__}"
    if isinstance(a, _ndarray):  # a masked array is more than its data
        raise TypeError(f"{name}: expected a numpy.ndarray, found its subclass {type(a).__name__}")
    if not (hasattr(a, "__dlpack__") or hasattr(a, "__array__")):
        raise TypeError(found)
    try:
        view = np.from_dlpack(a) if hasattr(a, "__dlpack__") else np.asarray(a, copy=copy)
    except Exception as error:  # whatever the other library raises
        raise TypeError(f"{found}: {error}") from error
    if type(view) is not _ndarray:
        raise TypeError(found)
    return view.view()


def _array(name: str, a: Any, dtype: Any = None, ndim: int = 2) -> Any:
    """The input a as an ndarray over the same memory, its type, dtype and number of dimensions being right."""
    a = _own_view(name, a)
    if dtype is None:
        if a.dtype not in _SUFFIX:
            raise TypeError(f"{name}: expected float32 or float64, found {a.dtype}")
    elif a.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype} like the other arrays, found {a.dtype}")
    if a.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimension{'s' * (ndim > 1)}, found shape {a.shape}")
    if max(a.shape) > MAX_SIZE:
        raise ValueError(f"{name}: expected sizes below 2**30, found shape {a.shape}")
    return a


def _matrices(names: str, *arrays: Any) -> Any:
    """The input matrices as ndarrays over the same memory, all of one dtype."""
    checked: list[Any] = []
    for name, a in zip(names.split(), arrays):
        checked.append(_array(name, a, checked[0].dtype if checked else None))
    return checked


def _vector(name: str, a: Any, n: int, dtype: Any) -> Any:
    """The input vector a of n elements."""
    a = _array(name, a, dtype, ndim=1)
    _shape(name, a, (n,))
    return a


def _shape(name: str, a: Any, expected: Any) -> None:
    if a.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, found {a.shape}")


def _leading_dimension(a: Any) -> int | None:
    """ld, if element (i, j) of the matrix a lies at j*ld + i, aligned."""
    (m, _), (down, along), itemsize = a.shape, a.strides, a.itemsize
    if a.flags.f_contiguous and a.flags.aligned:
        return int(m)
    ld, rest = divmod(along, itemsize)
    ok = a.flags.aligned and (down == itemsize or m == 1) and m <= ld <= MAX_SIZE and rest == 0
    return int(ld) if ok else None


def _columns(a: Any) -> tuple[Any, int]:
    """The input matrix a, or a column-major copy, and its leading dimension."""
    ld = _leading_dimension(a)
    return (a, ld) if ld is not None else (np.array(a, order="F"), a.shape[0])


def _packed(a: Any) -> Any:
    """The input a, or a copy, without gaps between its columns."""
    return a if a.flags.f_contiguous and a.flags.aligned else np.array(a, order="F")


def _new(shape: tuple[int, ...], dtype: Any, make: Any = np.empty) -> Any:
    try:
        return make(shape, dtype, "F")
    except ValueError:
        raise ValueError(f"out: expected a result that fits into an address space, found shape {shape}") from None


def _fresh(a: Any, b: Any) -> Any:
    """A new matrix of as many rows as a and columns as b, or None where it is large or these need a closer look."""
    if type(a) is type(b) is _ndarray and a.dtype in _SUFFIX and a.ndim == b.ndim == 2:
        m, n = a.shape[0], b.shape[1]
        if max(m, n, m * n) <= 2**20:  # shapes that do not fit may make it enormous
            return np.empty((m, n), a.dtype, "F")
    return None


def _overlap(a: Any, b: Any) -> bool:
    patience: Any = 10_000  # for strides that only a long search could tell apart
    try:
        return np.may_share_memory(a, b) and np.shares_memory(a, b, patience)
    except np.exceptions.TooHardError:
        return True


def _output(name: str, out: Any, shape: tuple[int, ...], dtype: Any, *others: Any) -> tuple[Any, int]:
    """The output as an ndarray over the same memory, all about it being right, or a new one; and its leading dimension."""
    if out is None:
        return _new(shape, dtype), shape[0]
    a = _own_view(name, out, copy=False)
    if a.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype} like the inputs, found {a.dtype}")
    _shape(name, a, shape)
    if not a.flags.writeable:
        raise ValueError(f"{name}: expected a writeable array, found a read-only one")
    if not a.flags.aligned:
        raise ValueError(f"{name}: expected an aligned array, found one that is not")
    ld = _leading_dimension(a) if a.ndim == 2 else shape[0] if a.flags.f_contiguous else None
    if ld is None:
        raise ValueError(f"{name}: expected a column-major array, found strides {a.strides} for shape {shape}")
    for other in others:
        if _overlap(a, other):
            raise ValueError(f"{name}: expected memory of its own, found an overlap with another argument")
    return a, ld


def _packed_output(name: str, out: Any, shape: tuple[int, ...], dtype: Any, *others: Any) -> Any:
    """_output for kernels that take no leading dimension."""
    a, _ = _output(name, out, shape, dtype, *others)
    if not a.flags.f_contiguous:
        raise ValueError(f"{name}: expected no gaps between columns, found strides {a.strides} for shape {shape}")
    return a


def _members(out: Any, n: int) -> tuple[Any, ...]:
    """The n arrays of an `out` that holds several."""
    if out is None:
        return (None,) * n
    if type(out) is not tuple or len(out) != n:
        found = f"one of {len(out)}" if type(out) is tuple else type(out).__name__
        raise TypeError(f"out: expected a tuple of {n} arrays, found {found}")
    for i, a in enumerate(out):
        if a is None:
            raise TypeError(f"out[{i}]: expected an array, found None")
    return out


def _overwrites(accumulate: Any, out: Any) -> bool:
    """Whether what the gradients hold is to be replaced, not added to."""
    if type(accumulate) is not bool:
        raise TypeError(f"accumulate: expected True or False, found {accumulate!r:.100}")
    return not accumulate or out is None


def _start(overwrite: bool, *gradients: Any) -> None:
    """Zero the gradients to be overwritten, for C adds to them.  The first write, so after every check."""
    if overwrite:
        for a in gradients:
            a.fill(0)


def _indices(name: str, a: Any, limit: int) -> Any:
    """The integers a, each in range(limit), as int32.

    Always a copy, so that nobody can change an index between this check and its use in C."""
    a = _own_view(name, a)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, found {a.dtype}")
    if a.ndim != 1 or a.size > MAX_SIZE:
        raise ValueError(f"{name}: expected one dimension below 2**30, found shape {a.shape}")
    a = np.array(a)
    if a.size and not (0 <= a.min() and a.max() < limit):
        wrong = a[(a < 0) | (a >= limit)][0]
        raise ValueError(f"{name}: expected integers in range({limit}), found {wrong}")
    return a.astype(np.int32)


def _number(name: str, x: Any) -> float:
    if not isinstance(x, (int, float, np.floating, np.integer)):
        raise TypeError(f"{name}: expected a number, found {type(x).__name__}")
    if not 0 <= x <= 3e38:  # what float32 can hold
        raise ValueError(f"{name}: expected a number from 0 to 3e38, found {x}")
    return float(x)


def _count(name: str, n: Any) -> int:
    if not isinstance(n, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, found {type(n).__name__}")
    if not 0 <= n <= MAX_SIZE:
        raise ValueError(f"{name}: expected an integer from 0 to 2**30 - 1, found {n}")
    return int(n)


# ---- matmul ----


def matmul_forward(w: Array[Real], x: Array[Real], *, out: Array[Real] | None = None) -> Array[Real]:
    """y = w x.  w: (m, k), x: (k, n); y: (m, n).

    Sums run over k in order, by fused multiply-adds, so |y - exact| <= k u |w| |x| elementwise, u being half of eps
    (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.5).  No zero is skipped: 0 * inf is NaN.

    >>> matmul_forward(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0], [10.0]]))
    array([[21.],
           [43.]])
    """
    y = _fresh(w, x) if out is None else out
    if _call_plain(_NUMPY, lib.MATMUL_FORWARD, 0, 0, id(y), id(w), id(x), 0, 0):
        return y
    w, x = _matrices("w x", w, x)
    (m, k), n = w.shape, x.shape[1]
    _shape("x", x, (k, n))
    y, ldy = _output("out", out, (m, n), w.dtype, w, x)
    (w, ldw), (x, ldx) = _columns(w), _columns(x)
    _run("matmul_forward", w.dtype, y, w, x, m, k, n, ldy, ldw, ldx)
    return y if out is None else out


@overload
def matmul_backward(
    dy: Array[Real], w: Array[Real], x: Array[Real], *, out: None = None, accumulate: bool = False
) -> tuple[Array[Real], Array[Real]]: ...
@overload
def matmul_backward(
    dy: Array[Real],
    w: Array[Real],
    x: Array[Real],
    *,
    out: tuple[Array[Real] | None, Array[Real] | None],
    accumulate: bool = False,
) -> tuple[Array[Real] | None, Array[Real] | None]: ...
def matmul_backward(dy: Any, w: Any, x: Any, *, out: Any = None, accumulate: bool = False) -> Any:
    """dw = dy x^T, dx = w^T dy.  dy: (m, n), w: (m, k), x: (k, n); dw: (m, k), dx: (k, n).

    out: (dw, dx); a gradient in whose place None stands is left out, and None is returned for it.
    Sums run in order, over tokens for dw and over rows of w for dx (Giles, Collected Matrix Derivative Results for
    Forward and Reverse Mode Algorithmic Differentiation, 2008, section 2.2).

    >>> dw, dx = matmul_backward(np.array([[1.0]]), np.array([[2.0, 3.0]]), np.array([[5.0], [7.0]]))
    >>> dw
    array([[5., 7.]])
    >>> dx
    array([[2.],
           [3.]])
    """
    overwrite = _overwrites(accumulate, out)
    dw, dx = out if type(out) is tuple and len(out) == 2 else _members(out, 2)
    if out is None:
        dw, dx = _fresh(w, w), _fresh(x, x)
    if _call_plain(_NUMPY, lib.MATMUL_BACKWARD, 3 * overwrite, 0, id(dw), id(dx), id(dy), id(w), id(x)):
        return (dw, dx) if out is None else out
    dy, w, x = _matrices("dy w x", dy, w, x)
    (m, k), n = w.shape, x.shape[1]
    _shape("x", x, (k, n))
    _shape("dy", dy, (m, n))
    lddw = lddx = 0
    others = [dy, w, x]
    if out is None or dw is not None:
        dw, lddw = _output("out[0]", dw, (m, k), w.dtype, *others)
        others.append(dw)
    if out is None or dx is not None:
        dx, lddx = _output("out[1]", dx, (k, n), w.dtype, *others)
    name = "matmul_backward_set" if overwrite else "matmul_backward"
    (dy, lddy), (w, ldw), (x, ldx) = _columns(dy), _columns(w), _columns(x)
    _run(name, w.dtype, dw, dx, dy, w, x, m, k, n, lddw, lddx, lddy, ldw, ldx)
    return (dw, dx) if out is None else out


# ---- softmax ----


def softmax_forward(x: Array[Real], *, out: Array[Real] | None = None) -> Array[Real]:
    """p[:, j] = exp(x[:, j]) / sum(exp(x[:, j])).  x: (m, n); p: (m, n).

    The largest element of a column is subtracted first, so nothing overflows.  A column with a NaN or a +inf, or all
    of -inf, has no such quotient and becomes NaN; a -inf beside finite numbers gets 0, and an
    exp(x - max) that would be subnormal counts as 0 (Bridle, Probabilistic Interpretation of Feedforward
    Classification Network Outputs, 1990).

    >>> softmax_forward(np.array([[0.0], [-np.inf], [0.0]]))
    array([[0.5],
           [0. ],
           [0.5]])
    """
    p = _fresh(x, x) if out is None else out
    if _call_plain(_NUMPY, lib.SOFTMAX_FORWARD, 0, 0, id(p), id(x), 0, 0, 0):
        return p
    x = _array("x", x)
    m, n = x.shape
    p, ldp = _output("out", out, (m, n), x.dtype, x)
    x, ldx = _columns(x)
    _run("softmax_forward", x.dtype, p, x, m, n, ldp, ldx)
    return p if out is None else out


def softmax_backward(
    dp: Array[Real], p: Array[Real], *, out: Array[Real] | None = None, accumulate: bool = False
) -> Array[Real]:
    """dx[:, j] = p (dp - sum(dp p)), all of column j.  dp: (m, n), p: (m, n), softmax_forward's result; dx: (m, n).

    The formula is dp_i/dx_j = p_i ((i = j) - p_j), summed over i (Bridle 1990).

    >>> softmax_backward(np.array([[1.0], [0.0]]), np.array([[0.5], [0.5]]))
    array([[ 0.25],
           [-0.25]])
    """
    overwrite = _overwrites(accumulate, out)
    dx = _fresh(p, p) if out is None else out
    if _call_plain(_NUMPY, lib.SOFTMAX_BACKWARD, overwrite, 0, id(dx), id(dp), id(p), 0, 0):
        return dx
    dp, p = _matrices("dp p", dp, p)
    m, n = p.shape
    _shape("dp", dp, (m, n))
    dx, lddx = _output("out", out, (m, n), p.dtype, dp, p)
    name = "softmax_backward_set" if overwrite else "softmax_backward"
    (dp, lddp), (p, ldp) = _columns(dp), _columns(p)
    _run(name, p.dtype, dx, dp, p, m, n, lddx, lddp, ldp)
    return dx if out is None else out


# ---- rmsnorm ----


def rmsnorm_forward(
    x: Array[Real], eps: float = 1e-5, *, out: tuple[Array[Real], Array[Real]] | None = None
) -> tuple[Array[Real], Array[Real]]:
    """y[:, j] = x[:, j] rstd[j], rstd[j] = 1 / sqrt(mean(x[:, j]**2) + eps).  x: (m, n); y: (m, n), rstd: (n,).

    Zhang & Sennrich, Root Mean Square Layer Normalization, 2019, without their gain.  out: (y, rstd).

    >>> y, rstd = rmsnorm_forward(np.array([[3.0], [4.0]]), eps=0.0)
    >>> (y / [[3.0], [4.0]] == rstd).all(), 1 / rstd**2
    (np.True_, array([12.5]))
    """
    eps = _number("eps", eps)
    y, rstd = _members(out, 2)
    if out is None and (y := _fresh(x, x)) is not None:
        rstd = np.empty(y.shape[1], y.dtype)
    if _call_plain(_NUMPY, lib.RMSNORM_FORWARD, 0, eps, id(y), id(rstd), id(x), 0, 0):
        return (y, rstd) if out is None else out
    x = _array("x", x)
    m, n = x.shape
    y, ldy = _output("out[0]", y, (m, n), x.dtype, x)
    rstd, _ = _output("out[1]", rstd, (n,), x.dtype, x, y)
    x, ldx = _columns(x)
    _run("rmsnorm_forward", x.dtype, y, rstd, x, eps, m, n, ldy, ldx)
    return (y, rstd) if out is None else out


def rmsnorm_backward(
    dy: Array[Real],
    y: Array[Real],
    rstd: Array[Real],
    *,
    out: Array[Real] | None = None,
    accumulate: bool = False,
) -> Array[Real]:
    """dx[:, j] = rstd[j] (dy - y mean(dy y)), all of column j.  dy: (m, n); y: (m, n), rstd: (n,), the results of
    rmsnorm_forward; dx: (m, n).

    From d rstd / dx = -rstd**2 y / m (Zhang & Sennrich 2019, section 4).

    >>> rmsnorm_backward(np.array([[1.0], [0.0]]), np.array([[1.0], [1.0]]), np.array([2.0]))
    array([[ 1.],
           [-1.]])
    """
    overwrite = _overwrites(accumulate, out)
    dx = _fresh(y, y) if out is None else out
    if _call_plain(_NUMPY, lib.RMSNORM_BACKWARD, overwrite, 0, id(dx), id(dy), id(y), id(rstd), 0):
        return dx
    dy, y = _matrices("dy y", dy, y)
    m, n = y.shape
    _shape("dy", dy, (m, n))
    rstd = _vector("rstd", rstd, n, y.dtype)
    dx, lddx = _output("out", out, (m, n), y.dtype, dy, y, rstd)
    name = "rmsnorm_backward_set" if overwrite else "rmsnorm_backward"
    (dy, lddy), (y, ldy), rstd = _columns(dy), _columns(y), _packed(rstd)
    _run(name, y.dtype, dx, dy, y, rstd, m, n, lddx, lddy, ldy)
    return dx if out is None else out


# ---- elementwise ----


def relu_forward(x: Array[Real], *, out: Array[Real] | None = None) -> Array[Real]:
    """y = max(0, x), a NaN staying one.  x: (m, n); y: (m, n).

    Nair & Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines, 2010.

    >>> relu_forward(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """
    y = _fresh(x, x) if out is None else out
    if _call_plain(_NUMPY, lib.RELU_FORWARD, 0, 0, id(y), id(x), 0, 0, 0):
        return y
    x = _array("x", x)
    y = _packed_output("out", out, x.shape, x.dtype, x)
    x = _packed(x)
    _run("relu_forward", x.dtype, y, x, x.size)
    return y if out is None else out


def relu_backward(
    dy: Array[Real], y: Array[Real], *, out: Array[Real] | None = None, accumulate: bool = False
) -> Array[Real]:
    """dx = dy where y > 0, and 0 elsewhere.  dy: (m, n), y: (m, n), relu_forward's result (or its x); dx: (m, n).

    >>> relu_backward(np.array([[5.0, 5.0]]), np.array([[0.0, 2.0]]))
    array([[0., 5.]])
    """
    overwrite = _overwrites(accumulate, out)
    dx = _fresh(y, y) if out is None else out
    if _call_plain(_NUMPY, lib.RELU_BACKWARD, overwrite, 0, id(dx), id(dy), id(y), 0, 0):
        return dx
    dy, y = _matrices("dy y", dy, y)
    _shape("dy", dy, y.shape)
    dx = _packed_output("out", out, y.shape, y.dtype, dy, y)
    _start(overwrite, dx)
    dy, y = _packed(dy), _packed(y)
    _run("relu_backward", y.dtype, dx, dy, y, y.size)
    return dx if out is None else out


def add_forward(a: Array[Real], b: Array[Real], *, out: Array[Real] | None = None) -> Array[Real]:
    """y = a + b, the residual connection.  a, b: (m, n); y: (m, n).

    He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, 2015.

    >>> add_forward(np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]]))
    array([[11., 22.]])
    """
    y = _fresh(a, b) if out is None else out
    if _call_plain(_NUMPY, lib.ADD_FORWARD, 0, 0, id(y), id(a), id(b), 0, 0):
        return y
    a, b = _matrices("a b", a, b)
    _shape("b", b, a.shape)
    y = _packed_output("out", out, a.shape, a.dtype, a, b)
    a, b = _packed(a), _packed(b)
    _run("add_forward", a.dtype, y, a, b, a.size)
    return y if out is None else out


def add_backward(
    dy: Array[Real], *, out: tuple[Array[Real], Array[Real]] | None = None, accumulate: bool = False
) -> tuple[Array[Real], Array[Real]]:
    """da = dy, db = dy.  dy: (m, n); da, db: (m, n).  out: (da, db).

    >>> add_backward(np.array([[3.0]]))
    (array([[3.]]), array([[3.]]))
    """
    dy = _array("dy", dy)
    da, db = _members(out, 2)
    da = _packed_output("out[0]", da, dy.shape, dy.dtype, dy)
    db = _packed_output("out[1]", db, dy.shape, dy.dtype, dy, da)
    _start(_overwrites(accumulate, out), da, db)
    dy = _packed(dy)
    _run("add_backward", dy.dtype, da, db, dy, dy.size)
    return (da, db) if out is None else out


# ---- embedding ----


def embedding_forward(
    wte: Array[Real], wpe: Array[Real], tokens: Integers, positions: Integers, *, out: Array[Real] | None = None
) -> Array[Real]:
    """x[:, t] = wte[:, tokens[t]] + wpe[:, positions[t]].

    wte: (n_embd, vocab_size), wpe: (n_embd, block_size), tokens and positions: (n_tokens,) of any integer dtype;
    x: (n_embd, n_tokens).  Token and learned position embedding as in Radford et al., Improving Language Understanding
    by Generative Pre-Training, 2018.  tokens and positions are always copied.

    >>> embedding_forward(np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]]), np.array([1, 1]), np.array([0, 1]))
    array([[12., 22.]])
    """
    wte, wpe = _matrices("wte wpe", wte, wpe)
    n_embd, vocab_size = wte.shape
    block_size = wpe.shape[1]
    _shape("wpe", wpe, (n_embd, block_size))
    tokens = _indices("tokens", tokens, vocab_size)
    positions = _indices("positions", positions, block_size)
    _shape("positions", positions, tokens.shape)
    x = _packed_output("out", out, (n_embd, len(tokens)), wte.dtype, wte, wpe)
    wte, wpe = _packed(wte), _packed(wpe)
    _run("embedding_forward", wte.dtype, x, wte, wpe, tokens, positions, n_embd, len(tokens))
    return x if out is None else out


def embedding_backward(
    dx: Array[Real],
    tokens: Integers,
    positions: Integers,
    *,
    vocab_size: SupportsIndex,
    block_size: SupportsIndex,
    out: tuple[Array[Real], Array[Real]] | None = None,
    accumulate: bool = False,
) -> tuple[Array[Real], Array[Real]]:
    """dwte[:, tokens[t]] += dx[:, t], dwpe[:, positions[t]] += dx[:, t], for t in order; both start from 0.

    dx: (n_embd, n_tokens), tokens and positions: (n_tokens,); dwte: (n_embd, vocab_size), dwpe: (n_embd, block_size).
    out: (dwte, dwpe).

    >>> embedding_backward(np.array([[3.0, 4.0]]), np.array([1, 1]), np.array([0, 1]), vocab_size=2, block_size=2)
    (array([[0., 7.]]), array([[3., 4.]]))
    """
    dx = _array("dx", dx)
    n_embd, n_tokens = dx.shape
    n_vocab, n_block = _count("vocab_size", vocab_size), _count("block_size", block_size)
    tokens = _indices("tokens", tokens, n_vocab)
    positions = _indices("positions", positions, n_block)
    _shape("tokens", tokens, (n_tokens,))
    _shape("positions", positions, (n_tokens,))
    dwte, dwpe = _members(out, 2)
    dwte = _packed_output("out[0]", dwte, (n_embd, n_vocab), dx.dtype, dx)
    dwpe = _packed_output("out[1]", dwpe, (n_embd, n_block), dx.dtype, dx, dwte)
    _start(_overwrites(accumulate, out), dwte, dwpe)
    dx = _packed(dx)
    _run("embedding_backward", dx.dtype, dwte, dwpe, dx, tokens, positions, n_embd, n_tokens)
    return (dwte, dwpe) if out is None else out


# ---- attention ----


class AttentionCache(NamedTuple):
    """What attention_forward leaves for attention_backward and attention_weights: q, k and v themselves, not copies
    (unless they had to be copied), which until then should stay as they are."""

    probs: Any  # (lib.attention_rows(n_tokens), n_head * block_size), in an order that is C's own
    q: Any  # (n_embd, n_tokens)
    k: Any
    v: Any
    offsets: Any  # (number of documents + 1,)
    n_head: int
    block_size: int  # the longest document's length, or more


def _documents(name: str, offsets: Any, n_tokens: int) -> tuple[Any, Any, int]:
    """A copy of the offsets, the place of every token in its document, and the longest document's length."""
    offsets = _indices(name, offsets, n_tokens + 1)
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != n_tokens or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"{name}: expected 0, then no smaller one, and last {n_tokens}, found {offsets}")
    lengths = offsets[1:] - offsets[:-1]
    positions = np.arange(n_tokens, dtype=np.int32) - np.repeat(offsets[:-1], lengths)
    return offsets, positions, int(lengths.max(initial=0))


def _heads(name: str, n_head: Any, n_embd: int) -> int:
    n_head = _count(name, n_head)
    if n_head == 0 or n_embd % n_head:
        raise ValueError(f"{name}: expected a divisor of n_embd, which is {n_embd}, found {n_head}")
    return int(n_head)


def attention_forward(
    q: Array[Real],
    k: Array[Real],
    v: Array[Real],
    offsets: Integers,
    n_head: SupportsIndex,
    *,
    out: Array[Real] | None = None,
) -> tuple[Array[Real], AttentionCache]:
    """Causal multi-head attention within each document: out and a cache for the backward pass.

    q, k, v: (n_embd, n_tokens), the documents' columns side by side; out: the same.  offsets says where each document
    begins, and last where all end: document i is the columns offsets[i] up to offsets[i + 1].  Head h has the n_embd /
    n_head rows from h * n_embd / n_head on.  With s over the tokens of t's document up to t itself:

        weights[h, t, s] = softmax over s of (q_h[:, t] . k_h[:, s]) / sqrt(n_embd / n_head)
        out_h[:, t]      = sum over s of weights[h, t, s] v_h[:, s]

    Vaswani et al., Attention Is All You Need, 2017, section 3.2.  The cache takes n_tokens * n_head * longest document
    numbers and a few more.

    >>> x = np.array([[1.0, 2.0, 4.0]])
    >>> out, cache = attention_forward(0 * x, x, x, offsets=np.array([0, 2, 3]), n_head=1)
    >>> out
    array([[1. , 1.5, 4. ]])
    >>> attention_weights(cache, document=0)
    array([[[1. , 0. ],
            [0.5, 0.5]]])
    """
    q, k, v = _matrices("q k v", q, k, v)
    n_embd, n_tokens = q.shape
    _shape("k", k, q.shape)
    _shape("v", v, q.shape)
    heads = _heads("n_head", n_head, n_embd)
    offsets, positions, block_size = _documents("offsets", offsets, n_tokens)
    result = _packed_output("out", out, q.shape, q.dtype, q, k, v)
    q, k, v = _packed(q), _packed(k), _packed(v)
    probs = _attend(result, q, k, v, positions, heads, block_size)
    return (result if out is None else out), AttentionCache(probs, q, k, v, offsets, heads, block_size)


def _attend(out: Any, q: Any, k: Any, v: Any, positions: Any, n_head: int, block_size: int) -> Any:
    """attention_forward in C, all arguments being right; returns probs."""
    n_embd, n_tokens = q.shape
    rows = lib.attention_rows(n_tokens)
    # C leaves gaps in probs, and equal calls shall give equal caches
    probs = _new((rows, n_head * block_size), q.dtype, np.zeros)
    work = _new((rows, 4 * n_embd), q.dtype)
    _run("attention_forward", q.dtype, out, probs, work, q, k, v, positions, n_embd, n_head, block_size, n_tokens)
    return probs


def attention_backward(
    dout: Array[Real],
    cache: AttentionCache,
    *,
    out: tuple[Array[Real], Array[Real], Array[Real]] | None = None,
    accumulate: bool = False,
) -> tuple[Array[Real], Array[Real], Array[Real]]:
    """dq, dk, dv.  dout: (n_embd, n_tokens), cache: attention_forward's; dq, dk, dv: (n_embd, n_tokens).

    out: (dq, dk, dv).  The gradients of the two formulas of attention_forward, with softmax_backward's between.

    >>> x = np.array([[1.0, 2.0, 4.0]])
    >>> out, cache = attention_forward(0 * x, x, x, offsets=np.array([0, 2, 3]), n_head=1)
    >>> attention_backward(np.ones((1, 3)), cache)
    (array([[0.  , 0.25, 0.  ]]), array([[0., 0., 0.]]), array([[1.5, 0.5, 1. ]]))
    """
    (probs, q, k, v, _, heads, block_size), positions = _checked(cache)
    dout = _array("dout", dout, q.dtype)
    _shape("dout", dout, q.shape)
    n_embd, n_tokens = q.shape
    dq, dk, dv = _members(out, 3)
    dq = _packed_output("out[0]", dq, q.shape, q.dtype, dout, probs, q, k, v)
    dk = _packed_output("out[1]", dk, q.shape, q.dtype, dout, probs, q, k, v, dq)
    dv = _packed_output("out[2]", dv, q.shape, q.dtype, dout, probs, q, k, v, dq, dk)
    work = _new((len(probs), 7 * n_embd + block_size), q.dtype)
    _start(_overwrites(accumulate, out), dq, dk, dv)
    dout, probs, q, k, v = map(_packed, (dout, probs, q, k, v))
    arrays = dq, dk, dv, work, dout, probs, q, k, v, positions
    _run("attention_backward", q.dtype, *arrays, n_embd, heads, block_size, n_tokens)
    return (dq, dk, dv) if out is None else out


def _checked(cache: Any) -> tuple[Any, Any]:
    """A cache and its positions; all checked, for anyone can make or change a cache."""
    if type(cache) is not AttentionCache:
        raise TypeError(f"cache: expected attention_forward's, found {type(cache).__name__}")
    names = "cache.q cache.k cache.v cache.probs"
    q, k, v, probs = _matrices(names, cache.q, cache.k, cache.v, cache.probs)
    _shape("cache.k", k, q.shape)
    _shape("cache.v", v, q.shape)
    n_embd, n_tokens = q.shape
    offsets, positions, longest = _documents("cache.offsets", cache.offsets, n_tokens)
    n_head = _heads("cache.n_head", cache.n_head, n_embd)
    block_size = _count("cache.block_size", cache.block_size)
    if block_size < longest:
        raise ValueError(f"cache.block_size: expected at least {longest}, the longest document, found {block_size}")
    _shape("cache.probs", probs, (lib.attention_rows(n_tokens), n_head * block_size))
    return AttentionCache(probs, q, k, v, offsets, n_head, block_size), positions


def attention_weights(cache: AttentionCache, document: SupportsIndex) -> Any:
    """weights[h, t, s], how much token t of one document took from token s, in head h: a new (n_head, n, n) array.

    Zero above the diagonal, and every row sums to 1."""
    (_, q, k, v, offsets, n_head, _), _ = _checked(cache)
    i = _count("document", document)
    if i >= len(offsets) - 1:
        raise ValueError(f"document: expected one in range({len(offsets) - 1}), found {i}")
    # by itself, a document has the same weights, and an order of them that is simple
    q, k, v = (_packed(a[:, offsets[i] : offsets[i + 1]]) for a in (q, k, v))
    n = q.shape[1]
    probs = _attend(np.empty_like(q), q, k, v, np.arange(n, dtype=np.int32), n_head, n)
    rows = lib.token_rows(n)
    by_lag = probs.reshape(-1, order="F")[: rows * n * n_head].reshape(rows, n, n_head, order="F")
    t, s = np.tril_indices(n)
    weights = np.zeros((n_head, n, n), probs.dtype)
    for h in range(n_head):
        weights[h, t, s] = by_lag[t, t - s, h]
    return weights


# ---- cross-entropy ----


def cross_entropy_forward(
    logits: Array[Real],
    targets: Integers,
    weights: Array[Real] | None = None,
    *,
    out: tuple[Array[Real], Array[Real]] | None = None,
) -> tuple[float, Array[Real], Array[Real]]:
    """loss = sum over j of weights[j] losses[j], losses[j] = -log probs[targets[j], j], probs = softmax(logits).

    logits: (m, n), targets: (n,) of any integer dtype in range(m), weights: (n,), or None for the mean, each 1 / n;
    losses: (n,), probs: (m, n).  out: (losses, probs).  Without columns the loss is 0.  The log is taken of the sum of
    exponentials, not of the quotient, so a loss stays finite and exact where its probability is 0 in this precision;
    where softmax gives NaN, so does the loss, and a target with a logit of -inf gives inf.  (Bishop, Pattern
    Recognition and Machine Learning, 2006, section 4.3.4.)

    >>> loss, losses, probs = cross_entropy_forward(np.zeros((4, 2)), np.array([0, 3]))
    >>> loss == np.log(4), probs[0, 0]
    (np.True_, np.float64(0.25))
    """
    logits = _array("logits", logits)
    m, n = logits.shape
    dtype = logits.dtype
    targets = _indices("targets", targets, m)
    _shape("targets", targets, (n,))
    weights = _weights(weights, n, dtype)
    losses_out, probs_out = _members(out, 2)
    losses, _ = _output("out[0]", losses_out, (n,), dtype, logits, weights)
    probs = _packed_output("out[1]", probs_out, (m, n), dtype, logits, weights, losses)
    logits, weights = _packed(logits), _packed(weights)
    loss = np.empty(1, dtype)
    _run("cross_entropy_forward", dtype, loss, losses, probs, logits, targets, weights, m, n)
    if out is not None:
        losses, probs = out
    return float(loss[0]), losses, probs


def cross_entropy_backward(
    probs: Array[Real],
    targets: Integers,
    weights: Array[Real] | None = None,
    *,
    out: Array[Real] | None = None,
    accumulate: bool = False,
) -> Array[Real]:
    """dlogits[:, j] = weights[j] (probs[:, j] - onehot(targets[j])), the gradient of loss.

    probs: (m, n), cross_entropy_forward's; targets, weights: (n,), as given there; dlogits: (m, n).  (Bishop 2006,
    section 4.3.4.)

    >>> cross_entropy_backward(np.full((2, 2), 0.5), np.array([0, 1]))
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    """
    probs = _array("probs", probs)
    m, n = probs.shape
    dtype = probs.dtype
    targets = _indices("targets", targets, m)
    _shape("targets", targets, (n,))
    weights = _weights(weights, n, dtype)
    dlogits = _packed_output("out", out, (m, n), dtype, probs, weights)
    _start(_overwrites(accumulate, out), dlogits)
    probs, weights = _packed(probs), _packed(weights)
    _run("cross_entropy_backward", dtype, dlogits, probs, targets, weights, m, n)
    return dlogits if out is None else out


def _weights(weights: Any, n: int, dtype: Any) -> Any:
    if weights is None:
        return np.full(n, 1 / max(n, 1), dtype)
    return _vector("weights", weights, n, dtype)
