"""The kernels run side by side: without the GIL, and with the bytes that one thread gives."""

import ctypes
import os
import platform
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import ROOT
from kernel_cases import NAMES, arguments, call, outs, same_bits

from microgpt import kernels

THREADS, CALLS = 8, 50


WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture
def eager_switching():
    """Make Python change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_from_eight_threads(name, dtype, eager_switching):
    """Eight threads calling a kernel on shared inputs, each with outputs of its own, get the serial bytes."""
    case = arguments(kernels, name, dtype, 33, 24)
    expected = call(kernels, name, case)
    start = threading.Barrier(THREADS)

    def work(_):
        out = outs(kernels, name, case)
        start.wait()
        return all(same_bits(call(kernels, name, case, out=out), expected) for _ in range(CALLS))

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(THREADS)))


def test_the_gil_is_released():
    """While one thread is inside a kernel, another goes on: it never waits for as long as the call takes."""
    w, x, y = (np.ones((1500, 1500), order="F") for _ in range(3))
    kernels.matmul_forward(w[:, :9], w[:9])  # load the code
    took = []

    def long_call():
        begin = time.perf_counter()
        kernels.matmul_forward(w, x, out=y)
        took.append(time.perf_counter() - begin)

    thread = threading.Thread(target=long_call)
    thread.start()
    longest, last = 0.0, time.perf_counter()
    while thread.is_alive():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    assert longest < took[0] / 2


def test_one_output_in_many_threads(eager_switching):
    """Threads that write the same output may leave any numbers in it, but do no harm."""
    case = arguments(kernels, "matmul_backward", np.float64, 33, 24)
    out = outs(kernels, "matmul_backward", case)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: kernels.matmul_backward(**case, out=out), range(200)))
    assert same_bits(call(kernels, "matmul_backward", case, out=out), call(kernels, "matmul_backward", case))


@pytest.mark.parametrize("good", [True, False])
def test_a_call_lets_go_of_its_arrays(good):
    """A call holds its arrays no longer than it takes, whether it is refused or not."""
    x, y = np.ones((2, 2), order="F"), np.ones((2, 2) if good else (2, 3), order="F")
    before = sys.getrefcount(x), sys.getrefcount(y)
    for _ in range(100):
        with nullcontext() if good else pytest.raises(ValueError, match="out: "):
            kernels.relu_forward(x, out=y)
    assert (sys.getrefcount(x), sys.getrefcount(y)) == before


# Some threads give x now this shape, now that, which frees what held the other; views take its place in memory.
CHANGING = """
import sys, threading, time
import numpy as np
from microgpt import kernels

n, end, refused = 2048, time.monotonic() + 3, []
x, y = np.zeros((1, n), order="F"), np.ones((n, n), order="F")

def change():
    while time.monotonic() < end:
        for shape in (n, 1), (1, n):
            x.shape = shape
            views = y[:], y[:]
            del views

def call():
    while time.monotonic() < end:
        try:
            kernels.relu_forward(x, out=y)
        except ValueError:
            refused.append(1)

sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=function) for function in [change, call] * 4]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(refused) > 100)
"""


@pytest.mark.skipif(WITHOUT_GIL, reason="needs the GIL: without it NumPy itself cannot bear this")
def test_a_shape_that_changes_meanwhile():
    """Whatever another thread does to an argument's shape, what is wrong is refused, and memory stays as it is."""
    command = [sys.executable, "-W", "ignore", "-c", CHANGING]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


@pytest.mark.skipif(not WITHOUT_GIL, reason="needs Python without the GIL")
def test_the_gil_does_not_come_back():
    """Python without the GIL stays so when the kernels are loaded, and says nothing."""
    code = "import sys; from microgpt import kernels; sys.exit(sys._is_gil_enabled())"
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


# Every kind of call in threads of ever larger stacks: what each one raised, if anything.
SMALL_STACKS = """
import threading
import numpy as np
from microgpt import kernels
from microgpt.core.trainer import Trainer
from microgpt.base.config import Config

trainer = Trainer(Config(n_embd=64, batch_size=16))
calls = {
    "common": lambda: kernels.matmul_forward(a, a),
    "careful": lambda: kernels.matmul_backward(a, a[::-1], a),
    "step": lambda: trainer.steps(1, [], ()),
}

def work():
    for name, call in calls.items():
        try:
            call()
        except RuntimeError as error:
            raised.append((kb, name, str(error)))

a = np.ones((384, 384), np.float32, order="F")
for kb in 64, 80, 96, 112, 128, 144, 160, 1024:
    raised = []
    threading.stack_size(kb * 1024)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print(kb, [name for _, name, message in raised if "KB of stack" in message])
"""


def test_small_stacks():
    """In a thread whose stack is too small for a kernel a call is an error, in a larger one not; nothing crashes."""
    command = [sys.executable, "-c", SMALL_STACKS]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    lines = result.stdout.splitlines()
    assert (result.returncode, len(lines)) == (0, 8), result.stderr
    assert lines[0] == "64 ['common', 'careful', 'step']"
    assert lines[-1] == "1024 []"


UPWARD, FLUSHED = 0x4000, 0x8040  # bits of MXCSR


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="sets x86's MXCSR by glibc")
@pytest.mark.parametrize("mode", [UPWARD, FLUSHED, UPWARD | FLUSHED])
def test_floating_point_modes(mode, dtype):
    """A thread that rounds upward or flushes subnormal numbers gets the bytes of any other, and its mode back."""
    libm = ctypes.CDLL("libm.so.6")
    mine, changed = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()  # fenv_t, whose last word is MXCSR
    small = np.full((33, 5), np.finfo(dtype).tiny / 3, dtype, "F")
    cases = [
        ("add_forward", {"a": small, "b": small}),
        *((name, arguments(kernels, name, dtype, 33, 24)) for name in NAMES),
    ]

    def results():
        return [call(kernels, name, case) for name, case in cases]

    def elsewhere():
        libm.fegetenv(mine)
        changed[:] = mine
        changed[7] |= mode
        libm.fesetenv(changed)
        found = results()
        libm.fegetenv(changed)
        libm.fesetenv(mine)
        return found, changed[7] & mode

    with ThreadPoolExecutor(1) as pool:
        found, after = pool.submit(elsewhere).result()
    assert all(same_bits(a, b) for a, b in zip(found, results(), strict=True))
    assert after == mode


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith(("matmul", "softmax", "rmsnorm", "relu", "add"))]
)
def test_one_call_by_many_threads(name, dtype):
    """A large call has the bytes of one thread by any number of them, overwriting and adding, and takes them all."""
    case = arguments(kernels, name, dtype, 520, 2600)
    expected = call(kernels, name, case)
    before = kernels.set_threads(1)
    try:
        for n in 2, 3, 5:
            kernels.set_threads(n)
            assert same_bits(call(kernels, name, case), expected)
            out = outs(kernels, name, case)
            assert same_bits(call(kernels, name, case, out=out), expected)
    finally:
        assert kernels.set_threads(before) == 5


def test_a_number_of_threads():
    """What is no number of threads is refused, and changes nothing."""
    for wrong in 0, -1, 257, 2**40, "2", None, 1.5:
        error = ValueError if isinstance(wrong, int) else TypeError
        with pytest.raises(error, match=r"^n: expected an integer.*, found "):
            kernels.set_threads(wrong)
    assert kernels.set_threads(1) == 1
