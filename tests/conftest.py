"""Fixtures of the kernel tests: microgpt.kernels once for every instruction set this machine can run."""

import importlib.util
import os
import sys

import numpy as np
import pytest

import microgpt.kernels


def load_kernels(isa):
    """A second copy of the module microgpt.kernels, for one instruction set."""
    name = f"microgpt._{isa}_kernels"
    spec = importlib.util.spec_from_file_location(name, microgpt.kernels.__file__)
    module = importlib.util.module_from_spec(spec)
    before = os.environ.get("MICROGPT_ISA")
    os.environ["MICROGPT_ISA"] = isa
    try:
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except ImportError:
        del sys.modules[name]
        return None
    finally:
        del os.environ["MICROGPT_ISA"]
        if before is not None:
            os.environ["MICROGPT_ISA"] = before
    return module


KERNELS = {isa: module for isa in ("scalar", "neon", "avx2", "avx512") if (module := load_kernels(isa))}


@pytest.fixture(params=KERNELS, scope="session")
def kernels(request):
    return KERNELS[request.param]


@pytest.fixture(params=["float32", "float64"], scope="session")
def dtype(request):
    return np.dtype(request.param)
