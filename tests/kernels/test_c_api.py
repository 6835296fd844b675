"""The kernels from C: a cffi project and a C program compile them from microgpt.get_include() and call them."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builds import KERNELS, compiled

import microgpt
from microgpt import kernels

HERE = Path(__file__).parent / "c_api"
SOURCES = "f32.c", "f64.c", "common.c"
CC = shutil.which(os.environ.get("CC", "cc"))
CXX = shutil.which(os.environ.get("CXX", "c++"))

pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler")


def run(*command, cwd):
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_get_include():
    """get_include() names a directory with the header and the sources, and the header declares every kernel."""
    include = Path(microgpt.get_include())
    header = (include / "kernels.h").read_text()
    assert all((include / name).is_file() for name in SOURCES)
    declared = set(re.findall(r"^(?:void|int) (\w+)\(", header, re.MULTILINE))
    assert declared == {
        name for name in dir(compiled("scalar").lib) if name.endswith(("_f32", "_f64")) and "replay" not in name
    }


def test_cffi_project(tmp_path):
    """A cffi module that includes the header and compiles the sources itself gives microgpt's bits."""
    run(sys.executable, HERE / "build.py", cwd=tmp_path)
    spec = importlib.util.spec_from_file_location("_layer", next(tmp_path.glob("_layer*.so")))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(0)
    w, x = (np.asfortranarray(rng.standard_normal((m, n))) for m, n in ((17, 17), (17, 5)))
    normed, _ = kernels.rmsnorm_forward(x)
    expected = kernels.softmax_forward(kernels.matmul_forward(w, normed))
    p, y, work = np.empty_like(x), np.empty_like(x), np.empty(18 * 5)
    module.lib.layer(*(module.ffi.from_buffer("double[]", a.T) for a in (p, y, work, x, w)), 17, 5)
    assert p.tobytes() == expected.tobytes() and y.tobytes() == normed.tobytes()


def test_accumulate_is_a_bit_for_each_gradient():
    """In every backward kernel a gradient is added to when its own bit of `accumulate` is set, and only then."""
    lib, ffi = compiled("scalar").lib, compiled("scalar").ffi
    one, start = np.ones(1), 10.0
    p = lambda a: ffi.from_buffer("double[]", a)  # noqa: E731
    token = ffi.new("int32_t[]", [0])
    cases = {
        "relu": (1, [one, one], [1]),
        "add": (2, [one], [1]),
        "softmax": (1, [one, one], [1, 1, 1, 1, 1]),
        "rmsnorm": (1, [one, one, one], [1, 1, 1, 1, 1]),
        "matmul": (2, [one, one, one], [1, 1, 1, 1, 1, 1, 1, 1]),
        "cross_entropy": (1, [one, token, one], [1, 1]),
        "embedding": (2, [one, token, token], [1, 1, 1, 1]),
    }
    for name, (n_gradients, inputs, sizes) in cases.items():
        results = {}
        for accumulate in range(8):
            gradients = [np.full(1, start) for _ in range(n_gradients)]
            arrays = [p(a) if isinstance(a, np.ndarray) else a for a in (*gradients, *inputs)]
            getattr(lib, f"microgpt_{name}_backward_f64")(*arrays, *sizes, accumulate)
            results[accumulate] = [gradient[0] for gradient in gradients]
        for accumulate, found in results.items():
            expected = [x + start * (accumulate >> i & 1) for i, x in enumerate(results[0])]
            assert found == expected, (name, accumulate)


def test_c_program(tmp_path):
    """A C program that links the kernels prints the numbers, exactly, that Python gets."""
    include = microgpt.get_include()
    flags = ["-std=c11", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
    run(
        CC, *flags, HERE / "program.c", *(f"{include}/{name}" for name in SOURCES), "-lm", "-o", "program", cwd=tmp_path
    )
    found = [float.fromhex(line) for line in run(tmp_path / "program", cwd=tmp_path).split()]
    w, x, dy = (
        np.array([[1, 4], [2, 5], [3, 6]], "f4"),
        np.array([[0.1], [0.2]], "f4"),
        np.array([[1], [-1], [2]], "f4"),
    )
    dw, _ = kernels.matmul_backward(dy, w, x)
    assert found == [*kernels.matmul_forward(w, x)[:, 0], *dw.ravel("F")]


@pytest.mark.skipif(CC is None or kernels.ISA not in ("avx2", "avx512"), reason="needs a compiler, and AVX2")
@pytest.mark.parametrize("flags", [[], ["-mavx2", "-mfma"], ["-march=native"], ["-std=c11", "-mavx2", "-mfma"]])
def test_as_a_user_compiles(tmp_path, flags):
    """The README's command compiles in the compiler's own dialect of C, too."""
    include = Path(microgpt.get_include())
    sources = [include / name for name in SOURCES]
    run(CC, "-O1", "-ffp-contract=off", *flags, f"-I{include}", HERE / "program.c", *sources, "-lm", cwd=tmp_path)


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_no_state(tmp_path):
    """The kernels hold no data that could be written, and call nothing but memory moves, roots and multiply-adds."""
    include = Path(microgpt.get_include())
    flags = ["-std=c11", "-O1", "-fno-pie", "-ffp-contract=off", f"-I{include}"]
    run(CC, *flags, "-c", *(include / name for name in SOURCES), cwd=tmp_path)
    symbols = [
        line.split()[-2:] for name in SOURCES for line in run("nm", f"{name[:-2]}.o", cwd=tmp_path).splitlines() if line
    ]
    assert len(symbols) > 30
    assert not [name for kind, name in symbols if kind in "bBdDcC"]
    calls = {
        name for kind, name in symbols if kind in "Uw" and not name.startswith(("_GLOBAL_", "__cpu_", "microgpt_"))
    }
    assert calls <= {"memset", "memcpy", "sqrt", "sqrtf", "fma", "fmaf"}
    others = {name for kind, name in symbols if kind == "T" and not name.startswith("microgpt_")}
    assert not others, "every symbol has the prefix"


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.parametrize("isa", KERNELS)
def test_exported_symbols(isa, tmp_path):
    """A compiled module exports its PyInit_ and nothing that another library could replace or be replaced by."""
    lines = run("nm", "-D", "--defined-only", compiled(isa).__file__, cwd=tmp_path).splitlines()
    assert [line.split()[-1] for line in lines] == [f"PyInit__kernels_{isa}"]


@pytest.mark.skipif(CXX is None, reason="needs a C++ compiler")
def test_the_header_stands_alone(tmp_path):
    """kernels.h needs nothing before it, may come twice, and serves C++ as it does C."""
    text = '#include "kernels.h"\n#include "kernels.h"\nint main() { return microgpt_token_rows(1) != 16; }\n'
    include = Path(microgpt.get_include())
    for compiler, name, flags in ((CC, "main.c", ["-std=c11"]), (CXX, "main.cpp", [])):
        (tmp_path / name).write_text(text)
        run(compiler, *flags, "-Wall", "-Wextra", "-Werror", "-c", name, f"-I{include}", cwd=tmp_path)
        run(CC, "-std=c11", "-c", include / "common.c", f"-I{include}", cwd=tmp_path)
        run(compiler, f"{Path(name).stem}.o", "common.o", "-o", "main", cwd=tmp_path)
        run(tmp_path / "main", cwd=tmp_path)
