"""One trial of a sweep: its settings and results, and what a worker needs to know to train it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from ..base.terminal import shown

RUNNING_FILE = "running"  # a file in the directory of a sweep that exists while the sweep runs

PAUSED = "paused"  # not started, or waiting at a rung
INTERRUPTED = "interrupted"  # saved and stopped together with its sweep
REPEATED = "repeated"  # an earlier trial has the same settings and is being trained
ENDS = {"done", "stopped", "invalid", "failed", "died", "timeout"}  # "stopped" is at a rung
UNSAVED = "unsaved"  # its directory could not be written, which is not a failure of the trial


@dataclass
class Trial:
    """A trial's settings and results, as in a line of trials.jsonl."""

    trial: int  # its number, from 0
    settings: dict[str, Any]  # only those that the sweep sets
    status: str = PAUSED  # at the end, one of ENDS
    step: int | None = None
    val_loss: float | None = None  # at that step
    rungs: list[Any] = field(default_factory=list)  # [step, held-out loss] of each
    run: str | None = None  # the directory of its run, relative to the sweep's
    error: str | None = None
    started: str | None = None
    seconds: float = 0.0
    same_as: int | None = None  # an earlier trial with these settings, whose results these are

    @classmethod
    def from_json(cls, values: dict[str, Any], paused: bool = False) -> Trial:
        """The trial in a line of trials.jsonl, or a `paused` one in sweep.json.  Raises ValueError, TypeError."""
        t = cls(**values)
        fine = {
            "trial": type(t.trial) is int and t.trial >= 0,
            "settings": type(t.settings) is dict and all(type(name) is str for name in t.settings),
            "status": t.status in (ENDS | {PAUSED, REPEATED} if paused else ENDS),
            "step": t.step is None or (type(t.step) is int and t.step >= 0),
            "val_loss": t.val_loss is None or is_loss(t.val_loss),
            "rungs": type(t.rungs) is list and all(is_rung(rung) for rung in t.rungs),
            "run": t.run is None or (type(t.run) is str and re.fullmatch("trial-[0-9]{5,}", t.run)),
            "error": t.error is None or type(t.error) is str,
            "started": t.started is None or type(t.started) is str,
            "seconds": is_loss(t.seconds),
            "same_as": t.same_as is None or (type(t.same_as) is int and 0 <= t.same_as < t.trial),
        }
        for name, ok in fine.items():
            if not ok:
                raise ValueError(f"{name} cannot be {shown(getattr(t, name))}")
        if t.status == "done" and t.val_loss is None:
            raise ValueError("a trial that is done has a val_loss")
        return t

    @property
    def name(self) -> str:
        return f"trial-{self.trial:05d}"


def is_loss(x: object) -> bool:
    return type(x) is float and 0 <= x < math.inf


def is_rung(x: object) -> bool:
    return type(x) is list and len(x) == 2 and type(x[0]) is int and is_loss(x[1])


@dataclass(frozen=True)
class Task:
    """What a worker needs besides the trial.  Paths are absolute, so a worker may have any working directory."""

    directory: str  # of the sweep
    cwd: str  # the working directory in which the sweep started
    token: str  # the content of RUNNING_FILE while this sweep runs
    until: int | None  # train to this step, or with None to the end
    limit: float  # seconds for the whole trial; 0 means no limit
    threads: int | None
