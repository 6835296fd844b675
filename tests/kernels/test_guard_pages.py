"""No kernel reads or writes one byte beyond its arrays.

Every array argument in turn lies flush against a page that nobody may touch: its end before one, then its beginning
after one, at every width from 1 to 64.  C is called directly, so that no argument is a copy and scratch memory is
guarded as well.  A touch ends the process by a signal, so the calls run in a process of their own.
"""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builds import KERNELS, compiled

from microgpt.kernels import compiled as c

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs mprotect")

PAGE = mmap.PAGESIZE
ROOM = 32 * PAGE  # the most bytes an array takes here
WIDTHS = range(1, 65)
PROT_NONE = 0


class Guarded:
    """Memory with a forbidden page before it and one after it."""

    def __init__(self):
        self.memory = mmap.mmap(-1, ROOM + 2 * PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + PAGE
        mprotect = ctypes.CDLL(None, use_errno=True).mprotect
        for page in (self.start - PAGE, self.start + ROOM):
            assert mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), PROT_NONE) == 0
        self.bytes = np.frombuffer(self.memory, np.uint8)[PAGE : PAGE + ROOM]

    def place(self, values, at_end):
        """The address of a copy of values, flush with the forbidden page after it or before it."""
        n = values.nbytes
        assert n <= ROOM
        begin = ROOM - n if at_end else 0
        self.bytes[begin : begin + n] = values.reshape(-1).view(np.uint8)
        return self.start + begin


def calls(width):
    """(kernel, the lengths of its arrays or their values, the sizes that follow), for matrices of this width."""
    m, few = width, 3
    for k, n in ((5, few), (few, 17)):
        for a, b, d in ((m, k, n), (k, m, n), (k, n, m)):
            yield "matmul_forward", [a * d, a * b, b * d], [a, b, d, a, a, b]
            yield "matmul_backward", [a * b, b * d, a * d, a * b, b * d], [a, b, d, a, b, a, a, b]
    for n in (1, few):
        yield "softmax_forward", [m * n] * 2, [m, n, m, m]
        yield "softmax_backward", [m * n] * 3, [m, n, m, m, m]
        yield "rmsnorm_forward", [m * n, n, m * n], [1e-5, m, n, m, m]
        yield "rmsnorm_backward", [m * n, m * n, m * n, n], [m, n, m, m, m]
    for kernel, arrays in (("relu_forward", 2), ("relu_backward", 3), ("add_forward", 3), ("add_backward", 3)):
        yield kernel, [m] * arrays, [m]
    for a, n in ((m, few), (few, m)):
        last = np.full(n, 1, np.int32)  # the last column of tables of two
        yield "embedding_forward", [a * n, 2 * a, 2 * a, last, last], [a, n]
        yield "embedding_backward", [2 * a, 2 * a, a * n, last, last], [a, 2, 2, n]
        target = np.full(n, a - 1, np.int32)
        yield "cross_entropy_forward", [n, a * n, 1, a * n, target, n], [a, n]
        yield "cross_entropy_backward", [a * n, a * n, target, n], [a, n]
    for n_embd, n_head, n in ((m, 1, few), (4, 2, m), (6, 3, m)):
        size = n_embd * n
        for length in {1, 2, 7, n}:  # of the documents
            position = np.arange(n, dtype=np.int32) % length
            block = min(length, n)
            rows = c.attention_rows(n)
            probs = rows * n_head * block
            sizes = [n_embd, n_head, block, n]
            yield "attention_forward", [size, probs, rows * 4 * n_embd, size, size, size, position], sizes
            work = rows * (7 * n_embd + block)
            arrays = [size, size, size, work, size, probs, size, size, size, position]
            yield "attention_backward", arrays, sizes
        for past in (0, 4):
            position, block = np.full(n, past, np.int32), past + 1
            rows = c.token_rows(n)
            cache = rows * n_embd * block
            sizes = [n_embd, n_head, block, n]
            arrays = [size, rows * n_head * block, cache, cache, 2 * rows * n_embd, size, size, size, position]
            yield "attention_cached", arrays, sizes
    yield "attention_cached", [0] * 8 + [np.zeros(0, np.int32)], [m, 1, 1, 0]
    yield "adam", [m] * 4, [0.01, 0.9, 0.99, 1e-8, 0.1, 0.01, m]


def run(isa):
    """All calls of one instruction set; prints how many arrays were placed."""
    lib, ffi = compiled(isa).lib, compiled(isa).ffi
    guards = [Guarded() for _ in range(10)]
    numbers = np.abs(np.random.default_rng(0).standard_normal(ROOM // 8))
    placed = 0
    for c_type, dtype, suffix in (("double *", np.float64, "_f64"), ("float *", np.float32, "_f32")):
        some = numbers.astype(dtype)
        for width in WIDTHS:
            for name, arrays, sizes in calls(width):
                kernel = getattr(lib, f"microgpt_{name}{suffix}")
                choices = [[0], [-1]] if name.endswith("_backward") else [[]]  # to overwrite and to accumulate
                values = [some[:a] if isinstance(a, int) else a for a in arrays]
                types = [c_type if isinstance(a, int) else "int32_t *" for a in arrays]
                for at_end in (True, False):
                    places = [guard.place(value, at_end) for guard, value in zip(guards, values)]
                    for accumulate in choices:
                        kernel(*(ffi.cast(t, place) for t, place in zip(types, places)), *sizes, *accumulate)
                        placed += len(values)
    print(placed)


def in_a_process(code):
    path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )


@pytest.mark.parametrize("isa", KERNELS)
def test_guard_pages(isa):
    """Every array of every kernel, both precisions, at 64 widths and both its ends: no fault."""
    result = in_a_process(f"import test_guard_pages; test_guard_pages.run({isa!r})")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 10_000


@pytest.mark.parametrize("beyond", [-8, 8])
def test_the_guards_bite(beyond):
    """One number beyond either end is a fault: the test above could fail."""
    code = f"""
import ctypes, numpy, test_guard_pages
guard = test_guard_pages.Guarded()
address = guard.place(numpy.zeros(1), {beyond > 0}) + {beyond}
print(ctypes.c_double.from_address(guard.place(numpy.zeros(1), {beyond > 0})).value, flush=True)
print(ctypes.c_double.from_address(address).value)
"""
    result = in_a_process(code)
    assert result.stdout == "0.0\n"
    assert result.returncode in (-signal.SIGSEGV, -signal.SIGBUS)
