"""microgpt.kernels once for every instruction set that this machine can run."""

import importlib
import sys

import pytest

import microgpt.kernels

PARTS = "kernels", "kernels.compiled", "kernels.table", "kernels.checks"


def load_kernels(isa):
    """A second copy of the package microgpt.kernels, for one instruction set; None if this machine has it not."""
    before = {name: sys.modules.pop(name) for part in PARTS if (name := f"microgpt.{part}") in sys.modules}
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
            microgpt.kernels = before["microgpt.kernels"]


def compiled(isa):
    """The compiled module itself: its `lib` and `ffi`."""
    return importlib.import_module(f"microgpt._kernels_{isa}")


KERNELS = {isa: module for isa in ("scalar", "neon", "avx2", "avx512") if (module := load_kernels(isa))}
