"""One trial of a sweep: its result, and what its worker needs to know."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from ..base.config import Config
from ..base.files import may_be
from ..core.documents import at_hand

RUNNING = "running"  # the file in a sweep's directory that says that it goes on

PAUSED = "paused"  # not begun, or at a rung: it may go on
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
    """What a worker is told beside the trial, with paths that are good anywhere."""

    directory: str  # of the sweep
    cwd: str  # where it was begun
    token: str  # what is in RUNNING as long as it goes on
    until: int | None  # the step, or None: to the end
    limit: float  # seconds for all of the trial; 0 is any
    threads: int | None


def input_of(config: Config, cwd: str) -> str:
    """Where a trial's text is: as seen from where the sweep began, or else from here."""
    path = os.path.join(cwd, config.input)
    return path if may_be(path) else os.path.abspath(at_hand(config.input))
