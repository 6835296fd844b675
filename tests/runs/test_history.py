"""Histories: the losses of a run, as train() returns them and as its directory keeps them."""

import json
import shutil

import pytest
from helpers import TINY, write_names

import microgpt
from microgpt.runs.history import History

SETTINGS = TINY | {"num_steps": 30, "val_fraction": 0.2, "eval_every": 10, "checkpoint_every": 15}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a model that was trained, the directory of its run)."""
    folder = tmp_path_factory.mktemp("history")
    return microgpt.train(write_names(folder / "names.txt"), out=folder / "run", **SETTINGS), folder / "run"


def test_a_loaded_run(trained):
    """A run that is loaded from its directory has the history that train() returned."""
    model, path = trained
    assert microgpt.load(path).history == model.history
    assert repr(model.history) == "<History of 30 steps, 3 held-out losses>"


def test_the_steps_of_the_checkpoint(trained, tmp_path):
    """The history has no steps after the loaded checkpoint."""
    model, path = trained
    shutil.copytree(path, tmp_path / "run")
    shutil.copy(path / "checkpoint.prev.npz", tmp_path / "run" / "checkpoint.npz")
    history = microgpt.load(tmp_path / "run", last=True).history
    assert (
        list(history.losses) == list(model.history.losses)[:15] and history.val_losses == model.history.val_losses[:1]
    )


def test_without_metrics(trained, tmp_path):
    """A single file, or a run without readable metrics, has an empty history."""
    _, path = trained
    assert microgpt.load(path / "checkpoint.npz").history == History()
    shutil.copytree(path, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert microgpt.load(tmp_path / "run").history == History()
    (tmp_path / "run" / "metrics.jsonl").symlink_to(path / "metrics.jsonl")
    assert microgpt.load(tmp_path / "run").history == History()


def line(step, **values):
    return json.dumps({"step": step, "loss": 1.0 * step, "lr": 0.01} | values).encode() + b"\n"


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\n",
        b"hello\n",
        line(7)[:-1],
        b'{"step": 7, "loss": "x", "lr": 0.01}\n',
        b'{"step": 7, "lr": 0.01}\n',
        b'{"step": 7, }\n',
        b'{"step": 7, "x": ' + b"[" * 100_000 + b"}\n",
        line(5),
        line(8),
        line(31),
        line(7, loss=[1]),
        line(7, val_loss="x"),
        b"\xff\n",
    ],
)
def test_damaged_metrics(bad):
    """A history ends before the first line that is damaged, out of order, or beyond the checkpoint."""
    found = History.read([line(5), line(6, val_loss=2.5), bad, line(7)], 30)
    assert (found.first_step, list(found.losses), found.val_losses) == (5, [5.0, 6.0], [(6, 2.5)])


@pytest.mark.parametrize("eval_every", [7, 1000])
def test_the_last_step_is_measured(tmp_path, eval_every):
    """The held-out loss is measured after the last step too, even if it is not due."""
    names = write_names(tmp_path / "names.txt")
    model = microgpt.train(names, out=tmp_path / "run", **SETTINGS | {"eval_every": eval_every})
    steps = [step for step, _ in model.history.val_losses]
    assert steps == [*range(eval_every, 30, eval_every), 30]
    assert microgpt.load(tmp_path / "run").history.val_losses == model.history.val_losses
