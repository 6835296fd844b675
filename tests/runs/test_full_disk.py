"""A full disk: the run keeps its last good checkpoint, and the end of a run waits for space."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from helpers import ROOT, everything, tiny_trainer, write_names

from microgpt.base import files
from microgpt.core.trainer import Trainer
from microgpt.runs import checkpoint, loop, run

SETTINGS = ["--num-steps", 12000, "--checkpoint-every", 1000, "--num-samples", 3, "--input", "names.txt"]


@pytest.fixture
def disk(tmp_path):
    """A disk of 400 kB: three checkpoints of the default model, and half of the metrics of 12,000 steps."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to be root to mount a small disk")
    write_names(path / "names.txt", 200)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def start(disk, *arguments, seconds=300):
    """A process that trains on the disk, and waits this long for space at the end."""
    code = f"from microgpt.runs import run; run.PATIENCE_SECONDS = {seconds}; run.RETRY_SECONDS = 0.1; import sys; "
    code += "from microgpt.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "train", "--out", "run", *map(str, [*SETTINGS, *arguments])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=disk, env=environment, text=True, **streams)


def read_until(file, text):
    while text not in (line := file.readline()):
        assert line, f"the end, before {text!r}"


def fill(disk):
    """Leave space for one checkpoint of the default model and its settings, but not for two."""
    space = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize - 160_000))


def test_weights_before_metrics(disk):
    """Metrics fill the disk, but never the space of the weights: the last step is saved, and the previous save."""
    process = start(disk, "--log-every", 1000, seconds=0)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "sample  3:" in out
    first, last = err.splitlines()
    assert first.endswith("the space that is left is kept for the checkpoint; training continues")
    assert last.endswith("metrics.jsonl: cannot be written: No space left on device")
    assert checkpoint.load(str(disk / "run" / run.CHECKPOINT)).step == 12000
    assert checkpoint.load(str(disk / "run" / run.PREVIOUS)).step == 11000


def test_the_end_waits_for_space(disk):
    """Samples come first; then the run is saved once there is space, with all metrics and the usual exit code."""
    fill(disk)
    process = start(disk)
    read_until(process.stdout, "sample  3:")
    read_until(process.stderr, "press Ctrl-C to give up")
    (disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err.endswith("run: saved\n")
    assert run.load(str(disk / "run")).step == 12000
    assert len((disk / "run" / run.METRICS).read_text().splitlines()) == 12000


@pytest.mark.parametrize("seconds", [0, 300])
def test_the_end_without_space(disk, seconds):
    """Without space, even after Ctrl-C, the run ends with its last good checkpoint, exit code 1 and one line."""
    fill(disk)
    process = start(disk, "--num-steps", 3000, "--checkpoint-every", 0, seconds=seconds)
    if seconds:
        read_until(process.stderr, "step 3000: No space left on device; trying again")
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1].endswith(
        "checkpoint.npz: the run cannot be saved at step 3000: No space left on device"
    )
    assert run.load(str(disk / "run")).step == 0


@pytest.mark.parametrize("damaged", [False, True])
def test_the_previous_gives_up_its_space(tmp_path, monkeypatch, damaged):
    """A full disk takes the previous checkpoint only if the last one is good, and the next save keeps one again."""
    trainer, target = tiny_trainer(tmp_path), run.Run(str(tmp_path / "run"))
    target.create()
    target.start(trainer.checkpoint(), trainer.input)
    trainer.step()
    target.save(trainer.checkpoint())
    last, previous = (tmp_path / "run" / name for name in (run.CHECKPOINT, run.PREVIOUS))
    if damaged:
        last.write_bytes(last.read_bytes()[:-1])
    write = files.write_all

    def on_a_full_disk(fd, data):
        if previous.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(fd, data)

    monkeypatch.setattr(files, "write_all", on_a_full_disk)
    trainer.step()
    if damaged:
        with pytest.raises(OSError, match="step 2: No space left"):
            target.save(trainer.checkpoint())
        assert checkpoint.load(str(previous)).step == 0
    else:
        target.save(trainer.checkpoint())
        assert [checkpoint.load(str(path)).step for path in (last, previous)] == [2, 1]
    target.close()


def test_the_best_weights_wait_too(tmp_path, monkeypatch):
    """Best weights that cannot be saved at once are kept as they were, and saved at the end of the run."""
    trainer, target = tiny_trainer(tmp_path), run.Run(str(tmp_path / "run"))
    target.create()
    target.start(trainer.checkpoint(), trainer.input)
    trainer.step()
    best = checkpoint.to_bytes(trainer.checkpoint())
    with monkeypatch.context() as patched:
        patched.setattr(files.Folder, "create", lambda *given: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(OSError, match=r"best\.npz: the run cannot be saved at step 1: broken"):
            target.save_best(trainer.checkpoint())
    loop.train(trainer, target)
    target.finish()
    target.close()
    assert (tmp_path / "run" / run.BEST).read_bytes() == bytes(best)


def test_the_state_before_the_samples(tmp_path, monkeypatch):
    """A save that succeeds after samples were drawn has the state before them: equal runs give equal files."""
    trainer, target = tiny_trainer(tmp_path), run.Run(str(tmp_path / "run"))
    target.create()
    target.start(trainer.checkpoint(), trainer.input)
    with monkeypatch.context() as patched:
        patched.setattr(files.Folder, "create", lambda *given: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        loop.train(trainer, target)
        expected = everything(trainer.checkpoint())
        trainer.rng.random()
    target.finish()
    target.close()
    saved = run.load(str(tmp_path / "run"))
    assert everything(saved) == expected
    assert Trainer(trainer.config, saved).done
