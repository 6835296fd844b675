"""Saving on failing disks: after any error, the old or the new checkpoint is there and loads."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import SLOW, everything, microgpt, often, tiny_trainer, write_names

from microgpt.runs import loop, run

HERE = Path(__file__).parent
SHORT, KILL = -1, -2  # what else fault_driver.py does than errors
SAVING = {"open", "read", "write", "fsync", "close", "rename", "link", "unlink"}
READS = {  # command: at how many reads it can fail
    "train --resume": 34, "train --metrics": 34, "train --out": 4,
    "sample": 12, "eval": 6, "score": 4, "load": 4, "plot": 5,
}  # fmt: skip
READING = {"sample", "eval", "score", "load", "plot"}
TINY_FLAGS = ["--n-embd", 4, "--n-head", 2, "--block-size", 4, "--num-samples", 0]


# ---- every operation fails once, or for good, or the process dies there ----


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """What fault_driver.py found."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    shim = tmp_path_factory.mktemp("shim") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, HERE / "faults.c", "-ldl"], check=True)
    paths = os.pathsep.join([str(HERE.parent), str(HERE.parent.parent)])

    def drive(what, *names):
        folder = tmp_path_factory.mktemp(what)
        command = [sys.executable, HERE / "fault_driver.py", what, folder, often("few", "all"), *names]
        environment = os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": paths}
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        found = [json.loads(line) for line in process.stdout.splitlines()]
        struck = [r for r in found if r["fired"]]
        reads = sum(r["kind"] == "read" for r in struck)
        print(f"{' '.join([what, *names])}: {len(struck)} points, {reads} of them reads")
        return found

    return drive


@pytest.fixture(scope="module")
def saves(driven):
    return driven("saves")


@pytest.fixture(scope="module", params=READS)
def commands(driven, request):
    """What it found with one of the commands."""
    if request.param == "train --metrics" and not SLOW:
        pytest.skip("needs MICROGPT_SLOW=1")
    return driven("commands", request.param)


@pytest.mark.slow
def test_every_operation_was_reached(saves):
    """The faults struck at many points, of every kind of operation."""
    struck = [r for r in saves if r["fired"]]
    assert len(struck) >= 300
    assert {r["kind"] for r in struck} >= SAVING


@pytest.mark.slow
def test_the_old_or_the_new_loads(saves):
    """After any fault, the directory loads as before or as saved; as saved if the save reported success."""
    for r in saves:
        new = r["old"] + 1
        assert r["found"] in ({"none", 0} if new == 0 else {r["old"], new}), r
        assert r["status"] in (0, 3, -9), r
        if r["status"] == 0:
            assert r["found"] == new, r


@pytest.mark.slow
def test_the_one_before_is_kept(saves):
    """After any fault but a full disk, to which the previous checkpoint gives up its space, a previous checkpoint
    exists too, or a second copy of the last; reported saves are real."""
    for r in saves:
        if r["scene"] == "third save":
            gives_up = ["none"] if r["action"] in (errno.ENOSPC, errno.EDQUOT) else []
            assert r["previous"] in (r["old"] - 1, r["old"], *gives_up), r
        if r["status"] == 0 and r["old"] >= 0:
            assert r["previous"] == r["old"], r
        if (r["kind"], r["action"]) == ("link", errno.EPERM):  # a file system without links
            assert r["status"] == 0, r


@pytest.mark.slow
def test_no_litter(saves):
    """A save that fails leaves no temporary file, unless the process died or unlink itself fails."""
    for r in saves:
        if r["status"] == 3 and r["kind"] != "unlink" and r["scene"] != "stale temporary file":
            assert r["left"] == [], r


@pytest.mark.slow
def test_the_next_save_goes_well(saves):
    """After the fault, the next save works, whatever files the fault left."""
    for r in saves:
        assert r["again"] == 0 and r["found_again"] == r["old"] + 2, r


# ---- the same while a run is resumed, sampled, measured, plotted ----


@pytest.mark.slow
def test_every_read_was_reached(commands):
    """The faults occurred at every read of the command, and wherever training opens or examines files."""
    struck = [r for r in commands if r["fired"]]
    command = struck[0]["command"]
    assert len({(r["scene"], r["n"]) for r in struck if r["kind"] == "read"}) >= READS[command]
    if command.startswith("train"):
        assert {r["kind"] for r in struck} >= {"read", "open", "stat"}
        assert command == "train --resume" or "list" in {r["kind"] for r in struck}


@pytest.mark.slow
def test_what_fails_now_is_not_damaged(commands):
    """Whatever fails, no good checkpoint is renamed or lost, nor any line of its metrics."""
    for r in commands:
        last, before = r[run.CHECKPOINT], r[run.PREVIOUS]
        assert before in (4, 8, 12), r
        if r["scene"] == "whole":
            assert last in (8, 12) and last >= before and r["n_metrics"] >= 8, r
            assert run.BAD not in r["changed"], r
        else:
            assert r["n_metrics"] >= 4, r


@pytest.mark.slow
def test_reading_changes_nothing(commands):
    """Commands that only read do not change the run's directory; nor does a new run that is refused there."""
    for r in commands:
        assert r["command"] in ("train --resume", "train --metrics") or r["changed"] == [], r


@pytest.mark.slow
def test_a_fault_is_one_line(commands):
    """A file that cannot be read gives exit code 1 and one line with the file and the reason, for every command."""
    for r in commands:
        lines = r["output"].splitlines()
        assert "Traceback" not in r["output"], r
        if r["action"] == KILL and r["fired"]:
            assert r["status"] == -9, r
            continue
        assert r["status"] in (0, 1) or (r["status"] == 2 and "expected a directory without a run" in lines[-1]), r
        if r["status"] == 1:
            assert "/place/" in lines[-1] and (r["action"] < 0 or os.strerror(r["action"]) in lines[-1]), r
            assert r["kind"] != "read" or re.search(r"\.(npz|jsonl|toml|txt|png)\b", lines[-1]), r
        if r["command"] == "plot" and "plotted without" in r["output"]:  # baselines, which are left out and said to be
            assert r["status"] == 0 and len(lines) == 2, r
        elif r["command"] in READING and r["fired"] and r["kind"] in ("read", "open"):
            assert r["status"] == 1 or r["action"] == SHORT, r
            assert len(lines) == 1 or r["scene"] == "damaged" or r["action"] == SHORT, r  # which is a notice
        if r["action"] == SHORT or not r["fired"]:
            assert r["status"] == (2 if r["command"] == "train --out" else 0), r


@pytest.mark.slow
def test_after_the_fault(commands):
    """After the fault, the resumed run ends with the same bytes as an undisturbed one."""
    for r in commands:
        assert r["again"] == 0 and r.get("right", True), r


@pytest.mark.slow
def test_a_directory_that_becomes_a_link(driven):
    """A run keeps its directory even if it is renamed, at any operation, and replaced by a link to another."""
    found = driven("swaps")
    for r in found:
        if (r["kind"], r["n"]) != ("open", 1):  # before the directory is opened its path already leads to the other
            assert r["status"] == 0 and r["untouched"] and r["right"], r
    assert sum(r["swapped"] for r in found) >= 50


# ---- real disks ----


@contextmanager
def mounted(path, *options):
    """A file system mounted at path; skips without the right to."""
    path.mkdir(exist_ok=True)
    if shutil.which("mount") is None or subprocess.run(["mount", *options, path], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def test_full_disk(tmp_path):
    """On a full disk, a failed save is a notice and keeps the old checkpoint; a failed last save exits with 1."""
    names = write_names(tmp_path / "names.txt")
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=128k", "tmpfs"):
        out = tmp_path / "disk" / "run"
        flags = ["--input", names, "--num-steps", 30, "--checkpoint-every", 10, *TINY_FLAGS]
        assert microgpt("train", "--out", out, *flags).returncode == 0
        before = everything(run.load(str(out)))
        (tmp_path / "disk" / "filler").write_bytes(bytes(8192))
        with open(tmp_path / "disk" / "filler", "ab", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
        full = microgpt("train", "--resume", out, "--num-steps", 2000)
        assert full.returncode == 1, full.stderr
        last = full.stderr.splitlines()[-1]
        assert "No space left on device" in last and str(out) in last
        assert "Traceback" not in full.stderr
        assert everything(run.load(str(out))) == before
        os.unlink(tmp_path / "disk" / "filler")
        assert microgpt("train", "--resume", out, "--num-steps", 40).returncode == 0
        assert run.load(str(out)).step == 40


def test_disk_full_for_a_while(tmp_path):
    """A failed periodic save is a notice and training continues; with free space again, nothing is missing."""
    trainer = tiny_trainer(tmp_path, num_steps=50, checkpoint_every=10)
    target = run.Run(str(tmp_path / "run"))
    target.create()
    target.start(trainer.checkpoint(), trainer.input)
    real, failing = os.write, []

    def write(fd, data):
        if 15 <= trainer.step_count < 35:
            failing.append(trainer.step_count)
            raise OSError(28, "No space left on device")
        return real(fd, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        loop.train(trainer, target)
    target.close()
    assert failing and run.load(str(tmp_path / "run")).step == 50
    straight = run.Run(str(tmp_path / "straight"))
    straight.create()
    other = tiny_trainer(tmp_path, num_steps=50, checkpoint_every=10)
    straight.start(other.checkpoint(), other.input)
    loop.train(other, straight)
    straight.close()
    for name in (run.CHECKPOINT, run.METRICS):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_metrics_file_that_cannot_be_closed(tmp_path, monkeypatch):
    """A run whose last metrics cannot be written still unlocks its directory."""
    trainer, target = tiny_trainer(tmp_path), run.Run(str(tmp_path / "run"))
    target.create()
    target.start(trainer.checkpoint(), trainer.input)

    def full(fd, data):
        raise OSError(28, "No space left on device")

    target.metrics.add(1, [1.0], [0.01])
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        target.close()
    monkeypatch.undo()
    again = run.Run(str(tmp_path / "run"))
    assert again.resume().step == 0
    again.close()


def test_metrics_come_first(tmp_path, monkeypatch):
    """The metrics of a checkpoint's steps are written before it is; if they cannot be, the weights are saved anyway."""
    trainer = tiny_trainer(tmp_path)
    target = run.Run(str(tmp_path / "run"))
    target.create()
    target.start(trainer.checkpoint(), trainer.input)
    trainer.steps(1, losses := [], ())
    target.metrics.add(1, losses, [0.01])
    monkeypatch.setattr(target, "_write_checkpoint", lambda saved: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="cannot be saved at step 1: no"):
        target.save(trainer.checkpoint())
    assert (tmp_path / "run" / run.METRICS).read_text().startswith('{"step": 1, ')
    monkeypatch.undo()
    monkeypatch.setattr(target.metrics, "sync", lambda last=False: (_ for _ in ()).throw(OSError("no")))
    target.save(trainer.checkpoint())
    assert run.load(str(tmp_path / "run")).step == 1


def test_size_limit(tmp_path):
    """A save beyond the limit of file sizes exits with 1 and leaves the old checkpoint intact."""
    out, names = tmp_path / "run", write_names(tmp_path / "names.txt")
    flags = ["--input", names, "--num-steps", 10, *TINY_FLAGS]
    assert microgpt("train", "--out", out, *flags).returncode == 0
    before = everything(run.load(str(out)))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    limited = microgpt("train", "--resume", out, "--num-steps", 20, preexec_fn=limit)
    assert limited.returncode == 1 and "File too large" in limited.stderr.splitlines()[-1]
    assert everything(run.load(str(out))) == before


def test_read_only(tmp_path):
    """A directory that is not writable is reported before the first step."""
    names, out = write_names(tmp_path / "names.txt"), tmp_path / "disk" / "run"
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        flags = ["--input", names, "--num-steps", 10, *TINY_FLAGS]
        assert microgpt("train", "--out", out, *flags).returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        for arguments in ("--resume", out, "--num-steps", 20), ("--out", out.with_name("other"), *flags):
            refused = microgpt("train", *arguments)
            assert refused.returncode == 1 and "Read-only file system" in refused.stderr.splitlines()[-1]
            assert "step" not in refused.stdout
        assert microgpt("sample", out, "--num-samples", 2).returncode == 0


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/nothing/run"])
def test_no_directory(tmp_path, place):
    """A directory that cannot be created is refused before the first step, with exit code 1 and the flag."""
    (tmp_path / "file").write_text("mine")
    write_names(tmp_path / "names.txt")
    refused = microgpt("train", "--input", "names.txt", "--out", place, *TINY_FLAGS, cwd=tmp_path)
    notice, error = refused.stderr.splitlines()
    assert refused.returncode == 1 and "cuts off" in notice and error.startswith("microgpt: --out: expected")
    assert "step" not in refused.stdout and (tmp_path / "file").read_text() == "mine"


def test_a_bad_last_checkpoint(tmp_path):
    """A damaged checkpoint.npz is renamed, and the run resumes from the previous one and ends with the same bytes."""
    names = write_names(tmp_path / "names.txt")
    flags = ["--input", names, "--num-steps", 30, "--checkpoint-every", 10, *TINY_FLAGS]
    for name in "straight", "damaged":
        assert microgpt("train", "--out", tmp_path / name, *flags).returncode == 0
    out = tmp_path / "damaged"
    (out / run.CHECKPOINT).write_bytes(b"damaged")
    sampled = microgpt("sample", out, "--num-samples", 1)
    assert sampled.returncode == 0 and "from step 20" in sampled.stderr
    resumed = microgpt("train", "--resume", out)
    assert resumed.returncode == 0 and "after step 20" in resumed.stderr
    assert (out / run.BAD).read_bytes() == b"damaged"
    for name in (run.CHECKPOINT, run.METRICS):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_both_checkpoints_bad(tmp_path):
    """If no checkpoint is intact, an error says so, and no file is changed."""
    out = tmp_path / "run"
    out.mkdir()
    (out / run.CHECKPOINT).write_bytes(b"bad")
    (out / run.PREVIOUS).write_bytes(b"bad too")
    for command in ("sample", out), ("train", "--resume", out):
        refused = microgpt(*command)
        assert refused.returncode == 1 and run.CHECKPOINT in refused.stderr and refused.stderr.count("\n") == 1
    assert sorted(os.listdir(out)) == [run.CHECKPOINT, run.PREVIOUS]
