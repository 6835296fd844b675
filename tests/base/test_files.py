"""Atomic writes: whatever goes wrong in a write, the file has the old content or the new one."""

import errno
import io
import itertools
import os
import random
import shutil
from types import SimpleNamespace

import pytest
from helpers import tiny_trainer

from microgpt.base import files
from microgpt.base.errors import CheckpointError, MissingError
from microgpt.runs import checkpoint, run

# ---- a write ----


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_write_without_links(tmp_path, monkeypatch, failing):
    """On a file system without links the old file is copied; it exists at every moment, whichever rename fails."""
    path, renames, real = tmp_path / "c", [], os.replace
    files.write(str(path), b"old")
    files.write(str(path), b"one", "p")

    def no_link(*arguments, **options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def replace(source, target, **options):
        renames.append(target)
        assert path.read_bytes() == b"one" and (tmp_path / "p").exists()
        if len(renames) == failing:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target, **options)

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(os, "replace", replace)
    if failing:
        with pytest.raises(OSError, match="Input/output"):
            files.write(str(path), b"two", "p")
    else:
        files.write(str(path), b"two", "p")
    assert renames == ["p", "c"][: failing or 2]
    assert path.read_bytes() == (b"one" if failing else b"two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "p"]


def test_a_write_replaces_and_keeps(tmp_path):
    """A write leaves the new content, the old one under its second name, and no temporary file."""
    path, previous = tmp_path / "c", tmp_path / "p"
    for content in b"one", b"two", b"three":
        files.write(str(path), content, previous.name)
    assert (path.read_bytes(), previous.read_bytes()) == (b"three", b"two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "p"]


def test_a_stale_temporary_file_is_replaced(tmp_path):
    """A temporary file left by a crash is removed; if it is a link, its target is not written to."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / ".c.tmp").symlink_to(victim)
    files.write(str(tmp_path / "c"), b"new")
    assert (victim.read_bytes(), (tmp_path / "c").read_bytes()) == (b"mine", b"new")


def test_a_link_in_place_of_the_temporary_file(tmp_path, monkeypatch):
    """A link that appears just after the removal is not written through either."""
    victim, temporary, unlink, removed = tmp_path / "victim", tmp_path / ".c.tmp", os.unlink, []
    victim.write_bytes(b"mine")

    def and_then_a_link(path, **where):
        removed.append(path)
        if len(removed) == 1:
            temporary.symlink_to(victim)
        else:
            unlink(path, **where)

    monkeypatch.setattr(files.os, "unlink", and_then_a_link)
    with pytest.raises(FileExistsError):
        files.write(str(tmp_path / "c"), b"new")
    assert victim.read_bytes() == b"mine" and sorted(os.listdir(tmp_path)) == ["victim"]


def test_a_false_write_is_noticed(tmp_path, monkeypatch):
    """If the system reports a write that did not happen, the old file stays."""
    path = tmp_path / "c"
    files.write(str(path), b"old")
    monkeypatch.setattr(files.os, "write", lambda fd, data: len(data))
    with pytest.raises(OSError, match="read back"):
        files.write(str(path), b"new")
    assert path.read_bytes() == b"old"


def test_content_is_compared_to_its_end():
    """same_content() compares every byte, and the length, in parts of any size."""
    data = bytes(range(10))
    for chunk in 1, 4, 10, 99:
        assert files.same_content(io.BytesIO(data), data, chunk)
        for i in range(10):
            for other in data[:i], data[:i] + b"x" + data[i + 1 :], data + b"x":
                assert not files.same_content(io.BytesIO(other), data, chunk)


# ---- what the disk may hold after a power failure ----


class Disk:
    """The files of one directory as the process sees them, and what a disk may hold of them after a crash.

    A file's bytes are certain after fsync of the file; before, they may be anything.  Names are certain after fsync of
    the directory; before, any subset of the changes may have reached the disk.
    """

    def __init__(self, contents):
        self.inodes = [SimpleNamespace(data=data, synced=data) for data in contents.values()]
        self.names = dict(zip(contents, range(len(contents))))
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
        """{name: bytes} of each directory that a crash now may leave, with seven kinds of damage."""
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

    def name(path):
        return "." if path == str(directory) else os.path.basename(path)

    def open_(path, flags, mode=0o777, *, dir_fd=None):
        new = flags & os.O_CREAT and not os.path.exists(os.path.join(directory, path))
        fd = real["open"](path, flags, mode, dir_fd=dir_fd)
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
        def call(*paths, **options):
            function(*paths, **options)
            operations.append((operation, *map(name, paths)))

        return call

    with pytest.MonkeyPatch.context() as patch:
        for function, replacement in ("open", open_), ("write", write), ("fsync", fsync):
            patch.setattr(os, function, replacement)
        for function, operation in ("unlink", "unlink"), ("link", "link"), ("replace", "rename"):
            patch.setattr(os, function, names(operation, getattr(os, function)))
        work()
    return operations


def crash_states(folder, before, work):
    """(state, True when the work had returned) for each state that a crash at any moment of the work may leave."""
    directory = folder / "recorded"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, data in before.items():
        (directory / name).write_bytes(data)
    operations = record(directory, lambda: work(str(directory)))
    disk = Disk(before)
    for i, operation in enumerate([("start",), *operations]):
        disk.apply(*operation)
        for seed in range(3):
            for state in disk.states(random.Random(seed)):
                yield state, i == len(operations)


def outcome(folder, state, known):
    """The step that a directory of these files loads as, or "none" or "bad"; `known` caches the results."""
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
            known[key] = "none" if isinstance(error, MissingError) else "bad"
    return known[key]


@pytest.fixture(scope="module")
def saves(tmp_path_factory):
    """The bytes of three checkpoints, of steps 0, 1, 2."""
    folder = tmp_path_factory.mktemp("saves")
    trainer, found = tiny_trainer(folder), []
    for step in range(3):
        trainer.steps(step, [], ())
        found.append(bytes(checkpoint.to_bytes(trainer.checkpoint())))
    return found


def good_write(data):
    def work(directory):
        files.write(os.path.join(directory, run.CHECKPOINT), data, run.PREVIOUS)

    return work


def scenes(saves):
    """name: (files before, what is saved, outcomes allowed before it has returned)."""
    old = {run.CHECKPOINT: saves[0]}
    yield {}, saves[0], {"none", 0}, 0
    yield old, saves[1], {0, 1}, 1
    yield {run.CHECKPOINT: saves[1], run.PREVIOUS: saves[0]}, saves[2], {1, 2}, 2
    yield old | {".checkpoint.npz.tmp": b"half"}, saves[1], {0, 1}, 1


def test_power_failure(tmp_path, saves):
    """Whatever a disk keeps of the writes and renames of a save, the old or the new checkpoint loads; once the save has
    returned, the new one loads."""
    n, known = 0, {}
    for before, data, allowed, new in scenes(saves):
        for state, returned in crash_states(tmp_path, before, good_write(data)):
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
        files.write_all(fd, data)
        os.fsync(fd)
        os.close(fd)

    return work


@pytest.mark.parametrize("careless", [no_fsync, in_place])
def test_the_model_of_power_failure_can_tell(tmp_path, saves, careless):
    """In this model, writing without fsync and writing in place both lose the checkpoint."""
    before, known = {run.CHECKPOINT: saves[0]}, {}
    found = {outcome(tmp_path, state, known) for state, _ in crash_states(tmp_path, before, careless(saves[1]))}
    assert "bad" in found


@pytest.mark.parametrize("before", [0, 1, 2])
def test_order_of_operations(tmp_path, saves, before):
    """The order is: writes, the file's fsync, the rename, the directory's fsync.  An old file gets its second name
    before the rename, and never loses its first."""
    directory = tmp_path / "run"
    directory.mkdir()
    for data in saves[:before]:
        good_write(data)(str(directory))
    operations = record(directory, lambda: good_write(saves[2])(str(directory)))
    names = [operation[0] for operation in operations]
    second_name = ["link", "rename"] if before else []
    assert names == ["create"] + ["write"] * names.count("write") + ["fsync", *second_name, "rename", "fsync directory"]


def test_metrics_come_first(tmp_path):
    """The metrics of a checkpoint's steps are on the disk before the checkpoint is created."""
    trainer, target = tiny_trainer(tmp_path), run.Run(str(tmp_path / "run"))

    def work():
        target.create()
        target.start(trainer.checkpoint(), trainer.input)
        trainer.steps(1, losses := [], ())
        target.add_metrics(1, losses, [0.01], None)
        target.save(trainer.checkpoint())
        target.close()

    operations = record(tmp_path / "run", work)
    names = [operation[:2] for operation in operations]
    written = len(names) - names[::-1].index(("write", run.METRICS))
    begun = len(names) - names[::-1].index(("create", ".checkpoint.npz.tmp"))
    assert ("fsync", run.METRICS) in names[written:begun]


def test_files_are_as_the_umask_says(tmp_path):
    """The umask decides who may read a run."""
    before = os.umask(0o027)
    try:
        files.write(str(tmp_path / "c"), b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o640


def test_an_interrupted_write(tmp_path, monkeypatch):
    """Ctrl-C during a write leaves the old file and no temporary one."""

    def interrupt(fd):
        raise KeyboardInterrupt

    path = tmp_path / "c"
    files.write(str(path), b"old")
    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(str(path), b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["c"]
