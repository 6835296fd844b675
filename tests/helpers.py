"""What several test files share: the golden runs, running the command line, small training runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

from microgpt.config import Config
from microgpt.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
INPUT = ROOT / "input.txt"


def golden(name):
    """What the reference printed and computed, in full precision."""
    return json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text(encoding="utf-8"))


def microgpt(*arguments, cwd=ROOT, env=None, **options):
    """The finished process of `python -m microgpt ARGUMENTS`, with what it wrote as text."""
    command = [sys.executable, "-m", "microgpt", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    path = {"PYTHONPATH": str(ROOT)} | (env or {})
    return subprocess.run(command, cwd=cwd, env=os.environ | path, encoding="utf-8", **(streams | options))


def train(folder, documents, **settings):
    """A Trainer on these documents; at a learning rate of 1e-300 its steps change no parameter."""
    path = folder / "documents.txt"
    path.write_text("\n".join(documents), encoding="utf-8")
    return Trainer(Config(input=str(path), **settings))


def encoded(trainer):
    """Every document as a list of ids, BOS at both ends, in the order of training."""
    bos = len(trainer.vocab)
    return [[bos, *map(trainer.vocab.index, document), bos] for document in trainer.documents]
