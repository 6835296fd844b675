"""Pictures of sweeps."""

import json
import re

import pytest
from sweeping import SWEEP, sweep, trials

from microgpt import sweep_plot
from microgpt.__main__ import main


@pytest.fixture
def swept(folder, monkeypatch):
    """The directory of a sweep, in which we are."""
    assert sweep("s", *SWEEP, "--executor", "thread:2", cwd=folder).returncode == 0
    monkeypatch.chdir(folder)
    return folder / "s"


def test_what_is_drawn(swept, monkeypatch):
    """A panel for each setting that varies and one for the rungs has every trial's loss, the best one marked, and those
    that are far away at the top."""
    monkeypatch.setattr(sweep_plot, "FAR", 1.5)
    figures = []
    monkeypatch.setattr(sweep_plot, "save", lambda figure, output: figures.append(figure))
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
    for axes in panels:
        name = axes.get_xlabel()
        lines = {line.get_label(): list(zip(*line.get_data())) for line in axes.lines}
        for status in ("done", "stopped"):
            expected = [
                (t["settings"][name], t["val_loss"]) for t in measured if t["status"] == status and t not in far
            ]
            assert lines[status] == expected
        assert lines[f"above {top:.4g}"] == [(t["settings"][name], top) for t in far]
        assert lines[f"best, trial {best['trial']}"] == [(best["settings"][name], best["val_loss"])]
    drawn = sorted(list(zip(*line.get_data())) for line in rungs.lines)
    ends = [[*map(tuple, t["rungs"]), (t["step"], t["val_loss"])] for t in measured]
    assert drawn == sorted([[(step, min(loss, top)) for step, loss in dict(points).items()] for points in ends])


def test_pictures_are_files(swept, capsys):
    """A sweep is a PNG or an SVG, the same each time; two, or one without a loss, or a damaged one is one line."""
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
    assert not (swept.parent / "x.png").exists()
