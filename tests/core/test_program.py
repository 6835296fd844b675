"""Recorded programs: they compute what the kernels compute, add where they are told to, and ask for what they take."""

import itertools

import numpy as np
import pytest

from microgpt import kernels
from microgpt.core.program import Array, Program, Replay
from microgpt.kernels import compiled as c

N_EMBD, N_HEAD, BLOCK, VOCAB, TOKENS = 8, 2, 5, 7, 12
POSITIONS = np.array([*range(5), *range(5), *range(2)], np.int32)
OFFSETS = np.array([0, 5, 10, 12])


def columns(name):
    return Array(name, N_EMBD)


def matmul(ops, given):
    w, dw = Array("w", 6, N_EMBD), Array("dw", 6, N_EMBD)
    ops.matmul_backward((dw, columns("dx")), Array("dy", 6), w, columns("x"), **given)
    return ["dw", "dx"], lambda a: kernels.matmul_backward(a["dy"], a["w"], a["x"])


def rmsnorm(ops, given):
    y, rstd = ops.rmsnorm_forward(("y", "rstd"), columns("x"), eps=1e-5)
    ops.rmsnorm_backward(columns("dx"), columns("dy"), y, rstd, **given)
    return ["dx"], lambda a: [kernels.rmsnorm_backward(a["dy"], *kernels.rmsnorm_forward(a["x"]))]


def softmax(ops, given):
    p = ops.softmax_forward("p", columns("x"))
    ops.softmax_backward(columns("dx"), columns("dp"), p, **given)
    return ["dx"], lambda a: [kernels.softmax_backward(a["dp"], kernels.softmax_forward(a["x"]))]


def relu(ops, given):
    ops.relu_backward(columns("dx"), columns("dy"), columns("y"), **given)
    return ["dx"], lambda a: [kernels.relu_backward(a["dy"], a["y"])]


def add(ops, given):
    ops.add_backward((columns("da"), columns("db")), columns("dy"), **given)
    return ["da", "db"], lambda a: kernels.add_backward(a["dy"])


def attention(ops, given):
    q, k, v, sizes = columns("q"), columns("k"), columns("v"), {"n_head": N_HEAD, "block_size": BLOCK}
    _, probs = ops.attention_forward(("attn", "attn.probs"), q, k, v, Array("positions"), **sizes)
    outputs = columns("dq"), columns("dk"), columns("dv")
    ops.attention_backward(outputs, columns("dout"), probs, q, k, v, Array("positions"), **sizes, **given)

    def expected(a):
        _, cache = kernels.attention_forward(a["q"], a["k"], a["v"], OFFSETS, N_HEAD)
        return kernels.attention_backward(a["dout"], cache)

    return ["dq", "dk", "dv"], expected


def cross_entropy(ops, given):
    ops.cross_entropy_backward(columns("dlogits"), columns("probs"), Array("targets"), Array("weights"), **given)
    return ["dlogits"], lambda a: [kernels.cross_entropy_backward(a["probs"], a["targets"], a["weights"][0])]


def embedding(ops, given):
    outputs = Array("dwte", N_EMBD, VOCAB), Array("dwpe", N_EMBD, BLOCK)
    ops.embedding_backward(outputs, columns("dx"), Array("tokens"), Array("positions"), **given)
    sizes = {"vocab_size": VOCAB, "block_size": BLOCK}
    return ["dwte", "dwpe"], lambda a: kernels.embedding_backward(a["dx"], a["tokens"], POSITIONS, **sizes)


def memory(ops, dtype):
    """Random arrays for all that the calls take and do not make."""
    rng = np.random.default_rng(0)
    known = {"positions": POSITIONS}
    known |= {name: rng.integers(0, VOCAB, TOKENS).astype(np.int32) for name in ("tokens", "targets")}
    shapes = {"w": (6, N_EMBD), "dw": (6, N_EMBD), "dwte": (N_EMBD, VOCAB), "dwpe": (N_EMBD, BLOCK)}
    for call in ops.calls:
        names = call.arrays
        for name in names:
            if name not in ops.arrays and name not in known:
                rows = 6 if name == "dy" and "dw" in names else 1 if name == "weights" else N_EMBD
                shape = shapes.get(name, (rows, TOKENS))
                known[name] = np.asfortranarray(rng.standard_normal(shape).astype(dtype))
    return known


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "record", [matmul, rmsnorm, softmax, relu, add, attention, cross_entropy, embedding], ids=lambda f: f.__name__
)
def test_overwrite_or_accumulate(record, dtype):
    """Each gradient of a call is overwritten or added to as it was recorded, and is what the public kernel gives."""
    names, _ = record(Program(), {})
    for accumulate in [False, True, *itertools.product([False, True], repeat=len(names))]:
        ops = Program()
        gradients, expected = record(ops, {"accumulate": accumulate})
        arrays = memory(ops, dtype)
        before = {name: array.copy() for name, array in arrays.items()}
        Replay(ops, dtype, TOKENS, arrays).over(0, TOKENS)
        each = accumulate if isinstance(accumulate, tuple) else (accumulate,) * len(names)
        for name, new, added_to in zip(gradients, expected(before), each, strict=True):
            if added_to:
                size = 1 + abs(before[name]) + abs(new).max()
                assert (abs(arrays[name] - (before[name] + new)) <= 100 * np.finfo(dtype).eps * size).all()
            else:
                assert arrays[name].tobytes() == new.tobytes()


def test_a_batch_is_a_slice():
    """What was given with a column for each token is read from the batch's first column on."""
    ops = Program()
    ops.embedding_forward("x", Array("wte", 2, 3), Array("wpe", 2, 4), Array("tokens"), Array("positions"))
    wte, wpe = np.asfortranarray([[1.0, 2, 3], [4, 5, 6]]), np.zeros((2, 4), order="F")
    tokens, positions = np.array([0, 1, 2, 1], np.int32), np.zeros(4, np.int32)
    replay = Replay(ops, "float64", 2, {"wte": wte, "wpe": wpe, "tokens": tokens, "positions": positions})
    replay.over(2, 2)
    assert replay.values["x"][:, :2].tolist() == [[3, 2], [6, 5]]
    ops = Program()
    ops.relu_forward("y", Array("x", 3))  # an array of several rows moves by columns, too
    x = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    replay = Replay(ops, "float64", 2, {"x": x})
    replay.over(2, 2)
    assert (replay.values["y"][:, :2] == x[:, 2:]).all()


def test_more_columns_than_tokens():
    """A program's arrays have as many columns as its kernels need, which is more than its tokens, and count says so."""
    ops = Program()
    ops.relu_forward("y", Array("x", 3))
    for n in (1, 15, 16, 255, 256, 257, 10_000):
        columns = c.attention_rows(n)
        replay = Replay(ops, "float32", n, {"x": np.zeros((3, n), np.float32, "F")})
        assert replay.values["y"].shape == (3, columns) and ops.count(n) == 3 * columns
        assert columns >= max(n, c.token_rows(n))


def test_scratch():
    """The scratch that calls share is as large as any of them needs it, whichever comes last."""
    positions, sizes = Array("positions"), {"n_head": N_HEAD, "block_size": BLOCK}
    q, k, v, probs = columns("q"), columns("k"), columns("v"), Array("probs", N_HEAD * BLOCK)
    ops = Program()
    ops.attention_backward(("dq", "dk", "dv"), columns("dout"), probs, q, k, v, positions, **sizes)
    largest = ops.arrays["work"].rows
    ops.attention_forward("attn", q, k, v, positions, **sizes)
    assert ops.arrays["work"].rows == largest == 7 * N_EMBD + BLOCK


def test_a_batch_far_on():
    """A batch may begin more than 2^31 bytes after the beginning of its arrays."""
    ops = Program()
    ops.relu_forward("y", Array("x", 1))
    x = np.zeros((1, 2**29 + 100), np.float32)  # of which no more is touched than is looked at
    x[0, 2**29 + 1] = 5
    replay = Replay(ops, "float32", 4, {"x": x})
    replay.over(2**29, 4)
    assert replay.values["y"][0, :4].tolist() == [0, 5, 0, 0]


def test_mistakes_of_recording():
    """Shapes that do not fit, another shape under a name, and what is no kernel are errors when they are recorded."""
    ops = Program()
    with pytest.raises(ValueError, match="matmul_forward: x: expected k = 3"):
        ops.matmul_forward("y", Array("w", 2, 3), Array("x", 4))
    with pytest.raises(ValueError, match="matmul_backward: dw: expected m = 2"):
        ops.matmul_backward((Array("dw", 5, 3), "dx"), Array("dy", 2), Array("w", 2, 3), Array("x", 3))
    with pytest.raises(ValueError, match="relu_forward: x: expected n"):
        ops.relu_forward("y", Array("x", 3, 4))
    with pytest.raises(ValueError, match="matmul_forward: w: expected k"):
        ops.matmul_forward("y", Array("w", 2), Array("x", 4))
    with pytest.raises(ValueError, match="relu_backward: accumulate: expected 1"):
        ops.relu_backward("dx", Array("dy", 3), Array("y", 3), accumulate=(True, False))
    with pytest.raises(ValueError, match="longer"):
        ops.relu_forward(("a", "b"), Array("x", 3))
    ops = Program()
    ops.relu_forward("y", Array("x", 3))
    with pytest.raises(ValueError, match="y: expected"):
        ops.relu_forward("y", Array("z", 4))
    with pytest.raises(AttributeError, match="matmul_forwards"):
        ops.matmul_forwards("y")
