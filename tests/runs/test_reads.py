"""Resuming a run whose files cannot be read or are replaced: nothing is lost or written through a link."""

import builtins
import contextlib
import ctypes
import errno
import io
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from helpers import microgpt, write_names

from microgpt.__main__ import main
from microgpt.base.errors import MissingError, UnreadableError
from microgpt.base.files import Folder
from microgpt.base.progress import Reporter
from microgpt.runs import checkpoint
from microgpt.runs.metrics import Metrics
from microgpt.runs.run import BAD, CHECKPOINT, CONFIG, METRICS, PREVIOUS, Run, load

TINY_FLAGS = ["--n-embd", 4, "--n-head", 2, "--block-size", 4, "--num-samples", 0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with names.txt, an 8-step run with checkpoints at steps 4 and 8, and the same run after step 12."""
    folder = tmp_path_factory.mktemp("trained")
    flags = ["--input", write_names(folder / "names.txt"), "--num-steps", 8, "--checkpoint-every", 4]
    assert microgpt("train", "--out", folder / "run", *flags, *TINY_FLAGS).returncode == 0
    shutil.copytree(folder / "run", folder / "end")
    assert microgpt("train", "--resume", folder / "end", "--num-steps", 12).returncode == 0
    return folder


@pytest.fixture
def two_saves(trained, tmp_path):
    """The directory of the run; the input is beside it."""
    os.link(trained / "names.txt", tmp_path / "names.txt")
    return shutil.copytree(trained / "run", tmp_path / "run")


@pytest.fixture
def end(trained):
    """The files of the run, resumed until step 12."""
    return {name: (trained / "end" / name).read_bytes() for name in (CHECKPOINT, METRICS, CONFIG)}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def resume_is_refused(folder, before, error, match):
    """Resuming is refused for this reason, and the run's files do not change."""
    target = Run(str(folder))
    with pytest.raises(error, match=match):
        target.resume()
    target.close()
    assert content(folder) == before


PASSING = ["EIO", "EMFILE", "ENFILE", "EACCES", "ENOMEM", "ENOSPC", "EDQUOT", "EINTR", "ESTALE", "ETIMEDOUT"]


@pytest.mark.parametrize("name", [*PASSING, "MemoryError", "RecursionError"])
@pytest.mark.parametrize("when", ["open", "read"])
def test_a_read_that_fails_once(two_saves, monkeypatch, name, when):
    """A checkpoint that cannot be read is not treated as damaged: nothing replaces it, is renamed or written."""
    error = OSError(getattr(errno, name), "x") if name.startswith("E") else getattr(builtins, name)()
    place = checkpoint if when == "read" else Folder
    before, calls, real = content(two_saves), [], getattr(place, when)

    def fails_once(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(place, when, fails_once)
    first = Run(str(two_saves))
    with pytest.raises(UnreadableError, match="cannot be read"):
        first.resume()
    first.close()
    assert content(two_saves) == before
    again = Run(str(two_saves))
    assert again.resume().step == 8
    again.close()


@pytest.mark.parametrize("size", [0, 100, 5000, -1])
def test_a_read_that_is_short(two_saves, monkeypatch, size):
    """A file that ends early while it is read is not treated as damaged either."""
    before = content(two_saves)
    real = checkpoint.read

    def short(file):
        class Short:
            fileno, seek = file.fileno, file.seek

            def read(self, n):
                return file.read(n)[:size]

        return real(Short())

    monkeypatch.setattr(checkpoint, "read", short)
    resume_is_refused(two_saves, before, UnreadableError, "the file changed while it was being read")


@pytest.mark.parametrize("last", ["damaged", "missing"])
def test_the_one_before_cannot_be_read_now(two_saves, monkeypatch, last):
    """If the last checkpoint is unusable and the previous one unreadable, an error says so, and nothing changes."""
    path = two_saves / CHECKPOINT
    path.write_bytes(b"damaged") if last == "damaged" else path.unlink()
    before, real = content(two_saves), Folder.open

    def fails(folder, path, flags):
        if PREVIOUS in path:
            raise OSError(errno.EIO, "Input/output error")
        return real(folder, path, flags)

    monkeypatch.setattr(Folder, "open", fails)
    reason = rf"{CHECKPOINT}: .*; and .*{PREVIOUS}: cannot be read: Input/output"
    resume_is_refused(two_saves, before, UnreadableError, reason)
    with pytest.raises(UnreadableError):
        load(str(two_saves))
    assert content(two_saves) == before


@pytest.mark.parametrize("lost", [[CHECKPOINT], [CHECKPOINT, PREVIOUS]])
def test_a_checkpoint_that_is_removed_meanwhile(two_saves, monkeypatch, lost):
    """A checkpoint that disappears between the listing of the directory and its opening counts as missing."""
    straight = two_saves.parent / "straight"
    shutil.copytree(two_saves, straight)
    (straight / CHECKPOINT).unlink()
    check = Folder.check

    def removed(folder, name, in_place=False):
        check(folder, name, in_place)
        if name == CONFIG:  # the last that is looked at
            for name in lost:
                (two_saves / name).unlink(missing_ok=True)

    monkeypatch.setattr(Folder, "check", removed)
    target = Run(str(two_saves))
    if PREVIOUS in lost:
        with pytest.raises(MissingError):
            target.resume()
        target.close()
        return
    assert target.resume().step == 4
    target.close()
    monkeypatch.undo()
    for directory in two_saves, straight:
        assert microgpt("train", "--resume", directory).returncode == 0
    assert content(two_saves) == content(straight)


def test_a_checkpoint_that_was_away(two_saves, monkeypatch):
    """A checkpoint that reappears while the previous one is read is not replaced by it."""
    before, away, real = content(two_saves), two_saves.parent / "away", checkpoint.load
    (two_saves / CHECKPOINT).rename(away)

    def put_back(path, opener):
        try:
            return real(path, opener)
        finally:
            if PREVIOUS in path:
                away.rename(two_saves / CHECKPOINT)

    monkeypatch.setattr(checkpoint, "load", put_back)
    resume_is_refused(two_saves, before, OSError, "File exists")


@pytest.mark.parametrize("place", ["config.toml", "names.txt", "run"])
def test_the_input_cannot_be_looked_for_now(two_saves, trained, call, monkeypatch, place):
    """If the run's input cannot be reached, another file of the same name does not replace it."""
    monkeypatch.chdir(two_saves.parent)
    saved = checkpoint.load(str(two_saves / CHECKPOINT))
    (two_saves / CHECKPOINT).write_bytes(
        checkpoint.to_bytes(replace(saved, config=replace(saved.config, input="names.txt")))
    )
    (two_saves.parent / "other").mkdir()
    (two_saves.parent / "other" / "names.txt").write_text("a\n")
    assert call("train", "--resume", two_saves, "--num-steps", 9)[0] == 0
    monkeypatch.chdir(two_saves.parent / "other")
    real = {name: getattr(os, name) for name in ("stat", "open")}

    def failing(name):
        def fails(path, *arguments, **options):
            if (name == "open" or place == "names.txt") and os.path.isabs(path) and str(path).endswith(f"/{place}"):
                raise OSError(errno.EIO, "Input/output error", path)
            return real[name](path, *arguments, **options)

        return fails

    for name in real:
        monkeypatch.setattr(os, name, failing(name))
    code, lines = call("eval", two_saves)
    assert code == 1 and "Input/output error" in lines[-1] and place in lines[-1], lines


def test_no_permission(two_saves):
    """In a read-only directory, not even a damaged file is renamed, but reading still works."""
    (two_saves / CHECKPOINT).write_bytes(b"damaged")
    before = content(two_saves)
    two_saves.chmod(0o555)
    refused = microgpt("train", "--resume", two_saves, preexec_fn=without_rights)
    assert refused.returncode == 1, refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("microgpt: --resume: expected a directory that can be written")
    assert "Permission denied" in refused.stderr.splitlines()[-1] and content(two_saves) == before
    assert microgpt("sample", two_saves, preexec_fn=without_rights).returncode == 0
    two_saves.chmod(0o755)
    (two_saves / CHECKPOINT).chmod(0)
    refused = microgpt("train", "--resume", two_saves, preexec_fn=without_rights)
    assert refused.returncode == 1 and "Permission denied" in refused.stderr and refused.stderr.count("\n") == 1
    assert content(two_saves) == before
    assert microgpt("train", "--resume", two_saves).returncode == 0


def without_rights():
    """Drop root's right to bypass file permissions."""
    libc = ctypes.CDLL(None)
    for right in 1, 2:  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, right)  # PR_CAPBSET_DROP, for what is executed next


def test_memory_for_a_while(two_saves, monkeypatch):
    """A save that runs out of memory is a notice, and training continues with the same result."""
    straight = two_saves.parent / "straight"
    shutil.copytree(two_saves, straight)
    real, calls = checkpoint.to_bytes, []

    def too_large(saved):
        calls.append(saved.step)
        if saved.step == 12:
            raise MemoryError
        return real(saved)

    assert microgpt("train", "--resume", straight, "--num-steps", 16).returncode == 0
    monkeypatch.setattr(checkpoint, "to_bytes", too_large)
    assert main(["train", "--resume", str(two_saves), "--num-steps", "16"]) == 0
    assert calls == [12, 16]
    assert {**content(two_saves), PREVIOUS: b""} == {**content(straight), PREVIOUS: b""}
    monkeypatch.setattr(checkpoint, "to_bytes", lambda saved: too_large(replace(saved, step=12)))
    assert main(["train", "--resume", str(two_saves), "--num-steps", "20"]) == 1


@pytest.mark.parametrize("error", [MemoryError, OSError])
def test_what_fails_between_steps(two_saves, monkeypatch, error):
    """If printing fails, or runs out of memory, the run is saved before it ends."""

    def fails(*arguments):
        raise error

    monkeypatch.setattr(Reporter, "steps", fails)
    assert main(["train", "--resume", str(two_saves), "--num-steps", "11"]) == 1
    assert load(str(two_saves)).step > 8


def test_a_later_format(two_saves):
    """A checkpoint of a later version is not changed, nor treated as damaged."""
    path = two_saves / "checkpoint.npz"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 7'))
    before = content(two_saves)
    resumed = microgpt("train", "--resume", two_saves)
    assert resumed.returncode == 1 and resumed.stderr.count("\n") == 1
    assert "a later version of microgpt wrote it" in resumed.stderr
    assert content(two_saves) == before


# ---- what lies in the place of a file ----

KINDS = {
    "link": lambda path, target: path.symlink_to(target),
    "dangling link": lambda path, target: path.symlink_to(target.with_name("nowhere")),
    "link to an endless device": lambda path, target: path.symlink_to("/dev/zero"),
    "link to a full device": lambda path, target: path.symlink_to("/dev/full"),
    "link to itself": lambda path, target: path.symlink_to(path.name),
    "hard link": lambda path, target: os.link(target, path),
    "FIFO": lambda path, target: os.mkfifo(path),
    "directory": lambda path, target: path.mkdir(),
    "socket": lambda path, target: in_folder(path, lambda: socket.socket(socket.AF_UNIX).bind(path.name)),
    "device": lambda path, target: device(path, 5),  # /dev/zero
    "full device": lambda path, target: device(path, 7),
}
PLACES = [CHECKPOINT, PREVIOUS, BAD, METRICS, CONFIG]
TEMPORARY = [".checkpoint.npz.tmp", ".checkpoint.prev.npz.tmp", ".config.toml.tmp"]


def in_folder(path, work):
    """What the work gives in the folder of the path, for a path that is too long for it."""
    with contextlib.chdir(path.parent):
        return work()


def device(path, number):
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, number))
    except PermissionError:
        pytest.skip("needs the right to make devices")


def everything_in(folder):
    """{name: what it is and holds}"""
    found = {}
    for path in folder.iterdir():
        status = path.lstat()
        regular = stat.S_ISREG(status.st_mode)
        found[path.name] = (stat.S_IFMT(status.st_mode), status.st_ino, path.read_bytes() if regular else None)
    return found


@pytest.fixture
def call(capfd):
    """main(), as (exit code, lines of stderr); one that hangs is ended."""

    def call(*arguments):
        signal.alarm(60)
        code = main([str(argument) for argument in arguments])
        signal.alarm(0)
        return code, capfd.readouterr().err.splitlines()

    return call


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("place", PLACES)
def test_not_the_runs_own(two_saves, end, call, place, make):
    """A non-file in the place of a run's file is refused in one line by every command that needs the file; nothing
    is changed, read or written through it; and with the file back, the run resumes."""
    target, path, aside = two_saves.parent / "precious", two_saves / place, two_saves.parent / "aside"
    shutil.copy(path if path.exists() else two_saves / CHECKPOINT, target)
    if path.exists():
        path.rename(aside)
    make(path, target)
    before, precious = everything_in(two_saves), target.read_bytes()
    hard = path.is_file() and not path.is_symlink()

    readers = [("sample", two_saves), ("eval", two_saves), ("score", two_saves, "ab")] if place == CHECKPOINT else []
    readers += [("plot", two_saves, "-o", two_saves.parent / "p.png")] if place == METRICS else []
    for command in readers:
        code, lines = call(*command)
        assert (code == 0) if hard else (code, len(lines)) == (1, 1), lines
        assert hard or (str(path) in lines[0] and "expected a file, found a" in lines[0])
    assert everything_in(two_saves) == before

    code, lines = call("train", "--resume", two_saves, "--num-steps", 12)
    if hard and place != METRICS:  # a second name of a file is a file, and is never written to
        assert code == 0, lines
    else:
        assert (code, len(lines)) == (1, 1), lines
        assert lines[0].startswith("microgpt: --resume: expected") and f"{place}: expected a file" in lines[0]
        assert ("found one with 2" if hard else "found a") in lines[0]
        assert everything_in(two_saves) == before
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if aside.exists():
            aside.rename(path)
        assert call("train", "--resume", two_saves, "--num-steps", 12)[0] == 0
    assert target.read_bytes() == precious and not target.with_name("nowhere").exists()
    assert {name: (two_saves / name).read_bytes() for name in end} == end


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("place", TEMPORARY)
def test_not_a_temporary_file(two_saves, end, call, place, make):
    """Anything in the place of a temporary file is removed, not written to; a directory is refused at once."""
    target, path = two_saves.parent / "precious", two_saves / place
    target.write_text("precious")
    make(path, target)
    if path.is_dir() and not path.is_symlink():
        before = everything_in(two_saves)
        code, lines = call("train", "--resume", two_saves, "--num-steps", 12)
        assert (code, len(lines)) == (1, 1) and place in lines[0] and everything_in(two_saves) == before
        path.rmdir()
    assert call("train", "--resume", two_saves, "--num-steps", 12)[0] == 0
    assert target.read_text() == "precious" and not target.with_name("nowhere").exists() and not path.exists()
    assert {name: (two_saves / name).read_bytes() for name in end} == end


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("place", [CHECKPOINT, PREVIOUS, CONFIG])
def test_not_to_be_saved_over(two_saves, make, place):
    """If something replaces a run's file during training, the next save leaves it alone, and no checkpoint is lost."""
    target, path = two_saves.parent / "precious", two_saves / place
    shutil.copy(path, target)
    run = Run(str(two_saves))
    run.resume()
    path.unlink()
    make(path, target)
    before = everything_in(two_saves)
    hard = path.is_file() and not path.is_symlink()
    names = (CHECKPOINT, PREVIOUS) if place != CONFIG else (CONFIG, None)
    if hard:
        run.folder.write(names[0], b"new", names[1])
    else:
        with pytest.raises(OSError, match=f"expected a file, found a .*'{place}'"):
            run.folder.write(names[0], b"new", names[1])
        assert everything_in(two_saves) == before
    run.close()
    assert target.read_bytes() != b"new"


@pytest.mark.parametrize("name", ["dangling link", "link to an endless device", "FIFO", "socket", "device"])
def test_not_a_directory(tmp_path, call, name):
    """Anything but a directory is refused as a run in one line, at once, and does not change."""
    names, path = write_names(tmp_path / "names.txt"), tmp_path / "run"
    KINDS[name](path, tmp_path / "precious")
    before = everything_in(tmp_path)
    commands = [("train", "--input", names, "--out"), ("train", "--resume"), ("sample",), ("eval",)]
    for command in [*commands, ("plot", "-o", tmp_path / "p.png")]:
        code, lines = call(*command, path)
        assert (code, len(lines)) == (1, 1) and str(path) in lines[0], lines
        assert everything_in(tmp_path) == before


# ---- --metrics PATH ----

METRICS_PATHS = {  # made as `path`: exit code, part of the message
    "link to the input": (lambda path, run: path.symlink_to("names.txt"), 2, "other than --input"),
    "hard link to the input": (lambda path, run: os.link(path.with_name("names.txt"), path), 2, "other than --input"),
    "link to the settings": (lambda path, run: path.symlink_to("settings.toml"), 2, "other than --config"),
    "hard link to the settings": (lambda path, run: os.link(path.with_name("settings.toml"), path), 2, "--config"),
    "link to a link": (lambda path, run: two_links(path, "names.txt"), 2, "other than --input"),
    "dangling link": (lambda path, run: path.symlink_to("nowhere"), 1, "a broken link"),
    "link to itself": (lambda path, run: path.symlink_to(path.name), 1, "symbolic links"),
    "link to a directory": (lambda path, run: path.symlink_to("run"), 1, "Is a directory"),
    "directory": (lambda path, run: path.mkdir(), 1, "Is a directory"),
    "FIFO": (lambda path, run: os.mkfifo(path), 1, "No such device"),
    "socket": (lambda path, run: KINDS["socket"](path, None), 1, "No such device"),
    "link to a full device": (lambda path, run: path.symlink_to("/dev/full"), 1, "No space left"),
    "full device": (lambda path, run: device(path, 7), 1, "No space left"),
    "link to an endless device": (lambda path, run: path.symlink_to("/dev/zero"), 0, ""),
    "device": (lambda path, run: device(path, 5), 0, ""),
    "link to a file": (lambda path, run: path.symlink_to("other"), 0, ""),
}
for _name in PLACES:
    METRICS_PATHS |= {
        f"link to {_name}": (lambda path, run, name=_name: path.symlink_to(run / name), 2, "outside the run's"),
        f"hard link to {_name}": (lambda path, run, name=_name: os.link(run / name, path), 2, "outside the run's"),
    }
    if _name != CHECKPOINT:  # of which the one before takes the place
        METRICS_PATHS[f"dangling link to {_name}"] = (
            lambda path, run, name=_name: dangle(path, run / name), 1, "a broken link",
        )  # fmt: skip
del METRICS_PATHS[f"hard link to {METRICS}"]  # with which the run itself is refused


def two_links(path, target):
    path.with_name("second").symlink_to(target)
    path.symlink_to("second")


def dangle(path, target):
    target.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("make, code, message", METRICS_PATHS.values(), ids=METRICS_PATHS.keys())
def test_where_metrics_go(two_saves, call, make, code, message):
    """--metrics never overwrites the command's input or the run's files, under any name, nor follows a broken link;
    a FIFO without a reader is refused at once."""
    folder = two_saves.parent
    shutil.copy(two_saves / CONFIG, folder / "settings.toml")
    shutil.copy(two_saves / CHECKPOINT, two_saves / BAD)
    (folder / "other").write_text("old\n")
    make(folder / "m", two_saves)
    before, in_run = everything_in(folder), everything_in(two_saves)
    goes_on = ["train", "--resume", two_saves, "--num-steps", 12]
    found, lines = call(*goes_on, "--config", folder / "settings.toml", "--metrics", folder / "m")
    assert found == code, lines
    if code == 0:
        assert lines == [line for line in lines if line.startswith("microgpt: ")] and (folder / "m").exists()
        other = (folder / "other").read_text()
        assert other.startswith('{"step": 9, ') or (other == "old\n" and (folder / "m").resolve() != folder / "other")
        return
    assert message in lines[-1] and str(folder / "m") in lines[-1]
    if message != "No space left":
        assert ["cuts off" in line for line in lines] == [True, False]  # a notice about the text, and the error
        assert everything_in(folder) == before and everything_in(two_saves) == in_run


def test_metrics_in_a_run_by_another_name(two_saves, call):
    """--metrics creates no file in the run's directory, whichever path leads there."""
    (two_saves.parent / "alias").symlink_to(two_saves)
    before = everything_in(two_saves)
    for path in two_saves.parent / "alias" / "new", two_saves / ".." / "alias" / METRICS:
        code, lines = call("train", "--resume", two_saves, "--num-steps", 12, "--metrics", path)
        assert code == 2 and "cuts off" in lines[0] and "outside the run's directory" in lines[1] and not lines[2:]
        assert everything_in(two_saves) == before


def test_metrics_for_a_reader(two_saves, tmp_path):
    """A FIFO with a reader gets all metrics."""
    os.mkfifo(tmp_path / "m")
    with subprocess.Popen(["cat", tmp_path / "m"], stdout=subprocess.PIPE, text=True) as reader:
        command = ["train", "--resume", two_saves, "--num-steps", 12, "--metrics", tmp_path / "m"]
        while (found := microgpt(*command)).returncode and "No such device" in found.stderr:
            pass  # cat has not opened it yet
        read = reader.communicate(timeout=60)[0]
    assert found.returncode == 0
    path = str(tmp_path / "m")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK)), closing(Metrics.beside(path, {}, None)) as m:
        assert os.get_blocking(m._fd)  # it waits for a reader that is slow
    assert read == "".join((two_saves / METRICS).read_text().splitlines(keepends=True)[8:])


def test_settings_that_are_no_file(two_saves, call):
    """A file of settings that is a FIFO or a device is refused at once; one that cannot be read now is exit 1."""
    os.mkfifo(two_saves.parent / "fifo")
    for path in two_saves.parent / "fifo", "/dev/zero":
        code, lines = call("train", "--config", path)
        assert (code, len(lines)) == (2, 1) and "expected a file, found a" in lines[0] and str(path) in lines[0]


def test_a_plot_of_no_file(two_saves, call):
    """Metrics in a FIFO, a device or a binary file are refused at once, and a picture is not written through a link."""
    folder = two_saves.parent
    os.mkfifo(folder / "fifo")
    (folder / "bytes").write_bytes(b"\xff\xfe\n")
    (folder / "p.png").symlink_to(two_saves / METRICS)
    before = everything_in(two_saves)
    for path in folder / "fifo", "/dev/zero", folder / "bytes":
        code, lines = call("plot", path, "-o", folder / "q.png")
        assert (code, len(lines)) == (1, 1) and str(path) in lines[0] and not (folder / "q.png").exists()
    code, lines = call("plot", two_saves, "-o", folder / "p.png")
    assert (code, len(lines)) == (1, 1) and "p.png" in lines[0] and everything_in(two_saves) == before


# ---- what other versions wrote ----


def test_a_setting_that_is_younger(two_saves):
    """A checkpoint without a newer setting loads with its default; one with an unknown setting is left unchanged."""
    path = str(two_saves / "checkpoint.npz")
    saved = checkpoint.load(path)
    text = bytes(checkpoint.to_bytes(saved))
    older = replace_settings(text, lambda settings: settings.pop("temperature"))
    (two_saves / "checkpoint.npz").write_bytes(older)
    assert checkpoint.load(path).config == saved.config
    (two_saves / "checkpoint.npz").write_bytes(replace_settings(text, lambda settings: settings.update(n_expert=8)))
    with pytest.raises(UnreadableError, match="'n_expert'"):
        checkpoint.load(path)


def replace_settings(data, change):
    """The bytes of a checkpoint whose settings were changed, sealed anew."""
    with np.load(io.BytesIO(data)) as file:
        arrays = {name: file[name] for name in file.files}
    state = json.loads(arrays.pop("run").tobytes())
    change(state["config"])
    state["sha256"] = checkpoint.digest(state, arrays.values())
    file = io.BytesIO()
    np.savez(file, run=np.frombuffer(checkpoint.encode(state), np.uint8), **arrays)
    return file.getvalue()
