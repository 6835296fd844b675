"""Recorded programs: what a backward call does to the gradients that were said to be zero, and to the others."""

import itertools

import numpy as np
import pytest

from microgpt import kernels
from microgpt.program import Program

N_EMBD, N_HEAD, BLOCK, TOKENS = 8, 2, 5, 12


class Recorded:
    """A program over arrays of random numbers, with columns for two documents."""

    def __init__(self, dtype):
        self.program = Program(dtype, TOKENS)
        self.rng = np.random.default_rng(0)
        self.token, self.target = (self.rng.integers(0, 4, TOKENS, np.int32) for _ in range(2))
        self.position = np.array([*range(5), *range(5), *range(2)], np.int32)
        self.weight = self.rng.random(TOKENS).astype(dtype)

    def array(self, name, rows):
        array = self.program.array(name, rows)
        array[:] = self.rng.standard_normal(array.shape)
        return array

    def run(self):
        self.program.compile(self.token, self.position, self.target, self.weight)(0, TOKENS)


def matmul(r, k):
    w, dw = (np.asfortranarray(r.rng.standard_normal((6, N_EMBD)).astype(k.dtype)) for _ in range(2))
    dx, dy, x = r.array("dx", N_EMBD), r.array("dy", 6), r.array("x", N_EMBD)
    return [dw, dx], lambda: k.matmul_backward(dw, dx, dy, w, x)


def rmsnorm(r, k):
    k.rmsnorm_forward("y", r.array("x", N_EMBD))
    dx, dy = r.array("dx", N_EMBD), r.array("dy", N_EMBD)
    return [dx], lambda: k.rmsnorm_backward(dx, dy, "y")


def relu(r, k):
    dx, dy, y = (r.array(name, N_EMBD) for name in ("dx", "dy", "y"))
    return [dx], lambda: k.relu_backward(dx, dy, y)


def attention(r, k):
    dq, dk, dv, dout, q, key, v = (r.array(name, N_EMBD) for name in ("dq", "dk", "dv", "dout", "q", "k", "v"))
    k.attention_forward("attn", q, key, v, N_HEAD, BLOCK)
    return [dq, dk, dv], lambda: k.attention_backward(dq, dk, dv, dout, "attn", q, key, v, N_HEAD, BLOCK)


def cross_entropy(r, k):
    probs = k.cross_entropy_forward("probs", r.array("logits", N_EMBD))
    dlogits = r.array("dlogits", N_EMBD)
    return [dlogits], lambda: k.cross_entropy_backward(dlogits, probs)


def embedding(r, k):
    dwte, dwpe = (np.asfortranarray(r.rng.standard_normal((N_EMBD, 5)).astype(k.dtype)) for _ in range(2))
    dx = r.array("dx", N_EMBD)
    return [dwte, dwpe], lambda: k.embedding_backward(dwte, dwpe, dx)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("record", [matmul, rmsnorm, relu, attention, cross_entropy, embedding])
def test_zero_or_added_to(record, dtype):
    """Whichever of a call's gradients were said to be zero start from 0, and the others from what they hold."""
    eps = np.finfo(dtype).eps
    for chosen in itertools.product([False, True], repeat=3):
        r = Recorded(dtype)
        gradients, call = record(r, r.program)
        before = [gradient.copy() for gradient in gradients]
        for gradient, zero in zip(gradients, chosen):
            if zero:
                r.program.zero(gradient)
        call()
        r.run()
        reference = Recorded(dtype)
        alone, call = record(reference, reference.program)
        for gradient in alone:
            gradient.fill(0)
        call()
        reference.run()
        for found, start, gradient, zero in zip(gradients, before, alone, chosen):
            columns = slice(None, TOKENS)
            expected = gradient[:, columns] if zero else start[:, columns] + gradient[:, columns]
            np.testing.assert_allclose(found[:, columns], expected, rtol=0, atol=100 * eps * (1 + abs(expected).max()))


def test_more_columns_than_tokens():
    """A program has room for as many columns as its kernels need, which is more than its tokens."""
    for n in (1, 15, 16, 255, 256, 257, 10_000):
        program = Program("float32", n)
        assert program.max_tokens == n and program.array("x", 3).shape == (3, kernels.lib.attention_rows(n))
        assert program.columns >= max(n, kernels.lib.token_rows(n))
