"""What several test files share: the golden runs, running the command line, small trainers and runs.

MICROGPT_SLOW=1 makes the tests marked `slow` as long as they should be before a release.
"""

import functools
import inspect
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


def each(names, values):
    """As pytest.mark.parametrize, but within one test, for thousands of short cases; a failure names its case."""
    names = names.split(", ")

    def decorate(test):
        @functools.wraps(test)
        def all_of_them(**given):
            for value in values:
                case = dict(zip(names, value if len(names) > 1 else [value], strict=True))
                try:
                    test(**given, **case)
                except BaseException as error:  # pytest's own failures too
                    error.add_note(f"in the case of {case}")
                    raise

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in names]
        all_of_them.__signature__ = signature.replace(parameters=left)
        return all_of_them

    return decorate


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
