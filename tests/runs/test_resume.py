"""Resuming: a run that was stopped or killed, and resumed, ends with the same bytes as an uninterrupted one."""

import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import pytest
from helpers import ROOT, SLOW, microgpt, often, write_names

import microgpt as package
from microgpt.__main__ import main
from microgpt.base.config import Config, resumed
from microgpt.base.errors import CheckpointError
from microgpt.base.settings import flag, parsed
from microgpt.core.documents import n_held_out
from microgpt.core.state import Checkpoint
from microgpt.runs import run
from microgpt.runs.training import training

SMALL = ["--n-embd", 8, "--n-head", 2, "--block-size", 8]
FILES = [run.CHECKPOINT, run.METRICS, run.CONFIG]


def samples(stdout):
    return stdout[stdout.index("--- inference") :]


def content(directory):
    return {name: (directory / name).read_bytes() for name in FILES}


def train(*arguments, cwd):
    process = microgpt("train", *arguments, cwd=cwd)
    assert process.returncode == 0, process.stderr
    return process


@pytest.fixture
def folder(tmp_path):
    """A directory with a file of names; runs are made in it."""
    write_names(tmp_path / "names.txt", 200)
    return tmp_path


# ---- killed ----


def start(*arguments, cwd):
    command = [sys.executable, "-m", "microgpt", "train", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, **pipes)


def killed_and_resumed(flags, n_kills, cwd, rng):
    """Train in cwd/killed with n_kills SIGKILLs at random moments, over and over where it ends before the last kill;
    stops at each end, to look at what is there."""
    kills = 0
    while True:
        begun = (cwd / "killed" / run.CHECKPOINT).exists()
        process = start(*(["--resume", "killed"] if begun else ["--out", "killed", *flags]), cwd=cwd)
        if kills < n_kills:
            if rng.random() < 0.8:  # as training begins, and a little later; else anywhere, even before
                process.stdout.readline()
                time.sleep(rng.uniform(0, often(0.06, 0.02)))
            else:
                time.sleep(rng.uniform(0, 0.4))
            process.kill()
        _, stderr = process.communicate()
        if process.returncode == 0:
            yield
            if kills == n_kills:
                return
            shutil.rmtree(cwd / "killed")
        else:
            assert process.returncode == -9 and stderr.count("Traceback") == 0, stderr
            kills += 1


VARIANTS = list(itertools.product(["float64", "float32"], [1, 16], [0, 0.1]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype, batch_size, val_fraction", VARIANTS if SLOW else [VARIANTS[0], VARIANTS[-1]])
def test_killed_at_random_moments(folder, dtype, batch_size, val_fraction):
    """A run that is killed many times gives the same checkpoint, metrics and samples as an uninterrupted one."""
    flags = ["--input", "names.txt", "--dtype", dtype, "--batch-size", batch_size, "--val-fraction", val_fraction]
    flags += ["--num-steps", often(1000, 5000)]  # most often more than are done before the last kill
    flags += ["--checkpoint-every", often(4 if val_fraction else 2, 1), "--eval-every", 50]
    straight = train("--out", "straight", *flags, cwd=folder)
    n_kills = often(8 if val_fraction else 20, 200)
    for _ in killed_and_resumed(flags, n_kills, folder, random.Random(batch_size)):
        assert content(folder / "killed") == content(folder / "straight")
    assert samples(train("--resume", "killed", cwd=folder).stdout) == samples(straight.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["line", "blank-line", "none"])
def test_killed_in_each_split(folder, split):
    """Killed runs of paragraphs and running text end with the same bytes, with schedule, decay, clipping, best.npz."""
    lines = (folder / "names.txt").read_text().split()
    (folder / "text.txt").write_text("\n\n".join("\n  ".join(lines[i : i + 3]) for i in range(0, len(lines), 3)))
    flags = ["--input", "text.txt", "--split", split, "--batch-size", 4, "--val-fraction", 0.1, "--eval-every", 20]
    flags += ["--schedule", "cosine", "--warmup-steps", 30, "--min-learning-rate", 0.001, "--weight-decay", 0.1]
    flags += ["--grad-clip", 1, "--num-steps", often(600, 2000), "--checkpoint-every", often(3, 1), *SMALL]
    straight = train("--out", "straight", *flags, cwd=folder)
    n_kills = often(6, 40)
    for _ in killed_and_resumed(flags, n_kills, folder, random.Random(split)):
        for name in [*FILES, run.BEST]:
            assert (folder / "killed" / name).read_bytes() == (folder / "straight" / name).read_bytes()
    assert samples(train("--resume", "killed", cwd=folder).stdout) == samples(straight.stdout)


# ---- what resuming means ----


@pytest.mark.parametrize("extra", [[], ["--val-fraction", 0.2, "--eval-every", 7]], ids=["plain", "held out"])
def test_stopped_once(folder, extra):
    """A run resumed from an earlier checkpoint ends with the same bytes, whatever lines its metrics already have."""
    flags = ["--input", "names.txt", "--num-steps", 40, "--checkpoint-every", 20, *SMALL, *extra]
    straight = train("--out", "straight", *flags, cwd=folder)
    train("--out", "again", *flags, cwd=folder)
    os.replace(folder / "again" / run.PREVIOUS, folder / "again" / run.CHECKPOINT)  # as if killed after step 20
    resumed = train("--resume", "again", cwd=folder)
    assert "resuming after step 20 of 40" in resumed.stderr and "longer schedule" not in resumed.stderr
    assert content(folder / "again") == content(folder / "straight")
    assert samples(resumed.stdout) == samples(straight.stdout)


def test_a_finished_run(folder):
    """Resuming a finished run changes nothing and draws the same samples."""
    first = train("--out", "run", "--input", "names.txt", "--num-steps", 10, *SMALL, cwd=folder)
    before = content(folder / "run")
    again = train("--resume", "run", cwd=folder)
    assert content(folder / "run") == before and samples(again.stdout) == samples(first.stdout)


def test_more_steps(folder):
    """With a larger --num-steps the learning rate follows the longer schedule from there on, and a notice says so."""
    train("--out", "run", "--input", "names.txt", "--num-steps", 10, *SMALL, cwd=folder)
    longer = train("--resume", "run", "--num-steps", 20, cwd=folder)
    assert "the learning rate now follows the longer schedule" in longer.stderr
    rates = [json.loads(line)["lr"] for line in (folder / "run" / run.METRICS).read_text().splitlines()]
    assert rates == [0.01 * (1 - s / 10) for s in range(10)] + [0.01 * (1 - s / 20) for s in range(10, 20)]
    assert run.load(str(folder / "run")).config.num_steps == 20
    assert "num-steps = 20\n" in (folder / "run" / run.CONFIG).read_text()


CHANGES = {"seed": 1, "batch-size": 2, "n-layer": 2, "n-embd": 16, "n-head": 1, "block-size": 9, "learning-rate": 0.1,
           "beta1": 0.5, "beta2": 0.5, "eps": 0.1, "init-std": 0.1, "dtype": "float32", "val-fraction": 0.5,
           "num-steps": 9, "split": "none", "schedule": "cosine", "warmup-steps": 2, "min-learning-rate": 0.001,
           "weight-decay": 0.1, "grad-clip": 1.0, "shards": 2, "val-split": "documents", "val-seed": 1}  # fmt: skip
FREE = {"input": "x", "num-steps": 2000, "eval-every": 7, "patience": 3, "checkpoint-every": 5, "log-every": 5,
        "sample-every": 5, "num-samples": 1, "temperature": 0.1}  # fmt: skip


def test_what_would_be_another_run(folder, monkeypatch, capfd):
    """A setting that would change the result is refused by name, and nothing changes."""
    train("--out", "run", "--input", "names.txt", "--num-steps", 10, *SMALL, cwd=folder)
    before = content(folder / "run")
    monkeypatch.chdir(folder)
    for name, value in CHANGES.items():
        assert main(["train", "--resume", "run", f"--{name}", str(value)]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and f"--{name}: expected" in err
    assert content(folder / "run") == before
    train("--resume", "run", "--seed", 42, *SMALL, cwd=folder)  # the same values are no change


def test_settings_that_may_change(folder):
    """Settings that do not affect the result may change; nothing else in the checkpoint differs."""
    flags = ["--out", "run", "--input", "names.txt", "--num-steps", 10, *SMALL]
    train(*flags, cwd=folder)
    changed = train("--resume", "run", "--log-every", 3, "--num-samples", 2, "--sample-every", 4, cwd=folder)
    assert changed.stdout.count("sample ") == 2
    config = run.load(str(folder / "run")).config
    assert config.num_samples == 20  # nothing was trained, so nothing was saved
    train("--resume", "run", "--log-every", 3, "--num-steps", 11, cwd=folder)
    assert run.load(str(folder / "run")).config.log_every == 3


@pytest.mark.parametrize("name", FREE)
def test_every_setting_that_may_change(name):
    """Each setting is in one of the two lists above, and only those of the second may change on resuming."""
    assert {flag(f.name)[2:] for f in fields(Config)} - set(CHANGES) == set(FREE) - {"num-steps"}
    key = name.replace("-", "_")
    assert resumed(Config(val_fraction=0.5), {key: FREE[name]}, 0) == Config(val_fraction=0.5, **{key: FREE[name]})


def test_other_documents(folder):
    """Resuming needs the same documents in the same order, from any path; other documents exit with 1."""
    train("--out", "run", "--input", "names.txt", "--num-steps", 10, *SMALL, cwd=folder)
    os.rename(folder / "names.txt", folder / "moved.txt")
    missing = microgpt("train", "--resume", "run", cwd=folder)
    assert missing.returncode == 1 and "names.txt" in missing.stderr
    train("--resume", "run", "--input", "moved.txt", cwd=folder)
    text = (folder / "moved.txt").read_text()
    for documents in text + "\nzoe", "\n".join(reversed(text.split("\n"))):
        (folder / "moved.txt").write_text(documents)
        other = microgpt("train", "--resume", "run", "--input", "moved.txt", cwd=folder)
        assert other.returncode == 1 and "moved.txt" in other.stderr and other.stderr.count("\n") == 1


def test_one_run_in_a_directory(folder):
    """A directory with a run, or part of one, is refused for a new run; one with other files is not."""
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine")
    flags = ["--out", "run", "--input", "names.txt", "--num-steps", 3, *SMALL]
    train(*flags, cwd=folder)
    before = content(folder / "run")
    refused = microgpt("train", *flags, cwd=folder)
    assert refused.returncode == 2 and "--out" in refused.stderr and "--resume run" in refused.stderr
    assert content(folder / "run") == before


@pytest.mark.parametrize("arguments, code", [(["--resume", "nothing"], 1), (["--resume", "."], 1),
                                             (["--resume", "names.txt"], 1),
                                             (["--resume", "x", "--out", "y"], 2)])  # fmt: skip
def test_nothing_to_resume(folder, arguments, code):
    """Without a run to resume, one line says so, and nothing is written."""
    before = sorted(os.listdir(folder))
    refused = microgpt("train", *arguments, cwd=folder)
    assert refused.returncode == code and refused.stderr.count("\n") == 1 and refused.stdout == ""
    assert sorted(os.listdir(folder)) == before


def test_one_writer(folder):
    """While one process trains in a directory, another is refused; after the first ends, it may train there."""
    first = start("--out", "run", "--input", "names.txt", "--num-steps", 10**9, *SMALL, cwd=folder)
    first.stdout.readline()
    second = microgpt("train", "--resume", "run", cwd=folder, timeout=60)
    assert second.returncode == 1 and "another process" in second.stderr and second.stderr.count("\n") == 1
    first.kill()
    first.communicate()
    assert run.Run(str(folder / "run")).resume().step >= 0


def test_metrics_beyond_the_checkpoint(folder):
    """Metrics after the checkpoint's step are cut off, including an incomplete line."""
    from microgpt.base.files import Folder
    from microgpt.runs.metrics import Metrics

    path = folder / "m"
    lines = [f'{{"step": {i}, "loss": 2.0, "lr": 0.1}}\n' for i in range(1, 8)]
    path.write_text("".join(lines) + '{"step": 8, "lo')
    Metrics.of_run(Folder(str(folder)), "m", 5).close()
    assert path.read_text() == "".join(lines[:5])
    Metrics.of_run(Folder(str(folder)), "m", 9).close()
    assert path.read_text() == "".join(lines[:5])
    Metrics.beside(str(path), {}, None).close()
    assert path.read_text() == ""


def test_early_stopping(folder):
    """--patience ends and saves a run whose held-out loss no longer improves; resuming it changes nothing."""
    flags = ["--out", "run", "--input", "names.txt", "--val-fraction", 0.3, "--eval-every", 5, "--patience", 2]
    stopped = train(*flags, "--num-steps", 2000, "--learning-rate", 0.5, "--checkpoint-every", 7, *SMALL, cwd=folder)
    assert "stopped early" in stopped.stderr
    lines = [json.loads(line) for line in (folder / "run" / run.METRICS).read_text().splitlines()]
    losses = [line["val_loss"] for line in lines if "val_loss" in line]
    assert len(lines) == 5 * len(losses) < 2000
    best = losses.index(min(losses))
    assert best == len(losses) - 3
    said = f"using the weights of step {5 * (best + 1)}, where the held-out loss was lowest ({losses[best]:.4f})"
    assert said in stopped.stderr
    before = content(folder / "run")
    again = train("--resume", "run", cwd=folder)
    assert content(folder / "run") == before and samples(again.stdout) == samples(stopped.stdout)


def test_a_kill_before_the_first_checkpoint(folder):
    """A run killed before its first checkpoint leaves nothing that prevents a new run."""
    (folder / "run").mkdir()
    (folder / "run" / ".checkpoint.npz.tmp").write_bytes(b"half")
    train("--out", "run", "--input", "names.txt", "--num-steps", 3, *SMALL, cwd=folder)
    assert sorted(os.listdir(folder / "run")) == sorted([*FILES, run.PREVIOUS])


def test_held_out_loss(folder):
    """The held-out loss is that of the held-out documents alone, and is logged after the last step too."""
    process = train("--out", "run", "--input", "names.txt", "--val-fraction", 0.25, "--num-steps", 30, "--eval-every",
                    12, *SMALL, cwd=folder)  # fmt: skip
    found = re.findall(r"step +(\d+) / +30 \| held-out loss (\d\.\d{4}) ", process.stdout)
    assert [int(step) for step, _ in found] == [12, 24, 30]
    model = package.load(str(folder / "run"), last=True)
    result = model.evaluate(model.held_out(folder / "names.txt"))
    assert f"{result.loss:.4f}" == found[-1][1]
    last = json.loads((folder / "run" / run.METRICS).read_text().splitlines()[-1])
    assert last["val_loss"] == result.loss


def test_nothing_left_to_train_on(folder):
    """Holding out all documents is refused."""
    (folder / "one.txt").write_text("anna")
    refused = microgpt("train", "--input", "one.txt", "--val-fraction", 0.5, cwd=folder)
    assert refused.returncode == 2 and "--val-fraction" in refused.stderr


def test_the_least_to_hold_out():
    """Any fraction but 0 holds out a document."""
    assert [n_held_out(3, fraction) for fraction in (0, 1e-9, 0.3, 0.34, 0.67)] == [0, 1, 1, 1, 2]


def test_a_directory_is_no_checkpoint(folder):
    """An empty directory has no run to load."""
    with pytest.raises(CheckpointError):
        run.load(str(folder))


def lines(folder):
    return [json.loads(line) for line in (folder / "run" / run.METRICS).read_text().splitlines()]


def test_fewer_steps(folder):
    """With a smaller --num-steps the learning rate decays to the new end, even if that is the step already made."""
    flags = ["--out", "run", "--input", "names.txt", "--num-steps", 20, *SMALL]
    with started(folder, *flags) as trainer:
        trainer.steps(10, [], ())
    shorter = train("--resume", "run", "--num-steps", 15, cwd=folder)
    assert "the learning rate now follows the shorter schedule" in shorter.stderr
    assert [line["lr"] for line in lines(folder)[10:]] == [0.01 * (1 - s / 15) for s in range(10, 15)]
    refused = microgpt("train", "--resume", "run", "--num-steps", 14, cwd=folder)
    assert refused.returncode == 2 and "--num-steps: expected at least 15, the steps that the run" in refused.stderr


def test_no_more_steps(folder):
    """A run that is shortened to the step already made is complete: resuming it trains no further."""
    with started(folder, "--out", "run", "--input", "names.txt", "--num-steps", 20, *SMALL) as trainer:
        trainer.steps(10, [], ())
    for flags in ["--num-steps", 10], []:
        train("--resume", "run", *flags, cwd=folder)
        saved = run.load(str(folder / "run"))
        assert (saved.step, saved.config.num_steps) == (10, 10)


@contextmanager
def started(folder, *flags):
    """The trainer of a run with these flags, whose steps are saved at the end."""
    settings = parsed(Config, dict(zip((f[2:].replace("-", "_") for f in flags[::2]), map(str, flags[1::2]))))
    settings["input"] = str(folder / settings["input"])
    with training(settings, str(folder / "run")) as (trainer, target, _):
        yield trainer
        target.add_metrics(1, [1.0] * trainer.step_count, [0.1] * trainer.step_count, None)
        target.save(trainer.checkpoint())


# ---- starting over, and from another run ----


def test_starting_over(folder):
    """--fresh leaves what a new run in an empty directory leaves, whatever run was there, but keeps other files."""
    small = ["--input", "names.txt", *SMALL]
    train("--out", "run", *small, "--num-steps", 30, "--val-fraction", 0.2, "--eval-every", 5, cwd=folder)
    for name in "checkpoint.bad.npz", "notes.txt":
        (folder / "run" / name).write_text("mine")
    for path, flags in ("run", ["--fresh"]), ("other", []), ("empty", ["--fresh"]):
        train("--out", path, *small, "--num-steps", 7, *flags, cwd=folder)
    assert content(folder / "run") == content(folder / "other") == content(folder / "empty")
    assert sorted(os.listdir(folder / "run")) == sorted([*os.listdir(folder / "other"), "notes.txt"])


def test_not_starting_over(folder):
    """--fresh changes nothing in the old run unless the new one is ready, and needs --out."""
    small = ["--input", "names.txt", *SMALL]
    train("--out", "run", *small, "--num-steps", 3, "--val-fraction", 0.2, cwd=folder)
    before = {name: (folder / "run" / name).read_bytes() for name in os.listdir(folder / "run")}
    for code, flags in (1, ["--input", "missing"]), (2, ["--n-embd", 7]), (2, ["--metrics", "run/m"]):
        refused = microgpt("train", "--out", "run", "--fresh", *small, *flags, cwd=folder)
        assert refused.returncode == code and refused.stderr.count("\n") == 1
        assert {name: (folder / "run" / name).read_bytes() for name in os.listdir(folder / "run")} == before
    for flags in [], ["--resume", "run"]:
        refused = microgpt("train", "--fresh", *small, *flags, cwd=folder)
        assert refused.returncode == 2 and refused.stderr.startswith("microgpt: --fresh: expected --out")


@pytest.mark.parametrize("what", ["run", "run/checkpoint.npz"])
def test_from_the_weights_of_a_run(folder, what, capfd):
    """--init-from starts at step 0 from the weights of a run, by default of the same model, with any other setting."""
    names = str(folder / "names.txt")
    model = package.train(names, out=folder / "run", n_embd=8, n_head=2, num_steps=20, dtype="float32")
    new = package.train(names, init_from=folder / what, out=folder / "new", num_steps=4, learning_rate=1e-300, seed=7)
    assert new.config.n_embd == 8 and new.config.dtype == "float32" and new.step == 4
    assert np.array_equal(new.params.flat, model.params.flat)
    assert run.load(str(folder / "new" / run.PREVIOUS)).step == 0
    train("--out", "again", "--input", "names.txt", "--init-from", what, "--num-steps", 4, "--seed", 7,
          "--learning-rate", "1e-300", cwd=folder)  # fmt: skip
    assert np.array_equal(package.load(folder / "again").params.flat, model.params.flat)
    exported = folder / "model.npz"
    model.save(exported)
    assert package.train(names, init_from=exported, num_steps=1, dtype="float64").config.dtype == "float64"


def test_from_weights_that_do_not_fit(folder):
    """--init-from is refused in one line for another shape, another vocabulary, or together with --resume."""
    train("--out", "run", "--input", "names.txt", "--num-steps", 3, *SMALL, cwd=folder)
    (folder / "other.txt").write_text("anna\notto!\n")
    for code, said, *flags in (
        (2, "--n-embd: expected 8, as in the run of --init-from, found 16", "--n-embd", 16),
        (2, "--n-head: expected 2, as in the run of --init-from, found 4", "--n-head", 4),
        (2, "--split: expected line, as in the run of --init-from, found 'none'", "--split", "none"),
        (1, "--init-from: expected a text with the vocabulary of the run, found 'other.txt' without 'b", "--input",
         "other.txt"),
        (2, "--init-from: cannot be given with --resume, found 'run'", "--resume", "run"),
        (1, "missing: cannot be read", "--init-from", "missing"),
    ):  # fmt: skip
        refused = microgpt("train", "--init-from", "run", *flags, cwd=folder)
        assert refused.returncode == code and refused.stderr.count("\n") == 1, refused.stderr
        assert said in refused.stderr


def test_an_untrained_run(folder):
    """Using a run at step 0 says that its model is untrained; weights without a run say nothing."""
    with started(folder, "--out", "run", "--input", "names.txt", "--num-steps", 20, *SMALL) as trainer:
        pass
    said = "microgpt: run: the run is at step 0, so the model is untrained\n"
    assert microgpt("sample", "run", cwd=folder).stderr == said
    weights = Checkpoint.beginning(trainer.config, trainer.vocab, "0" * 64, trainer.params.views)
    package.Model(weights).save(folder / "weights.npz")
    assert microgpt("sample", "weights.npz", cwd=folder).stderr == ""
