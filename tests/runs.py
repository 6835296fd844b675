"""What the tests of runs share.  MICROGPT_SLOW=1 makes the long ones as long as they should be before a release."""

import os
import random
import string

from microgpt.config import Config
from microgpt.trainer import Trainer

SLOW = bool(os.environ.get("MICROGPT_SLOW"))
TINY = {"n_embd": 4, "n_head": 2, "block_size": 4, "num_steps": 8}


def often(few, many):
    """How many times to try something: few, or many when there is time."""
    return many if SLOW else few


def write_names(path, n=60):
    """A file of n short random names; returns its path as text."""
    rng = random.Random(1)
    names = ("".join(rng.choices(string.ascii_lowercase[:8], k=rng.randint(1, 7))) for _ in range(n))
    path.write_text("\n".join(names), encoding="utf-8")
    return str(path)


def tiny_trainer(folder, steps=0, **settings):
    """A Trainer of a tiny model after some steps."""
    trainer = Trainer(Config(input=write_names(folder / "names.txt"), **{**TINY, **settings}))
    trainer.steps(steps, [], ())
    return trainer


def everything(checkpoint):
    """All that a checkpoint holds, as values that == compares exactly."""
    arrays = {**checkpoint.params, "m": checkpoint.m, "v": checkpoint.v}
    values = {key: value for key, value in vars(checkpoint).items() if key not in ("params", "m", "v")}
    return values | {name: (a.dtype.str, a.shape, a.tobytes("F")) for name, a in arrays.items()}
