"""What several test files share: the golden runs, running the command line, small trainers and runs.

MICROGPT_SLOW=1 makes the tests marked `slow` as long as they should be before a release.
"""

import json
import os
import pty
import random
import string
import subprocess
import sys
import termios
from pathlib import Path

import microgpt as package
from microgpt.api import Model
from microgpt.base.config import Config
from microgpt.base.errors import CheckpointError
from microgpt.core.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
INPUT = ROOT / "input.txt"
PACKAGE = Path(package.__file__).parent  # in a checkout, or installed
SLOW = bool(os.environ.get("MICROGPT_SLOW"))
NAMES = ["anna", "bo", "hanna", "abba", "noah", "ona", "bab", "nob"]
TINY = {"n_embd": 4, "n_head": 2, "block_size": 4, "num_steps": 8}


def golden(name):
    """What the reference printed and computed, in full precision."""
    return json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text(encoding="utf-8"))


def microgpt(*arguments, cwd=ROOT, env=None, **options):
    """The finished process of `python -m microgpt ARGUMENTS`, with what it wrote as text."""
    command = [sys.executable, "-m", "microgpt", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    path = {"PYTHONPATH": str(ROOT)} | (env or {})
    return subprocess.run(command, cwd=cwd, env=os.environ | path, encoding="utf-8", **(streams | options))


def on_terminal(*arguments, cwd, streams, columns=120):
    """What a run writes to its `streams` ("stdout", "stderr") when these alone are a terminal, and its process."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = microgpt(*arguments, cwd=cwd, **dict.fromkeys(streams, theirs))
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 4096):
            written += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return written.decode(), process


def train(folder, documents, **settings):
    """A Trainer on these documents; at a learning rate of 1e-300 its steps change no parameter."""
    path = folder / "documents.txt"
    path.write_text("\n".join(documents), encoding="utf-8")
    return Trainer(Config(input=str(path), **settings))


def trained(folder, documents, steps=60, **settings):
    """A tiny Model after some steps on these documents."""
    small = {"n_embd": 8, "n_head": 2, "block_size": 8, "learning_rate": 0.05, "seed": 3, "num_steps": steps}
    trainer = train(folder, documents, **small | settings)
    trainer.steps(steps, [], ())
    return Model(trainer.checkpoint())


def encoded(trainer):
    """Every document as a list of ids, BOS at both ends, in the order of training."""
    bos = len(trainer.vocab)
    return [[bos, *map(trainer.vocab.index, document), bos] for document in trainer.documents.training]


def often(few, many):
    """How many times to try something: few, or many when there is time."""
    return many if SLOW else few


def write_names(path, n=60):
    """A file of n short random names; returns its path as text."""
    rng = random.Random(1)
    names = ("".join(rng.choices(string.ascii_lowercase[:8], k=rng.randint(1, 7))) for _ in range(n))
    path.write_text("\n".join(names), encoding="utf-8")
    return str(path)


def tiny_trainer(folder, steps=0, threads=None, **settings):
    """A Trainer of a tiny model after some steps."""
    config = Config(input=write_names(folder / "names.txt"), **{**TINY, **settings})
    trainer = Trainer(config, threads=threads)
    trainer.steps(steps, [], ())
    return trainer


def everything(checkpoint):
    """All that a checkpoint holds, as values that == compares exactly."""
    arrays = checkpoint.params | checkpoint.arrays
    values = {key: value for key, value in vars(checkpoint).items() if key not in ("params", "arrays")}
    return values | {name: (a.dtype.str, a.shape, a.tobytes("F")) for name, a in arrays.items()}


def is_accepted(values_in, path, data, values):
    """Whether values_in(path) accepts a file of these bytes, and then with the right values."""
    path.write_bytes(data)
    try:
        found = values_in(path)
    except CheckpointError:
        return False
    assert found == values
    return True


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
microgpt.load(sys.argv[1])  # whatever is imported once
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
