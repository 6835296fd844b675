"""Fixtures of the kernel tests: microgpt.kernels once for every instruction set this machine can run."""

import functools
import importlib
import os
import signal
import sys

import numpy as np
import pytest

import microgpt.kernels

# A script's background processes ignore SIGINT, and nohup's SIGHUP, and so would every process that a test starts and
# then waits for: give these signals back to them.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

os.environ.pop("PYTHONUNBUFFERED", None)  # or else no process would show what is written too late

PARTS = ["c", "table", "arguments", "kernels"]  # what of the package depends on the instruction set


def load_kernels(isa):
    """A second copy of the module microgpt.kernels, for one instruction set; None if this machine has it not."""
    names = [f"microgpt.{part}" for part in PARTS]
    before = {name: sys.modules.pop(name) for name in names}
    for part in PARTS:
        delattr(microgpt, part)  # or else `from . import c` would find the old one
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROGPT_ISA", isa)
        try:
            module = importlib.import_module("microgpt.kernels")
            assert isa == module.ISA
            return module
        except ImportError:
            return None
        finally:
            sys.modules.update(before)
            for part in PARTS:
                setattr(microgpt, part, before[f"microgpt.{part}"])


def compiled(isa):
    """The compiled module itself: its `lib` and `ffi`."""
    return importlib.import_module(f"microgpt._kernels_{isa}")


KERNELS = {isa: module for isa in ("scalar", "neon", "avx2", "avx512") if (module := load_kernels(isa))}


@pytest.fixture(params=KERNELS, scope="session")
def kernels(request):
    return KERNELS[request.param]


@pytest.fixture(params=["float32", "float64"], scope="session")
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def trained(tmp_path):
    """trained(documents, n_layer=2, ...): a tiny Model after some steps."""
    import helpers

    return functools.partial(helpers.trained, tmp_path)
