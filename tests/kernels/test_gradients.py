"""Every backward kernel is the derivative of its forward kernel: central differences in float64, to 1e-7."""

import numpy as np
import pytest
from builds import KERNELS

STEP = 1e-5  # its square and the rounding error over it are both about 1e-10
SHAPES = [(1, 1), (2, 3), (5, 2), (7, 1), (9, 4), (17, 3)]

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
seeds = pytest.mark.parametrize("seed", range(5))


def check(forward, gradients, inputs, dout):
    """gradients are those of sum(dout * forward(*inputs)) by each of the inputs."""
    for x, gradient in zip(inputs, gradients):
        numerical = np.empty_like(x)
        for index in np.ndindex(x.shape):
            kept = x[index]
            x[index] = kept + STEP
            above = forward(*inputs)
            x[index] = kept - STEP
            below = forward(*inputs)
            x[index] = kept
            numerical[index] = np.sum(dout * (above - below)) / (2 * STEP)
        assert np.allclose(gradient, numerical, rtol=1e-7, atol=1e-8 * max(1, np.max(np.abs(numerical), initial=0)))


@pytest.fixture
def random(seed, shape):
    rng = np.random.default_rng([seed, *shape])
    return lambda *shape: np.asfortranarray(rng.standard_normal(shape))


@pytest.fixture(params=KERNELS)
def kernels(request):
    return KERNELS[request.param]


@seeds
@shapes
def test_matmul(kernels, random, shape):
    """matmul, by w and by x."""
    m, n = shape
    w, x, dy = random(m, m + 2), random(m + 2, n), random(m, n)
    check(kernels.matmul_forward, kernels.matmul_backward(dy, w, x), (w, x), dy)


@seeds
@shapes
def test_softmax(kernels, random, shape):
    """softmax."""
    x, dp = random(*shape), random(*shape)
    check(kernels.softmax_forward, [kernels.softmax_backward(dp, kernels.softmax_forward(x))], (x,), dp)


@seeds
@shapes
def test_rmsnorm(kernels, random, shape):
    """rmsnorm, with an eps that matters."""
    x, dy = random(*shape), random(*shape)
    y, rstd = kernels.rmsnorm_forward(x, 0.1)
    check(lambda x: kernels.rmsnorm_forward(x, 0.1)[0], [kernels.rmsnorm_backward(dy, y, rstd)], (x,), dy)


@seeds
@shapes
def test_relu(kernels, random, shape):
    """relu, away from its corner."""
    x, dy = random(*shape), random(*shape)
    x[abs(x) < 0.01] = 0.5
    check(kernels.relu_forward, [kernels.relu_backward(dy, kernels.relu_forward(x))], (x,), dy)


@seeds
@shapes
def test_add(kernels, random, shape):
    """The residual sum, by both its terms."""
    a, b, dy = random(*shape), random(*shape), random(*shape)
    check(kernels.add_forward, kernels.add_backward(dy), (a, b), dy)


@seeds
@shapes
def test_embedding(kernels, random, shape, seed):
    """The embedding, by both tables, with tokens that repeat."""
    m, n = shape
    wte, wpe, dx = random(m, 3), random(m, 4), random(m, n)
    rng = np.random.default_rng(seed)
    tokens, positions = rng.integers(0, 3, n), rng.integers(0, 4, n)
    gradients = kernels.embedding_backward(dx, tokens, positions, vocab_size=3, block_size=4)
    check(lambda wte, wpe: kernels.embedding_forward(wte, wpe, tokens, positions), gradients, (wte, wpe), dx)


@seeds
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 4), (2, 2, 3), (3, 1, 9), (2, 5, 5)], ids=str)
def test_attention(kernels, random, shape):
    """Attention, by q, k and v, over documents of several lengths."""
    n_head, head_dim, n = shape
    q, k, v, dout = (random(n_head * head_dim, n) for _ in range(4))
    offsets = np.array([0, n // 3, n // 3, n])
    gradients = kernels.attention_backward(dout, kernels.attention_forward(q, k, v, offsets, n_head)[1])
    check(lambda q, k, v: kernels.attention_forward(q, k, v, offsets, n_head)[0], gradients, (q, k, v), dout)


@seeds
@shapes
def test_cross_entropy(kernels, random, shape, seed):
    """The weighted and the mean loss, by the logits."""
    m, n = shape
    logits = random(m, n)
    targets = np.random.default_rng(seed).integers(0, m, n)
    for weights in (random(n), None):
        _, _, probs = kernels.cross_entropy_forward(logits, targets, weights)
        gradient = kernels.cross_entropy_backward(probs, targets, weights)
        check(lambda x, w=weights: kernels.cross_entropy_forward(x, targets, w)[0], [gradient], (logits,), 1.0)
