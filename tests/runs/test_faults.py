"""Saving on disks that fail: whatever goes wrong, the old checkpoint or the new one is there and loads."""

import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import everything, microgpt, tiny_trainer, write_names

from microgpt import checkpoint, loop, run
from microgpt.errors import CheckpointError

HERE = Path(__file__).parent
TINY_FLAGS = ["--n-embd", 4, "--n-head", 2, "--block-size", 4, "--num-samples", 0]


# ---- every operation fails once, or for good, or the process dies there ----


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What fault_driver.py found."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("faults")
    shim = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, HERE / "faults.c", "-ldl"], check=True)
    environment = os.environ | {
        "LD_PRELOAD": str(shim),
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parent.parent)]),
    }
    command = [sys.executable, HERE / "fault_driver.py", folder]
    process = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_every_operation_was_reached(results):
    """The faults struck at many points, of every kind of operation."""
    struck = [r for r in results if r["fired"]]
    assert len(struck) >= 58
    assert {r["kind"] for r in struck} == {"open", "write", "fsync", "close", "rename", "link", "unlink"}


def test_the_old_or_the_new_loads(results):
    """After any fault the directory loads as what it was or as what was saved; and as the latter if that was said."""
    for r in results:
        new = r["old"] + 1
        assert r["found"] in ({"none", 0} if new == 0 else {r["old"], new}), r
        assert r["status"] in (0, 3, -9), r
        if r["status"] == 0:
            assert r["found"] == new, r


def test_no_litter(results):
    """A save that fails leaves no temporary file, unless the process died or unlink itself fails."""
    for r in results:
        if r["status"] == 3 and r["kind"] != "unlink" and r["scene"] != "stale temporary file":
            assert r["left"] == [], r


def test_the_next_save_goes_well(results):
    """Once the fault has gone the next save works, whatever was left behind."""
    for r in results:
        assert r["again"] == 0 and r["found_again"] == r["old"] + 2, r


# ---- power fails: what the disk may then hold ----


class Disk:
    """The files of one directory as the process sees them, and what a disk may hold of them after a crash.

    A file's bytes are sure after fsync of the file; before, they are anything.  Names are sure after fsync of the
    directory; before, any of the changes may have reached the disk, or none.
    """

    def __init__(self, files):
        self.inodes = [SimpleNamespace(data=data, synced=data) for data in files.values()]
        self.names = dict(zip(files, range(len(files))))
        self.sure_names = dict(self.names)
        self.pending = []  # changes of names: {name: inode or None}

    def apply(self, operation, *arguments):
        if operation == "create":
            self.inodes.append(SimpleNamespace(data=b"", synced=b""))
            self._rename({arguments[0]: len(self.inodes) - 1})
        elif operation == "write":
            self.inodes[self.names[arguments[0]]].data += arguments[1]
        elif operation == "truncate":
            self.inodes[self.names[arguments[0]]].data = b""
        elif operation == "fsync":
            inode = self.inodes[self.names[arguments[0]]]
            inode.synced = inode.data
        elif operation == "fsync directory":
            self.sure_names, self.pending = dict(self.names), []
        elif operation == "unlink":
            self._rename({arguments[0]: None})
        elif operation == "link":
            self._rename({arguments[1]: self.names[arguments[0]]})
        elif operation == "rename":
            self._rename({arguments[1]: self.names[arguments[0]], arguments[0]: None})

    def _rename(self, change):
        self.pending.append(change)
        self.names = {name: inode for name, inode in (self.names | change).items() if inode is not None}

    def states(self, rng):
        """{name: bytes} of all the directories that a crash now may leave, with seven kinds of damage."""
        for kept in itertools.product((False, True), repeat=len(self.pending)):
            names = dict(self.sure_names)
            for change in itertools.compress(self.pending, kept):
                names |= change
            for damage in range(7):
                yield {n: self._damaged(self.inodes[i], damage, rng) for n, i in names.items() if i is not None}

    @staticmethod
    def _damaged(inode, damage, rng):
        data, synced = inode.data, inode.synced
        if data == synced:
            return data
        blocks = [data[i : i + 512] for i in range(0, len(data), 512)]
        cut = rng.randrange(len(data) + 1)
        return [
            data,
            synced,
            data[:cut],
            bytes(len(data)),
            data[:cut] + bytes(len(data) - cut),
            b"".join(block if rng.random() < 0.7 else bytes(len(block)) for block in blocks),
            rng.randbytes(len(data)),
        ][damage]


def record(directory, work):
    """The file operations of `work` in this directory, in order."""
    operations, fds, real = [], {}, {name: getattr(os, name) for name in ("open", "write", "fsync")}
    name = lambda path: os.path.relpath(path, directory)

    def open_(path, flags, mode=0o777):
        new = flags & os.O_CREAT and not os.path.exists(path)
        fd = real["open"](path, flags, mode)
        fds[fd] = name(path)
        if new:
            operations.append(("create", name(path)))
        elif flags & os.O_TRUNC:
            operations.append(("truncate", name(path)))
        return fd

    def write(fd, data):
        half = len(data) // 2 or len(data)  # in several parts
        operations.append(("write", fds[fd], bytes(data[:half])))
        return real["write"](fd, data[:half])

    def fsync(fd):
        operations.append(("fsync directory",) if fds[fd] == "." else ("fsync", fds[fd]))
        real["fsync"](fd)

    def names(operation, function):
        def call(*paths):
            function(*paths)
            operations.append((operation, *map(name, paths)))

        return call

    with pytest.MonkeyPatch.context() as patch:
        for function, replacement in ("open", open_), ("write", write), ("fsync", fsync):
            patch.setattr(os, function, replacement)
        for function, operation in ("unlink", "unlink"), ("link", "link"), ("replace", "rename"):
            patch.setattr(os, function, names(operation, getattr(os, function)))
        work()
    return operations


def crash_states(folder, files, work):
    """(state, True when the work had returned) for each state that a crash at any moment of the work may leave."""
    directory = folder / "recorded"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    operations = record(directory, lambda: work(str(directory)))
    disk = Disk(files)
    for i, operation in enumerate([("start",), *operations]):
        disk.apply(*operation)
        for seed in range(3):
            for state in disk.states(random.Random(seed)):
                yield state, i == len(operations)


def outcome(folder, state, known):
    """The step that a directory of these files loads as, "none" or "bad"; loads of known states are not repeated."""
    key = tuple(sorted((name, data) for name, data in state.items() if not name.endswith(".tmp")))
    if key not in known:
        directory = folder / "state"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for name, data in state.items():
            (directory / name).write_bytes(data)
        try:
            known[key] = run.load(str(directory)).step
        except CheckpointError as error:
            known[key] = "none" if "No such file" in str(error) else "bad"
    return known[key]


@pytest.fixture(scope="module")
def saves(tmp_path_factory):
    """The bytes of three checkpoints, of steps 0, 1, 2."""
    folder = tmp_path_factory.mktemp("saves")
    trainer, found = tiny_trainer(folder), []
    for step in range(3):
        trainer.steps(step, [], ())
        found.append(bytes(trainer.checkpoint().to_bytes()))
    return found


def good_write(data):
    def work(directory):
        checkpoint.write(os.path.join(directory, run.CHECKPOINT), data, os.path.join(directory, run.PREVIOUS))

    return work


def scenes(saves):
    """name: (files before, what is saved, outcomes allowed before it has returned)."""
    old = {run.CHECKPOINT: saves[0]}
    yield {}, saves[0], {"none", 0}, 0
    yield old, saves[1], {0, 1}, 1
    yield {run.CHECKPOINT: saves[1], run.PREVIOUS: saves[0]}, saves[2], {1, 2}, 2
    yield old | {".checkpoint.npz.tmp": b"half"}, saves[1], {0, 1}, 1


def test_power_failure(tmp_path, saves):
    """Whatever a disk keeps of the writes and renames of a save, the old or the new checkpoint loads; a save that has
    returned is the one that loads."""
    n, known = 0, {}
    for files, data, allowed, new in scenes(saves):
        for state, returned in crash_states(tmp_path, files, good_write(data)):
            found = outcome(tmp_path, state, known)
            assert found in ({new} if returned else allowed)
            n += 1
    assert n >= 500


def no_fsync(data):
    def work(directory):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda fd: None)
            good_write(data)(directory)

    return work


def in_place(data):
    def work(directory):
        fd = os.open(os.path.join(directory, run.CHECKPOINT), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        checkpoint.write_all(fd, data)
        os.fsync(fd)
        os.close(fd)

    return work


@pytest.mark.parametrize("careless", [no_fsync, in_place])
def test_the_model_of_power_failure_can_tell(tmp_path, saves, careless):
    """The same states show what is wrong with writing without fsync, and with writing in place."""
    files, known = {run.CHECKPOINT: saves[0]}, {}
    found = {outcome(tmp_path, state, known) for state, _ in crash_states(tmp_path, files, careless(saves[1]))}
    assert "bad" in found


def test_order_of_operations(tmp_path, saves):
    """All writes come before the file's fsync, that before the rename, and that before the directory's fsync."""
    directory = tmp_path / "run"
    directory.mkdir()
    operations = record(directory, lambda: good_write(saves[0])(str(directory)))
    names = [operation[0] for operation in operations]
    assert names == ["create"] + ["write"] * names.count("write") + ["fsync", "rename", "fsync directory"]


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
    """On a full disk saving warns and training goes on; the old checkpoint stays; the last save failing is exit 1."""
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
    """A periodic save that fails is a notice, training goes on, and once there is room the run is whole again."""
    trainer = tiny_trainer(tmp_path, num_steps=50, checkpoint_every=10)
    target = run.Run(str(tmp_path / "run"))
    target.create()
    target.start(trainer)
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
    straight.start(other)
    loop.train(other, straight)
    straight.close()
    for name in (run.CHECKPOINT, run.METRICS):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_metrics_come_first(tmp_path, monkeypatch):
    """A checkpoint is not saved before the metrics of its steps are on the disk."""
    trainer = tiny_trainer(tmp_path)
    target = run.Run(str(tmp_path / "run"))
    target.create()
    target.start(trainer)
    trainer.steps(1, losses := [], ())
    target.metrics.add(1, losses, [0.01])
    monkeypatch.setattr(target.metrics, "flush", lambda: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="cannot be saved at step 1: no"):
        target.save(trainer)
    assert run.load(str(tmp_path / "run")).step == 0
    monkeypatch.undo()
    target.save(trainer)
    assert (tmp_path / "run" / run.METRICS).read_text().startswith('{"step": 1, ')
    assert run.load(str(tmp_path / "run")).step == 1


def test_size_limit(tmp_path):
    """Under a limit of file sizes a save fails as cleanly: exit 1, the old checkpoint intact."""
    out, names = tmp_path / "run", write_names(tmp_path / "names.txt")
    flags = ["--input", names, "--num-steps", 10, *TINY_FLAGS]
    assert microgpt("train", "--out", out, *flags).returncode == 0
    before = everything(run.load(str(out)))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    limited = microgpt("train", "--resume", out, "--num-steps", 20, preexec_fn=limit)
    assert limited.returncode == 1 and "File too large" in limited.stderr.splitlines()[-1]
    assert everything(run.load(str(out))) == before


def test_read_only(tmp_path):
    """A directory that cannot be written to is found before the first step."""
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
    """A directory that cannot be made is refused, with exit code 1 and the flag, before the first step."""
    (tmp_path / "file").write_text("mine")
    write_names(tmp_path / "names.txt")
    refused = microgpt("train", "--input", "names.txt", "--out", place, *TINY_FLAGS, cwd=tmp_path)
    assert refused.returncode == 1 and "--out" in refused.stderr and refused.stderr.count("\n") == 1
    assert "step" not in refused.stdout and (tmp_path / "file").read_text() == "mine"


def test_a_bad_last_checkpoint(tmp_path):
    """A damaged checkpoint.npz is set aside, and the run goes on from the one before it to the same end."""
    names = write_names(tmp_path / "names.txt")
    flags = ["--input", names, "--num-steps", 30, "--checkpoint-every", 10, *TINY_FLAGS]
    for name in "straight", "damaged":
        assert microgpt("train", "--out", tmp_path / name, *flags).returncode == 0
    out = tmp_path / "damaged"
    (out / run.CHECKPOINT).write_bytes(b"damaged")
    sampled = microgpt("sample", out, "--num-samples", 1)
    assert sampled.returncode == 0 and "of step 20" in sampled.stderr
    resumed = microgpt("train", "--resume", out)
    assert resumed.returncode == 0 and "after step 20" in resumed.stderr
    assert (out / run.BAD).read_bytes() == b"damaged"
    for name in (run.CHECKPOINT, run.METRICS):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_both_checkpoints_bad(tmp_path):
    """When no checkpoint is fine, that is said, and nothing is touched."""
    out = tmp_path / "run"
    out.mkdir()
    (out / run.CHECKPOINT).write_bytes(b"bad")
    (out / run.PREVIOUS).write_bytes(b"bad too")
    for command in ("sample", out), ("train", "--resume", out):
        refused = microgpt(*command)
        assert refused.returncode == 1 and run.CHECKPOINT in refused.stderr and refused.stderr.count("\n") == 1
    assert sorted(os.listdir(out)) == [run.CHECKPOINT, run.PREVIOUS]
