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
- `accumulate=True` adds a gradient to what `out` holds; otherwise `out` is overwritten, and a new result begins at 0.
- TypeError for a wrong type or dtype, ValueError for a wrong shape, layout, range or overlap, each naming the argument;
  no byte of an output has then changed.  Every size is below 2**30.
- NaN and infinity spread as arithmetic has it.  Same arguments, same bits (but for which NaN a NaN is), on any machine
  and in any number of threads: the kernels run without the GIL, keep no state, and no sum depends on a vector's width.

Here are the functions and what they compute; what is asked of their arguments is in arguments.py.
"""

# mypy: disable-error-code="no-any-return"
# What comes from C has no type that mypy knows: the functions here say what it is.

from __future__ import annotations

from typing import Any, NamedTuple, SupportsIndex, TypeVar, overload

import numpy as np

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
Integers = np.ndarray[Any, np.dtype[Any]]

ISA = compiled.ISA  # of the kernels here

RMSNORM_EPS = 1e-5  # the reference's


def set_threads(n: SupportsIndex) -> int:
    """Let n threads work on one call, from 1 to 256, and return how many did before; it begins with 1.

    The bits stay the same.  Of the kernels on matrices, those of whole arrays that are large enough to gain by it take
    more than one thread; while one call has them, others in the process take their own alone.

    >>> set_threads(set_threads(2)), set_threads(1)
    (2, 1)

    Raises TypeError for what is no integer, ValueError for another number.
    """
    if not 1 <= (value := count("n", n)) <= MAX_THREADS:
        raise ValueError(f"n: expected an integer from 1 to {MAX_THREADS}, found {value}")
    return compiled.set_threads(value)


# ---- matmul ----


def matmul_forward(w: Array[Real], x: Array[Real], *, out: Array[Real] | None = None) -> Array[Real]:
    """y = w x.  w: (m, k), x: (k, n); y: (m, n).

    Sums run over k in order, by fused multiply-adds, so |y - exact| <= k u |w| |x| elementwise, u being half of eps
    (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.5).  No zero is skipped: 0 * inf is NaN.

    >>> matmul_forward(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0], [10.0]]))
    array([[21.],
           [43.]])
    """
    return call("matmul_forward", out, False, 0.0, w, x)


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
    return call("matmul_backward", out, accumulate, 0.0, dy, w, x)


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
    return call("softmax_forward", out, False, 0.0, x)


def softmax_backward(
    dp: Array[Real], p: Array[Real], *, out: Array[Real] | None = None, accumulate: bool = False
) -> Array[Real]:
    """dx[:, j] = p (dp - sum(dp p)), all of column j.  dp: (m, n), p: (m, n), softmax_forward's result; dx: (m, n).

    The formula is dp_i/dx_j = p_i ((i = j) - p_j), summed over i (Bridle 1990).

    >>> softmax_backward(np.array([[1.0], [0.0]]), np.array([[0.5], [0.5]]))
    array([[ 0.25],
           [-0.25]])
    """
    return call("softmax_backward", out, accumulate, 0.0, dp, p)


# ---- rmsnorm ----


def rmsnorm_forward(
    x: Array[Real], eps: float = RMSNORM_EPS, *, out: tuple[Array[Real], Array[Real]] | None = None
) -> tuple[Array[Real], Array[Real]]:
    """y[:, j] = x[:, j] rstd[j], rstd[j] = 1 / sqrt(mean(x[:, j]**2) + eps).  x: (m, n); y: (m, n), rstd: (n,).

    Zhang & Sennrich, Root Mean Square Layer Normalization, 2019, without their gain.  out: (y, rstd).
    Where the sum of squares overflows (a float32 of 1.8e19, a float64 of 1.3e154), rstd and y are 0.

    >>> y, rstd = rmsnorm_forward(np.array([[3.0], [4.0]]), eps=0.0)
    >>> (y / [[3.0], [4.0]] == rstd).all(), 1 / rstd**2
    (np.True_, array([12.5]))
    """
    return call("rmsnorm_forward", out, False, eps, x)


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
    return call("rmsnorm_backward", out, accumulate, 0.0, dy, y, rstd)


# ---- elementwise ----


def relu_forward(x: Array[Real], *, out: Array[Real] | None = None) -> Array[Real]:
    """y = max(0, x), a NaN staying one.  x: (m, n); y: (m, n).

    Nair & Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines, 2010.

    >>> relu_forward(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """
    return call("relu_forward", out, False, 0.0, x)


def relu_backward(
    dy: Array[Real], y: Array[Real], *, out: Array[Real] | None = None, accumulate: bool = False
) -> Array[Real]:
    """dx = dy where y > 0, and 0 elsewhere.  dy: (m, n), y: (m, n), relu_forward's result (or its x); dx: (m, n).

    >>> relu_backward(np.array([[5.0, 5.0]]), np.array([[0.0, 2.0]]))
    array([[0., 5.]])
    """
    return call("relu_backward", out, accumulate, 0.0, dy, y)


def add_forward(a: Array[Real], b: Array[Real], *, out: Array[Real] | None = None) -> Array[Real]:
    """y = a + b, the residual connection.  a, b: (m, n); y: (m, n).

    He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition, 2015.

    >>> add_forward(np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]]))
    array([[11., 22.]])
    """
    return call("add_forward", out, False, 0.0, a, b)


@overload
def add_backward(dy: Array[Real], *, out: None = None, accumulate: bool = False) -> tuple[Array[Real], Array[Real]]: ...
@overload
def add_backward(
    dy: Array[Real], *, out: tuple[Array[Real] | None, Array[Real] | None], accumulate: bool = False
) -> tuple[Array[Real] | None, Array[Real] | None]: ...
def add_backward(dy: Any, *, out: Any = None, accumulate: bool = False) -> Any:
    """da = dy, db = dy.  dy: (m, n); da, db: (m, n).

    out: (da, db); a gradient in whose place None stands is left out, and None is returned for it.

    >>> add_backward(np.array([[3.0]]))
    (array([[3.]]), array([[3.]]))
    """
    return call("add_backward", out, accumulate, 0.0, dy)


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
    return call("embedding_forward", out, False, 0.0, wte, wpe, tokens, positions)


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
    sizes = {"vocab_size": vocab_size, "block_size": block_size}
    return careful("embedding_backward", out, accumulate, 0.0, dx, tokens, positions, **sizes)


# ---- attention ----


class AttentionCache(NamedTuple):
    """What attention_forward leaves for attention_backward and attention_weights: q, k and v themselves, not copies
    (unless they had to be copied), which until then should stay as they are."""

    probs: Any  # (compiled.attention_rows(n_tokens), n_head * block_size), in an order that is C's own
    q: Any  # (n_embd, n_tokens)
    k: Any
    v: Any
    offsets: Any  # (number of documents + 1,)
    n_head: int
    block_size: int  # the longest document's length, or more


def _documents(name: str, offsets: Any, n_tokens: int) -> tuple[Any, Any, int]:
    """A copy of the offsets, the place of every token in its document, and the longest document's length."""
    offsets = indices(name, offsets, n_tokens + 1)
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != n_tokens or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"{name}: expected 0, then no smaller one, and last {n_tokens}, found {offsets}")
    lengths = offsets[1:] - offsets[:-1]
    positions = np.arange(n_tokens, dtype=np.int32) - np.repeat(offsets[:-1], lengths)
    return offsets, positions, int(lengths.max(initial=0))


def _heads(name: str, n_head: Any, n_embd: int) -> int:
    n_head = count(name, n_head)
    if n_head == 0 or n_embd % n_head:
        raise ValueError(f"{name}: expected a divisor of n_embd, which is {n_embd}, found {n_head}")
    return int(n_head)


def _alike(names: str, *arrays: Any) -> list[Any]:
    """The input matrices, of one dtype and the first one's shape."""
    checked: list[Any] = []
    for name, a in zip(names.split(), arrays):
        checked.append(reals(name, a, checked[0].dtype if checked else None))
        expect_shape(name, checked[-1], checked[0].shape)
    return checked


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
    q, k, v = _alike("q k v", q, k, v)
    n_embd, n_tokens = q.shape
    heads = _heads("n_head", n_head, n_embd)
    given = view("offsets", offsets)
    offsets, positions, block_size = _documents("offsets", given, n_tokens)
    result = output("out", out, q.shape, q.dtype, [q, k, v, given])
    q, k, v = map(whole, (q, k, v))
    probs = _attend(result, q, k, v, positions, heads, block_size)
    return (result if out is None else out), AttentionCache(probs, q, k, v, offsets, heads, block_size)


def _attend(out: Any, q: Any, k: Any, v: Any, positions: Any, n_head: int, block_size: int) -> Any:
    """attention_forward in C, all arguments being right; returns probs."""
    n_embd, n_tokens = q.shape
    rows = compiled.attention_rows(n_tokens)
    # C leaves gaps in probs, and equal calls shall give equal caches
    probs = new((rows, n_head * block_size), q.dtype, np.zeros)
    work = new((rows, 4 * n_embd), q.dtype)
    sizes = {"m": n_embd, "n": n_tokens, "n_head": n_head, "block_size": block_size}
    run("attention_forward", q.dtype, [out, probs, work, q, k, v, positions], sizes)
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
    """A cache with a copy of its offsets, its positions, and the offsets; all checked, for anyone can make a cache."""
    if type(cache) is not AttentionCache:
        raise TypeError(f"cache: expected attention_forward's, found {type(cache).__name__}")
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
    """weights[h, t, s], how much token t of one document took from token s, in head h: a new (n_head, n, n) array.

    Zero above the diagonal, and every row sums to 1."""
    (_, q, k, v, offsets, n_head, _), *_ = _checked(cache)
    i = count("document", document)
    if i >= len(offsets) - 1:
        raise ValueError(f"document: expected one in range({len(offsets) - 1}), found {i}")
    # by itself, a document has the same weights, and an order of them that is simple
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
    logits = reals("logits", logits)
    each = reals("weights", _weights(weights, logits), logits.dtype, 1)
    expect_shape("weights", each, logits.shape[1:])
    for i, a in enumerate(members(out, KERNELS["cross_entropy_forward"].outputs)):
        if a is not None:
            expect_no_overlap(f"out[{i}]", view(f"out[{i}]", a, copy=False), each)
    losses, probs = careful("cross_entropy_forward", out, False, 0.0, logits, targets)
    return float(careful("cross_entropy_sum", None, False, 0.0, losses, each)[0]), losses, probs


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
    probs = reals("probs", probs)
    return careful("cross_entropy_backward", out, accumulate, 0.0, probs, targets, _weights(weights, probs))


def _weights(weights: Any, columns: Any) -> Any:
    n = columns.shape[1]
    return np.full(n, 1 / max(n, 1), columns.dtype) if weights is None else weights
