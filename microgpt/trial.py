"""One trial of a sweep, in whichever thread, process or computer: an ordinary run, or a part of one."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from . import loop
from .config import Config
from .errors import ConfigError, DataError, NotFiniteError
from .evaluate import Evaluator
from .files import folder_at
from .run import CHECKPOINT, PREVIOUS, Run
from .terminal import escaped, quiet
from .trainer import Trainer

LOOK_SECONDS = 0.1  # how often a trial looks at the clock, and whether its sweep still goes on


@dataclass
class Trial:
    """What became of a trial; as it stands in trials.jsonl."""

    trial: int  # its number, from 0
    settings: dict[str, Any]  # those that were given to the sweep
    status: str = "paused"  # done, stopped (by a rung), invalid, failed, died, timeout; or how far it is, below
    step: int | None = None
    val_loss: float | None = None  # at that step
    rungs: list[tuple[int, float]] = field(default_factory=list)  # (step, held-out loss)
    run: str | None = None  # its directory within the sweep's
    error: str | None = None
    started: str | None = None
    seconds: float = 0.0


PAUSED = "paused"  # at a rung: it may go on
INTERRUPTED = "interrupted"  # with its sweep, and saved
UNSAVED = "unsaved"  # its directory cannot be written, which is no fault of the trial's


@dataclass(frozen=True)
class Task:
    """What a worker is told, with paths that are good anywhere."""

    settings: dict[str, Any]
    directory: str
    input: str
    until: int  # the step
    limit: float  # seconds for all of the trial; 0 is any
    seconds: float  # what is left of them
    threads: int | None
    token: tuple[str, str]  # a file, and what is in it as long as the sweep goes on


@dataclass(frozen=True)
class Ending:
    """What a worker tells."""

    status: str
    step: int | None = None
    val_loss: float | None = None
    error: str | None = None
    started: str = ""
    seconds: float = 0.0


class Stop:
    """Not empty, which is what the loop asks, when a trial is to stop; `why` says it then."""

    def __init__(self, task: Task) -> None:
        self.task, self.why = task, ""
        self.trainer: Trainer | None = None
        self.started, self._next = time.monotonic(), 0.0

    def __len__(self) -> int:
        if self.trainer is not None and self.trainer.step_count >= self.task.until:
            self.why = self.why or PAUSED
        elif not self.why and (now := time.monotonic()) >= self._next:
            self._next = now + LOOK_SECONDS
            if self.task.limit and now > self.started + self.task.seconds:
                self.why = "timeout"
            elif not goes_on(*self.task.token):
                self.why = INTERRUPTED
        return bool(self.why)


def goes_on(path: str, token: str) -> bool:
    """Whether this is still the sweep that works in the directory: when it ends, or another resumes, its trials end."""
    try:
        with open(path) as file:
            return file.read() == token
    except FileNotFoundError:
        return False
    except OSError:  # which says nothing of the sweep
        return True


def overdue(limit: float) -> str:
    return f"expected an end within {limit:g} seconds, found none"


def train(task: Task) -> Ending:
    """Train a trial to a step, from where it is, and measure it: its Ending, whatever went wrong."""
    started, stop = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), Stop(task)
    status, step, loss = "failed", None, None
    error: object = None
    try:
        with quiet():
            status, step, loss = trained(task, stop)
    except ConfigError as e:  # what could not be known before, such as too little memory
        status, error = "invalid", e
    except OSError as e:
        status, error = UNSAVED, e
    except Exception as e:
        error = e if isinstance(e, (DataError, NotFiniteError)) else f"{type(e).__name__}: {e}"
    if status == "timeout":
        error = overdue(task.limit)
    seconds = round(time.monotonic() - stop.started, 3)
    return Ending(status, step, loss, None if error is None else escaped(str(error)), started, seconds)


def trained(task: Task, stop: Stop) -> tuple[str, int | None, float | None]:
    if stop or not free(task.directory, stop):
        return stop.why, None, None
    with closing(Run(task.directory)) as run:
        begun = any(os.path.exists(run.file(name)) for name in (CHECKPOINT, PREVIOUS))
        saved = run.resume() if begun else None
        trainer = Trainer(Config(**task.settings), saved, saves=True, input=task.input, threads=task.threads)
        stop.trainer = trainer
        if saved is None:
            run.create()
        run.start(trainer)
        loop.train(trainer, run, stop=stop)
        if stop.why in ("timeout", INTERRUPTED) and not trainer.done:
            return stop.why, None, None
        # measured apart, for a rung is no measurement of the run's own, which early stopping counts
        loss = Evaluator(trainer.params, trainer.documents.held_out, trainer.threads).loss()
        return "done" if trainer.done else PAUSED, trainer.step_count, loss


def free(directory: str, stop: Stop) -> bool:
    """Whether nobody else trains there: a worker whose sweep was killed may need a moment to see it."""
    while True:
        folder = folder_at(directory)
        if folder is None:
            return True
        with closing(folder):
            try:
                folder.lock("training")
                return True
            except BlockingIOError:
                if stop:
                    return False
        time.sleep(LOOK_SECONDS)
