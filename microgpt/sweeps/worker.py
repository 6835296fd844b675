"""What trains a trial, in whichever thread, process or computer: an ordinary run, or a part of one."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from dataclasses import replace

from ..base.config import Config
from ..base.errors import ConfigError, DataError, NotFiniteError, SamplingError
from ..base.files import folder_at
from ..base.terminal import escaped, quiet
from ..core.trainer import Trainer
from ..runs import loop
from ..runs.history import History
from ..runs.inputs import input_of_trial
from ..runs.run import CHECKPOINT, PREVIOUS, Run
from .trial import INTERRUPTED, PAUSED, RUNNING_FILE, UNSAVED, Task, Trial

LOOK_SECONDS = 0.1  # how often a trial looks there, and at the clock


def train(t: Trial, task: Task) -> Trial:
    """The trial, trained to a step from where it is, and measured there, whatever went wrong."""
    quiet()
    started = t.started or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    t, stop = replace(t, step=None, val_loss=None, started=started), Stop(t, task)
    error: object = None
    try:
        t.status = run(t, task, stop)
    except ConfigError as e:  # it cannot be, or not here: there is too little memory
        t.status, error = "invalid", e
    except OSError as e:
        t.status, error = UNSAVED, e
    except (DataError, NotFiniteError, SamplingError) as e:
        t.status, error = "failed", e
    except Exception as e:
        t.status, error = "failed", f"{type(e).__name__}: {e}"
    if t.status == "timeout":
        error = f"expected an end within {task.limit:g} seconds, found none"
    t.error = None if error is None else escaped(str(error))
    t.seconds = round(t.seconds + time.monotonic() - stop.started, 3)
    return t


def run(t: Trial, task: Task, stop: Stop) -> str:
    """Train and measure: the status."""
    directory, config = os.path.join(task.directory, t.name), Config(**t.settings)
    wait_for(directory, stop)
    if stop:
        return stop.why
    with closing(Run(directory)) as run:
        begun = any(os.path.exists(run.file(name)) for name in (CHECKPOINT, PREVIOUS))
        saved = run.resume() if begun else None
        trainer = Trainer(config, saved, saves=True, input=input_of_trial(config.input, task.cwd), threads=task.threads)
        if saved is None:
            run.create()
        run.start(trainer.checkpoint(), trainer.input)
        t.run, stop.trainer, history = t.name, trainer, History()
        loop.train(trainer, run, stop=stop, history=history)
        if stop.why not in ("", PAUSED) and not trainer.done:
            return stop.why
        t.step = trainer.step_count
        t.val_loss = dict(history.val_losses).get(t.step)
        if t.val_loss is None:  # and early stopping does not count it: a rung is not one of the run's own measurements
            t.val_loss = trainer.evaluate()
        return "done" if trainer.done else PAUSED


class Stop:
    """Not empty, which is what the loop asks, when a trial is to stop; `why` says it then."""

    def __init__(self, t: Trial, task: Task) -> None:
        self.task, self.why = task, ""
        self.trainer: Trainer | None = None
        self.started, self._next = time.monotonic(), 0.0
        self._end = self.started + task.limit - t.seconds if task.limit else float("inf")

    def __len__(self) -> int:
        if self.trainer is not None and self.task.until is not None and self.trainer.step_count >= self.task.until:
            self.why = self.why or PAUSED
        elif not self.why and (now := time.monotonic()) >= self._next:
            self._next = now + LOOK_SECONDS
            self.why = "timeout" if now > self._end else "" if goes_on(self.task) else INTERRUPTED
        return bool(self.why)


def goes_on(task: Task) -> bool:
    """Whether this is still the sweep that works in the directory: when it ends, or another resumes, its trials end."""
    try:
        with open(os.path.join(task.directory, RUNNING_FILE)) as file:
            return file.read() == task.token
    except FileNotFoundError:
        return False
    except OSError:  # which says nothing of the sweep
        return True


def wait_for(directory: str, stop: Stop) -> None:
    """Until nobody trains there: a worker whose sweep was killed may need a moment to see it."""
    folder = folder_at(directory)
    if folder is not None:
        with closing(folder):
            while not stop:
                with suppress(BlockingIOError):
                    folder.lock("training")
                    break
                time.sleep(LOOK_SECONDS)
