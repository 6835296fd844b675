"""A run's directory: its lock, what a crash leaves in it, and when the run is saved."""

import itertools
import os
import shutil
import tomllib
import warnings
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import TINY, everything, microgpt, tiny_trainer, write_names

from microgpt.base import files
from microgpt.base.config import Config
from microgpt.base.config_file import read_toml, remembered_input, to_toml
from microgpt.base.errors import ConfigError
from microgpt.core.trainer import Trainer
from microgpt.runs import checkpoint, loop, run
from microgpt.runs.metrics import Metrics


@pytest.fixture
def trainer(tmp_path):
    return tiny_trainer(tmp_path, num_steps=100)


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


def begun(directory, trainer):
    """A Run of a new run."""
    target = run.Run(str(directory))
    target.create()
    target.start(trainer.checkpoint(), trainer.input)
    return target


def open_files():
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("name", [run.CHECKPOINT, run.PREVIOUS, run.BEST, run.METRICS, run.CONFIG])
@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("nowhere")], ids=["", "link"])
def test_any_file_of_a_run(directory, name, make):
    """A directory with any file of a run, even a broken link, is refused for a new run."""
    make(directory / name)
    with pytest.raises(ConfigError, match=f"found {name} in"):
        run.Run(str(directory)).create()


@pytest.mark.parametrize("name", [run.CHECKPOINT, run.PREVIOUS, run.BAD, run.BEST, run.METRICS, run.CONFIG])
def test_a_link_in_place_of_a_file(directory, trainer, name):
    """A run is not resumed while any of its files is a link, and the link's target does not change."""
    begun(directory, trainer).close()
    (directory / "precious").write_text("precious")
    with suppress(FileNotFoundError):
        (directory / name).unlink()
    (directory / name).symlink_to("precious")
    again = run.Run(str(directory))
    with closing(again), pytest.raises(OSError, match=f"{name}: expected a file, found a link"):
        again.resume()
    assert (directory / "precious").read_text() == "precious"


def test_an_input_of_any_name(tmp_path, directory):
    """A run on a file whose name is not valid UTF-8 is saved like any other."""
    path = write_names(tmp_path / "caf\udce9.txt")
    begun(directory, Trainer(Config(path, **TINY))).close()
    assert run.load(str(directory)).config.input == path


@pytest.mark.parametrize("n_writes", [0, 1, 2])
def test_a_crash_while_a_run_begins(directory, trainer, monkeypatch, n_writes):
    """Wherever the start of a run is interrupted, the directory can be resumed or used for a new run."""
    target, write, left = run.Run(str(directory)), files.Folder.write, iter(range(n_writes))

    def until_the_crash(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(files.Folder, "write", until_the_crash)
    target.create()
    with suppress(KeyboardInterrupt):
        target.start(trainer.checkpoint(), trainer.input)
    target.close()
    monkeypatch.undo()
    again = run.Run(str(directory))
    if n_writes:
        assert again.resume().step == 0
    else:
        again.create()
    again.close()


def test_the_checkpoint_before(directory, trainer):
    """A run that resumes from the previous checkpoint makes it the last one at once, and also keeps it as previous."""
    target = begun(directory, trainer)
    before = everything(checkpoint.load(target.file(run.CHECKPOINT)))
    trainer.steps(1, [], ())
    target.save(trainer.checkpoint())
    target.close()
    (directory / run.CHECKPOINT).write_bytes(b"damaged")
    again = run.Run(str(directory))
    again.resume()
    again.close()
    for name in run.CHECKPOINT, run.PREVIOUS:
        assert everything(checkpoint.load(again.file(name))) == before


def test_metrics_that_fail_now_and_then(directory, trainer, monkeypatch, recwarn):
    """Each series of failures to write metrics is one notice, and no line is lost."""
    target, fails = begun(directory, trainer), []
    write = os.write

    def sometimes(fd, data):
        if fails:
            raise OSError(28, "No space left on device")
        return write(fd, data[:5])  # a part is enough

    monkeypatch.setattr(os, "write", sometimes)
    notices = []
    warnings.simplefilter("always")  # as far as this test: recwarn restores the filters
    for step, failing in enumerate([False, True, True, False, True, False], 1):
        fails[:] = [True] * failing
        target.add_metrics(step, [1.0], [0.1], None)
        notices.append(sum("training continues" in str(each.message) for each in recwarn))
        recwarn.clear()
    assert notices == [0, 1, 0, 0, 1, 0]
    expected = "".join(f'{{"step": {step}, "loss": 1.0, "lr": 0.1}}\n' for step in range(1, 7))
    assert (directory / run.METRICS).read_text() == expected
    target.close()


def test_a_line_without_its_end(tmp_path):
    """Metrics continue after the last complete line; a line without its newline is not complete."""
    path, lines = tmp_path / "m", [f'{{"step": {step}, "loss": 1.0, "lr": 0.1}}\n' for step in (1, 2, 3)]
    path.write_text("".join(lines[:2])[:-1])
    with closing(files.Folder(str(tmp_path))) as folder, closing(Metrics.of_run(folder, path.name, 3)) as metrics:
        for step in 2, 3:
            metrics.add(step, [1.0], [0.1])
            metrics.flush()
    assert path.read_text() == "".join(lines)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_nothing_stays_open(directory, trainer, monkeypatch):
    """A run that is refused, closed, or cannot write its last metrics leaves no file open."""
    before = open_files()
    target = begun(directory, trainer)
    target.add_metrics(1, [1.0], [0.1], None)
    target.close()
    assert open_files() == before
    os.link(directory / run.METRICS, directory / "another name")
    target = run.Run(str(directory))
    with pytest.raises(OSError, match="expected a file without hard links"):
        target.resume()
    target.close()
    assert open_files() == before
    metrics = Metrics.beside(str(directory / "m"), {}, None)
    metrics.add(1, [1.0], [0.1])

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        metrics.close()
    assert open_files() == before


@pytest.mark.parametrize("every, saved", [(0, [30, 60, 90, 100]), (70, [70, 100])])
def test_once_a_minute(tmp_path, monkeypatch, every, saved):
    """A run is saved once a minute, unless --checkpoint-every says when, and at its end."""
    seconds = itertools.count()  # one for each look at the clock, so two for each step
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    steps = []
    save = lambda saved: steps.append(saved.step)  # noqa: E731
    target = SimpleNamespace(save=save, save_last=save, add_metrics=lambda *given: None)
    loop.train(tiny_trainer(tmp_path, num_steps=100, checkpoint_every=every), target)
    assert steps == pytest.approx(saved, abs=3)


def test_the_input_from_elsewhere(tmp_path):
    """A run finds its input from any directory and ends with the same bytes; the error names the places searched."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    write_names(here / "names.txt")
    for out in "one", "two":
        assert microgpt("train", "--input", "names.txt", "--num-steps", 3, "--out", out, cwd=here).returncode == 0
    go_on = ["--num-steps", 5, "--num-samples", 0]
    assert microgpt("train", "--resume", "../here/one", *go_on, cwd=elsewhere).returncode == 0
    assert microgpt("train", "--resume", "two", *go_on, cwd=here).returncode == 0
    assert (here / "one/checkpoint.npz").read_bytes() == (here / "two/checkpoint.npz").read_bytes()
    assert microgpt("eval", "one", cwd=here).stdout.startswith("input: names.txt\n")
    for path in "../here/one", "../here/one/checkpoint.npz":
        process = microgpt("eval", path, cwd=elsewhere)
        assert process.stdout.startswith(f"input: {here / 'names.txt'}\n"), process.stderr
    (here / "names.txt").rename(tmp_path / "moved.txt")
    for command in ["eval", "../here/one"], ["train", "--resume", "../here/one"]:
        process = microgpt(*command, cwd=elsewhere)
        assert process.returncode == 1 and process.stderr.count("\n") == 1
        assert str(here / "names.txt") in process.stderr and str(elsewhere / "names.txt") in process.stderr
        assert "give its path with --input" in process.stderr
    assert microgpt("eval", "../here/one", "--input", "../moved.txt", cwd=elsewhere).returncode == 0
    assert microgpt("train", "--resume", "../here/one", "--input", "../moved.txt", cwd=elsewhere).returncode == 0
    assert microgpt("eval", "../here/one", cwd=elsewhere).stdout.startswith(f"input: {tmp_path / 'moved.txt'}\n")


def test_a_path_that_is_not_utf8(tmp_path):
    """A run whose input path has bytes that are not UTF-8 can be resumed, and --config reads its settings."""
    folder = os.fsencode(tmp_path) + b"/d\xe9%"
    os.mkdir(folder)
    path = os.fsdecode(folder + b"/n\xff.txt")
    write_names(Path(path))
    for name in path, os.path.relpath(path, tmp_path):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        flags = ["--input", name, "--num-steps", 3, "--num-samples", 0]
        assert microgpt("train", *flags, "--out", "run", cwd=tmp_path).returncode == 0
        assert tomllib.loads((tmp_path / "run/config.toml").read_text("utf-8"))["num-steps"] == 3
        settings = read_toml(str(tmp_path / "run/config.toml"))
        assert Config(**settings) == run.load(str(tmp_path / "run")).config and settings["input"] == name
        assert remembered_input(str(tmp_path / "run/config.toml")) == path
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        process = microgpt("train", "--resume", "../run", "--num-steps", 5, cwd=tmp_path / "elsewhere")
        assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("path", ["names.txt", "file:names.txt", "100%.txt", "é\n\x7f\\.txt", "file:%FF", "n\udcff"])
def test_paths_in_settings_files(tmp_path, path):
    """Any path is the same after writing and reading a settings file, also one that looks like a URI."""
    (tmp_path / "c").write_text(to_toml(Config(input=path), path), encoding="utf-8", newline="")
    assert Config(**read_toml(str(tmp_path / "c"))) == Config(input=path)
    assert remembered_input(str(tmp_path / "c")) == path


def test_a_sweep_has_its_own_directory(tmp_path):
    """A run's directory is no place for a sweep, nor a sweep's for a run: one line, exit code 2, nothing written."""
    flags = ["--input", write_names(tmp_path / "names.txt"), "--num-steps", 3]
    assert microgpt("train", *flags, "--out", "run", cwd=tmp_path).returncode == 0
    sweep = ["--trials", 1, "--executor", "thread:1", *flags]
    assert microgpt("sweep", "sweep", *sweep, cwd=tmp_path).returncode == 0
    before = sorted(tmp_path.rglob("*"))
    for command, found in (
        (["sweep", "run", *sweep], "checkpoint.npz"),
        (["train", *flags, "--out", "sweep"], "sweep.json"),
    ):
        process = microgpt(*command, cwd=tmp_path)
        assert process.returncode == 2 and process.stderr.count("\n") == 1
        assert "--out: expected a directory without a" in process.stderr and f"found {found} in" in process.stderr
    assert sorted(tmp_path.rglob("*")) == before
