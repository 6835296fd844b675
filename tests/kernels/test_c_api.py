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

import microgpt
from microgpt import kernels

HERE = Path(__file__).parent / "c_api"
CC = shutil.which(os.environ.get("CC", "cc"))

pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler")


def run(*command, cwd):
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_get_include():
    """get_include() names a directory with the header and the sources, and the header declares every kernel."""
    include = Path(microgpt.get_include())
    header = (include / "kernels.h").read_text()
    assert all((include / name).is_file() for name in ("kernels.c", "kernels.inc", "vector.inc"))
    declared = set(re.findall(r"^void (\w+)\(", header, re.MULTILINE))
    assert declared == {name for name in dir(kernels.lib) if name.endswith(("_f32", "_f64"))}


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


def test_c_program(tmp_path):
    """A C program that links the kernels prints the numbers, exactly, that Python gets."""
    include = microgpt.get_include()
    flags = ["-std=c11", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
    run(CC, *flags, HERE / "program.c", f"{include}/kernels.c", "-lm", "-o", "program", cwd=tmp_path)
    found = [float.fromhex(line) for line in run(tmp_path / "program", cwd=tmp_path).split()]
    w, x, dy = (
        np.array([[1, 4], [2, 5], [3, 6]], "f4"),
        np.array([[0.1], [0.2]], "f4"),
        np.array([[1], [-1], [2]], "f4"),
    )
    dw, _ = kernels.matmul_backward(dy, w, x)
    assert found == [*kernels.matmul_forward(w, x)[:, 0], *dw.ravel("F")]


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_no_state(tmp_path):
    """The kernels hold no data that could be written, and call nothing but memory moves, roots and multiply-adds."""
    source = f"{microgpt.get_include()}/kernels.c"
    run(CC, "-std=c11", "-O1", "-ffp-contract=off", "-c", source, "-o", "kernels.o", cwd=tmp_path)
    symbols = [line.split()[-2:] for line in run("nm", "kernels.o", cwd=tmp_path).splitlines()]
    assert len(symbols) > 30
    assert not [name for kind, name in symbols if kind in "bBdDcC"]
    calls = {name for kind, name in symbols if kind in "Uw" and not name.startswith(("_GLOBAL_", "__cpu_"))}
    assert calls <= {"memset", "memcpy", "sqrt", "sqrtf", "fma", "fmaf"}
