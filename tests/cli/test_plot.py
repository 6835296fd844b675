"""plot: pictures of runs."""

import subprocess
import sys

import pytest
from helpers import microgpt, write_names

from microgpt.errors import PlotError
from microgpt.plot import read_metrics


@pytest.fixture
def folder(tmp_path):
    write_names(tmp_path / "names.txt", 100)
    for name, fraction in ("one", 0), ("two", 0.2):
        flags = ["--num-steps", 30, "--val-fraction", fraction, "--eval-every", 10, "--num-samples", 0, "--n-embd", 8]
        assert microgpt("train", "--input", "names.txt", "--out", name, *flags, cwd=tmp_path).returncode == 0
    return tmp_path


def test_pictures(folder):
    """Several runs come into one PNG or SVG; equal runs give equal SVG."""
    pytest.importorskip("matplotlib")
    for name, start in ("p.png", b"\x89PNG"), ("p.svg", b"<?xml"):
        process = microgpt("plot", "one", "two/metrics.jsonl", "-o", name, cwd=folder)
        assert (process.returncode, process.stdout, process.stderr) == (0, f"wrote {name}\n", "")
        assert (folder / name).read_bytes().startswith(start)
    first = (folder / "p.svg").read_bytes()
    assert b"held out" in first and b"date" not in first
    assert microgpt("plot", "one", "two/metrics.jsonl", "-o", "again.svg", cwd=folder).returncode == 0
    assert (folder / "again.svg").read_bytes() == first


def test_a_run_that_goes_on(folder):
    """Half a line at the end, of a run that goes on or whose disk was full, is left out."""
    path = folder / "one" / "metrics.jsonl"
    before = read_metrics(str(path))
    with open(path, "a") as file:
        file.write('{"step": 31, "lo')
    assert read_metrics(str(path)) == before and len(before["train"][0]) == 30


@pytest.mark.parametrize("name", ["_x", "$x^$", "\\$", "\udcff", "\n", "{", "&<>"], ids=ascii)
def test_any_name(tmp_path, name):
    """A run of any name is drawn, and stands in the legend."""
    pytest.importorskip("matplotlib")
    (tmp_path / name).write_bytes(b'{"step": 1, "loss": 2.5, "lr": 0.01}\n')
    process = microgpt("plot", name, "-o", "p.svg", cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert b'id="legend_1"' in (tmp_path / "p.svg").read_bytes()


@pytest.mark.parametrize("arguments, code, named", [
    (["missing", "-o", "p.png"], 1, "missing"), (["names.txt", "-o", "p.png"], 1, "every line"),
    (["one", "-o", "missing/p.png"], 1, "missing/p.png"), (["one", "-o", "p.xyz"], 2, "p.xyz"),
    (["one"], 2, "--output"), (["-o", "p.png"], 2, "RUN"), (["/dev/null", "-o", "p.png"], 1, "/dev/null"),
])  # fmt: skip
def test_mistakes(folder, arguments, code, named):
    """What cannot be drawn, or not to there, is refused in one line."""
    pytest.importorskip("matplotlib")
    refused = microgpt("plot", *arguments, cwd=folder)
    assert refused.returncode == code and named in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("line", [
    b"\xff", b"\xef\xbb\xbf", b'{"step": Infinity, "loss": 1}', b'{"step": 1, "loss": 1%s}' % (b"0" * 400),
    b'{"step": 1%s, "loss": 1}' % (b"0" * 400), b'{"step": -1, "loss": 1}', b'{"step": NaN, "loss": 1}', b'{"loss": 1}',
    b'{"step": %s, "loss": 1}' % (b"9" * 5000), b"[" * 10**5, b'"loss"', b"null", b"\0", b"",
], ids=lambda line: line[:30])  # fmt: skip
def test_no_step(tmp_path, line):
    """A line that is no step is one PlotError that names the file and the line, be it the first or not."""
    path = tmp_path / "metrics.jsonl"
    for before in (b"", b'{"step": 1, "loss": 2.5, "lr": 0.01}\n'):
        path.write_bytes(before + line + b"\n")
        with pytest.raises(PlotError, match=r"metrics.jsonl: expected a step's JSON in every line, found") as caught:
            read_metrics(str(path))
        assert repr((line + b"\n").decode(errors="surrogateescape"))[:40] in str(caught.value)


def test_without_matplotlib(folder):
    """Without matplotlib one line says how to get it."""
    code = "import sys; sys.modules['matplotlib'] = None; from microgpt.__main__ import main; "
    code += "sys.exit(main(['plot', 'one', '-o', 'p.png']))"
    refused = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert refused.returncode == 1 and "pip install matplotlib" in refused.stderr and refused.stderr.count("\n") == 1
