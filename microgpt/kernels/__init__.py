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

A matrix is features x tokens, one column per token.  A gradient is named after its value: dy is the gradient of the
loss with respect to y.  These rules hold for every function:

- Inputs are float32 or float64, all of one dtype, in any layout.  Column-major inputs (order F) are read in place;
  matmul, softmax and rmsnorm also read blocks of rows or columns of such an array in place.  All others are copied
  first.  np.memmap and objects with __dlpack__ or __array__, such as PyTorch CPU tensors, are accepted too.
- Results are new column-major arrays.  With `out`, they are written there and `out` is returned.  `out` must have
  the right dtype and shape, be column-major, aligned and writeable, and overlap no input and no other output.
- `accumulate=True` adds a gradient to what `out` holds.  Otherwise `out` is overwritten.  Without `out`, `accumulate`
  has no effect.
- TypeError reports a wrong type or dtype; ValueError reports a wrong shape, layout or range, or an overlap.  Each names
  the argument, and no output has changed then.  Every size must be below 2**30.
- NaN and infinity propagate as in IEEE arithmetic.  Equal arguments give equal bits (except for the payload of a NaN)
  on any machine and with any number of threads.  The kernels release the GIL and keep no state.
"""

# mypy: disable-error-code="no-any-return"
# mypy knows no types for the results of the compiled module.

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple, Protocol, SupportsIndex, TypeVar, overload

import numpy as np

from ..base.terminal import shown
from ..base.threads import MAX_THREADS
from . import compiled
from .checks import (
    call,
    careful,
    count,
    expect_no_overlap,
    expect_shape,
    indices,
    members,
    new,
    output,
    reals,
    run,
    true_or_false,
    view,
    whole,
)
from .table import KERNELS

__all__ = [
    "ISA",
    "RMSNORM_EPS",
    "AttentionCache",
    "add_backward",
    "add_forward",
    "attention_backward",
    "attention_forward",
    "attention_weights",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "embedding_backward",
    "embedding_forward",
    "matmul_backward",
    "matmul_forward",
    "relu_backward",
    "relu_forward",
    "rmsnorm_backward",
    "rmsnorm_forward",
    "set_threads",
    "softmax_backward",
    "softmax_forward",
]

Real = TypeVar("Real", np.float32, np.float64)
Array = np.ndarray[Any, np.dtype[Real]]


class Foreign(Protocol):
    """For type checkers: an array of another library, such as a PyTorch CPU tensor.

    NumPy's own arrays are none, because NumPy's stubs declare no Enum here; so their dtypes are still checked.
    """

    def __dlpack_device__(self) -> tuple[Enum, int]: ...


Reals = Array[Real] | Foreign
Integers = np.ndarray[Any, np.dtype[Any]] | Foreign

ISA = compiled.ISA  # the kernels' instruction set

RMSNORM_EPS = 1e-5  # as in the reference


def set_threads(n: SupportsIndex) -> int:
    """Set how many threads one kernel call may use, and return the previous number.

    - `n`: an integer from 1 to 256; a process starts with 1

    The results keep the same bits.  Extra threads serve matmul, softmax, rmsnorm, relu and add, if the arrays are
    column-major without gaps and large enough to gain.  While one call uses the extra threads, calls from other threads
    of the process use only their own.

    >>> set_threads(set_threads(2)), set_threads(1)
    (2, 1)

    Raises TypeError if n is not an integer, ValueError if it is out of range.
    """
    if not 1 <= (value := count("n", n)) <= MAX_THREADS:
        raise ValueError(f"n: expected an integer from 1 to {MAX_THREADS}, found {value}")
    return compiled.set_threads(value)


# ---- matmul ----


def matmul_forward(w: Reals[Real], x: Reals[Real], *, out: Reals[Real] | None = None) -> Array[Real]:
    """Matrix product: y = w x.

    - `w`: (m, k), float32 or float64
    - `x`: (k, n), of the same dtype
    - `out`: (m, n), the array to write y to; None makes a new one

    Returns y: (m, n), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    Each sum runs over k in order, by fused multiply-adds, so |y - exact| <= k u |w| |x| elementwise, where u is eps / 2
    (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.5).  Zeros are not skipped: 0 * inf is NaN.

    >>> matmul_forward(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0], [10.0]]))
    array([[21.],
           [43.]])
    """
    return call("matmul_forward", out, False, 0.0, w, x)


@overload
def matmul_backward(
    dy: Reals[Real], w: Reals[Real], x: Reals[Real], *, out: None = None, accumulate: bool = False
) -> tuple[Array[Real], Array[Real]]: ...
@overload
def matmul_backward(
    dy: Reals[Real],
    w: Reals[Real],
    x: Reals[Real],
    *,
    out: tuple[Reals[Real] | None, Reals[Real] | None],
    accumulate: bool = False,
) -> tuple[Array[Real] | None, Array[Real] | None]: ...
def matmul_backward(
    dy: Reals[Real],
    w: Reals[Real],
    x: Reals[Real],
    *,
    out: tuple[Reals[Real] | None, Reals[Real] | None] | None = None,
    accumulate: bool = False,
) -> tuple[Array[Real] | None, Array[Real] | None]:
    """Gradients of the matrix product y = w x: dw = dy x^T and dx = w^T dy.

    - `dy`: (m, n), float32 or float64, the gradient of the loss with respect to y
    - `w`: (m, k), of the same dtype, as given to `matmul_forward`
    - `x`: (k, n), of the same dtype, as given to `matmul_forward`
    - `out`: the tuple (dw, dx) of arrays to write to; None makes two new arrays.  None in the tuple skips that
      gradient: `out=(dw, None)` computes only dw.
    - `accumulate`: True adds the gradients to what `out` holds; False overwrites it.  It has no effect without `out`.

    Inputs may have any layout, and are not changed.  Column-major ones are read in place; others are copied first.

    Returns the tuple (dw, dx) with dw: (m, k) and dx: (k, n), column-major and of the inputs' dtype; or `out` if it is
    given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape, an `out` that is not column-major,
    aligned and writeable, or an `out` that overlaps an input or the other output; no output has changed then.

    Sums run in order: over tokens (columns) for dw, over rows of w for dx.  Source: Giles, Collected Matrix Derivative
    Results for Forward and Reverse Mode Algorithmic Differentiation, 2008, section 2.2.

    >>> dw, dx = matmul_backward(np.array([[1.0]]), np.array([[2.0, 3.0]]), np.array([[5.0], [7.0]]))
    >>> dw
    array([[5., 7.]])
    >>> dx
    array([[2.],
           [3.]])
    >>> _ = matmul_backward(np.array([[1.0]]), np.array([[2.0, 3.0]]), np.array([[5.0], [7.0]]),
    ...                     out=(dw, None), accumulate=True)
    >>> dw
    array([[10., 14.]])
    """
    return call("matmul_backward", out, accumulate, 0.0, dy, w, x)


# ---- softmax ----


def softmax_forward(x: Reals[Real], *, out: Reals[Real] | None = None) -> Array[Real]:
    """Softmax of each column: p[:, j] = exp(x[:, j]) / sum(exp(x[:, j])).

    - `x`: (m, n), float32 or float64
    - `out`: (m, n), the array to write p to; None makes a new one

    Returns p: (m, n), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    The largest element of a column is subtracted first, so nothing overflows.  Special values:

    - A column becomes NaN if it contains NaN or +inf, or only -inf.
    - A -inf beside finite numbers gets probability 0.
    - An exp(x - max) that would be subnormal counts as 0.

    Source: Bridle, Probabilistic Interpretation of Feedforward Classification Network Outputs, 1990.

    >>> softmax_forward(np.array([[0.0], [-np.inf], [0.0]]))
    array([[0.5],
           [0. ],
           [0.5]])
    """
    return call("softmax_forward", out, False, 0.0, x)


def softmax_backward(
    dp: Reals[Real], p: Reals[Real], *, out: Reals[Real] | None = None, accumulate: bool = False
) -> Array[Real]:
    """Gradient of the softmax of each column: dx = p (dp - sum(dp p)), elementwise within column j.

    - `dp`: (m, n), float32 or float64, the gradient of the loss with respect to p
    - `p`: (m, n), of the same dtype, the result of `softmax_forward`
    - `out`: (m, n), the array to write dx to; None makes a new one
    - `accumulate`: True adds the gradient to what `out` holds; False overwrites `out`

    Returns dx: (m, n), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    From dp_i/dx_j = p_i ((i = j) - p_j), summed over i (Bridle, Probabilistic Interpretation of Feedforward
    Classification Network Outputs, 1990).

    >>> softmax_backward(np.array([[1.0], [0.0]]), np.array([[0.5], [0.5]]))
    array([[ 0.25],
           [-0.25]])
    """
    return call("softmax_backward", out, accumulate, 0.0, dp, p)


# ---- rmsnorm ----


def rmsnorm_forward(
    x: Reals[Real], eps: float = RMSNORM_EPS, *, out: tuple[Reals[Real], Reals[Real]] | None = None
) -> tuple[Array[Real], Array[Real]]:
    """Root mean square normalization of each column: y[:, j] = x[:, j] rstd[j].

    With rstd[j] = 1 / sqrt(mean(x[:, j]**2) + eps), and without a gain.

    - `x`: (m, n), float32 or float64
    - `eps`: a number from 0 to 3e38, added to the mean square
    - `out`: the tuple (y, rstd) of arrays to write to; None makes new ones

    Returns (y, rstd) with y: (m, n) and rstd: (n,), or `out` if it is given.  If the sum of squares overflows (numbers
    near 1.8e19 in float32, 1.3e154 in float64), rstd and y are 0.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    Source: Zhang & Sennrich, Root Mean Square Layer Normalization, 2019.

    >>> y, rstd = rmsnorm_forward(np.array([[3.0], [4.0]]), eps=0.0)
    >>> (y / [[3.0], [4.0]] == rstd).all(), 1 / rstd**2
    (np.True_, array([12.5]))
    """
    return call("rmsnorm_forward", out, False, eps, x)


def rmsnorm_backward(
    dy: Reals[Real],
    y: Reals[Real],
    rstd: Reals[Real],
    *,
    out: Reals[Real] | None = None,
    accumulate: bool = False,
) -> Array[Real]:
    """Gradient of `rmsnorm_forward`: dx[:, j] = rstd[j] (dy - y mean(dy y)), elementwise within column j.

    - `dy`: (m, n), float32 or float64, the gradient of the loss with respect to y
    - `y`: (m, n), and `rstd`: (n,), of the same dtype, the results of `rmsnorm_forward`
    - `out`: (m, n), the array to write dx to; None makes a new one
    - `accumulate`: True adds the gradient to what `out` holds; False overwrites `out`

    Returns dx: (m, n), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    From d rstd / dx = -rstd**2 y / m (Zhang & Sennrich, Root Mean Square Layer Normalization, 2019, section 4).

    >>> rmsnorm_backward(np.array([[1.0], [0.0]]), np.array([[1.0], [1.0]]), np.array([2.0]))
    array([[ 1.],
           [-1.]])
    """
    return call("rmsnorm_backward", out, accumulate, 0.0, dy, y, rstd)


# ---- elementwise ----


def relu_forward(x: Reals[Real], *, out: Reals[Real] | None = None) -> Array[Real]:
    """Rectified linear unit: y = max(0, x), elementwise; NaN stays NaN.

    - `x`: (m, n), float32 or float64
    - `out`: (m, n), the array to write y to; None makes a new one

    Returns y: (m, n), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    Source: Nair & Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines, 2010.

    >>> relu_forward(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """
    return call("relu_forward", out, False, 0.0, x)


def relu_backward(
    dy: Reals[Real], y: Reals[Real], *, out: Reals[Real] | None = None, accumulate: bool = False
) -> Array[Real]:
    """Gradient of `relu_forward`: dx = dy where y > 0, and 0 elsewhere.

    - `dy`: (m, n), float32 or float64, the gradient of the loss with respect to y
    - `y`: (m, n), of the same dtype, the result of `relu_forward` (its x gives the same gradient)
    - `out`: (m, n), the array to write dx to; None makes a new one
    - `accumulate`: True adds the gradient to what `out` holds; False overwrites `out`

    Returns dx: (m, n), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    >>> relu_backward(np.array([[5.0, 5.0]]), np.array([[0.0, 2.0]]))
    array([[0., 5.]])
    """
    return call("relu_backward", out, accumulate, 0.0, dy, y)


def add_forward(a: Reals[Real], b: Reals[Real], *, out: Reals[Real] | None = None) -> Array[Real]:
    """Elementwise sum of two matrices, the residual connection: y = a + b.

    - `a`, `b`: (m, n), float32 or float64, both of one dtype
    - `out`: (m, n), the array to write y to; None makes a new one

    Returns y: (m, n), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    Source: He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, 2015.

    >>> add_forward(np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]]))
    array([[11., 22.]])
    """
    return call("add_forward", out, False, 0.0, a, b)


@overload
def add_backward(dy: Reals[Real], *, out: None = None, accumulate: bool = False) -> tuple[Array[Real], Array[Real]]: ...
@overload
def add_backward(
    dy: Reals[Real], *, out: tuple[Reals[Real] | None, Reals[Real] | None], accumulate: bool = False
) -> tuple[Array[Real] | None, Array[Real] | None]: ...
def add_backward(
    dy: Reals[Real], *, out: tuple[Reals[Real] | None, Reals[Real] | None] | None = None, accumulate: bool = False
) -> tuple[Array[Real] | None, Array[Real] | None]:
    """Gradients of `add_forward`: da = dy and db = dy.

    - `dy`: (m, n), float32 or float64, the gradient of the loss with respect to y
    - `out`: the tuple (da, db) of arrays to write to; None makes two new arrays.  None in the tuple skips that
      gradient.
    - `accumulate`: True adds the gradients to what `out` holds; False overwrites `out`

    Returns (da, db), both (m, n), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    >>> add_backward(np.array([[3.0]]))
    (array([[3.]]), array([[3.]]))
    """
    return call("add_backward", out, accumulate, 0.0, dy)


# ---- embedding ----


def embedding_forward(
    wte: Reals[Real], wpe: Reals[Real], tokens: Integers, positions: Integers, *, out: Reals[Real] | None = None
) -> Array[Real]:
    """Sum of token and position embeddings: x[:, t] = wte[:, tokens[t]] + wpe[:, positions[t]].

    - `wte`: (n_embd, vocab_size), float32 or float64, one column per token of the vocabulary
    - `wpe`: (n_embd, block_size), of the same dtype, one column per position
    - `tokens`: (n_tokens,), of any integer dtype, in range(vocab_size)
    - `positions`: (n_tokens,), of any integer dtype, in range(block_size)
    - `out`: (n_embd, n_tokens), the array to write x to; None makes a new one

    Returns x: (n_embd, n_tokens), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout, an index out of range, or an
    overlap of `out` with another argument; no output has changed then.  `tokens` and `positions` are always copied.

    Source: Radford et al., Improving Language Understanding by Generative Pre-Training, 2018.

    >>> embedding_forward(np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]]), np.array([1, 1]), np.array([0, 1]))
    array([[12., 22.]])
    """
    return call("embedding_forward", out, False, 0.0, wte, wpe, tokens, positions)


@overload
def embedding_backward(
    dx: Reals[Real],
    tokens: Integers,
    positions: Integers,
    *,
    vocab_size: SupportsIndex,
    block_size: SupportsIndex,
    out: None = None,
    accumulate: bool = False,
) -> tuple[Array[Real], Array[Real]]: ...
@overload
def embedding_backward(
    dx: Reals[Real],
    tokens: Integers,
    positions: Integers,
    *,
    vocab_size: SupportsIndex,
    block_size: SupportsIndex,
    out: tuple[Reals[Real] | None, Reals[Real] | None],
    accumulate: bool = False,
) -> tuple[Array[Real] | None, Array[Real] | None]: ...
def embedding_backward(
    dx: Reals[Real],
    tokens: Integers,
    positions: Integers,
    *,
    vocab_size: SupportsIndex,
    block_size: SupportsIndex,
    out: tuple[Reals[Real] | None, Reals[Real] | None] | None = None,
    accumulate: bool = False,
) -> tuple[Array[Real] | None, Array[Real] | None]:
    """Gradients of `embedding_forward`: dwte[:, tokens[t]] += dx[:, t] and dwpe[:, positions[t]] += dx[:, t].

    - `dx`: (n_embd, n_tokens), float32 or float64, the gradient of the loss with respect to x
    - `tokens`, `positions`: (n_tokens,), integers, as given to `embedding_forward`
    - `vocab_size`, `block_size`: how many columns wte and wpe have
    - `out`: the tuple (dwte, dwpe) of arrays to write to; None makes two new arrays.  None in the tuple skips that
      gradient.
    - `accumulate`: True adds the gradients to what `out` holds; False overwrites `out`

    Returns (dwte, dwpe) with dwte: (n_embd, vocab_size) and dwpe: (n_embd, block_size), or `out` if it is given.
    The sums run over t in order.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout, an index out of range, or an
    overlap of `out` with another argument; no output has changed then.

    >>> embedding_backward(np.array([[3.0, 4.0]]), np.array([1, 1]), np.array([0, 1]), vocab_size=2, block_size=2)
    (array([[0., 7.]]), array([[3., 4.]]))
    """
    sizes = {"vocab_size": vocab_size, "block_size": block_size}
    return careful("embedding_backward", out, accumulate, 0.0, dx, tokens, positions, **sizes)


# ---- attention ----


class AttentionCache(NamedTuple):
    """What `attention_forward` keeps for `attention_backward` and `attention_weights`.

    q, k and v are the arrays that were given, not copies, unless their layout required a copy.  Do not change them
    while the cache is in use.
    """

    probs: Any  # (compiled.attention_rows(n_tokens), n_head * block_size), in a layout internal to C
    q: Any  # (n_embd, n_tokens)
    k: Any
    v: Any
    offsets: Any  # (number of documents + 1,)
    n_head: int
    block_size: int  # at least the length of the longest document


def _documents(name: str, offsets: Any, n_tokens: int) -> tuple[Any, Any, int]:
    """A copy of the offsets, each token's position in its document, and the longest document's length."""
    offsets = indices(name, offsets, n_tokens + 1)
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != n_tokens or (offsets[1:] < offsets[:-1]).any():
        found = shown(offsets.tolist())
        raise ValueError(f"{name}: expected integers that never decrease, from 0 to {n_tokens}, found {found}")
    lengths = offsets[1:] - offsets[:-1]
    positions = np.arange(n_tokens, dtype=np.int32) - np.repeat(offsets[:-1], lengths)
    return offsets, positions, int(lengths.max(initial=0))


def _heads(name: str, n_head: Any, n_embd: int) -> int:
    n_head = count(name, n_head)
    if n_head == 0 or n_embd % n_head:
        raise ValueError(f"{name}: expected a divisor of n_embd, which is {n_embd}, found {n_head}")
    return int(n_head)


def _alike(names: str, *arrays: Any) -> list[Any]:
    """The input matrices, checked to have one dtype and one shape."""
    checked: list[Any] = []
    for name, a in zip(names.split(), arrays):
        checked.append(reals(name, a, checked[0].dtype if checked else None))
        expect_shape(name, checked[-1], checked[0].shape)
    return checked


def attention_forward(
    q: Reals[Real],
    k: Reals[Real],
    v: Reals[Real],
    offsets: Integers,
    n_head: SupportsIndex,
    *,
    out: Reals[Real] | None = None,
) -> tuple[Array[Real], AttentionCache]:
    """Causal multi-head attention within each document.

    - `q`, `k`, `v`: (n_embd, n_tokens), float32 or float64, all of one dtype; the columns of the documents side by side
    - `offsets`: (number of documents + 1,), integers.  Document i has the columns offsets[i] to offsets[i + 1] - 1; the
      first offset is 0 and the last is n_tokens.
    - `n_head`: the number of heads, a divisor of n_embd.  With d = n_embd / n_head, head h has the rows h d to
      (h + 1) d - 1.
    - `out`: (n_embd, n_tokens), the array to write the result to; None makes a new one

    Returns (out, cache).  `cache` is for `attention_backward` and `attention_weights`; it holds about n_tokens *
    n_head * (longest document) numbers.  With s over the tokens of t's document up to t itself, out is:

        weights[h, t, s] = softmax over s of (q_h[:, t] . k_h[:, s]) / sqrt(n_embd / n_head)
        out_h[:, t]      = sum over s of weights[h, t, s] v_h[:, s]

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape, layout, offset or n_head, or an
    overlap of `out` with another argument; no output has changed then.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.

    >>> x = np.array([[1.0, 2.0, 4.0]])
    >>> out, cache = attention_forward(0 * x, x, x, offsets=np.array([0, 2, 3]), n_head=1)
    >>> out
    array([[1. , 1.5, 4. ]])
    >>> attention_weights(cache, document=0)
    array([[[1. , 0. ],
            [0.5, 0.5]]])
    """
    inputs: list[Any] = _alike("q k v", q, k, v)
    shape = inputs[0].shape
    n_embd, n_tokens = shape
    heads = _heads("n_head", n_head, n_embd)
    given = view("offsets", offsets)
    offsets, positions, block_size = _documents("offsets", given, n_tokens)
    result = output("out", out, shape, inputs[0].dtype, [*inputs, given])
    q, k, v = map(whole, inputs)
    probs = _attend(result, q, k, v, positions, heads, block_size)
    written: Any = result if out is None else out
    return written, AttentionCache(probs, q, k, v, offsets, heads, block_size)


def _attend(out: Any, q: Any, k: Any, v: Any, positions: Any, n_head: int, block_size: int) -> Any:
    """Run attention_forward in C on checked arguments; returns probs."""
    n_embd, n_tokens = q.shape
    rows = compiled.attention_rows(n_tokens)
    # zeros: C leaves gaps in probs, but equal calls must give equal caches
    probs = new((rows, n_head * block_size), q.dtype, np.zeros)
    work = new((rows, 4 * n_embd), q.dtype)
    sizes = {"m": n_embd, "n": n_tokens, "n_head": n_head, "block_size": block_size}
    run("attention_forward", q.dtype, [out, probs, work, q, k, v, positions], sizes)
    return probs


def attention_backward(
    dout: Reals[Real],
    cache: AttentionCache,
    *,
    out: tuple[Reals[Real], Reals[Real], Reals[Real]] | None = None,
    accumulate: bool = False,
) -> tuple[Array[Real], Array[Real], Array[Real]]:
    """Gradients of `attention_forward` with respect to q, k and v.

    - `dout`: (n_embd, n_tokens), of the cache's dtype, the gradient of the loss with respect to out
    - `cache`: the cache that `attention_forward` returned
    - `out`: the tuple (dq, dk, dv) of arrays to write to; None makes new ones
    - `accumulate`: True adds the gradients to what `out` holds; False overwrites `out`

    Returns (dq, dk, dv), each (n_embd, n_tokens), or `out` if it is given.  They differentiate the two formulas of
    `attention_forward`, with the formula of `softmax_backward` between them.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout or an overlap of `out`
    with another argument; no output has changed then.

    >>> x = np.array([[1.0, 2.0, 4.0]])
    >>> out, cache = attention_forward(0 * x, x, x, offsets=np.array([0, 2, 3]), n_head=1)
    >>> attention_backward(np.ones((1, 3)), cache)
    (array([[0.  , 0.25, 0.  ]]), array([[0., 0., 0.]]), array([[1.5, 0.5, 1. ]]))
    """
    adds = true_or_false("accumulate", accumulate) and out is not None
    (probs, q, k, v, _, heads, block_size), positions, offsets = _checked(cache)
    dout = reals("dout", dout, q.dtype)
    expect_shape("dout", dout, q.shape)
    gradients: list[Any] = []
    for i, a in enumerate(members(out, KERNELS["attention_backward"].outputs[:3])):
        others = [dout, probs, q, k, v, offsets, *gradients]
        gradients.append(output(f"out[{i}]", a, q.shape, q.dtype, others))
    n_embd, n_tokens = q.shape
    work = new((len(probs), 7 * n_embd + block_size), q.dtype)
    sizes = {"m": n_embd, "n": n_tokens, "n_head": heads, "block_size": block_size}
    run("attention_backward", q.dtype, [*gradients, work, dout, probs, q, k, v, positions], sizes, adds)
    return tuple(gradients) if out is None else out


def _checked(cache: Any) -> tuple[Any, Any, Any]:
    """The cache with a copy of its offsets, the positions, and the offsets as given.

    All fields are checked, because a user can construct a cache.
    """
    if type(cache) is not AttentionCache:
        raise TypeError(f"cache: expected the cache that attention_forward returned, found {type(cache).__name__}")
    q, k, v = _alike("cache.q cache.k cache.v", cache.q, cache.k, cache.v)
    probs = reals("cache.probs", cache.probs, q.dtype)
    n_embd, n_tokens = q.shape
    given = view("cache.offsets", cache.offsets)
    offsets, positions, longest = _documents("cache.offsets", given, n_tokens)
    n_head = _heads("cache.n_head", cache.n_head, n_embd)
    block_size = count("cache.block_size", cache.block_size)
    if block_size < longest:
        raise ValueError(f"cache.block_size: expected at least {longest}, the longest document, found {block_size}")
    expect_shape("cache.probs", probs, (compiled.attention_rows(n_tokens), n_head * block_size))
    return AttentionCache(probs, q, k, v, offsets, n_head, block_size), positions, given


def attention_weights(cache: AttentionCache, document: SupportsIndex) -> Any:
    """The attention weights of one document, for inspection.

    - `cache`: the cache that `attention_forward` returned
    - `document`: the document's index

    Returns a new array (n_head, n, n) for a document of n tokens.  Its element [h, t, s] is how much token t attends to
    token s in head h.  It is 0 where s > t, and every row sums to 1.

    Raises TypeError if an argument has a wrong type, ValueError for a document that does not exist.

    >>> x = np.array([[1.0, 2.0]])
    >>> _, cache = attention_forward(0 * x, x, x, offsets=np.array([0, 2]), n_head=1)
    >>> attention_weights(cache, 0)
    array([[[1. , 0. ],
            [0.5, 0.5]]])
    """
    (_, q, k, v, offsets, n_head, _), *_ = _checked(cache)
    i = count("document", document)
    if i >= len(offsets) - 1:
        raise ValueError(f"document: expected an integer in range({len(offsets) - 1}), found {i}")
    # computed alone, a document has the same weights in a simpler layout
    q, k, v = (whole(a[:, offsets[i] : offsets[i + 1]]) for a in (q, k, v))
    n = q.shape[1]
    probs = _attend(np.empty_like(q), q, k, v, np.arange(n, dtype=np.int32), n_head, n)
    rows = compiled.token_rows(n)
    by_lag = probs.reshape(-1, order="F")[: rows * n * n_head].reshape(rows, n, n_head, order="F")
    t, s = np.tril_indices(n)
    weights = np.zeros((n_head, n, n), probs.dtype)
    for h in range(n_head):
        weights[h, t, s] = by_lag[t, t - s, h]
    return weights


# ---- cross-entropy ----


def cross_entropy_forward(
    logits: Reals[Real],
    targets: Integers,
    weights: Reals[Real] | None = None,
    *,
    out: tuple[Reals[Real], Reals[Real]] | None = None,
) -> tuple[float, Array[Real], Array[Real]]:
    """Weighted sum of the cross-entropy losses of all columns: loss = sum over j of weights[j] losses[j].

    With losses[j] = -log probs[targets[j], j] and probs = softmax(logits) down each column, in nats.

    - `logits`: (m, n), float32 or float64
    - `targets`: (n,), of any integer dtype, in range(m)
    - `weights`: (n,), of the dtype of logits; None gives the mean (each weight is 1 / n)
    - `out`: the tuple (losses, probs) of arrays to write to; None makes new ones

    Returns (loss, losses, probs) with loss: a float (0 if n is 0), losses: (n,) and probs: (m, n).

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout, a target out of range, or an
    overlap of `out` with another argument; no output has changed then.

    The log is taken of the sum of exponentials, not of the quotient.  So a loss stays finite and exact even if the
    probability rounds to 0.  Where softmax gives NaN, the loss is NaN; a target with the logit -inf has the loss inf.
    Source: Bishop, Pattern Recognition and Machine Learning, 2006, section 4.3.4.

    >>> loss, losses, probs = cross_entropy_forward(np.zeros((4, 2)), np.array([0, 3]))
    >>> loss == np.log(4), probs[0, 0]
    (np.True_, np.float64(0.25))
    """
    x = reals("logits", logits)
    each = reals("weights", _weights(weights, x), x.dtype, 1)
    expect_shape("weights", each, x.shape[1:])
    for i, a in enumerate(members(out, KERNELS["cross_entropy_forward"].outputs)):
        if a is not None:
            expect_no_overlap(f"out[{i}]", view(f"out[{i}]", a, copy=False), each)
    losses, probs = careful("cross_entropy_forward", out, False, 0.0, x, targets)
    return float(careful("cross_entropy_sum", None, False, 0.0, losses, each)[0]), losses, probs


def cross_entropy_backward(
    probs: Reals[Real],
    targets: Integers,
    weights: Reals[Real] | None = None,
    *,
    out: Reals[Real] | None = None,
    accumulate: bool = False,
) -> Array[Real]:
    """Gradient of the loss of `cross_entropy_forward`: dlogits[:, j] = weights[j] (probs[:, j] - onehot(targets[j])).

    - `probs`: (m, n), float32 or float64, as returned by `cross_entropy_forward`
    - `targets`: (n,), integers, and `weights`: (n,) or None, as given to `cross_entropy_forward`
    - `out`: (m, n), the array to write dlogits to; None makes a new one
    - `accumulate`: True adds the gradient to what `out` holds; False overwrites `out`

    Returns dlogits: (m, n), or `out` if it is given.

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape or layout, a target out of range, or an
    overlap of `out` with another argument; no output has changed then.

    Source: Bishop, Pattern Recognition and Machine Learning, 2006, section 4.3.4.

    >>> cross_entropy_backward(np.full((2, 2), 0.5), np.array([0, 1]))
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    """
    probs = reals("probs", probs)
    return careful("cross_entropy_backward", out, accumulate, 0.0, probs, targets, _weights(weights, probs))


def _weights(weights: Any, columns: Any) -> Any:
    n = columns.shape[1]
    return np.full(n, 1 / max(n, 1), columns.dtype) if weights is None else weights
