"""Fair comparisons: all trials are scored on the same characters, and no settings are trained twice."""

import json
import math

import pytest
from helpers import microgpt

import microgpt as package
from microgpt.base.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    """Lines whose beginnings are alike: a model of a short context sees nothing else of them."""
    path = tmp_path_factory.mktemp("orders") / "orders.txt"
    path.write_text("".join(f"order-{i:05d}\n" for i in range(1, 501)))
    return path


def trials(path, **settings):
    small = {"num_steps": 60, "n_embd": 8, "n_head": 2, "learning_rate": 0.05}
    return package.sweep(path, executor="thread:1", **(small | settings))


def test_a_short_context_does_not_win_by_seeing_less(tmp_path, orders):
    """All trials are scored on whole documents, so one that sees four characters of each loses."""
    found = trials(tmp_path / "s", sampler="grid", input=orders, block_size=[4, 16])
    assert [t.settings["block_size"] for t in found] == [16, 4]
    for t in found:
        model = package.load(tmp_path / "s" / t.run)
        held_out = model.evaluate(model.held_out())
        assert held_out.n_characters == 50 * len("order-00000") and held_out.loss == t.val_loss


@pytest.mark.parametrize(
    "name, values",
    [
        ("input", ["a.txt", "b.txt"]), ("split", ["line", "none"]), ("val_fraction", "0.1..0.3"),
        ("val_fraction", [0.1, 0.2]), ("val_split", ["texts", "documents"]), ("val_seed", "1..9"),
    ],
)  # fmt: skip
def test_texts_cannot_be_searched(tmp_path, orders, name, values):
    """A setting that changes which texts are held out has one value."""
    with pytest.raises(ConfigError, match=f"{name}: expected one value, because trials are compared"):
        trials(tmp_path / "s", trials=2, **({"input": orders} | {name: values}))
    assert not (tmp_path / "s").exists()
    flag, text = "--" + name.replace("_", "-"), values if isinstance(values, str) else ",".join(map(str, values))
    done = microgpt("sweep", tmp_path / "s", "--trials=2", f"--input={orders}", flag, text)
    assert done.returncode == 2 and done.stderr.startswith(f"microgpt: {flag}: expected one value")


def test_a_searched_seed(tmp_path, orders):
    """Trials of different seeds hold out the same documents."""
    found = trials(tmp_path / "s", sampler="grid", input=orders, seed=[1, 2, 3])
    parts = [package.load(tmp_path / "s" / t.run).held_out() for t in found]
    assert parts[0] == parts[1] == parts[2] and len(parts[0]) == 50
    assert len({t.val_loss for t in found}) == 3
    (t,) = trials(tmp_path / "one", sampler="grid", input=orders, seed=5)  # a single seed splits as in train()
    assert "val_seed" not in t.settings


@pytest.mark.parametrize("rungs", ["", "20"])
def test_settings_are_trained_once(tmp_path, orders, rungs):
    """A trial with the settings of an earlier one has its results and its run, also after the sweep is resumed."""
    found = trials(tmp_path / "s", trials=6, round=6, rungs=rungs, input=orders, n_embd=[8, 16])
    by_number = {t.trial: t for t in found}
    runs = [p.name for p in (tmp_path / "s").iterdir() if p.name.startswith("trial-")]
    assert sorted(runs) == sorted({t.run for t in found}) and len(runs) == 2
    for t in found:
        if t.same_as is not None:
            original = by_number[t.same_as]
            assert (t.settings, t.val_loss, t.status, t.run) == (
                original.settings, original.val_loss, original.status, original.run,
            )  # fmt: skip
            assert t.seconds == 0 < original.seconds
    assert sum(t.same_as is not None for t in found) == 4
    assert [vars(t) for t in package.sweep(resume=tmp_path / "s", executor="thread:1")] == [vars(t) for t in found]


def test_settings_of_an_earlier_round(tmp_path, orders):
    """A trial with the settings of one in an earlier round is not trained again either."""
    found = trials(tmp_path / "s", trials=6, round=2, rungs="20", input=orders, n_embd=[8, 16])
    assert len([t for t in found if t.same_as is None]) == 2
    assert len(list((tmp_path / "s").glob("trial-*"))) == 2


def test_ties_at_a_rung(tmp_path, orders):
    """Of trials with equal losses, the first continue."""
    found = trials(tmp_path / "s", sampler="grid", rungs="20", input=orders, log_every=[10, 20, 30, 40])
    assert {t.trial: t.status for t in found} == {0: "done", 1: "done", 2: "stopped", 3: "stopped"}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"settings": {}}, "expected trial 1 to have"), ({"status": None}, "status cannot be None"),
        ({"val_loss": "0.1"}, "val_loss cannot be '0.1'"), ({"val_loss": None}, "has a val_loss"),
        ({"val_loss": -1.0}, "val_loss"), ({"step": True}, "step"), ({"rungs": [[1]]}, "rungs"),
        ({"run": "../../etc"}, "run"), ({"seconds": None}, "seconds"), ({"same_as": 1}, "same_as"),
        ({"val_loss": math.inf}, "val_loss cannot be inf"), ({"status": "paused"}, "status cannot be 'paused'"),
        ({"trial": "1"}, "trial cannot be '1'"), ({"settings": [1]}, "settings"), ({"error": 5}, "error"),
    ],
    ids=str,
)  # fmt: skip
def test_edited_trials(tmp_path, orders, change, said):
    """A line of trials.jsonl that a sweep cannot have written is refused, in one line that says what is wrong."""
    trials(tmp_path / "s", sampler="grid", input=orders, n_embd=[8, 16], num_steps=5)
    path = tmp_path / "s" / "trials.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(f"{lines[0]}\n{json.dumps(json.loads(lines[1]) | change)}\n")
    with pytest.raises(DataError, match=said):
        package.sweep(resume=tmp_path / "s", executor="thread:1")


def test_a_changed_learning_rate(tmp_path, orders):
    """A setting that was edited in trials.jsonl is noticed, also in a round that had ended."""
    trials(tmp_path / "s", sampler="grid", input=orders, n_embd=[8, 16], num_steps=5)
    path = tmp_path / "s" / "trials.jsonl"
    path.write_text(path.read_text().replace('"learning_rate": 0.05', '"learning_rate": 0.06', 1))
    with pytest.raises(DataError, match="the file was edited"):
        package.sweep(resume=tmp_path / "s", executor="thread:1")


def test_an_edited_round(tmp_path, orders):
    """A setting that was edited in the round of sweep.json is noticed too."""
    trials(tmp_path / "s", sampler="grid", rungs="20", input=orders, n_embd=[8, 16])
    path = tmp_path / "s" / "sweep.json"
    plan = json.loads(path.read_text())
    plan["round"][0]["settings"]["learning_rate"] = 0.06
    path.write_text(json.dumps(plan))
    (tmp_path / "s" / "trials.jsonl").write_text("")
    with pytest.raises(DataError, match="expected trial 0 to have"):
        package.sweep(resume=tmp_path / "s", executor="thread:1")


def test_early_stopping_ends_a_trial(tmp_path, orders):
    """A trial that early stopping ends is done, with the loss of its last step."""
    stopping = {"patience": 1, "eval_every": 2, "learning_rate": 3.0, "schedule": "constant"}
    (t,) = trials(tmp_path / "s", sampler="grid", input=orders, **stopping)
    assert (t.status, t.step < 60) == ("done", True)
    assert package.load(tmp_path / "s" / t.run, last=True).step == t.step
