"""Build the compiled kernels, one cffi (API mode) module for each instruction set: microgpt._kernels_<isa>.

pyproject.toml says what is compiled; this file says what of it Python may call and for which processors it is built.
All modules come from the same sources and give the same bits; microgpt/c.py picks one when it is imported.
"""

import copy
import os
import platform
import re
import shutil
from pathlib import Path

from cffi import FFI
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

CSRC = Path(__file__).resolve().parent / "csrc"
HEADERS = "kernels.h", "program.h", "call.h"

AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw"]
X86 = {"scalar": ["-DMICROGPT_SCALAR"], "avx2": AVX2, "avx512": AVX512}
ARM = {"scalar": ["-DMICROGPT_SCALAR"], "neon": []}
FLAGS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}.get(
    platform.machine().lower(), {"scalar": ["-DMICROGPT_SCALAR"]}
)


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
        extensions = self.distribution.ext_modules
        if [extension.name for extension in extensions] == ["microgpt._kernels"]:
            extra = os.environ.get("MICROGPT_CFLAGS", "").split()  # for sanitizers and coverage
            self.distribution.ext_modules = []
            for isa, flags in FLAGS.items():
                variant = copy.deepcopy(extensions[0])
                variant.name = f"microgpt._kernels_{isa}"
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
    """Put the C sources into the installed package too, for those who compile them (see microgpt.get_include)."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copytree(CSRC, Path(self.build_lib) / "microgpt" / "csrc", dirs_exist_ok=True)
