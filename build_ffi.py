"""Build the compiled kernels, one cffi (API mode) module for each instruction set: microgpt._kernels_<isa>.

pyproject.toml says what is compiled; this file says what of it Python may call and for which processors it is built.
All modules come from the same sources and give the same bits; kernels/compiled.py picks one when it is imported.
"""

import copy
import os
import platform
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from cffi import FFI
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
HEADERS = "kernels.h", "program.h", "call.h"

AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw"]
X86 = {"scalar": ["-DMICROGPT_SCALAR"], "avx2": AVX2, "avx512": AVX512}
ARM = {"scalar": ["-DMICROGPT_SCALAR"], "neon": []}
MACHINE = sysconfig.get_platform().rpartition("-")[2]  # for which is compiled, here or elsewhere
if MACHINE == "universal2":  # macOS: one file for two processors, which no flags fit; so for this one alone
    MACHINE = platform.machine()
    os.environ.setdefault("ARCHFLAGS", f"-arch {MACHINE}")
FLAGS = {"x86_64": X86, "aarch64": ARM, "arm64": ARM}.get(MACHINE, {"scalar": ["-DMICROGPT_SCALAR"]})

# One build serves Python 3.11 and all later ones, but not those without the GIL, which have another ABI.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")


def declarations(header):
    """The header for cffi, which has no preprocessor: without the lines that begin with #, and what is C++'s alone."""
    text = re.sub(r"#ifdef __cplusplus\n.*?#endif\n", "", (CSRC / header).read_text(), flags=re.DOTALL)
    return re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)


def make_ffibuilder(name):
    ffibuilder = FFI()
    ffibuilder.cdef("\n".join(map(declarations, HEADERS)))
    ffibuilder.set_source(name, "\n".join(f'#include "{header}"' for header in HEADERS))
    return ffibuilder


class BuildExt(build_ext):
    """Compile the one extension of pyproject.toml once per instruction set, with cffi's wrapper beside the kernels."""

    def finalize_options(self):
        if sys.platform == "win32":
            raise SystemExit(
                "microgpt: expected Linux or macOS, or WSL: the kernels need gcc or clang, and POSIX threads"
            )
        extensions = self.distribution.ext_modules
        if [extension.name for extension in extensions] == ["microgpt._kernels"]:
            extra = os.environ.get("MICROGPT_CFLAGS", "").split()  # for sanitizers and coverage
            self.distribution.ext_modules = []
            for isa, flags in FLAGS.items():
                variant = copy.deepcopy(extensions[0])
                variant.name = f"microgpt._kernels_{isa}"
                if STABLE_ABI:
                    variant.py_limited_api = True  # which its file's name says
                    variant.define_macros.append(("Py_LIMITED_API", "0x030b0000"))
                variant.extra_compile_args += flags + extra
                variant.extra_link_args += [flag for flag in extra if flag.startswith(("-fsanitize", "--coverage"))]
                self.distribution.ext_modules.append(variant)
        super().finalize_options()

    def build_extension(self, extension):
        # the objects of one variant must not be taken for another's
        build_temp = self.build_temp
        self.build_temp = str(Path(build_temp) / extension.name)
        wrapper = Path(self.build_temp) / f"{extension.name}.c"
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        make_ffibuilder(extension.name).emit_c_code(str(wrapper))
        extension.sources.append(str(wrapper))
        super().build_extension(extension)
        self.build_temp = build_temp


class BuildPy(build_py):
    """Put into the installed package what a checkout has beside it: see microgpt.beside."""

    def run(self):
        super().run()
        if not self.editable_mode:
            package = Path(self.build_lib) / "microgpt"
            shutil.copytree(CSRC, package / "csrc", dirs_exist_ok=True)
            shutil.copy(ROOT / "input.txt", package)


class BdistWheel(bdist_wheel):
    """Tag the wheel with the ABI that its modules are compiled for."""

    def finalize_options(self):
        self.py_limited_api = STABLE_ABI and "cp311"
        super().finalize_options()
