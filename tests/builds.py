"""microgpt.kernels once for every instruction set that this machine can run."""

import importlib
import sys

import pytest

import microgpt.kernels

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
