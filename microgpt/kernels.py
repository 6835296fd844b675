"""The C kernels as NumPy functions; the only importer of the compiled modules.

Every instruction set has a module of its own, and all of them give the same bits.  MICROGPT_ISA forces one
(scalar, avx2, avx512, or neon on Arm); unset, the best this machine can run is taken.
"""

import os
from importlib import import_module, util

from . import _kernels_scalar


def _choose_isa():
    best = _kernels_scalar.lib.best_isa()
    order = [("scalar", 0), ("neon", 1), ("avx2", 1), ("avx512", 2)]
    runnable = [isa for isa, level in order if level <= best and util.find_spec(f"{__package__}._kernels_{isa}")]
    forced = os.environ.get("MICROGPT_ISA", "")
    if not forced:
        return runnable[-1]
    if forced not in runnable:
        raise ImportError(f"MICROGPT_ISA: expected one of {', '.join(runnable)} on this machine, found {forced!r}")
    return forced


ISA = _choose_isa()
_module = import_module(f"._kernels_{ISA}", __package__)
lib, ffi = _module.lib, _module.ffi
