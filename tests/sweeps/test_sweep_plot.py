"""Plots of sweeps."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from sweeping import SWEEP, sweep, trials

import microgpt
from microgpt.__main__ import main
from microgpt.sweeps import plot
from microgpt.sweeps.space import SETTINGS, bounds, values_of


@pytest.fixture
def swept(folder, monkeypatch):
    """The directory of a sweep, which is the working directory."""
    assert sweep("s", *SWEEP, "--executor", "thread:2", cwd=folder).returncode == 0
    monkeypatch.chdir(folder)
    return folder / "s"


def test_what_is_drawn(swept, monkeypatch):
    """Each varied setting and the rungs have a panel with every trial's loss; the best is marked, and outliers are at
    the top."""
    monkeypatch.setattr(plot, "MAX_SPREAD", 1.5)
    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, output: figures.append(figure))
    assert main(["plot", "s", "-o", "s.svg"]) == 0
    measured = [t for t in trials(swept) if t["val_loss"]]
    losses = sorted(t["val_loss"] for t in measured)
    top = losses[0] + 1.5 * (losses[len(losses) // 2] - losses[0])
    far = [t for t in measured if t["val_loss"] > top]
    assert len(far) > 1
    best = min((t for t in measured if t["status"] == "done"), key=lambda t: t["val_loss"])
    *panels, rungs = [axes for axes in figures[0].axes if axes.get_xlabel()]
    assert [axes.get_xlabel() for axes in panels] == ["n_embd", "n_head", "learning_rate", "weight_decay"]
    assert [axes.get_xscale() for axes in panels] == ["linear", "linear", "log", "linear"]
    places = {"n_embd": [4, 8, 10], "n_head": [2, 4], "weight_decay": [0, 0.1, 1000]}  # of lists

    def x(name, t):
        value = t["settings"][name]
        return places[name].index(value) if name in places else value

    for axes in panels:
        name = axes.get_xlabel()
        if name in places:
            assert [(text.get_position()[0], text.get_text()) for text in axes.get_xticklabels()] == [
                *enumerate(f"{value:.3g}" for value in places[name])
            ]
        lines = {line.get_label(): list(zip(*line.get_data())) for line in axes.lines}
        for status in ("done", "stopped"):
            expected = [(x(name, t), t["val_loss"]) for t in measured if t["status"] == status and t not in far]
            assert lines[status] == expected
        assert lines[f"above {top:.4g}"] == [(x(name, t), top) for t in far]
        assert lines[f"best, trial {best['trial']}"] == [(x(name, best), best["val_loss"])]
    drawn = sorted(list(zip(*line.get_data())) for line in rungs.lines)
    ends = [[*map(tuple, t["rungs"]), (t["step"], t["val_loss"])] for t in measured]
    assert drawn == sorted([[(step, min(loss, top)) for step, loss in dict(points).items()] for points in ends])


@pytest.mark.parametrize("n", [1, 3, 6, 24])
def test_every_axis_can_be_read(n, folder, monkeypatch):
    """An axis has at least two labels, which do not overlap, and covers its whole range or list."""
    monkeypatch.chdir(folder)
    space = {"n_layer": "1..3", "n_embd": "4..32:log", "learning_rate": "1e-3..1e-1:log", "eps": "2e-9..4e-8:log",
             "min_learning_rate": "1e-9..1e-4:log", "beta1": "0.002..0.006",
             "weight_decay": [i / 300 for i in range(40)], "schedule": ["linear", "cosine"]}  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        sizes = {"num_steps": 1, "block_size": 2, "n_head": 1, "input": "names.txt"}
        microgpt.sweep("s", trials=n, executor=pool, **sizes, **space)
    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, output: figures.append(figure))
    assert main(["plot", "s", "-o", "s.svg"]) == 0
    figures[0].canvas.draw()
    panels = {axes.get_xlabel(): axes for axes in figures[0].axes if axes.get_xlabel()}
    assert set(panels) == set(space)
    for name, axes in panels.items():
        low, high = axes.get_xlim()
        least, most = (
            bounds(values_of(SETTINGS[name], space[name])) if ".." in space[name] else (0, len(space[name]) - 1)
        )
        assert low < least and most < high
        assert axes.get_xscale() == ("log" if ":log" in space[name] else "linear")
        labels = [*axes.get_xticklabels(), *axes.get_xticklabels(minor=True)]
        labels = [text for text in labels if text.get_text() and low <= text.get_position()[0] <= high]
        boxes = sorted((box.x0, box.x1) for box in (text.get_window_extent() for text in labels))
        assert name != "n_layer" or all(float(text.get_text()).is_integer() for text in labels)
        assert len(boxes) > 1 and all(one[1] < two[0] for one, two in pairwise(boxes)), name


def test_pictures_are_files(swept, capsys):
    """A sweep becomes a deterministic PNG or SVG; two sweeps, one without losses, or a damaged one give one line."""
    for name in ("a.svg", "b.svg", "a.png"):
        assert main(["plot", "s", "-o", name]) == 0
    a, b, png = (swept.parent / name for name in ("a.svg", "b.svg", "a.png"))
    assert a.read_bytes() == b.read_bytes() and png.read_bytes().startswith(b"\x89PNG") and "<svg" in a.read_text()
    capsys.readouterr()
    path = swept / "trials.jsonl"
    for arguments, code in ((["s", "s", "-o", "x.png"], 2), (["s", "-o", "x.pdf"], 2)):
        assert main(["plot", *arguments]) == code and capsys.readouterr().err.count("\n") == 1
    invalid = json.loads(path.read_text().splitlines()[0]) | {"val_loss": None}
    for text in ("", json.dumps(invalid) + "\n", "x\n", "{}\n"):
        path.write_text(text)
        assert main(["plot", "s", "-o", "x.png"]) == 1
        assert re.fullmatch(r"microgpt: s/trials.jsonl: expected .*\n", capsys.readouterr().err)
    (swept / "sweep.json").unlink()
    assert main(["plot", "s", "-o", "x.png"]) == 1
    assert capsys.readouterr().err.startswith("microgpt: s: expected readable files trials.jsonl and sweep.json: ")
    assert not (swept.parent / "x.png").exists()
