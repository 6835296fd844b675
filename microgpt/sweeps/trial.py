"""One trial of a sweep: what becomes of it, and what a worker needs to know to train it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RUNNING_FILE = "running"  # a file in a sweep's directory, there as long as the sweep runs

PAUSED = "paused"  # not begun, or at a rung: to be continued
INTERRUPTED = "interrupted"  # with its sweep, and saved
UNSAVED = "unsaved"  # its directory cannot be written, which is no fault of the trial's


@dataclass
class Trial:
    """What became of a trial; as it stands in trials.jsonl."""

    trial: int  # its number, from 0
    settings: dict[str, Any]  # those that were given to the sweep
    status: str = PAUSED  # done, stopped (by a rung), invalid, failed, died or timeout in the end
    step: int | None = None
    val_loss: float | None = None  # at that step
    rungs: list[Any] = field(default_factory=list)  # of [step, held-out loss]
    run: str | None = None  # its directory within the sweep's
    error: str | None = None
    started: str | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"trial-{self.trial:05d}"


@dataclass(frozen=True)
class Task:
    """What a worker needs beside the trial; its paths do not depend on the worker's directory."""

    directory: str  # of the sweep
    cwd: str  # where it was begun
    token: str  # the content of RUNNING_FILE while this sweep runs
    until: int | None  # the step, or None: to the end
    limit: float  # seconds for all of the trial; 0 is any
    threads: int | None
