"""Build the compiled kernels, one cffi (API mode) module for each instruction set: microgpt._kernels_<isa>.

pip calls the classes below.  `python build_ffi.py` compiles in place, for those who change the C.

pyproject.toml says what is compiled; this file says what of it Python may call and for which processors it is built.
All modules come from the same sources and give the same bits; microgpt/kernels/compiled.py picks one on import.
"""

import copy
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(
        f"microgpt: expected setuptools 77 or newer, found {setuptools.__version__}: pip install 'setuptools>=77'"
    )

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


INSTALL = (
    "install gcc 12 or newer, or clang, and Python's headers (Debian, Ubuntu: apt install gcc libc6-dev python3-dev; "
    "Fedora: dnf install gcc python3-devel; macOS: xcode-select --install)"
)


def macros(compiler, header):
    """What the compiler predefines, by name, after it has read a header; None when it cannot."""
    folders = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    command = [*compiler, "-E", "-dM", "-x", "c", *folders, "-"]
    process = subprocess.run(command, check=False, input=f"#include <{header}>\n", capture_output=True, text=True)
    return dict(re.findall(r"^#define (\w+) (.*)$", process.stdout, re.MULTILINE)) if process.returncode == 0 else None


def obstacle():
    """One line on why the kernels cannot be compiled here and what to do, or None."""
    if sys.platform == "win32":
        return "the kernels need Linux or macOS, found Windows: install microgpt in WSL, where it runs as on Linux"
    if sys.maxsize < 2**32:
        return f"the kernels need 64-bit Python, found a 32-bit one ({MACHINE})"
    if sys.byteorder != "little":
        return f"the kernels need a little-endian processor, found a big-endian one ({MACHINE})"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    named = f"{compiler[0]} (from the variable CC)" if os.environ.get("CC") else compiler[0]
    if not shutil.which(compiler[0]):
        return f"there is no C compiler: {named} is not found; {INSTALL}"
    found = macros(compiler, "math.h")
    if found is None:
        return f"{named} does not work, or the C library's headers are missing; {INSTALL}"
    if "__clang__" not in found and int(found.get("__GNUC__", 0)) < 12:
        version = found.get("__VERSION__", "another compiler").strip('"')
        return (
            f"the kernels need gcc 12 or newer, or clang, found {named} {version}: install one and set CC to its name"
        )
    if macros(compiler, "Python.h") is None:
        return f"Python.h is not in {sysconfig.get_path('include')}; {INSTALL}"
    return None


class BuildExt(build_ext):
    """Compile the one extension of pyproject.toml once per instruction set, with cffi's wrapper beside the kernels."""

    def finalize_options(self):
        # before anything is copied or compiled; a source distribution and its metadata need no compiler
        if not {"sdist", "egg_info", "dist_info"} & set(self.distribution.commands) and (message := obstacle()):
            raise SystemExit(f"microgpt: {message}")
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
        self.parallel = self.parallel or os.cpu_count()  # the extensions, side by side

    def run(self):
        print(f"compiling the kernels for {', '.join(FLAGS)}: about half a minute", file=sys.stderr, flush=True)
        super().run()

    def build_extension(self, extension):
        one = copy.copy(self)  # with a folder for its objects, which must not be taken for those of another
        one.build_temp = str(Path(self.build_temp) / extension.name)
        wrapper = Path(one.build_temp) / f"{extension.name}.c"
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        make_ffibuilder(extension.name).emit_c_code(str(wrapper))
        extension.sources.append(str(wrapper))
        super(BuildExt, one).build_extension(extension)


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


if __name__ == "__main__":
    os.chdir(ROOT)
    setuptools.setup(script_args=["-q", "build_ext", "--inplace"])
