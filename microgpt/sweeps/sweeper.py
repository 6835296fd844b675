"""Sweeps: trials of many settings on any executor, a round after the other, in a directory that can be resumed.

A sweep is the same with 1 worker or 100: what a round tries follows from the rounds before it, and all is written in
the order of the trials' numbers, by one process: sweep.json, the plan, and how a round stands after its last rung;
trials.jsonl, a line a trial; `running`, while the sweep does; and each trial's run.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import ExitStack, closing, suppress
from contextvars import Context
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from ..base.config import Config, RunSettings, Sweep
from ..base.config_file import read_recipe
from ..base.errors import ConfigError, DataError, named
from ..base.files import AnyPath, Folder, folder_at, path_text, write_all
from ..base.progress import progress_bar
from ..base.settings import Given
from ..base.signals import interrupt_at_the_end
from ..base.signature import accepts
from ..base.terminal import reason, shown
from ..base.threads import check
from ..runs.run import SWEEP
from . import executors
from .plan import Plan
from .space import varied_settings
from .trial import INTERRUPTED, PAUSED, RUNNING_FILE, UNSAVED, Task, Trial

TRIALS = "trials.jsonl"
POLL_SECONDS = 0.1


Ints = int | Sequence[int] | str
Floats = float | Sequence[float] | str
Strs = str | Sequence[str]


@dataclass(frozen=True)
class Sweeping(RunSettings[Ints, Floats, Strs], Sweep):
    """What sweep() may be given.  Of this class only the signature is used."""

    out: AnyPath | None = None
    _: KW_ONLY
    input: AnyPath | Sequence[AnyPath] = Config.input
    resume: AnyPath | None = None
    executor: object = "process"
    threads: int | None = None
    recipe: str | None = None
    progress: bool = False


@accepts(Sweeping)
def sweep(given: Given) -> list[Trial]:
    """Train with many settings in the directory `out`, or continue with `resume`; returns the trials, the best first.

    A setting of train() may be a value, several in a list, or "low..high" or "low..high:log"; those of the sweep itself
    are values.  `executor` is a name as on the command line, a concurrent.futures.Executor, or a callable that returns
    one; processes are spawned, so a script needs its `if __name__ == "__main__":`.  `threads` is how many train a
    trial, `recipe` names settings to begin with, and `progress` shows a bar.  Raises what train() does; after Ctrl-C,
    when all is saved, KeyboardInterrupt.

    >>> microgpt.sweep("sweeps/first", trials=24, learning_rate="1e-3..1e-1:log", n_embd=[16, 32])   # doctest: +SKIP

    SETTINGS
    """
    given = dict(given)
    paths = ((name, given.pop(name, None)) for name in ("out", "resume"))
    out, resume = (None if path is None else path_text(path, name) for name, path in paths)
    executor = given.pop("executor", Sweeping.executor)
    threads, recipe, progress = (given.pop(name, None) for name in ("threads", "recipe", "progress"))
    own = {f.name: given.pop(f.name) for f in fields(Sweep) if f.name in given}
    space = ({} if recipe is None else read_recipe(recipe)) | given
    with interrupt_at_the_end() as stop:
        return run(out, resume, own, space, executor, threads, stop, bool(progress)).best_first()


def run(
    out: str | None,
    resume: str | None,
    own: Given,
    given: dict[str, Any],
    executor: object,
    threads: int | None,
    stop: Sequence[object],
    progress: bool,
) -> Sweeper:
    """The sweep at its end, which is early when `stop` comes to hold something."""
    if (out is None) == (resume is None):
        raise ConfigError(f"expected either a directory for the sweep or {named('resume')}, found {shown(out)}")
    with ExitStack() as held:
        if resume is not None:
            folder = held.enter_context(closing(open_directory(resume)))
            plan = Plan.read(folder)
            plan.resume(own, given)
        else:
            plan = Plan.of(own, given)
        n_threads = None if threads is None else check(threads)
        workers, share = held.enter_context(executors.open_executor(executor))
        if out is not None:
            folder = held.enter_context(closing(create_directory(out)))
        plan.write(folder)
        lines = held.enter_context(closing(Lines(folder)))
        bar = progress_bar(plan.config.trials) if progress else None
        if bar is not None:
            held.enter_context(closing(bar))
        sweeper = Sweeper(plan, folder, lines, workers, n_threads or share, stop, bar)
        sweeper.run()
        return sweeper


# ---- its directory ----


def create_directory(path: str) -> Folder:
    """A directory for a new sweep, which is ours until it is closed.  Raises ConfigError when it has one already."""
    os.makedirs(path, exist_ok=True)
    folder = Folder(path)
    folder.lock("sweeping")
    held = [name for name in sorted(os.listdir(folder.fd)) if name in (SWEEP, TRIALS) or name.startswith("trial-")]
    if held:
        goes_on = f"; {named('resume')} {path} goes on with it" if SWEEP in held else ""
        raise ConfigError(f"expected a directory without a sweep, found {held[0]} in {path!r}{goes_on}", argument="out")
    return folder


def open_directory(path: str) -> Folder:
    """The directory of a sweep, which is ours until it is closed."""
    folder = folder_at(path)
    if folder is None or not os.path.exists(folder.file(SWEEP)):
        raise DataError(f"expected the directory of a sweep, found {path!r}", argument="resume")
    folder.lock("sweeping")
    return folder


class Lines:
    """trials.jsonl, in which there are whole lines only, however a writer ended."""

    def __init__(self, folder: Folder) -> None:
        self.path = folder.file(TRIALS)
        self._fd = folder.open(TRIALS, os.O_RDWR | os.O_CREAT)
        with open(self._fd, "rb", closefd=False) as file:
            self.recorded, self._size = read_trials(file, self.path)
        os.ftruncate(self._fd, self._size)
        os.lseek(self._fd, self._size, os.SEEK_SET)

    def append(self, t: Trial) -> None:
        """Write a trial, on the disk when this returns.  Raises OSError, and then it is not there."""
        data = (json.dumps(vars(t), ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            write_all(self._fd, data)
            os.fsync(self._fd)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise OSError(f"{self.path}: cannot be written: {reason(error)}") from None
        self._size += len(data)

    def close(self) -> None:
        os.close(self._fd)


def read_trials(file: Iterable[bytes], path: str) -> tuple[list[Trial], int]:
    """(trials, their size in bytes) of a trials.jsonl, without a last line that is incomplete.  Raises DataError."""
    lines = [line for line in file if line.endswith(b"\n")]
    try:
        trials = [Trial(**json.loads(line)) for line in lines]
        if [t.trial for t in trials] != list(range(len(trials))):
            raise ValueError("one is missing")
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"expected a trial in every line: {error}", subject=path) from None
    return trials, sum(map(len, lines))


# ---- while it runs ----


@dataclass
class Sweeper:
    """A sweep that runs, or has ended."""

    plan: Plan
    folder: Folder
    lines: Lines
    executor: Executor
    threads: int | None  # of a trial
    stop: Sequence[object]
    bar: Any  # or None

    def __post_init__(self) -> None:
        self.trials: list[Trial] = []  # that have ended and are written, in order
        self.token = secrets.token_hex(8)

    def best_first(self) -> list[Trial]:
        """Those that were trained to the end by their loss, then those that came less far."""
        return sorted(
            self.trials,
            key=lambda t: (t.status != "done", -(t.step or 0) * (t.status != "done"), t.val_loss or 0.0, t.trial),
        )

    def run(self) -> None:
        n, recorded = self.plan.config.trials, self.lines.recorded
        size = n if self.plan.independent else self.plan.config.round
        self.folder.write(RUNNING_FILE, self.token.encode())
        try:
            for start in range(0, n, size):
                numbers = range(start, min(start + size, n))
                if len(before := recorded[start : numbers.stop]) == len(numbers):
                    self.record_end(before)
                elif not self.stop:
                    self.run_round(numbers, before)
        finally:
            self.stop_trials()

    def stop_trials(self) -> None:
        """Have all trials stop and save."""
        with suppress(OSError):
            os.unlink(RUNNING_FILE, dir_fd=self.folder.fd)

    def run_round(self, numbers: range, recorded: list[Trial]) -> None:
        """Train the trials of a round, those that are recorded excepted, and write how they end."""
        trials = [Trial(n, settings) for n, settings in zip(numbers, self.plan.choose(numbers, self.trials))]
        begun = [t for t in self.plan.round if t.trial in numbers]  # all or none
        for t in recorded + begun:
            if t.settings != (asked := trials[t.trial - numbers.start].settings):
                raise DataError(
                    f"{self.lines.path}: expected trial {t.trial} to have {asked}, found {t.settings}: "
                    f"another version chose it"
                )
        trials = begun or trials
        for i in range(self.plan.n_rungs * bool(begun), len(self.plan.config.steps)):
            if not self.rung(i, trials):
                return
        self.record_end(recorded)
        trials = trials[len(recorded) :]
        self.write(trials)
        for _ in self.train(trials, None):
            self.write(trials)

    def rung(self, i: int, trials: list[Trial]) -> bool:
        """Train to a rung, and stop the worse half; False when the sweep was stopped before all were there."""
        step, n = self.plan.config.steps[i], sum(t.status == PAUSED for t in trials)
        if len(list(self.train(trials, step))) < n:
            return False
        there = sorted((t for t in trials if t.status == PAUSED), key=lambda t: (t.val_loss, t.trial))
        for place, t in enumerate(there):
            t.rungs.append([step, t.val_loss])
            if place >= (len(there) + 1) // 2:
                t.status = "stopped"
        self.plan.n_rungs, self.plan.round = i + 1, trials
        self.plan.write(self.folder)
        return True

    def write(self, trials: list[Trial]) -> None:
        """Write those of a round's that have ended and come next."""
        first = trials[0].trial if trials else 0
        while (i := len(self.trials) - first) < len(trials) and trials[i].status != PAUSED:
            self.lines.append(trials[i])
            self.record_end([trials[i]])

    def record_end(self, trials: list[Trial]) -> None:
        self.trials += trials
        if self.bar is not None:
            losses = [t.val_loss for t in self.trials if t.status == "done" and t.val_loss is not None]
            self.bar.set_postfix_str(f"best loss {min(losses):.4f}" if losses else "", refresh=False)
            self.bar.update(len(trials))

    def train(self, trials: list[Trial], until: int | None) -> Iterator[Trial]:
        """Train the paused trials to a step or to the end, and yield each when it ends.

        Raises OSError when one cannot be saved.  After a stop those that were interrupted are missing.
        """
        path = os.path.abspath(self.folder.path)
        limit = self.plan.config.trial_timeout
        task = Task(path, self.plan.cwd, self.token, until, limit, self.threads)
        waiting, suspects = [t for t in trials if t.status == PAUSED], list[Trial]()
        error = ""
        while (waiting or suspects) and not self.stop and not error:
            wave, dead = waiting or [suspects.pop()], []
            for t, end in self.results(wave, task):
                if end is None and waiting:
                    dead.append(t)
                elif end is None:  # alone, and for the second time
                    t.status, t.error = "died", "expected an answer from its worker, which died, and so did a second"
                    yield t
                elif end.status == UNSAVED:
                    error = error or f"trial {t.trial}: {end.error}"
                    self.stop_trials()
                elif end.status != INTERRUPTED:
                    vars(t).update(vars(end))
                    yield t
                elif not self.stop:
                    error = error or f"{path}: expected a directory that all workers see, found trial {t.trial} apart"
            # who had begun may be to blame, and is tried alone; others only stood in the queue of a pool that broke
            suspects += (begun := [t for t in dead if os.path.exists(self.folder.file(t.name))] or dead)
            waiting = [t for t in dead if t not in begun]
        if error:
            raise OSError(f"{error}; {named('resume')} {self.folder.path} goes on when that is mended")

    def results(self, trials: list[Trial], task: Task) -> Iterator[tuple[Trial, Trial | None]]:
        """(trial, what became of it) of each as it ends, None of one whose worker died; nothing of what never began.

        Raises OSError when the executor is gone.
        """
        ended: queue.SimpleQueue[Future[Trial]] = queue.SimpleQueue()
        futures: dict[Future[Trial], Trial] = {}
        halted = False
        try:
            for t in trials:
                if not self.stop:  # submit() itself may do the work
                    futures[future := self.executor.submit(train_trial, t, task)] = t
                    future.add_done_callback(ended.put)
            while futures:
                if self.stop and not halted:
                    halted = True
                    self.stop_trials()
                    for future in list(futures):
                        future.cancel()
                with suppress(queue.Empty):
                    future = ended.get(timeout=POLL_SECONDS)
                    t = futures.pop(future)
                    if not (halted and future.cancelled()):  # an exception is the worker's: the trial's is in its error
                        yield t, None if future.exception() else future.result()
        except (RuntimeError, CancelledError) as error:  # BrokenExecutor is a RuntimeError
            raise OSError(
                f"{named('executor')}: expected one that works, found it gone ({type(error).__name__}: {error}); "
                f"{named('resume')} {self.folder.path} goes on with another"
            ) from None
        finally:
            for future in futures:
                future.cancel()


def train_trial(t: Trial, task: Task) -> Trial:
    """What an executor runs: the trial, trained to a step from where it is, and measured there, whatever went wrong.

    Its messages name settings as files do, not flags.  Only a worker imports what trains: the sweep starts at once.
    """
    from . import worker

    return Context().run(worker.train, t, task)


# ---- the end ----


def table(sweeper: Sweeper) -> Iterator[str]:
    """The lines of a table, the best trial first."""
    names, trials = varied_settings(sweeper.plan.space), sweeper.best_first()
    rows = [["trial", "held-out loss", "step", "status", *names]]
    for t in trials:
        loss = "–" if t.val_loss is None else f"{t.val_loss:.4f}" if t.val_loss < 1e6 else f"{t.val_loss:.3g}"
        rows.append([str(t.trial), loss, str(t.step or "–"), t.status, *(str(t.settings[name]) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row, error in zip(rows, ["", *(t.error or "" for t in trials)]):
        cells = [cell.rjust(width) for cell, width in zip(row, widths)]
        cells[3] = row[3].ljust(widths[3])
        yield "  ".join([*cells, error]).rstrip()
