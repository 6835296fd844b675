"""Plots of runs."""

import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from helpers import microgpt, write_names

from microgpt.__main__ import main
from microgpt.base.errors import PlotError
from microgpt.core.documents import vocabulary
from microgpt.core.tokens import Tokens
from microgpt.report.baselines import bigram, uniform
from microgpt.report.plot import labels, read_baselines, read_metrics, smooth


@pytest.fixture
def folder(tmp_path):
    write_names(tmp_path / "names.txt", 100)
    for name, fraction in ("one", 0), ("two", 0.2):
        flags = ["--num-steps", 30, "--val-fraction", fraction, "--eval-every", 10, "--num-samples", 0, "--n-embd", 8]
        assert microgpt("train", "--input", "names.txt", "--out", name, *flags, cwd=tmp_path).returncode == 0
    return tmp_path


def test_pictures(folder):
    """Several runs are plotted into one PNG or SVG; equal runs give equal SVG."""
    pytest.importorskip("matplotlib")
    for name, start in ("p.png", b"\x89PNG"), ("q.PNG", b"\x89PNG"), ("p.svg", b"<?xml"):
        process = microgpt("plot", "one", "two/metrics.jsonl", "-o", name, cwd=folder)
        assert (process.returncode, process.stdout, process.stderr) == (0, f"wrote {name}\n", "")
        assert (folder / name).read_bytes().startswith(start)
    first = (folder / "p.svg").read_bytes()
    assert b"held out" in first and b"date" not in first
    assert microgpt("plot", "one", "two/metrics.jsonl", "-o", "again.SVG", cwd=folder).returncode == 0
    assert (folder / "again.SVG").read_bytes() == first


@pytest.fixture
def draw(folder, monkeypatch):
    """Plot, and return the axes."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(folder)

    def draw(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(pyplot, "close", lambda figure: None)
            assert main(["plot", *arguments, "-o", "p.svg"]) == 0
        axes = pyplot.gcf().axes[0]
        pyplot.close("all")
        return axes

    return draw


def test_what_is_drawn(draw, capsys):
    """A plot has smoothed losses, raw losses unless switched off, held-out losses and baselines."""
    axes = draw("two")
    series = read_metrics("two")
    smoothed, raw, held_out, *baselines = axes.lines
    assert list(smoothed.get_ydata()) == smooth(series["train"][1])
    assert (list(raw.get_xdata()), list(raw.get_ydata())) == series["train"]
    assert (list(held_out.get_xdata()), list(held_out.get_ydata())) == series["held-out"]
    assert len({line.get_linestyle() for line in (smoothed, held_out, *baselines)}) == 4
    names = [f"{name}, {loss:.4f}" for name, loss in read_baselines("two").items()]
    assert [line.get_label() for line in baselines] == names and len(names) == 2
    legend = axes.get_legend()
    assert [line.get_text() for line in legend.get_texts()] == ["two", "two, held out", *names]
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert axes.get_xscale() == "linear"

    axes = draw("two", "two/metrics.jsonl", "--no-raw", "--log-x")
    assert [line.get_label() for line in axes.lines[2:4]] == ["metrics.jsonl", "metrics.jsonl, held out"]
    assert len(axes.lines) == 2 + 2 + 2 and axes.get_xscale() == "log"
    assert len(draw("two", "two", "--no-raw").lines) == 2 + 2 + 2  # equal baselines are drawn once
    assert capsys.readouterr().err == ""


def test_without_baselines(draw, folder, capsys):
    """A run is plotted even if its text or checkpoints are missing or changed; a line says what is left out."""
    two = folder / "two"
    checkpoints = [two / "checkpoint.npz", two / "checkpoint.prev.npz"]
    for spoil, n_baselines, wanted in [
        (lambda: write_names(folder / "names.txt", 101), 1, "two: plotted without the bigram baseline, because its"),
        ((folder / "names.txt").unlink, 1, "two: plotted without the bigram baseline, because its"),
        (lambda: [path.unlink(missing_ok=True) for path in checkpoints], 0, "two: plotted without baselines: two"),
    ]:
        spoil()
        assert len(draw("two").lines) == 3 + n_baselines
        error = capsys.readouterr().err
        assert wanted in error and error.count("\n") == 1


@pytest.mark.parametrize("paths, wanted", [
    (["a"], ["a"]), (["a/b/", "c"], ["b", "c"]), (["a/b", "c/b"], ["a/b", "c/b"]),
    (["b", "c/b", "c/b"], ["b"] + 2 * ["c/b"]),
    (["x/a/b", "y/a/b", "./x/a/c"], ["x/a/b", "y/a/b", "x/a/c"]), (["/b", "b"], ["/b", "b"]),
])  # fmt: skip
def test_labels(paths, wanted):
    """The labels are the shortest that tell all paths apart."""
    assert labels(paths) == wanted


@pytest.mark.parametrize("split", ["line", "blank-line", "none"])
def test_baselines(split):
    """The bigram loss equals that of counts in a dict; that of a uniform guess is the log of the vocabulary."""
    training, measured = ["anna", "bo", "", "an\n\nab"], ["nab", "banana", "", "o"]
    if split == "none":
        training, measured = ["\n".join(training)], ["\n".join(measured)]
    tokens = Tokens(vocabulary(training + measured), split)
    ends = [] if split == "none" else ["end"]
    start = "\n" if split == "none" else "end"
    counts = Counter(pair for text in training for pair in zip([start, *text], [*text, *ends]))
    n = len(tokens.vocab) + len(ends)
    means = []
    for text in measured:
        columns = list(zip([start, *text], [*text, *ends]))[: None if split == "none" else 4]
        chances = [(counts[a, b] + 1) / (sum(counts[p] for p in counts if p[0] == a) + n) for a, b in columns]
        means.append(np.mean([-math.log(p) for p in chances]))
    assert bigram(training, measured, tokens, 4) == pytest.approx(np.mean(means), rel=1e-14)
    assert uniform(tokens) == math.log(n)


def test_smoothing():
    """Smoothing covers the last tenth of the losses, at most a hundred, so that early losses are soon forgotten."""
    assert smooth([4.0, 2.0, 0.0]) == [4.0, 2.0, 0.0]
    assert smooth([4.0] * 20 + [1.0] * 80)[99] == pytest.approx(1, abs=1e-3)
    losses = [9.0] * 1000 + [1.0] * 500
    assert smooth(losses)[999] == pytest.approx(9) and 1 < smooth(losses)[-1] < 1.1


def test_a_run_that_is_training(folder):
    """An incomplete last line, of a run that is still training or after a full disk, is left out."""
    path = folder / "one" / "metrics.jsonl"
    before = read_metrics(str(path))
    with open(path, "a") as file:
        file.write('{"step": 31, "lo')
    assert read_metrics(str(path)) == before and len(before["train"][0]) == 30


@pytest.mark.parametrize("name", ["_x", "$x^$", "\\$", "\udcff", "\n", "{", "&<>"], ids=ascii)
def test_any_name(tmp_path, name):
    """A run of any name is plotted and is in the legend."""
    pytest.importorskip("matplotlib")
    (tmp_path / name).write_bytes(b'{"step": 1, "loss": 2.5, "lr": 0.01}\n')
    process = microgpt("plot", name, "-o", "p.svg", cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert b'id="legend_1"' in (tmp_path / "p.svg").read_bytes()


@pytest.mark.parametrize("arguments, code, named", [
    (["missing", "-o", "p.png"], 1, "missing"), (["names.txt", "-o", "p.png"], 1, "every line"),
    (["one", "-o", "missing/p.png"], 1, "missing/p.png"), (["one", "-o", "p.xyz"], 2, "p.xyz"),
    (["one"], 2, "--output"), (["-o", "p.png"], 2, "RUN"), (["/dev/null", "-o", "p.png"], 1, "/dev/null"),
    (["one/checkpoint.npz", "-o", "p.png"], 1, "found weights, which have no losses; use the run's directory one"),
])  # fmt: skip
def test_mistakes(folder, arguments, code, named):
    """A path that cannot be plotted, or an output that cannot be written, is refused in one line."""
    pytest.importorskip("matplotlib")
    refused = microgpt("plot", *arguments, cwd=folder)
    assert refused.returncode == code and named in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("line", [
    b"\xff", b"\xef\xbb\xbf", b'{"step": Infinity, "loss": 1}', b'{"step": 1, "loss": 1%s}' % (b"0" * 400),
    b'{"step": 1%s, "loss": 1}' % (b"0" * 400), b'{"step": -1, "loss": 1}', b'{"step": NaN, "loss": 1}', b'{"loss": 1}',
    b'{"step": %s, "loss": 1}' % (b"9" * 5000), b"[" * 10**5, b'"loss"', b"null", b"\0", b"",
], ids=lambda line: line[:30])  # fmt: skip
def test_no_step(tmp_path, line):
    """Any line that is not a step raises PlotError, which names the file and the line."""
    path = tmp_path / "metrics.jsonl"
    for before in (b"", b'{"step": 1, "loss": 2.5, "lr": 0.01}\n'):
        path.write_bytes(before + line + b"\n")
        with pytest.raises(
            PlotError, match=r"metrics.jsonl: expected the JSON of a step in every line, found"
        ) as caught:
            read_metrics(str(path))
        assert repr((line + b"\n").decode(errors="surrogateescape"))[:40] in str(caught.value)


def test_without_matplotlib(folder):
    """Without matplotlib, one line says what to install."""
    code = "import sys; sys.modules['matplotlib'] = None; from microgpt.__main__ import main; "
    code += "sys.exit(main(['plot', 'one', '-o', 'p.png']))"
    refused = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert refused.returncode == 1 and "pip install matplotlib" in refused.stderr and refused.stderr.count("\n") == 1
