"""best.npz: the checkpoint with the lowest held-out loss."""

import json
import os
import random
import shutil
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from helpers import everything, microgpt, write_names

import microgpt as package
from microgpt.__main__ import main
from microgpt.base import files
from microgpt.base.config import Config
from microgpt.base.progress import Reporter
from microgpt.core.sample import Sampler
from microgpt.core.trainer import Trainer
from microgpt.runs import checkpoint, loop, run

# settings that make the held-out loss rise and fall
SETTINGS = {"n_embd": 8, "n_head": 2, "block_size": 8, "num_steps": 70, "val_fraction": 0.2}
SETTINGS |= {"learning_rate": 0.15, "schedule": "constant", "eval_every": 5, "checkpoint_every": 10}


def flags(**settings):
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", value)]


def measured(folder):
    """(step, held-out loss) of every evaluation in the metrics."""
    lines = [json.loads(line) for line in (folder / run.METRICS).read_text().splitlines()]
    return [(line["step"], line["val_loss"]) for line in lines if "val_loss" in line]


def new_bests(measurements):
    """The steps whose loss is lower than all earlier ones."""
    return [
        step
        for i, (step, loss) in enumerate(measurements)
        if all(loss < before for _, before in measurements[:i])
    ]  # fmt: skip


def content(folder, *names):
    return {name: (folder / name).read_bytes() for name in names or (run.CHECKPOINT, run.BEST, run.METRICS)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with names.txt and a run whose best evaluation is neither the first nor the last."""
    folder = tmp_path_factory.mktemp("best")
    write_names(folder / "names.txt", 100)
    process = microgpt("train", "--input", "names.txt", "--out", "run", *flags(**SETTINGS, num_samples=0), cwd=folder)
    assert process.returncode == 0, process.stderr
    bests = new_bests(measured(folder / "run"))
    assert len(bests) > 2 and bests[-1] < 70
    return folder


@pytest.fixture
def begun(trained, monkeypatch):
    """A function that returns a trainer of the same run and a new Run at a path."""
    monkeypatch.chdir(trained)
    runs = []

    def begin(path):
        trainer, target = Trainer(Config("names.txt", **SETTINGS, num_samples=0)), run.Run(str(path))
        target.create()
        target.start(trainer.checkpoint(), trainer.input)
        runs.append(target)
        return trainer, target

    yield begin
    for target in runs:
        target.close()


def test_it_is_the_run_at_its_best(trained, monkeypatch):
    """best.npz equals, bit for bit, a run with the same settings that was stopped at the best evaluation."""
    monkeypatch.chdir(trained)
    measurements = measured(trained / "run")
    best, trainer = new_bests(measurements)[-1], Trainer(Config("names.txt", **SETTINGS, num_samples=0))
    for step, loss in measurements:
        if step <= best:
            trainer.steps(step, [], ())
            assert trainer.evaluate() == loss
            trainer.record(loss)
    saved = run.load(str(trained / "run" / run.BEST))
    assert everything(saved) == everything(trainer.checkpoint())
    assert (saved.step, saved.best_val_loss) == (best, min(loss for _, loss in measurements))


def test_only_a_new_best_is_written(trained, begun, tmp_path, monkeypatch):
    """best.npz is written at each new best and at no other step, before the checkpoint of that step."""
    trainer, target = begun(tmp_path / "run")
    write, written = files.Folder.write, []

    def noting(folder, name, *rest):
        written.append((name, trainer.step_count))
        write(folder, name, *rest)

    monkeypatch.setattr(files.Folder, "write", noting)
    loop.train(trainer, target)
    bests = new_bests(measured(trained / "run"))
    assert [step for name, step in written if name == run.BEST] == bests
    assert any(step % 10 == 0 for step in bests)
    assert written == sorted(written, key=lambda pair: (pair[1], pair[0]))  # best comes before checkpoint
    assert content(tmp_path / "run") == content(trained / "run")


def test_without_a_held_out_part(tmp_path):
    """A run without a held-out set has no best.npz."""
    package.train(write_names(tmp_path / "names.txt"), out=tmp_path / "run", num_steps=20, eval_every=5)
    assert not (tmp_path / "run" / run.BEST).exists()


def same(one, other):
    return np.array_equal(one.params.flat, other.params.flat)


def test_its_uses(trained, monkeypatch, tmp_path, capfd):
    """Every command on a run's directory uses best.npz and says so in one line; with --last, the final weights."""
    monkeypatch.chdir(trained)
    best, last = (run.load(f"run/{name}") for name in (run.BEST, run.CHECKPOINT))
    said = f"microgpt: run: using best.npz, step {best.step}, held-out loss {best.best_val_loss:.4f}; --last selects"
    capfd.readouterr()
    export, report = ["export", "-o", str(tmp_path / "m.py")], ["report", "--json"]
    for name, *rest in ["sample", "--num-samples", "3"], ["eval"], ["score", "ab"], report, export:
        found = []
        for path in ["run"], ["run/best.npz"], ["run", "--last"], ["run/checkpoint.npz"]:
            assert main([name, path[0], *rest, *path[1:]]) == 0
            out, err = capfd.readouterr()
            assert err.startswith(said) and err.count("\n") == 1 if path == ["run"] else "using best" not in err
            figures = {key: json.loads(out)[key] for key in ("texts", "losses")} if name == "report" else out
            found.append((tmp_path / "m.py").read_text().split("N_LAYER")[-1] if name == "export" else figures)
        assert found[0] == found[1] != found[2] == found[3], name
    assert last.step == 70


def test_load(trained):
    """microgpt.load has the best weights, with last=True the final ones, and the history of the whole run."""
    best, last = package.load(trained / "run"), package.load(trained / "run", last=True)
    assert same(best, package.load(trained / "run" / run.BEST)) and not same(best, last)
    assert (last.step, len(best.history.losses)) == (70, 70)
    assert best.step == min(best.history.val_losses, key=lambda pair: pair[1])[0]


@pytest.mark.parametrize("out", [False, True])
def test_train_returns_it(trained, tmp_path, monkeypatch, out, recwarn):
    """microgpt.train returns the best weights, with or without a directory, and suggests a remedy in one line."""
    monkeypatch.chdir(trained)
    more = {"out": tmp_path / "run"} if out else {}
    best = package.train("names.txt", **SETTINGS, **more)
    wanted = package.load(trained / "run" / run.BEST)
    assert same(best, wanted) and best.step == wanted.step
    said = str(recwarn.pop(package.MicrogptWarning).message)
    assert said.startswith(f"using the weights of step {best.step}, where the held-out loss was lowest (")
    assert all(name in said for name in (f"num_steps={best.step}", "patience=5", "weight_decay", "n_embd"))
    last = package.train("names.txt", **SETTINGS, last=True)
    assert same(last, package.load(trained / "run", last=True)) and last.step == 70
    assert everything(best._saved) == everything(wanted._saved) | {"config": best.config}


def test_the_samples_at_the_end(trained, tmp_path):
    """The samples at the end of `train` are those of the best weights, with and without a directory."""
    arguments = ["train", "--input", trained / "names.txt", *flags(**SETTINGS)]
    found = microgpt(*arguments)
    assert "using the weights of step" in found.stderr and found.stderr.count("\n") == 1
    saved = run.load(str(trained / "run" / run.BEST))
    trainer = Trainer(replace(saved.config, input=str(trained / "names.txt")), saved)
    wanted = [Sampler(trainer.params).sample(trainer.rng, 0.5) for _ in range(20)]
    samples = found.stdout.split("---\n")[-1]
    assert samples == "".join(f"sample {i:2d}: {text}\n" for i, text in enumerate(wanted, 1))
    assert microgpt(*arguments, "--out", tmp_path / "run").stdout == found.stdout


def test_another_that_cannot_be_used(trained, tmp_path, recwarn):
    """If best.npz is damaged, loading uses the final weights, with one notice; resuming never uses best.npz."""
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / run.BEST).write_bytes(b"damaged")
    assert same(package.load(tmp_path / "run"), package.load(trained / "run", last=True))
    assert [str(each.message).endswith("; using the final weights") for each in recwarn] == [True]
    assert package.train(resume=trained / "run", last=True).step == 70


def test_automatic_evaluation(tmp_path):
    """With eval_every=0 the held-out loss is measured once per pass, at most 200 and at least 20 times."""
    names = write_names(tmp_path / "names.txt", 100)
    for batch_size, num_steps, every in (1, 400, 20), (8, 400, 10), (100, 400, 2), (100, 10, 1), (8, 100, 5):
        settings = SETTINGS | {"eval_every": 0, "batch_size": batch_size, "num_steps": num_steps}
        trainer = Trainer(Config(names, **settings))
        assert loop.eval_every(trainer) == every
    losses = package.train(names, **settings).history.val_losses
    assert [step for step, _ in losses] == list(range(5, 101, 5))
    shown = microgpt("train", "--input", names, *flags(**settings | {"log_every": 50, "num_samples": 0})).stdout
    assert [line.split(" /")[0] for line in shown.splitlines() if "held-out" in line] == ["step   50", "step  100"]


def test_eval_held_out(trained):
    """eval --held-out gives the lowest held-out loss, and for the final weights the last one."""
    measurements = measured(trained / "run")
    best = min(measurements, key=lambda pair: pair[1])
    for path, (_, loss) in ("run", best), ("run/best.npz", best), ("run/checkpoint.npz", measurements[-1]):
        process = microgpt("eval", path, "--held-out", "--json", cwd=trained)
        found = json.loads(process.stdout)
        assert found["loss"] == loss and found["n_documents"] == 20
        assert "(held-out documents)" in microgpt("eval", path, "--held-out", cwd=trained).stdout


@pytest.mark.parametrize("split", ["blank-line", "none"])
def test_eval_held_out_of_other_splits(tmp_path, split):
    """eval --held-out gives the recorded losses for paragraphs and running text too."""
    rng = random.Random(1)
    (tmp_path / "t").write_text("".join(rng.choices("abc  \n\n", k=2000)))
    settings = SETTINGS | {"num_steps": 30, "split": split}
    assert microgpt("train", "--input", "t", "--out", "run", *flags(**settings), cwd=tmp_path).returncode == 0
    process = microgpt("eval", "run", "--last", "--held-out", "--json", cwd=tmp_path)
    assert json.loads(process.stdout)["loss"] == measured(tmp_path / "run")[-1][1]


def test_eval_held_out_is_refused(trained, tmp_path):
    """eval --held-out without a held-out set exits with 2, and with 1 if the input has changed, in one line."""
    settings = SETTINGS | {"val_fraction": 0, "num_steps": 1}
    names = write_names(tmp_path / "names.txt", 100)
    for out, more in ("none", settings), ("changed", settings | {"val_fraction": 0.2}):
        assert microgpt("train", "--input", names, "--out", out, *flags(**more), cwd=tmp_path).returncode == 0
    (tmp_path / "names.txt").write_text("anna\nbob\ncarol\n")
    for path, code, said in ("none", 2, "--held-out: expected a run with a held-out set"), ("changed", 1, names):
        process = microgpt("eval", path, "--last", "--held-out", cwd=tmp_path)
        assert (process.returncode, process.stdout, process.stderr.count("\n")) == (code, "", 1)
        assert process.stderr.startswith(f"microgpt: {said}")


# ---- what goes wrong ----


def test_a_full_disk(trained, begun, tmp_path, monkeypatch, recwarn):
    """If best.npz cannot be written, each failure is a notice, the old file stays intact, and the run is unchanged."""
    trainer, target = begun(tmp_path / "run")
    write_all, bests = files.write_all, new_bests(measured(trained / "run"))

    def full(fd, data):
        if os.readlink(f"/proc/self/fd/{fd}").endswith("best.npz.tmp") and trainer.step_count > bests[0]:
            write_all(fd, data[:1000])
            raise OSError(28, "No space left on device")
        write_all(fd, data)

    monkeypatch.setattr(files, "write_all", full)
    loop.train(trainer, target)
    notices = [str(each.message) for each in recwarn if "training continues" in str(each.message)]
    path = tmp_path / "run" / run.BEST
    assert notices == [
        f"{path}: the run cannot be saved at step {step}: No space left on device; training continues"
        for step in bests[1:]
    ]
    assert content(tmp_path / "run", run.CHECKPOINT, run.METRICS) == content(
        trained / "run", run.CHECKPOINT, run.METRICS
    )
    assert run.load(str(path)).step == bests[0]
    assert not (tmp_path / "run" / ".best.npz.tmp").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("precious", path)])
def test_something_else_in_its_place(trained, begun, tmp_path, make, recwarn):
    """A FIFO, directory or link in its place is not written to: a notice is printed, and training continues."""
    trainer, target = begun(tmp_path / "run")
    (tmp_path / "run" / "precious").write_text("precious")
    make(tmp_path / "run" / run.BEST)
    loop.train(trainer, target)
    said = "".join(str(each.message) for each in recwarn)
    assert said.count("training continues") == said.count(": expected a file, found a") > 1
    assert (tmp_path / "run" / "precious").read_text() == "precious"
    names = run.CHECKPOINT, run.METRICS
    assert content(tmp_path / "run", *names) == content(trained / "run", *names)


@pytest.mark.parametrize("when", ["first", "last"])
def test_nobody_reads_any_longer(trained, tmp_path, monkeypatch, when):
    """If stdout is closed at a new best, best.npz is still saved, and the resumed run ends with the same bytes."""
    monkeypatch.chdir(trained)
    bests = new_bests(measured(trained / "run"))
    at = bests[0 if when == "first" else -1]
    trainer = Trainer(Config("names.txt", **SETTINGS, num_samples=0))
    reporter = Reporter(trainer.config, lines="none")

    def closed(step, loss):
        if step == at:
            raise BrokenPipeError

    reporter.held_out = closed
    with closing(run.Run(str(tmp_path / "run"))) as target:
        target.create()
        target.start(trainer.checkpoint(), trainer.input)
        with pytest.raises(BrokenPipeError):
            loop.train(trainer, target, reporter=reporter)
    assert [run.load(str(tmp_path / "run" / name)).step for name in (run.BEST, run.CHECKPOINT)] == [at, at]
    package.train(resume=tmp_path / "run")
    assert content(tmp_path / "run") == content(trained / "run")


def test_damaged(trained, tmp_path):
    """A damaged best.npz does not prevent resuming its run, and loading it is refused like any damaged file."""
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / run.BEST).write_bytes(b"damaged")
    process = microgpt("sample", tmp_path / "run" / run.BEST)
    assert process.returncode == 1 and "best.npz: expected a checkpoint" in process.stderr
    assert microgpt("train", "--resume", tmp_path / "run", "--input", trained / "names.txt").returncode == 0
    assert checkpoint.load(str(tmp_path / "run" / run.CHECKPOINT)).step == 70
