"""Train a trial on a worker: an ordinary run, or the part of one up to a rung."""

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
from ..runs.metrics import CHECKPOINT
from ..runs.run import PREVIOUS, Run
from .records import INTERRUPTED, PAUSED, RUNNING_FILE, UNSAVED, Task, Trial

POLL_SECONDS = 0.1  # between two checks of the time limit and of whether the sweep still runs


def train(t: Trial, task: Task) -> Trial:
    """Train a trial further and measure its held-out loss; any failure is recorded in the returned Trial."""
    quiet()
    started = t.started or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    t, stop = replace(t, step=None, val_loss=None, started=started), Stop(t, task)
    error: object = None
    try:
        t.status = run(t, task, stop)
    except ConfigError as e:  # impossible settings, or too little memory on this machine
        t.status, error = "invalid", e
    except OSError as e:
        t.status, error = UNSAVED, e
    except (DataError, NotFiniteError, SamplingError) as e:
        t.status, error = "failed", e
    except Exception as e:
        t.status, error = "failed", f"{type(e).__name__}: {e}"
    if t.status == "timeout":
        error = f"stopped after the time limit of {task.limit:g} seconds"
    t.error = None if error is None else escaped(str(error))
    t.seconds = round(t.seconds + time.monotonic() - stop.started, 3)
    return t


def run(t: Trial, task: Task, stop: Stop) -> str:
    """Train, measure, and return the status."""
    directory, config = os.path.join(task.directory, t.name), Config(**t.settings)
    wait_until_unlocked(directory, stop)
    if stop:
        return stop.why
    with closing(Run(directory)) as run:
        started = any(os.path.exists(run.file(name)) for name in (CHECKPOINT, PREVIOUS))
        saved = run.resume() if started else None
        trainer = Trainer(config, saved, saves=True, input=input_of_trial(config.input, task.cwd), threads=task.threads)
        if saved is None:
            run.create()
        run.start(trainer.checkpoint(), trainer.input)
        t.run, stop.trainer, history = t.name, trainer, History()
        loop.train(trainer, run, stop=stop, history=history)
        run.finish(seconds=0)  # the sweep waits for nobody
        if stop.why not in ("", PAUSED) and not trainer.done:
            return stop.why
        t.step = trainer.step_count
        t.val_loss = dict(history.val_losses).get(t.step)
        if t.val_loss is None:  # not via the loop: early stopping must not count the measurement at a rung
            t.val_loss = trainer.evaluate()
        return "done" if trainer.done else PAUSED


class Stop:
    """Becomes non-empty, which stops the training loop, when the trial should stop; `why` is the new status."""

    def __init__(self, t: Trial, task: Task) -> None:
        self.task, self.why = task, ""
        self.trainer: Trainer | None = None
        self.started, self._next = time.monotonic(), 0.0
        self._end = self.started + task.limit - t.seconds if task.limit else float("inf")

    def __len__(self) -> int:
        if self.trainer is not None and self.task.until is not None and self.trainer.step_count >= self.task.until:
            self.why = self.why or PAUSED
        elif not self.why and (now := time.monotonic()) >= self._next:
            self._next = now + POLL_SECONDS
            self.why = "timeout" if now > self._end else "" if sweep_is_running(self.task) else INTERRUPTED
        return bool(self.why)


def sweep_is_running(task: Task) -> bool:
    """False once this sweep has ended or another process has resumed it."""
    try:
        with open(os.path.join(task.directory, RUNNING_FILE)) as file:
            return file.read() == task.token
    except FileNotFoundError:
        return False
    except OSError:  # an unreadable file does not mean that the sweep has ended
        return True


def wait_until_unlocked(directory: str, stop: Stop) -> None:
    """Wait until no process trains there: a worker of a killed sweep may take a moment to notice and stop."""
    folder = folder_at(directory)
    if folder is not None:
        with closing(folder):
            while not stop:
                with suppress(BlockingIOError):
                    folder.lock("training")
                    break
                time.sleep(POLL_SECONDS)
