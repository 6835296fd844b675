"""Resuming a run whose files cannot be read now, or are not its own: nothing is lost or written through a link."""

import errno
import io
import json
import os

import numpy as np
import pytest
from helpers import microgpt, write_names

from microgpt import checkpoint
from microgpt.errors import UnreadableError
from microgpt.run import Run

TINY_FLAGS = ["--n-embd", 4, "--n-head", 2, "--block-size", 4, "--num-samples", 0]


@pytest.fixture
def two_saves(tmp_path):
    """The directory of a run of 8 steps with checkpoints of steps 4 and 8."""
    flags = ["--input", write_names(tmp_path / "names.txt"), "--num-steps", 8, "--checkpoint-every", 4]
    assert microgpt("train", "--out", tmp_path / "run", *flags, *TINY_FLAGS).returncode == 0
    return tmp_path / "run"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "x"), OSError(errno.EMFILE, "x"), PermissionError(errno.EACCES, "x"), MemoryError()]
)
@pytest.mark.parametrize("when", ["open", "read"])
def test_a_read_that_fails_once(two_saves, monkeypatch, error, when):
    """A checkpoint that cannot be read now is not a damaged one: nothing is taken for it, renamed or written."""
    before, calls = content(two_saves), []
    real = checkpoint.open_at_once if when == "open" else checkpoint.read

    def fails_once(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(checkpoint, "open_at_once" if when == "open" else "read", fails_once)
    first = Run(str(two_saves))
    with pytest.raises(UnreadableError, match="cannot be read"):
        first.resume()
    first.close()
    assert content(two_saves) == before
    again = Run(str(two_saves))
    assert again.resume().step == 8
    again.close()


def test_a_later_format(two_saves):
    """A checkpoint of a later version is left as it is, and not taken for a damaged one."""
    path = two_saves / "checkpoint.npz"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 7'))
    before = content(two_saves)
    resumed = microgpt("train", "--resume", two_saves)
    assert resumed.returncode == 1 and "a later version's" in resumed.stderr and resumed.stderr.count("\n") == 1
    assert content(two_saves) == before


LINKS = {
    "symbolic link": lambda path, target: path.symlink_to(target),
    "dangling link": lambda path, target: path.symlink_to(target.with_name("nowhere")),
    "hard link": lambda path, target: os.link(target, path),
    "fifo": lambda path, target: os.mkfifo(path),
    "endless device": lambda path, target: path.symlink_to("/dev/zero"),
    "directory": lambda path, target: path.mkdir(),
}


@pytest.mark.parametrize("make", LINKS.values(), ids=LINKS.keys())
@pytest.mark.parametrize("step", [4, 8])
def test_links_in_place_of_the_metrics(two_saves, make, step):
    """What lies in the place of a run's metrics and is no file of its own is refused, and its target untouched."""
    if step == 4:
        (two_saves / "checkpoint.npz").unlink()
    target, metrics = two_saves.parent / "precious", two_saves / "metrics.jsonl"
    target.write_text("precious")
    metrics.unlink()
    make(metrics, target)
    resumed = microgpt("train", "--resume", two_saves, "--num-steps", 9, timeout=60)
    assert resumed.returncode == 1 and resumed.stderr.splitlines()[-1].startswith("microgpt: --resume: expected")
    assert target.read_text() == "precious" and not target.with_name("nowhere").exists()


def test_a_setting_that_is_younger(two_saves):
    """A checkpoint from before a setting was there loads with its default; one with a setting to come is left alone."""
    path = str(two_saves / "checkpoint.npz")
    saved = checkpoint.load(path)
    text = bytes(saved.to_bytes())
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
