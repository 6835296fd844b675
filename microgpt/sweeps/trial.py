"""One trial of a sweep: its settings and results, and what a worker needs to know to train it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RUNNING_FILE = "running"  # a file in the directory of a sweep that exists while the sweep runs

PAUSED = "paused"  # not started, or waiting at a rung
INTERRUPTED = "interrupted"  # saved and stopped together with its sweep
UNSAVED = "unsaved"  # its directory could not be written, which is not a failure of the trial


@dataclass
class Trial:
    """A trial's settings and results, as in a line of trials.jsonl."""

    trial: int  # its number, from 0
    settings: dict[str, Any]  # only those that the sweep sets
    status: str = PAUSED  # at the end: done, stopped (at a rung), invalid, failed, died or timeout
    step: int | None = None
    val_loss: float | None = None  # at that step
    rungs: list[Any] = field(default_factory=list)  # [step, held-out loss] of each
    run: str | None = None  # the directory of its run, relative to the sweep's
    error: str | None = None
    started: str | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"trial-{self.trial:05d}"


@dataclass(frozen=True)
class Task:
    """What a worker needs besides the trial.  Paths are absolute, so a worker may have any working directory."""

    directory: str  # of the sweep
    cwd: str  # the working directory in which the sweep started
    token: str  # the content of RUNNING_FILE while this sweep runs
    until: int | None  # train to this step, or with None to the end
    limit: float  # seconds for the whole trial; 0 means no limit
    threads: int | None
