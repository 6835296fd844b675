"""The same bits from every compiler, optimisation level, instruction set and processor that can be tried here.

bits.c hashes what the kernels compute; golden/bits.txt is what it printed first.  clang, and the Arm
compiler with qemu, are tried where they are installed (Debian: clang, gcc-aarch64-linux-gnu, qemu-user).
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from builds import compiled

import microgpt
from microgpt import kernels

HERE = Path(__file__).parent
GOLDEN = (HERE.parent / "golden" / "bits.txt").read_text()
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw"]
FLAGS = {"scalar": ["-DMICROGPT_SCALAR"], "avx2": AVX2, "avx512": AVX512, "neon": []}
LEVEL = {"scalar": 0, "avx2": 1, "avx512": 2}
ARM = "aarch64-linux-gnu-gcc"


def hashes(compiler, flags, folder, sources=None, emulator=()):
    sources = sources or microgpt.get_include()
    program = folder / "bits"
    files = [HERE / "bits.c", *(Path(sources) / f"{name}.c" for name in ("f32", "f64", "common"))]
    command = [compiler, "-std=c11", *flags, "-I", sources, *files]
    command += ["-o", program, "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return subprocess.run([*emulator, program], check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(kernels.ISA == "neon", reason="this machine is an Arm")
@pytest.mark.parametrize("isa", LEVEL)
@pytest.mark.parametrize("optimise", ["-O0", "-O2"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_x86(compiler, optimise, isa, tmp_path):
    """A build by any compiler, optimised or not, for any instruction set computes the golden bits."""
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    if LEVEL[isa] > compiled("scalar").lib.microgpt_best_isa():
        pytest.skip(f"this machine has no {isa}")
    assert hashes(compiler, [optimise, "-ffp-contract=off", *FLAGS[isa]], tmp_path) == GOLDEN


@pytest.mark.parametrize(
    "part", ["-ffast-math", "-ffinite-math-only", "-funsafe-math-optimizations", "-fno-signed-zeros"]
)
def test_fast_math_is_refused(part, tmp_path):
    """gcc does not compile the kernels with fast-math or a part of it."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    with pytest.raises(subprocess.CalledProcessError) as error:
        hashes("gcc", [part], tmp_path)
    assert "exact bits" in error.value.stderr


def test_parts_of_fast_math_by_clang(tmp_path):
    """clang, which does not say that it was asked for parts of fast-math, does without them."""
    parts = ["-fassociative-math", "-freciprocal-math", "-ffp-contract=fast"]
    if not shutil.which("clang"):
        pytest.skip("clang is not installed")
    assert hashes("clang", ["-O2", *parts, *FLAGS["scalar"]], tmp_path) == GOLDEN


@pytest.mark.skipif(not shutil.which(ARM) or not shutil.which("qemu-aarch64"), reason="no Arm compiler and emulator")
@pytest.mark.parametrize("isa", ["scalar", "neon"])
def test_arm(isa, tmp_path):
    """An Arm processor computes the bits of an x86 one, with NEON and without."""
    flags = ["-O2", "-static", "-ffp-contract=off", *FLAGS[isa]]
    assert hashes(ARM, flags, tmp_path, emulator=["qemu-aarch64"]) == GOLDEN


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_the_order_of_a_sum_shows(tmp_path):
    """With other partial sums the bits are others: the tests above can fail."""
    sources = Path(shutil.copytree(microgpt.get_include(), tmp_path / "csrc"))
    header = sources / "vector.h"
    header.write_text(header.read_text().replace("LANES = 16", "LANES = 32"))
    assert hashes("gcc", ["-O0", "-DMICROGPT_SCALAR"], tmp_path, sources) != GOLDEN
