"""Shared by the tests of hostile files: ways to damage a valid file, and the permitted outcomes."""

import os
import random
import subprocess
import sys
from contextlib import suppress

import pytest

from microgpt.base.errors import CheckpointError, UnreadableError

DELETE = object()
ODD = [None, True, -1, 0, 1, 0.5, 2**31, 2**63, 1e300, "", "a", [], {}, [[]], "\ud800", -0.0]


def with_changes(parts, sealed, place):
    """A function of new values (DELETE for none) of the dictionary that place() finds among the parts of a file.

    It returns a function of a fine file's bytes that makes the damaged file's, sealed again.
    """

    def changing(**changes):
        def change(good):
            found = parts(good)
            for key, value in changes.items():
                if value is DELETE:
                    del place(*found)[key]
                else:
                    place(*found)[key] = value
            return sealed(*found)

        return change

    return changing


def odd_change(rng, place):
    """One value of a dictionary becomes an odd one or is deleted."""
    key = rng.choice(list(place))
    if rng.random() < 0.1:
        del place[key]
    else:
        place[key] = rng.choice(ODD)


FILES = {
    "empty": lambda good: b"",
    "one byte": lambda good: good[:1],
    "all but the last byte": lambda good: good[:-1],
    "one byte more": lambda good: good + b"\0",
    "a megabyte more": lambda good: good + bytes(2**20),
    "one byte before": lambda good: b"\0" + good,
    "zeros": lambda good: bytes(len(good)),
    "twice": lambda good: good + good,
    "text": lambda good: b"emma\nolivia\n" * 1000,
}


def settings(with_state, with_config):
    """Settings, vocabularies and versions that no file may have."""
    return {
        "later format": with_state(format=2),
        "no format": with_state(format=DELETE),
        "format as text": with_state(format="1"),
        "format as bool": with_state(format=True),
        "key unknown": with_state(more=1),
        "config missing": with_state(config=DELETE),
        "config a list": with_state(config=[1]),
        "hash of the data missing": with_state(data_sha256=DELETE),
        "hash of the data too short": with_state(data_sha256="ab"),
        "hash of the data too long": with_state(data_sha256="a" * 65),
        "hash of the data a number": with_state(data_sha256=1),
        "setting missing": with_config(n_embd=DELETE),
        "setting unknown": with_config(more=1),
        "setting as text": with_config(n_embd="4"),
        "setting as bool": with_config(n_layer=True),
        "setting as real": with_config(n_embd=4.0),
        "setting null": with_config(seed=None),
        "setting a list": with_config(block_size=[4]),
        "no heads": with_config(n_head=0),
        "heads that do not divide": with_config(n_head=3),
        "block of 0": with_config(block_size=0),
        "negative width": with_config(n_embd=-4),
        "width 2^31": with_config(n_embd=2**31, n_head=1),
        "width 2^62": with_config(n_embd=2**62, n_head=1),
        "large width": with_config(n_embd=2**16),
        "another width": with_config(n_embd=8),
        "another block": with_config(block_size=5),
        "no layer": with_config(n_layer=0),
        "one more layer": with_config(n_layer=2),
        "1,000 layers": with_config(n_layer=1000),
        "a billion layers": with_config(n_layer=10**9),
        "other precision": with_config(dtype="float64"),
        "no precision": with_config(dtype="bfloat16"),
        "empty vocabulary": with_state(vocab=""),
        "vocabulary with a character twice": with_state(vocab="abcdefgg"),
        "vocabulary not sorted": with_state(vocab="bacdefgh"),
        "vocabulary too short": with_state(vocab="abcdefg"),
        "vocabulary too long": with_state(vocab="abcdefghi"),
        "vocabulary with a line end": with_state(vocab="\nabcdefg"),
        "vocabulary with half a character": with_state(vocab="abcdefg\ud800"),
        "vocabulary a list": with_state(vocab=list("abcdefgh")),
    }


def written_to(path):
    """A FIFO with a reader."""
    os.mkfifo(path)
    os.open(path, os.O_RDWR)


NO_FILES = {
    "missing": lambda path: None,
    "directory": lambda path: path.mkdir(),
    "FIFO": os.mkfifo,
    "FIFO with a writer": written_to,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "10 GB of nothing": lambda path: os.truncate(os.open(path, os.O_RDWR | os.O_CREAT), 10 * 10**9),
}


def mutate(rng, good):
    """One of eight kinds of damage to a file's bytes."""
    data = bytearray(good)
    at, size = rng.randrange(len(data)), rng.randint(1, 64)
    kind = rng.randrange(8)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data = data[:at]
    elif kind == 2:
        data += rng.randbytes(size)
    elif kind == 3:
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif kind == 4:
        del data[at : at + size]
    elif kind == 5:
        data[at:at] = rng.randbytes(size)
    elif kind == 6:
        other = rng.randrange(len(data))
        data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
    else:
        data[at : at + size] = rng.randbytes(len(data[at : at + size]))
    return bytes(data)


MEMORY = """
import re, sys
from microgpt.runs import checkpoint, run
import microgpt
def most():  # and not ru_maxrss, which begins with what the process had before it became this one: its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
microgpt.load(sys.argv[1])  # so that imports happen before the measurement
before = most()
try:
    found = microgpt.load(sys.argv[2])
    print("loaded", end=" ")
except microgpt.CheckpointError:
    print("refused", end=" ")
print((most() - before) * 1024)
"""


def memory_of_loading(small, path):
    """("loaded" or "refused", by how many bytes a process grows that loads the file at path after the small one)."""
    command = [sys.executable, "-c", MEMORY, str(small), str(path)]
    outcome, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return outcome, int(grown)


class Hostile:
    """Tests of one kind of file: `module` loads it, `saved` is what == compares, a module's fixtures have the rest."""

    def refuse(self, path, bad):
        """The file is refused in one line that names it."""
        path.write_bytes(bad)
        with pytest.raises(CheckpointError) as refused:
            self.module.load(str(path))
        assert str(path) in str(refused.value) and len(str(refused.value)) < 1000

    def values_in(self, path):
        return self.saved(self.module.load(str(path)))

    @pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES.keys())
    def test_not_a_file(self, tmp_path, make):
        """A FIFO, device or file of another size is refused at once, without waiting or reading."""
        make(tmp_path / "c")
        with pytest.raises(CheckpointError):
            self.module.load(str(tmp_path / "c"))

    def test_a_file_that_changes_while_it_is_read(self, good, values, tmp_path, monkeypatch):
        """A file that changes after its head has been read gives the old values or none."""
        path = tmp_path / "c"
        later = good.replace(b'"step": 4', b'"step": 5')
        for change in (good[:-100], good[:100] + b"x" + good[101:], good + b"more", later):
            path.write_bytes(good)

            def changing(state, keys, change=change, original=self.module.parse_state):
                path.write_bytes(change)
                return original(state, keys)

            monkeypatch.setattr(self.module, "parse_state", changing)
            with suppress(UnreadableError):  # and not that it is damaged
                assert self.values_in(path) == values
            monkeypatch.undo()

    @pytest.mark.slow
    def test_every_length(self, good, tmp_path):
        """No truncated file is accepted."""
        path = tmp_path / "c"
        path.write_bytes(good)
        for size in range(len(good) - 1, -1, -self.between):
            os.truncate(path, size)
            with pytest.raises(CheckpointError):
                self.module.load(str(path))

    def is_accepted(self, path, bad, values):
        """Whether damaged bytes are accepted, and then with the right values."""
        path.write_bytes(bad)
        try:
            found = self.values_in(path)
        except CheckpointError:
            return False
        assert found == values
        return True

    @pytest.mark.slow
    def test_mutations(self, good, values, tmp_path):
        """A file damaged anywhere, in any of eight ways, gives the right values or is refused."""
        rng = random.Random(5)
        accepted = sum(self.is_accepted(tmp_path / "c", mutate(rng, good), values) for _ in range(self.mutations))
        assert accepted < self.mutations / 20  # bytes that say nothing, such as dates and spaces
