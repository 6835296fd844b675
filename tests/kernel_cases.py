"""One valid call of every kernel at any size, for the tests of layouts, threads, bad arguments and equal bits."""

import numpy as np

NAMES = [
    "matmul_forward",
    "matmul_backward",
    "softmax_forward",
    "softmax_backward",
    "rmsnorm_forward",
    "rmsnorm_backward",
    "relu_forward",
    "relu_backward",
    "add_forward",
    "add_backward",
    "embedding_forward",
    "embedding_backward",
    "attention_forward",
    "attention_backward",
    "cross_entropy_forward",
    "cross_entropy_backward",
]
BACKWARD = [name for name in NAMES if name.endswith("backward")]


def arguments(kernels, name, dtype, m, n, seed=0):
    """The arguments of one call on m x n matrices, by name, every array column-major."""
    rng = np.random.default_rng([seed, m, n])

    def matrix(rows=m, columns=n):
        return np.asfortranarray(rng.standard_normal((rows, columns)).astype(dtype))

    def integers(limit):
        return rng.integers(0, limit, n).astype(np.int32)

    offsets = np.array([0, n // 3, n // 3, n], np.int32)  # the middle document is empty
    k, heads = m // 2 + 1, next(h for h in (4, 3, 2, 1) if m % h == 0)
    if name == "matmul_forward":
        return {"w": matrix(m, k), "x": matrix(k, n)}
    if name == "matmul_backward":
        return {"dy": matrix(), "w": matrix(m, k), "x": matrix(k, n)}
    if name == "softmax_forward":
        return {"x": matrix()}
    if name == "softmax_backward":
        return {"dp": matrix(), "p": kernels.softmax_forward(matrix())}
    if name == "rmsnorm_forward":
        return {"x": matrix()}
    if name == "rmsnorm_backward":
        y, rstd = kernels.rmsnorm_forward(matrix())
        return {"dy": matrix(), "y": y, "rstd": rstd}
    if name == "relu_forward":
        return {"x": matrix()}
    if name == "relu_backward":
        return {"dy": matrix(), "y": kernels.relu_forward(matrix())}
    if name == "add_forward":
        return {"a": matrix(), "b": matrix()}
    if name == "add_backward":
        return {"dy": matrix()}
    if name == "embedding_forward":
        return {"wte": matrix(m, 27), "wpe": matrix(m, 16), "tokens": integers(27), "positions": integers(16)}
    if name == "embedding_backward":
        return {
            "dx": matrix(),
            "tokens": integers(27),
            "positions": integers(16),
            "vocab_size": 27,
            "block_size": 16,
        }
    if name == "attention_forward":
        return {"q": matrix(), "k": matrix(), "v": matrix(), "offsets": offsets, "n_head": heads}
    if name == "attention_backward":
        _, cache = kernels.attention_forward(matrix(), matrix(), matrix(), offsets, heads)
        return {"dout": matrix(), "cache": cache}
    weights = rng.standard_normal(n).astype(dtype)
    if name == "cross_entropy_forward":
        return {"logits": matrix(), "targets": integers(m), "weights": weights}
    if name == "cross_entropy_backward":
        return {"probs": kernels.softmax_forward(matrix()), "targets": integers(m), "weights": weights}
    raise AssertionError(name)


def call(kernels, name, arguments, **more):
    """All that the kernel returns, as a flat list of arrays."""
    return flat(getattr(kernels, name)(**arguments, **more))


def flat(result):
    if isinstance(result, tuple):
        return [array for member in result for array in flat(member)]
    return [np.asarray(result)]


def outs(kernels, name, arguments):
    """New arrays full of NaN for the call's `out`: an array, or a tuple of them."""
    result = getattr(kernels, name)(**arguments)
    if name == "attention_forward":
        result = result[0]  # the cache is always new
    if name == "cross_entropy_forward":
        result = result[1:]  # the loss is a number
    if isinstance(result, tuple):
        return tuple(np.full_like(array, np.nan) for array in result)
    return np.full_like(result, np.nan)


def same_bits(a, b):
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b)
    )


# ---- arrays that need a closer look ----


def misaligned(a):
    view = np.ndarray(a.shape, a.dtype, np.zeros(a.nbytes + 1, np.uint8), 1, order="F")
    view[...] = a
    return view


def read_only(a):
    a = a.copy("F")
    a.flags.writeable = False
    return a
