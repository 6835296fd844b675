"""A separate cffi project that uses microgpt's C kernels.  Run `python build.py` in the directory to build in.

The package includes the kernels' sources.  This project compiles them with its own flags; -ffp-contract=off suffices
for microgpt's bits.
"""

import os

from cffi import FFI

import microgpt

include = microgpt.get_include()

ffi = FFI()
ffi.cdef("void layer(double *p, double *y, double *work, const double *x, const double *w, int n_embd, int n_tokens);")
ffi.set_source(
    "_layer",
    """
    #include "kernels.h"

    /* y = rmsnorm(x), p = softmax(w y); work: (n_embd + 1) x n_tokens */
    static void layer(double *p, double *y, double *work, const double *x, const double *w, int n_embd, int n_tokens)
    {
        double *rstd = work, *logits = work + n_tokens;
        microgpt_rmsnorm_forward_f64(y, rstd, x, 1e-5, n_embd, n_tokens, n_embd, n_embd);
        microgpt_matmul_forward_f64(logits, w, y, n_embd, n_embd, n_tokens, n_embd, n_embd, n_embd);
        microgpt_softmax_forward_f64(p, logits, n_embd, n_tokens, n_embd, n_embd);
    }
    """,
    sources=[os.path.join(include, name) for name in ("f32.c", "f64.c", "common.c")],
    include_dirs=[include],
    extra_compile_args=["-std=c11", "-O1", "-ffp-contract=off"],
    libraries=["m"],
)

if __name__ == "__main__":
    ffi.compile()
