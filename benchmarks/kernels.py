"""Measure the overhead of kernel calls, and softmax and rmsnorm against NumPy: python benchmarks/kernels.py

Prints three Markdown tables.  Every figure is the best of many repetitions, measured in turns, on one thread.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import timeit
from importlib import import_module

import numpy as np

from microgpt import kernels

RNG = np.random.default_rng(0)
C = import_module(f"microgpt._kernels_{kernels.ISA}")  # the compiled module itself


def best(functions, number, repeat):
    """{name: shortest time of one call in seconds} of several functions, run in turns."""
    times = dict.fromkeys(functions, float("inf"))
    for _ in range(repeat):
        for name, function in functions.items():
            times[name] = min(times[name], timeit.timeit(function, number=number) / number)
    return times


def matrix(m, n, dtype):
    return np.asfortranarray(RNG.standard_normal((m, n)).astype(dtype))


def pointer(a):
    return C.ffi.from_buffer(f"{'float' if a.dtype == np.float32 else 'double'}[]", a.T)


def overhead():
    print("| matmul, `out=` given | bare C call | checked call | the checks | np.matmul |")
    print("|---|---|---|---|---|")
    for dtype in (np.float32, np.float64):
        for n in (4, 8, 16, 32, 64):
            w, x, y = matrix(n, n, dtype), matrix(n, n, dtype), matrix(n, n, dtype)
            bare = C.lib.microgpt_matmul_forward_f32 if dtype == np.float32 else C.lib.microgpt_matmul_forward_f64
            arguments = (*map(pointer, (y, w, x)), n, n, n, n, n, n)
            times = best(
                {
                    "bare": lambda: bare(*arguments),
                    "checked": lambda: kernels.matmul_forward(w, x, out=y),
                    "numpy": lambda: np.matmul(w, x, out=y),
                },
                number=500,
                repeat=100,
            )
            us = {name: 1e6 * time for name, time in times.items()}
            print(
                f"| {n} x {n} {np.dtype(dtype)} | {us['bare']:.2f} µs | {us['checked']:.2f} µs"
                f" | {us['checked'] - us['bare']:.2f} µs | {us['numpy']:.2f} µs |"
            )


def every_call():
    print("| a checked call on 16 x 16 float64, `out=` given | bare C call | checked call | the checks |")
    print("|---|---|---|---|")
    n, lib = 16, C.lib
    a, b, c, d, e = (matrix(n, n, np.float64) for _ in range(5))
    rstd = np.ones(n)
    pa, pb, pc, pd, pe, prstd = map(pointer, (a, b, c, d, e, rstd))
    rows = {
        "softmax_forward": (
            lambda: lib.microgpt_softmax_forward_f64(pc, pa, n, n, n, n),
            lambda: kernels.softmax_forward(a, out=c),
        ),
        "softmax_backward": (
            lambda: lib.microgpt_softmax_backward_f64(pc, pa, pb, n, n, n, n, n, -1),
            lambda: kernels.softmax_backward(a, b, out=c, accumulate=True),
        ),
        "rmsnorm_forward": (
            lambda: lib.microgpt_rmsnorm_forward_f64(pc, prstd, pa, 1e-5, n, n, n, n),
            lambda: kernels.rmsnorm_forward(a, out=(c, rstd)),
        ),
        "rmsnorm_backward": (
            lambda: lib.microgpt_rmsnorm_backward_f64(pc, pa, pb, prstd, n, n, n, n, n, -1),
            lambda: kernels.rmsnorm_backward(a, b, rstd, out=c, accumulate=True),
        ),
        "relu_forward": (lambda: lib.microgpt_relu_forward_f64(pc, pa, n * n), lambda: kernels.relu_forward(a, out=c)),
        "matmul_backward": (
            lambda: lib.microgpt_matmul_backward_f64(pc, pd, pa, pb, pe, n, n, n, n, n, n, n, n, -1),
            lambda: kernels.matmul_backward(a, b, e, out=(c, d), accumulate=True),
        ),
    }
    for name, (bare, checked) in rows.items():
        times = best({"bare": bare, "checked": checked}, number=500, repeat=60)
        us = {key: 1e6 * time for key, time in times.items()}
        print(f"| {name} | {us['bare']:.2f} µs | {us['checked']:.2f} µs | {us['checked'] - us['bare']:.2f} µs |")


def numpy_softmax_forward(x):
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


def numpy_softmax_backward(dp, p):
    return p * (dp - (dp * p).sum(axis=0))


def numpy_rmsnorm_forward(x):
    rstd = 1 / np.sqrt((x * x).mean(axis=0) + np.float32(1e-5))
    return x * rstd, rstd


def numpy_rmsnorm_backward(dy, y, rstd):
    return rstd * (dy - y * (dy * y).mean(axis=0))


def columns():
    m, n = 64, 1024
    x, d = matrix(m, n, np.float32), matrix(m, n, np.float32)
    p = kernels.softmax_forward(x)
    y, rstd = kernels.rmsnorm_forward(x)
    rows = {
        "softmax_forward": (kernels.softmax_forward, numpy_softmax_forward, (x,)),
        "softmax_backward": (kernels.softmax_backward, numpy_softmax_backward, (d, p)),
        "rmsnorm_forward": (kernels.rmsnorm_forward, numpy_rmsnorm_forward, (x,)),
        "rmsnorm_backward": (kernels.rmsnorm_backward, numpy_rmsnorm_backward, (d, y, rstd)),
    }
    print(f"| {m} x {n} float32, result in a new array | microgpt | NumPy, same arrays | NumPy, row-major arrays |")
    print("|---|---|---|---|")
    for name, (ours, numpys, arrays) in rows.items():
        for a, b in zip(as_tuple(ours(*arrays)), as_tuple(numpys(*arrays))):
            assert np.allclose(a, b, rtol=1e-4, atol=1e-5)
        row_major = [a.copy("C") for a in arrays]
        times = best(
            {
                "ours": lambda: ours(*arrays),
                "same": lambda: numpys(*arrays),
                "row-major": lambda: numpys(*row_major),
            },
            number=50,
            repeat=40,
        )
        us = {key: 1e6 * time for key, time in times.items()}
        ratios = [f"{us[key]:.0f} µs ({us[key] / us['ours']:.1f} times)" for key in ("same", "row-major")]
        print(f"| {name} | {us['ours']:.0f} µs | {' | '.join(ratios)} |")


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


if __name__ == "__main__":
    print(f"NumPy {np.__version__}, instruction set {kernels.ISA}\n")
    overhead()
    print()
    every_call()
    print()
    columns()
