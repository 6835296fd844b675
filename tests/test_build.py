"""Building from source: where it cannot work, one line says within seconds what is missing and what to install."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

HINT = "apt install gcc libc6-dev python3-dev"


@pytest.fixture
def build_ffi():
    spec = importlib.util.spec_from_file_location("build_ffi", ROOT / "build_ffi.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """compiler(script): from then on the C compiler is a shell script, which reads the program from stdin."""

    def use(script):
        path = tmp_path / "some-cc"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))

    return use


def setup(*arguments, **environment):
    """Run a command of setuptools in the checkout."""
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "CC"} | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_no_compiler(tmp_path):
    """Without a compiler the build ends before it writes anything, and its last line says what to install."""
    folder = tmp_path / "build"
    process = setup("build_ext", "--build-temp", folder, "--build-lib", folder, PATH=str(tmp_path))
    assert process.returncode == 1 and not folder.exists()
    last = process.stderr.splitlines()[-1]
    assert last.startswith("microgpt: there is no C compiler: ") and HINT in last and "xcode-select" in last


def test_metadata_without_compiler(tmp_path):
    """The package's metadata can be read on a machine that has no compiler."""
    process = setup("egg_info", "--egg-base", tmp_path, PATH=str(tmp_path))
    assert process.returncode == 0, process.stderr


def test_this_machine(build_ffi):
    """Nothing is wrong with a machine that has what it takes."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    assert build_ffi.obstacle() is None


def test_missing_cc(build_ffi, monkeypatch):
    """A compiler that CC names and that is not there is named, with the variable."""
    monkeypatch.setenv("CC", "gcc-99 -pthread")
    assert "gcc-99 (from the variable CC) is not found" in build_ffi.obstacle()


def test_broken_compiler(build_ffi, compiler):
    """So is one that fails, as it does on macOS without the command line tools."""
    compiler("exit 1")
    message = build_ffi.obstacle()
    assert "some-cc (from the variable CC) does not work" in message and HINT in message


def test_old_gcc(build_ffi, compiler):
    """gcc 11 is too old, and the message has its version; clang, which claims to be gcc 4, is not."""
    compiler("""echo '#define __GNUC__ 11'; echo '#define __VERSION__ "11.4.0"'""")
    message = build_ffi.obstacle()
    assert "need gcc 12 or newer, or clang, found" in message and "11.4.0" in message
    compiler("echo '#define __GNUC__ 4'; echo '#define __clang__ 1'")
    assert build_ffi.obstacle() is None


def test_no_python_headers(build_ffi, compiler):
    """A compiler without Python.h is not enough."""
    compiler("if grep -q Python.h; then exit 1; else echo '#define __GNUC__ 12'; fi")
    message = build_ffi.obstacle()
    assert message.startswith("Python.h is not in ") and HINT in message


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("platform", "win32", "found Windows: install microgpt in WSL"),
        ("maxsize", 2**31 - 1, "need 64-bit Python, found a 32-bit one"),
        ("byteorder", "big", "need a little-endian processor, found a big-endian one"),
    ],
)
def test_other_machines(build_ffi, monkeypatch, name, value, expected):
    """Windows, 32-bit and big-endian machines are refused by name."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, name, value)
        message = build_ffi.obstacle()
    assert expected in message and "\n" not in message


def test_old_setuptools(tmp_path):
    """With a setuptools that cannot read pyproject.toml, `python build_ffi.py` says which one is needed."""
    (tmp_path / "setuptools.py").write_text("__version__ = '65.5.0'\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.run([sys.executable, ROOT / "build_ffi.py"], env=environment, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr == "microgpt: expected setuptools 77 or newer, found 65.5.0: pip install 'setuptools>=77'\n"
