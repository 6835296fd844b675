"""The kernels compute what plain Python computes, for any layout and any instruction set, and touch nothing else.

Errors are bounded as k * eps * scale, k counting the roundings on the way to a number and scale being what the same
formula gives with absolute values: a bound of the algorithm, not a tolerance that happens to pass.
"""

import doctest
import math
from itertools import product

import numpy as np
import pytest
import reference
from builds import KERNELS
from helpers import each
from kernel_cases import NAMES, arguments, call, flat, misaligned, outs, read_only, same_bits

from microgpt import kernels as default_kernels
from microgpt.kernels import table

try:
    import hypothesis
    from hypothesis import strategies as st
except ImportError:
    hypothesis = None

MATMUL_DIMS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65)
SHAPES = [(1, 1), (1, 5), (2, 3), (3, 1), (5, 7), (7, 2), (8, 3), (9, 4), (13, 11)]
SHAPES += [(16, 5), (17, 3), (32, 4), (33, 2), (64, 5)]
GAP = -1e10  # what stands between the columns of an output

shapes = each("shape", SHAPES)
names = pytest.mark.parametrize("name", NAMES)


def assert_close(found, expected, k, scale):
    """|found - expected| <= k eps scale, elementwise; expected and scale are float64 or wider."""
    found, eps = np.asarray(found), np.finfo(np.asarray(found).dtype).eps
    error = np.abs(found.astype(np.longdouble) - expected)
    assert found.shape == np.shape(expected)
    assert (error <= k * eps * np.asarray(scale)).all(), (
        f"{(error / (eps * np.asarray(scale))).max()} eps, expected {k}"
    )


def columns(a):
    """The columns of a matrix as lists of Python floats."""
    return np.asarray(a).T.tolist()


def from_columns(c):
    return np.array(c, np.float64).T


# ---- matmul ----


def room(dtype, m, n):
    """An m x n block of NaN inside a larger array full of GAP, and that array."""
    outer = np.full((m + 3, n + 2), GAP, dtype, "F")
    block = outer[2 : m + 2, 1 : n + 1]
    block[...] = np.nan
    return block, outer


def only_block_written(block, outer):
    block[...] = GAP
    return (outer == GAP).all()


@pytest.mark.parametrize("isa", KERNELS)
def test_matmul_at_every_size(isa, dtype):
    """Products, both gradients, overwritten and added to, at 4,096 sizes: exact to k eps |a| |b|, gaps untouched,
    inputs unchanged.

    Three calls, five products, a size: 73,728 calls over two precisions and three instruction sets.
    """
    kernels = KERNELS[isa]
    rng = np.random.default_rng(0)
    big = [np.asfortranarray(rng.standard_normal((70, 67)).astype(dtype)) for _ in range(5)]
    before = [a.copy() for a in big]
    wide = [a.astype(np.longdouble) for a in big]
    for m, k, n in product(MATMUL_DIMS, repeat=3):
        sizes = (m, k), (k, n), (m, n), (m, k), (k, n)
        w, x, dy, dw0, dx0 = (a[:rows, 1 : columns + 1] for a, (rows, columns) in zip(big, sizes))
        w_, x_, dy_, dw0_, dx0_ = (a[:rows, 1 : columns + 1] for a, (rows, columns) in zip(wide, sizes))
        expected_y, scale_y = w_ @ x_, abs(w_) @ abs(x_)
        expected_dw, scale_dw = dy_ @ x_.T, abs(dy_) @ abs(x_.T)
        expected_dx, scale_dx = w_.T @ dy_, abs(w_.T) @ abs(dy_)

        y, y_outer = room(dtype, m, n)
        assert kernels.matmul_forward(w, x, out=y) is y
        assert_close(y, expected_y, k, scale_y)
        assert only_block_written(y, y_outer)

        dw, dw_outer = room(dtype, m, k)
        dx, dx_outer = room(dtype, k, n)
        kernels.matmul_backward(dy, w, x, out=(dw, dx))
        assert_close(dw, expected_dw, n, scale_dw)
        assert_close(dx, expected_dx, m, scale_dx)

        dw[...], dx[...] = dw0, dx0
        kernels.matmul_backward(dy, w, x, out=(dw, dx), accumulate=True)
        assert_close(dw, dw0_ + expected_dw, n + 1, abs(dw0_) + scale_dw)
        assert_close(dx, dx0_ + expected_dx, m + 1, abs(dx0_) + scale_dx)
        assert only_block_written(dw, dw_outer) and only_block_written(dx, dx_outer)
    assert same_bits(big, before)


@pytest.mark.parametrize("isa", KERNELS)
def test_matmul_beyond_one_block(isa, dtype):
    """Sums longer than a block of the product, for every height and width of a tile and for very many columns, forward
    and transposed: exact to k eps |a| |b|, and the same bits by either way."""
    kernels = KERNELS[isa]
    rng = np.random.default_rng(0)
    k = 400
    w, x = (np.asfortranarray(rng.standard_normal((k, n)).astype(dtype)) for n in (130, 200))
    expected, scale = w.astype(np.longdouble).T @ x, abs(w.astype(np.longdouble)).T @ abs(x)
    for m in (1, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 130):
        for n in (*range(1, 14), 200):
            dx = kernels.matmul_backward(x[:, :n], w[:, :m], np.zeros((m, n), dtype))[1]
            y = kernels.matmul_forward(w[:, :m].T, x[:, :n])
            assert_close(y, expected[:m, :n], k, scale[:m, :n])
            assert same_bits([y], [dx])


def test_matmul_backward_leaves_out_what_is_not_asked_for(kernels, dtype):
    """With None in its place a gradient is not computed, and the other one has the same bits."""
    case = arguments(kernels, "matmul_backward", dtype, 9, 5)
    dw, dx = kernels.matmul_backward(**case)
    only_dw, only_dx = np.full_like(dw, np.nan), np.full_like(dx, np.nan)
    assert kernels.matmul_backward(**case, out=(only_dw, None)) == (only_dw, None)
    assert kernels.matmul_backward(**case, out=(None, only_dx))[0] is None
    assert kernels.matmul_backward(**case, out=(None, None)) == (None, None)
    assert same_bits([dw, dx], [only_dw, only_dx])


# ---- the other kernels against plain Python ----


@shapes
def test_softmax(kernels, dtype, shape):
    """softmax and its gradient are the tape's."""
    m, n = shape
    x, dp = arguments(kernels, "add_forward", dtype, m, n).values()
    p = kernels.softmax_forward(8 * x)
    dx = kernels.softmax_backward(dp, p)
    results = [
        reference.forward_and_gradients(lambda x: [reference.softmax(x)], [a], [b])
        for a, b in zip(columns(8 * x), columns(dp))
    ]
    expected_p = from_columns([p for (p,), _ in results])
    expected_dx = from_columns([dx for _, (dx,) in results])
    spread = 8 * (x.max(axis=0) - x.min(axis=0)).astype(np.float64)
    k = m + 8 + spread  # the sum, the exponential, and the rounding of its argument
    assert_close(p, expected_p, 1, k * expected_p)
    assert_close(dx, expected_dx, 1, 3 * k * expected_p * (abs(dp) + (expected_p * abs(dp)).sum(axis=0)))


@shapes
def test_rmsnorm(kernels, dtype, shape):
    """rmsnorm and its gradient are the tape's."""
    m, n = shape
    x, dy = arguments(kernels, "add_forward", dtype, m, n).values()
    eps = 0.01
    y, rstd = kernels.rmsnorm_forward(x, eps)
    dx = kernels.rmsnorm_backward(dy, y, rstd)
    expected_y, expected_dx = [], []
    for a, b in zip(columns(x), columns(dy)):
        (column,), (gradient,) = reference.forward_and_gradients(lambda x: [reference.rmsnorm(x, eps)], [a], [b])
        expected_y.append(column)
        expected_dx.append(gradient)
    expected_y, expected_dx = from_columns(expected_y), from_columns(expected_dx)
    expected_rstd = (np.mean(x.astype(np.float64) ** 2, axis=0) + eps) ** -0.5
    k = m + 6
    assert_close(rstd, expected_rstd, k, expected_rstd)
    assert_close(y, expected_y, k, abs(expected_y))
    scale = expected_rstd * (abs(dy) + abs(expected_y) * np.mean(abs(expected_y * dy), axis=0))
    assert_close(dx, expected_dx, 4 * k, scale)


@shapes
def test_relu_and_add(kernels, dtype, shape):
    """relu, the residual sum and their gradients are the tape's to the last bit."""
    m, n = shape
    a, b = arguments(kernels, "add_forward", dtype, m, n).values()
    y, total = kernels.relu_forward(a), kernels.add_forward(a, b)
    for j in range(n):
        columns_a, columns_b = [columns(a)[j], columns(b)[j]], [columns(b)[j]]
        (expected,), (dx,) = reference.forward_and_gradients(lambda x: [reference.relu(x)], columns_a[:1], columns_b)
        assert (y[:, j] == expected).all() and (kernels.relu_backward(b, y)[:, j] == dx).all()
        (expected,), gradients = reference.forward_and_gradients(
            lambda a, b: [reference.add(a, b)], columns_a, columns_b
        )
        assert (total[:, j] == np.array(expected).astype(dtype)).all()
        assert [g[:, j].tolist() for g in kernels.add_backward(b)] == gradients


@shapes
def test_embedding(kernels, dtype, shape):
    """The embedding and its gradient are the tape's."""
    m, n = shape
    case = arguments(kernels, "embedding_forward", dtype, m, n)
    tokens, positions = case["tokens"], case["positions"]
    dx = arguments(kernels, "add_backward", dtype, m, n)["dy"]
    x = kernels.embedding_forward(**case)
    dwte, dwpe = kernels.embedding_backward(dx, tokens, positions, vocab_size=27, block_size=16)
    expected_x, (expected_dwte, expected_dwpe) = reference.forward_and_gradients(
        lambda wte, wpe: reference.embedding(wte, wpe, tokens.tolist(), positions.tolist()),
        [columns(case["wte"]), columns(case["wpe"])],
        columns(dx),
    )
    assert_close(x, from_columns(expected_x), 1, abs(from_columns(expected_x)))
    assert_close(dwte, from_columns(expected_dwte), n, abs(dx).sum(axis=1, keepdims=True))
    assert_close(dwpe, from_columns(expected_dwpe), n, abs(dx).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("n_head, head_dim", [(1, 1), (1, 7), (2, 4), (3, 5), (1, 13)])
@each("lengths", [[1], [5], [1, 1, 1], [3, 0, 17], [8, 9, 2]])
def test_attention(kernels, dtype, n_head, head_dim, lengths):
    """Packed attention, its weights and its gradients are the tape's, document by document."""
    n_embd, n_tokens, longest = n_head * head_dim, sum(lengths), max(lengths)
    offsets = np.cumsum([0, *lengths])
    rng = np.random.default_rng(0)
    q, k, v, dout = (np.asfortranarray(rng.standard_normal((n_embd, n_tokens)).astype(dtype)) for _ in range(4))
    out, cache = kernels.attention_forward(q, k, v, offsets, n_head)
    gradients = kernels.attention_backward(dout, cache)
    expected, expected_gradients = reference.forward_and_gradients(
        lambda q, k, v: reference.attention_packed(q, k, v, offsets.tolist(), n_head),
        [columns(a) for a in (q, k, v)],
        columns(dout),
    )
    big = [float(abs(a).max()) for a in (q, k, v, dout)]
    score = head_dim**0.5 * big[0] * big[1]  # no score is larger
    roundings = (head_dim + 2) * score + longest + 10  # of one weight, relative to it
    assert_close(out, from_columns(expected), roundings + longest, big[2])
    dp = head_dim * big[3] * big[2]
    scales = longest * 2 * dp * big[1], longest * 2 * dp * big[0], longest * big[3]
    for found, gradient, scale in zip(gradients, expected_gradients, scales):
        assert_close(found, from_columns(gradient), 3 * roundings + longest + head_dim, scale)
    for i, (first, length) in enumerate(zip(offsets, lengths)):
        weights = kernels.attention_weights(cache, i)
        assert weights.shape == (n_head, length, length) and (np.triu(weights, 1) == 0).all()
        assert_close(weights.sum(axis=2), np.ones((n_head, length)), roundings, 1)
        rows = np.repeat(np.arange(n_head), head_dim)  # the head of each row of v
        mixed = np.einsum("ets,es->et", weights[rows].astype(np.float64), v[:, first : first + length])
        assert_close(out[:, first : first + length], mixed, longest, big[2])


@pytest.mark.parametrize("lengths", [[300, 3, 0, 250, 7, 40, 513, 1], [255, 30, 256, 9, 257]], ids=str)
def test_attention_of_long_documents(kernels, dtype, lengths):
    """Documents longer and shorter than C works on at a time: packed, each has the bits it has alone, and those are
    the formulas'."""
    n_head = 2
    offsets = np.cumsum([0, *lengths])
    rng = np.random.default_rng(1)
    q, k, v, dout = (np.asfortranarray(rng.standard_normal((8, offsets[-1])).astype(dtype)) for _ in range(4))
    out, cache = kernels.attention_forward(q, k, v, offsets, n_head)
    packed = out, *kernels.attention_backward(dout, cache)
    for i, length in enumerate(lengths):
        own = slice(offsets[i], offsets[i + 1])
        alone, own_cache = kernels.attention_forward(q[:, own], k[:, own], v[:, own], np.array([0, length]), n_head)
        alone = alone, *kernels.attention_backward(dout[:, own], own_cache)
        assert same_bits([a[:, own] for a in packed], alone)
        weights = kernels.attention_weights(cache, i).astype(np.float64)
        assert same_bits([weights], [kernels.attention_weights(own_cache, 0).astype(np.float64)])
        heads = [a[:, own].astype(np.float64).reshape(n_head, 4, length) for a in (q, k, v, dout)]
        scores = np.where(np.tri(length), np.einsum("hdt,hds->hts", *heads[:2]) / 2, -np.inf)  # sqrt(head_dim) = 2
        p = np.exp(scores - scores.max(axis=2, keepdims=True, initial=-1e3))
        p /= p.sum(axis=2, keepdims=True)
        dp = np.einsum("hdt,hds->hts", heads[3], heads[2])
        ds = p * (dp - (p * dp).sum(axis=2, keepdims=True)) / 2
        expected = [
            np.einsum("hts,hds->hdt", p, heads[2]),
            np.einsum("hts,hds->hdt", ds, heads[1]),
            np.einsum("hts,hdt->hds", ds, heads[0]),
            np.einsum("hts,hdt->hds", p, heads[3]),
        ]
        tolerance = 100 * np.finfo(dtype).eps
        for found, right in zip([weights, *alone], [p, *(a.reshape(8, length) for a in expected)]):
            np.testing.assert_allclose(found, right, rtol=0, atol=tolerance * max(1, abs(right).max(initial=0)))


@shapes
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(kernels, dtype, shape, weighted):
    """Losses, probabilities and the gradient of the weighted or mean loss are the tape's."""
    m, n = shape
    case = arguments(kernels, "cross_entropy_forward", dtype, m, n)
    logits, targets, weights = 4 * case["logits"], case["targets"], case["weights"] if weighted else None
    loss, losses, probs = kernels.cross_entropy_forward(logits, targets, weights)
    dlogits = kernels.cross_entropy_backward(probs, targets, weights)
    w = weights.astype(np.float64) if weighted else np.full(n, 1 / n)
    expected_losses, expected_gradient = [], []
    for j in range(n):
        ((expected,),), (gradient,) = reference.forward_and_gradients(
            lambda x, target=int(targets[j]): [[reference.cross_entropy(x, target)]], [columns(logits)[j]], [[1.0]]
        )
        expected_losses.append(expected)
        expected_gradient.append(gradient)
    assert same_bits([probs], [kernels.softmax_forward(logits)])
    k = m + 10 + 2 * (logits.max(axis=0) - logits.min(axis=0)).astype(np.float64)
    assert_close(losses, np.array(expected_losses), 1, k)
    assert_close(dlogits, w * from_columns(expected_gradient), 1, k * abs(w) + 0 * logits)
    error = abs(loss - np.dot(w, expected_losses))
    assert (
        isinstance(loss, float) and error <= np.finfo(dtype).eps * (abs(w) * (k + n * np.array(expected_losses))).sum()
    )


# ---- the numbers that are none ----


def test_softmax_of_special_columns(kernels, dtype):
    """NaN or +inf in a column, or -inf all over it, make it NaN; a -inf beside numbers is 0; large ones are exact."""
    inf, nan = np.inf, np.nan
    x = np.array([[nan, 0, 0], [inf, 0, 0], [-inf] * 3, [-inf, 0, 0], [3e38, 3e38, 0], [-3e38, 0, 0], [0, nan, inf]])
    p = kernels.softmax_forward(x.T.astype(dtype))
    expected = np.array([[nan] * 3, [nan] * 3, [nan] * 3, [0, 0.5, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5], [nan] * 3])
    assert np.array_equal(p.T, expected, equal_nan=True)
    for m in (1, 7, 16, 17, 40):  # wherever in a vector it stands
        for bad in (nan, inf):
            for i in range(m):
                column = np.zeros((m, 1), dtype)
                column[i] = bad
                assert np.isnan(kernels.softmax_forward(column)).all()


def test_no_zero_is_skipped(kernels, dtype):
    """0 * inf and 0 * NaN are NaN in products, as NumPy has it, in the sum and in both gradients."""
    w, x = np.zeros((3, 2), dtype), np.full((2, 4), np.inf, dtype)
    assert np.isnan(kernels.matmul_forward(w, x)).all()
    dw, dx = kernels.matmul_backward(np.zeros((3, 4), dtype), np.full((3, 2), np.nan, dtype), x)
    assert np.isnan(dw).all() and np.isnan(dx).all()


def test_nan_and_infinity_spread(kernels, dtype):
    """A NaN or an infinity reaches what NumPy's arithmetic would let it reach, and nothing in other columns."""
    nan, inf = np.nan, np.inf
    x = np.array([[1, nan, inf], [2, 1, 1]], dtype)
    y, rstd = kernels.rmsnorm_forward(x)
    assert np.isfinite(y[:, 0]).all() and np.isnan(y[:, 1]).all()
    assert rstd[2] == 0 and np.isnan(y[0, 2]) and y[1, 2] == 0
    assert np.array_equal(
        kernels.relu_forward(np.array([[nan, -inf, inf, -0.0]], dtype)), [[nan, 0, inf, 0]], equal_nan=True
    )
    assert np.array_equal(kernels.add_forward(x, x), x + x, equal_nan=True)
    loss, losses, _ = kernels.cross_entropy_forward(np.array([[0, 0, -inf], [0, nan, 0]], dtype), np.array([0, 0, 0]))
    assert losses[0] > 0 and np.isnan(losses[1]) and losses[2] == inf and math.isnan(loss)
    q = np.array([[1, nan, 1, 1]], dtype)
    out, _ = kernels.attention_forward(q, np.abs(q * 0 + 1), np.ones_like(q), np.array([0, 2, 4]), 1)
    assert out[0, 0] == 1 and np.isnan(out[0, 1]) and (out[0, 2:] == 1).all()


def test_no_overflow_on_the_way(kernels, dtype):
    """Losses of very unlikely targets are exact although their probability is 0 in either precision."""
    loss, losses, probs = kernels.cross_entropy_forward(np.array([[0.0], [5000.0]], dtype), np.array([0]))
    assert probs[0, 0] == 0 and loss == losses[0] == 5000


@pytest.mark.parametrize("shift", [-5000, 5000])
def test_only_differences_count(kernels, dtype, shift):
    """Columns of negative numbers alone, or of large ones, have the probabilities and losses of those about 0."""
    for m in range(1, 40):
        x = np.random.default_rng(m).integers(-9, 9, (m, 3)).astype(dtype, "F")
        case = arguments(kernels, "cross_entropy_forward", dtype, m, 3)
        for name, key in ("softmax_forward", "x"), ("cross_entropy_forward", "logits"):
            more = {} if key == "x" else {"targets": case["targets"]}
            expected = call(kernels, name, {key: x, **more})
            assert same_bits(call(kernels, name, {key: x + dtype.type(shift), **more}), expected)


def test_what_is_tiny_counts_as_0(kernels, dtype):
    """A probability below TINY (see f32.c and f64.c) has no gradient, and attention no weight below it."""
    exponent = -52 if dtype == np.float32 else -460
    probs = np.array([[1.0], [2.0**exponent], [2.0 ** (exponent - 1)]], dtype)
    assert kernels.cross_entropy_backward(probs, np.array([0])).tolist() == [[0], [2.0**exponent], [0]]
    for score, kept in ((exponent + 0.1) * math.log(2), True), ((exponent - 0.1) * math.log(2), False):
        q, k = np.ones((1, 2), dtype), np.array([[score, 0]], dtype)
        _, cache = kernels.attention_forward(q, k, q, np.array([0, 2]), 1)
        assert (kernels.attention_weights(cache, 0)[0, 1, 0] > 0) == kept


# ---- empty ----


@names
@each("shape", [(3, 0), (1, 0), (0, 0)])
def test_no_columns(kernels, dtype, name, shape):
    """Without columns every kernel returns empty or zero results of the right shape."""
    result = getattr(kernels, name)(**arguments(kernels, name, dtype, *shape))
    for a in flat(result[0] if name == "attention_forward" else result):
        assert (a == 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("cross_entropy", "attention"))])
def test_no_rows(kernels, dtype, name):
    """Columns without rows are allowed where there is nothing to choose among them."""
    call(kernels, name, arguments(kernels, name, dtype, 0, 4))


# ---- layouts ----


def spread(a):
    outer = np.zeros([2 * size for size in a.shape], a.dtype)
    outer[tuple(slice(None, None, 2) for _ in a.shape)] = a
    return outer[tuple(slice(None, None, 2) for _ in a.shape)]


def backwards(a):
    return a[tuple(slice(None, None, -1) for _ in a.shape)].copy()[tuple(slice(None, None, -1) for _ in a.shape)]


def block(a):
    outer = np.zeros([size + 3 for size in a.shape], a.dtype, "F")
    inner = outer[tuple(slice(1, size + 1) for size in a.shape)]
    inner[...] = a
    return inner


class Foreign:
    """An array of some other library."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a


class Exporter:
    """An array of some other library that speaks DLPack."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **options):
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


LAYOUTS = {
    "row-major": lambda a: a.copy("C"),
    "spread": spread,
    "backwards": backwards,
    "block": block,
    "misaligned": misaligned,
    "read-only": read_only,
    "view": lambda a: a.view(),
    "other dtype object": lambda a: a.view(np.dtype(a.dtype, metadata={"unit": "none"})),
    "__array__": Foreign,
    "__dlpack__": lambda a: Exporter(a.copy("F")),
}


def in_layout(layout, value):
    if isinstance(value, np.ndarray):
        return LAYOUTS[layout](value)
    if isinstance(value, tuple):  # an attention cache
        return type(value)(*(in_layout(layout, member) for member in value))
    return value


@each("rows", [5, 16, 32, 64])
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("softmax", "rmsnorm"))])
def test_from_the_first_column_or_the_last(kernels, dtype, name, rows):
    """Where an output lies decides which column is first (see from_last in C), and changes no bit."""
    case = arguments(kernels, name, dtype, rows, 7)
    expected = call(kernels, name, case)
    memory = np.empty(5 * 4096, np.uint8)
    page = -memory.ctypes.data % 4096

    def placed(a, at):
        view = memory[page + at : page + at + a.nbytes].view(dtype).reshape(a.shape, order="F")
        view[...] = a
        return view

    key = {"softmax_forward": "x", "softmax_backward": "p", "rmsnorm_forward": "x", "rmsnorm_backward": "y"}[name]
    case[key] = placed(case[key], 0)
    for at in 2 * 4096 - 64, 2 * 4096 + 64:
        out = outs(kernels, name, case)
        out = (placed(out[0], at), out[1]) if isinstance(out, tuple) else placed(out, at)
        assert same_bits(call(kernels, name, case, out=out), expected)


def test_sign_of_zero(kernels, dtype):
    """A sum that underflows to -0 is the same zero on every instruction set, though masked lanes take part in some."""
    m = 33
    dp, p, dx = np.full((m, 1), -1e-30, dtype), np.full((m, 1), 1e-20, dtype), np.full((m, 1), -0.0, dtype)
    if dtype == np.float64:
        dp, p = dp * 1e-200, p * 1e-200
    dp[5] = -0.0
    dp, p, dx = map(np.asfortranarray, (dp, p, dx))
    kernels.softmax_backward(dp, p, out=dx, accumulate=True)
    assert not np.signbit(dx[5, 0])


def test_zeros_in_any_layout(kernels):
    """A gradient of -0 is the same 0 whether or not its arrays needed a copy, and whether it is added to 0 or not."""
    dy, y, out = np.full((3, 2), -0.0, order="F"), np.ones((3, 2), order="F"), np.zeros((3, 2), order="F")
    expected = [kernels.relu_backward(dy, y)]
    assert not np.signbit(expected).any()
    assert same_bits([kernels.relu_backward(dy[:], y.copy("C"))], expected)
    assert same_bits([kernels.relu_backward(dy, y, out=out, accumulate=True)], expected)


@names
@each("layout", LAYOUTS)
def test_any_layout(kernels, dtype, name, layout):
    """A call gives the same bits whatever the layout of its arrays, and leaves the inputs as they were."""
    for m, n in ((1, 1), (5, 4), (17, 9), (16, 1)):
        case = arguments(kernels, name, dtype, m, n)
        other = {key: in_layout(layout, value) for key, value in case.items()}
        assert same_bits(call(kernels, name, case), call(kernels, name, other))
        again = arguments(kernels, name, dtype, m, n)
        for key, value in other.items():
            for a, b in zip(flat(getattr(value, "a", value)), flat(again[key])):
                assert np.array_equal(np.asarray(getattr(a.item() if a.dtype == object else a, "a", a)), b)


if hypothesis:

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        path=st.sampled_from(sorted(KERNELS)),
        name=st.sampled_from(NAMES),
        dtype=st.sampled_from([np.float32, np.float64]),
        m=st.integers(1, 70),
        n=st.integers(0, 70),
        layouts=st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=5, max_size=5),
    )
    def test_any_mixture_of_layouts(path, name, dtype, m, n, layouts):
        """Whatever the kernel, its sizes and the layouts of its arguments, which may differ: the same bits."""
        kernels = KERNELS[path]
        case = arguments(kernels, name, dtype, m, n)
        other = {key: in_layout(layout, case[key]) for key, layout in zip(case, layouts)}
        assert same_bits(call(kernels, name, case), call(kernels, name, other))


@names
def test_out(kernels, dtype, name):
    """`out` is returned itself, holding the bits of a new result, whatever it held before."""
    case = arguments(kernels, name, dtype, 17, 9)
    out = outs(kernels, name, case)
    result = getattr(kernels, name)(**case, out=out)
    assert same_bits(flat(result), call(kernels, name, case))
    given = out if isinstance(out, tuple) else (out,)
    for a in given:
        members = result if isinstance(result, tuple) else (result,)
        assert any(member is a for member in members)


@pytest.mark.parametrize("name", [name for name in NAMES if table.KERNELS[name].strided])
def test_out_is_a_block(kernels, dtype, name):
    """A block of a larger column-major array serves as `out`, and what surrounds it is left alone."""
    case = arguments(kernels, name, dtype, 17, 9)
    expected = outs(kernels, name, case)
    members = expected if isinstance(expected, tuple) else (expected,)
    rooms = [room(dtype, *a.shape) if a.ndim == 2 else (a, None) for a in members]
    blocks = tuple(inner for inner, _ in rooms)
    getattr(kernels, name)(**case, out=blocks if isinstance(expected, tuple) else blocks[0])
    assert same_bits([np.asfortranarray(a) for a in blocks], call(kernels, name, case))
    assert all(outer is None or only_block_written(inner, outer) for inner, outer in rooms)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("backward")])
def test_accumulate(kernels, dtype, name):
    """With accumulate a gradient is added to what out holds; without out there is nothing to add to."""
    case = arguments(kernels, name, dtype, 17, 9)
    out = outs(kernels, name, case)
    for a in flat(out) if not isinstance(out, tuple) else out:
        a.fill(1)
    target = out if isinstance(out, tuple) else flat(out)[0]
    result = getattr(kernels, name)(**case, out=out, accumulate=True)
    for total, gradient in zip(flat(result), call(kernels, name, case)):
        assert_close(total, 1 + gradient.astype(np.longdouble), 50, 1 + abs(gradient) + abs(gradient).max())
    assert result is target
    assert same_bits(call(kernels, name, case), call(kernels, name, case, accumulate=True))


def test_disjoint_blocks_of_one_array(kernels, dtype):
    """Input and output may be interleaved blocks of one array, as the heads of q, k and v are."""
    memory = np.asfortranarray(np.random.default_rng(0).standard_normal((8, 6)).astype(dtype))
    x, p = memory[:4], memory[4:]
    expected = kernels.softmax_forward(x.copy("F"))
    kernels.softmax_forward(x, out=p)
    assert np.array_equal(p, expected)


# ---- one result, on every path ----


@names
@pytest.mark.parametrize("isa", KERNELS)
def test_same_bits_on_every_path(isa, dtype, name):
    """Every instruction set gives the bits of the plain C one, for every kernel, at sizes about every vector's."""
    for m, n in ((1, 1), (3, 5), (8, 7), (15, 16), (16, 17), (17, 31), (32, 6), (33, 32), (64, 9), (65, 40), (130, 3)):
        results = []
        for path in ("scalar", isa):
            case = arguments(KERNELS["scalar"], name, dtype, m, n)
            if "cache" in case:
                case["cache"] = KERNELS[path].AttentionCache(*case["cache"])
            results.append(call(KERNELS[path], name, case))
        assert same_bits(*results)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("forward")])
def test_a_column_does_not_see_its_neighbours(kernels, dtype, name):
    """A column computed alone has the bits it has among others."""
    case = arguments(kernels, name, dtype, 17, 9)
    if name.startswith("attention"):
        case["offsets"] = np.arange(10)
    together = call(kernels, name, case)
    index = {"cross_entropy_forward": 2}.get(name, 0)
    for j in range(9):
        alone = {
            key: value[..., j : j + 1]
            if isinstance(value, np.ndarray) and key not in ("w", "wte", "wpe", "offsets")
            else value
            for key, value in case.items()
        }
        if "offsets" in alone:
            alone["offsets"] = np.array([0, 1])
        assert same_bits([together[index][:, j]], [call(kernels, name, alone)[index][:, 0]])


# ---- the documentation ----


def test_docstrings():
    """The examples in the docstrings give what they show."""
    result = doctest.testmod(default_kernels)
    assert result.attempted > 25 and result.failed == 0


def test_two_layer_network():
    """A network of two layers learns exclusive or with nothing but these kernels, and its gradient is the tape's."""
    k = default_kernels
    rng = np.random.default_rng(0)
    x, targets = np.array([[0.0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]]), np.array([0, 1, 1, 0])
    w1, w2 = rng.standard_normal((8, 3)), rng.standard_normal((2, 8))

    def network():
        a = k.relu_forward(k.matmul_forward(w1, x))
        loss, _, probs = k.cross_entropy_forward(k.matmul_forward(w2, a), targets)
        dlogits = k.cross_entropy_backward(probs, targets)
        dw2, da = k.matmul_backward(dlogits, w2, a)
        dw1, _ = k.matmul_backward(k.relu_backward(da, a), w1, x)
        return loss, dw1, dw2

    loss, dw1, dw2 = network()
    w1_, w2_ = reference.as_values(w1.tolist()), reference.as_values(w2.tolist())
    hidden = [reference.relu(reference.linear(w1_, column)) for column in reference.as_values(columns(x))]
    losses = [reference.cross_entropy(reference.linear(w2_, a), t) for a, t in zip(hidden, targets.tolist())]
    total = sum(losses) / 4
    gradient = reference.backward(total)
    assert abs(loss - total.data) < 1e-14
    assert np.allclose(dw1, reference.gradients_like(w1_, gradient), rtol=0, atol=1e-14)
    assert np.allclose(dw2, reference.gradients_like(w2_, gradient), rtol=0, atol=1e-14)
    for _ in range(300):
        loss, dw1, dw2 = network()
        w1 -= 0.5 * dw1
        w2 -= 0.5 * dw2
    assert loss < 0.02


def test_one_side_of_add_backward(kernels, dtype):
    """A gradient of add that is not asked for is left out, whichever it is, and the other is as ever."""
    dy, da = np.asfortranarray(np.arange(6.0).reshape(2, 3).astype(dtype)), np.ones((2, 3), dtype, "F")
    assert kernels.add_backward(dy, out=(da, None))[1] is None and (da == dy).all()
    kernels.add_backward(dy, out=(None, da), accumulate=True)
    assert (da == 2 * dy).all()
