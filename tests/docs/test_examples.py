"""The examples run as their first lines say, and learn."""

import re
import shutil
import subprocess
import sys

import pytest
from helpers import INPUT, ROOT

from microgpt import get_include

LOSS = re.compile(r"loss (\d\.\d+)")


def run(*command, cwd):
    process = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "input.txt").symlink_to(INPUT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tmp_path


def python(name, cwd):
    return run(sys.executable, ROOT / "examples" / name, cwd=cwd)


def test_kernels_loop(folder):
    """A loop out of the public kernels learns names, and PyTorch with these kernels prints the same losses."""
    printed = python("kernels_loop.py", folder)
    first, *_, last = map(float, LOSS.findall(printed))
    assert first > 3.2 and last < 2.5
    pytest.importorskip("torch")
    assert python("pytorch_loop.py", folder) == printed


def test_look_inside(folder):
    """The cells run one after the other, and leave their pictures."""
    pytest.importorskip("matplotlib")
    printed = python("look_inside.py", folder)
    assert float(LOSS.search(printed)[1]) < 2.5 and "layer0.x_mlp" in printed
    assert (folder / "losses.png").stat().st_size > 10_000 and (folder / "attention.png").stat().st_size > 5_000


def test_exclusive_or(folder):
    """The C program compiles without a warning on any machine, and learns exclusive or."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = ROOT / "examples" / "exclusive_or.c"
    kernels = [f"{get_include()}/{name}.c" for name in ("f32", "f64", "common")]
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", f"-I{get_include()}"]
    run(compiler, *flags, source, *kernels, "-lm", "-o", "xor", cwd=folder)
    rows = re.findall(r"(\d) xor (\d): (\S+)", run("./xor", cwd=folder))
    assert len(rows) == 4 and all(abs(float(p) - (a != b)) < 0.01 for a, b, p in rows)
