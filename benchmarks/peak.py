"""Measure the peak of one core: a loop of only fused multiply-adds, compiled for the processor it runs on.

Results are in operations per time; a multiply-add counts as two operations.
"""

import importlib.util
import tempfile
import time
from functools import cache
from pathlib import Path

from cffi import FFI

SOURCE = """
typedef REAL vec_NAME __attribute__((vector_size(BYTES)));
double peak_NAME(int n)
{
    vec_NAME x[CHAINS], a = {0}, b = {0};
    a = a + (REAL)0.999, b = b + (REAL)0.001;
    for (int c = 0; c < CHAINS; c++)
        x[c] = a * (REAL)c;
    for (int i = 0; i < n; i++)
        for (int c = 0; c < CHAINS; c++)
            x[c] = x[c] * a + b; /* a single instruction with -ffp-contract=fast */
    vec_NAME sum = x[0];
    for (int c = 1; c < CHAINS; c++)
        sum += x[c];
    volatile REAL keep = sum[0];
    (void)keep;
    return 2.0 * n * CHAINS * (BYTES / sizeof(REAL));
}
"""


@cache
def _library():
    head = """
#if defined(__AVX512F__)
#define BYTES 64
#define CHAINS 16
#elif defined(__AVX__)
#define BYTES 32
#define CHAINS 12
#else
#define BYTES 16
#define CHAINS 16
#endif
"""
    body = "".join(
        SOURCE.replace("REAL", c).replace("NAME", n) for c, n in (("float", "float32"), ("double", "float64"))
    )
    builder = FFI()
    builder.cdef("double peak_float32(int n); double peak_float64(int n);")
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-funroll-loops"]
    builder.set_source("_microgpt_peak", head + body, extra_compile_args=flags)
    with tempfile.TemporaryDirectory() as folder:
        path = builder.compile(tmpdir=folder)
        spec = importlib.util.spec_from_file_location("_microgpt_peak", Path(path))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.lib


def peak(dtype, count=3_000_000):
    """Floating-point operations per microsecond, measured over about ten milliseconds."""
    loop = getattr(_library(), f"peak_{dtype}")
    start = time.perf_counter()
    operations = loop(count)
    return operations / (time.perf_counter() - start) / 1e6
