"""Plots of runs."""

import json
import math
import subprocess
import sys
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import TINY, microgpt, write_names

import microgpt as package
from microgpt.__main__ import main
from microgpt.base.config import Config
from microgpt.base.errors import PlotError
from microgpt.core.documents import vocabulary
from microgpt.core.tokens import Tokens
from microgpt.report.baselines import losses, uniform
from microgpt.report.comparison import differences
from microgpt.report.plot import labels, read_basis, read_metrics, smooth
from microgpt.report.report import report

DIFFERENT = "The training losses are not comparable: the runs differ in training texts."


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
        assert (process.returncode, process.stdout) == (0, f"wrote {name}\n")
        assert process.stderr == f"microgpt: {DIFFERENT}\n"
        assert (folder / name).read_bytes().startswith(start)
    first = (folder / "p.svg").read_bytes()
    assert b"held out" in first and DIFFERENT.encode() in first and b"date" not in first
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
    names = [f"{name}, {loss:.4f}" for name, loss in read_basis("two", series).baselines.items()]
    assert [line.get_label() for line in baselines] == names and len(names) == 2
    legend, lowest = axes.get_legend(), min(series["held-out"][1])
    about = f"two, held out: lowest {lowest:.4f} ({lowest / math.log(2):.3f} bits per character)"
    assert [line.get_text() for line in legend.get_texts()] == ["two", about, *names]
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert axes.get_xscale() == "linear"

    axes = draw("two", "two/metrics.jsonl", "--no-raw", "--log-x")
    assert [line.get_label() for line in axes.lines[2:4]] == ["metrics.jsonl", about.replace("two", "metrics.jsonl")]
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
    """The bigram loss equals that of counts in a dict: the mean over all tokens held out, or, if there are none, the
    training loss, a mean over documents within the context.  That of a uniform guess is the log of the vocabulary."""
    training, held_out = ["anna", "bo", "b", "an\n\nab"], ["nab", "banana", "b", "o"]
    if split == "none":
        training, held_out = ["\n".join(training)], ["\n".join(held_out)]
    tokens = Tokens(vocabulary(training + held_out), split)
    ends = [] if split == "none" else ["end"]
    start = "\n" if split == "none" else "end"
    counts = Counter(pair for text in training for pair in zip([start, *text], [*text, *ends]))
    n = len(tokens.vocab) + len(ends)

    def of_each(text):
        columns = zip([start, *text], [*text, *ends])
        chances = [(counts[a, b] + 1) / (sum(counts[p] for p in counts if p[0] == a) + n) for a, b in columns]
        return [-math.log(p) for p in chances]

    def bigram(held_out):
        return losses(config, tokens, SimpleNamespace(training=training, held_out=held_out))["bigram table"]

    config = Config(split=split, block_size=4)
    assert bigram(held_out) == pytest.approx(np.mean([x for text in held_out for x in of_each(text)]), rel=1e-14)
    means = [np.mean(of_each(text)[: None if split == "none" else 4]) for text in training]
    assert bigram([]) == pytest.approx(np.mean(means), rel=1e-14)
    assert losses(config, tokens, None) == {"uniform guess": uniform(tokens)} == {"uniform guess": math.log(n)}


def run(folder, name, lines, **settings):
    """A short run on these lines, in folder/name."""
    (folder / f"{name}.txt").write_text("\n".join(lines))
    given = {**TINY, "val_fraction": 0.25, "eval_every": 4, "val_seed": 1} | settings
    package.train(folder / f"{name}.txt", out=folder / name, **given)


LINES = ["anna", "bo", "hanna", "abba", "noah", "ona", "bab", "nob"] * 3


@pytest.mark.parametrize("lines, settings, differ", [
    (LINES, {"seed": 5, "n_embd": 8}, []),
    (LINES[::-1], {}, ["training texts", "held-out texts"]),
    (LINES, {"val_seed": 0, "seed": 3}, ["training texts", "held-out texts"]),
    (LINES, {"block_size": 3}, ["context length", ""]),
    (LINES, {"val_fraction": 0.0, "val_seed": 0}, ["training texts", ""]),
    ([*LINES, "q"], {"val_seed": 7}, ["training texts and vocabulary", "vocabulary"]),
], ids=["order", "side", "seeds", "context", "none held out", "vocabulary"])  # fmt: skip
def test_comparable(folder, monkeypatch, lines, settings, differ):
    """Losses of several runs are called comparable only if they measure the same texts, in any order, with the same
    vocabulary, and training losses with the same context length; a notice and a line of the picture say so."""
    monkeypatch.chdir(folder)
    run(folder, "a", LINES)
    run(folder, "b", lines, **settings)
    kinds = ("training losses", "held-out losses")
    expected = [
        f"The {kind} are not comparable: the runs differ in {what}." for kind, what in zip(kinds, differ) if what
    ]
    found = {name: (read_metrics(name), read_basis(name, read_metrics(name))) for name in ("a", "b")}
    assert differences(found) == expected
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = report(["a", "b"], None, required=False, last=True)
    assert data["notices"] == expected
    assert [str(each.message) for each in said if "cuts off" not in str(each.message)] == expected


def older(path, n_lines):
    """Remove from the first lines of a run's metrics what versions before 0.2 did not write."""
    metrics = (path / "metrics.jsonl").read_text().splitlines()
    values = [json.loads(line) for line in metrics]
    for each in values[:n_lines]:
        if "val_loss" in each:
            each["val_loss"] = each.pop("val_document_loss")
    (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in values))


def test_older_runs(draw, folder, capsys):
    """The mean over documents, which older versions wrote, is named and never compared with a mean over tokens; in a
    run that a later version resumed, all held-out losses are means over documents."""
    for name in ("new", "old", "resumed"):
        run(folder, name, LINES)
    new = read_metrics("new")
    for name, n in (("old", 8), ("resumed", 4)):
        older(folder / name, n)
        assert read_metrics(name)["held-out"] == new["held-out, by document"] != new["held-out"]
        lowest = min(new["held-out, by document"][1])
        legend = [text.get_text() for text in draw(name).get_legend().get_texts()]
        assert legend[1] == f"{name}, held out: lowest {lowest:.4f} (mean over documents)"
        capsys.readouterr()
        axes = draw("new", name)
        problem = "The held-out losses are not comparable: the runs differ in kind of mean."
        assert axes.get_title(loc="left") == problem and capsys.readouterr().err == f"microgpt: {problem}\n"
        data = report(["new", name], None, required=False)
        assert [run["mean_over"] for run in data["runs"]] == ["tokens", "documents"] and data["notices"] == [problem]
        capsys.readouterr()
    assert draw("old", "resumed").get_title(loc="left") == ""
    run(folder, "narrow", LINES, block_size=3)  # whose older losses end with its context
    older(folder / "narrow", 8)
    assert draw("old", "narrow").get_title(loc="left").splitlines()[1] == problem


def test_unknown_texts(draw, folder, capsys):
    """Metrics of runs whose texts are not known are plotted, with a line that says so."""
    for name in ("a", "b"):
        (folder / name).write_bytes((folder / "two" / "metrics.jsonl").read_bytes())
    lines = [
        f"The {kind} losses may not be comparable: the texts of a and b are unknown."
        for kind in ("training", "held-out")
    ]
    axes = draw("a", "b")
    assert axes.get_title(loc="left").splitlines() == lines
    assert capsys.readouterr().err == "".join(f"microgpt: {line}\n" for line in lines)
    assert draw("a").get_title(loc="left") == ""


def test_baselines_name_their_runs(draw, folder):
    """With several runs, each baseline names the runs that it belongs to, and equal ones are drawn once."""
    axes = draw("one", "two", "--no-raw")
    one, two = (read_basis(name, read_metrics(name)).baselines for name in ("one", "two"))
    assert [line.get_label() for line in axes.lines[3:]] == [
        f"uniform guess of one, two, {one['uniform guess']:.4f}",
        f"bigram table of one, {one['bigram table']:.4f}",
        f"bigram table of two, {two['bigram table']:.4f}",
    ]


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
