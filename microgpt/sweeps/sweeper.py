"""Sweeps: train trials of many settings on any executor, round by round, in a directory that can be resumed.

A sweep gives the same results with 1 worker or 100: the settings of a round depend only on the rounds before it, and
one process writes all results in the order of the trials' numbers.  The directory holds sweep.json, with the plan and
the state of the current round at its last rung; trials.jsonl, with one line per trial; `running`, while the sweep runs;
and the run of each trial.
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
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any

from ..base.config import Config, RunSettings, Sweep
from ..base.config_file import with_recipe
from ..base.errors import ConfigError, DataError, given, named
from ..base.files import AnyPath, Folder, folder_at, path_text, write_all
from ..base.progress import progress_bar
from ..base.settings import Given
from ..base.signals import interrupt_at_the_end
from ..base.signature import accepts
from ..base.terminal import reason
from ..base.threads import check
from ..runs.run import FILES, SWEEP
from . import executors
from .plan import Plan
from .records import INTERRUPTED, PAUSED, REPEATED, RUNNING_FILE, UNSAVED, Task, Trial
from .space import varied_settings

TRIALS = "trials.jsonl"
POLL_SECONDS = 0.1  # between two checks for a request to stop


Ints = int | Sequence[int] | str
Floats = float | Sequence[float] | str
Strs = str | Sequence[str]


@dataclass(frozen=True)
class Sweeping(RunSettings[Ints, Floats, Strs], Sweep):
    """The arguments of sweep().  Only the signature of this class is used."""

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
    """Train one model for each of many settings, and compare their held-out losses.

    Give either `out`, the directory of a new sweep, or `resume`, the directory of a sweep to continue.  Each setting of
    train() may be one value, a list of values, or for numbers a range "low..high" or "low..high:log".  The settings of
    the sweep itself (`trials`, `sampler`, ...) are single values.  `val_fraction` defaults to 0.1 in a sweep.

    `executor` runs the trials: "process", "process:N", "thread:N", "dask:HOST:PORT", "mpi", "MODULE:CALLABLE", a
    concurrent.futures.Executor, or a callable that returns one.  Processes are spawned, so a script must call sweep()
    under `if __name__ == "__main__":`.  `threads` is the number of threads per trial (default 1; with processes, the
    cores divided among them).  `recipe` names a set of settings to start from.  `progress=True` shows a progress bar.

    Returns a list of trials, the best first.  A trial has the attributes `trial` (its number), `settings`, `status`
    ("done", "stopped", "invalid", "failed", "died" or "timeout"), `step`, `val_loss` (held-out loss in nats, at that
    step), `rungs`, `run` (the directory of its run, within the sweep's), `error`, `started` and `seconds`.

    Raises ConfigError or TypeError for a wrong argument, DataError if a sweep or the input cannot be read, ExtraError
    if an optional package is missing, and OSError if results cannot be saved.  After Ctrl-C it saves all trials and
    raises KeyboardInterrupt.

    >>> microgpt.sweep("sweeps/first", trials=24, learning_rate="1e-3..1e-1:log", n_embd=[16, 32])   # doctest: +SKIP

    SETTINGS
    """
    given = dict(given)
    paths = ((name, given.pop(name, None)) for name in ("out", "resume"))
    out, resume = (None if path is None else path_text(path, name) for name, path in paths)
    executor = given.pop("executor", Sweeping.executor)
    threads, recipe, progress = (given.pop(name, None) for name in ("threads", "recipe", "progress"))
    own = {f.name: given.pop(f.name) for f in fields(Sweep) if f.name in given}
    space = with_recipe(recipe, given)
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
    """Run a sweep until it is complete or `stop` becomes non-empty; returns its Sweeper."""
    if (out is None) == (resume is None):
        found = "neither" if out is None else "both"
        raise ConfigError(f"expected either a directory for a new sweep or {named('resume')}, found {found}")
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


# ---- the directory of a sweep ----


def create_directory(path: str) -> Folder:
    """Create and lock the directory of a new sweep.  Raises ConfigError if it already holds a sweep or a run."""
    os.makedirs(path, exist_ok=True)
    with ExitStack() as on_error:
        folder = Folder(path)
        on_error.callback(folder.close)
        folder.lock("sweeping")
        names = sorted(os.listdir(folder.fd))
        held = [name for name in names if name in (SWEEP, TRIALS, *FILES) or name.startswith("trial-")]
        if held:
            advice = f"; {given('resume', path)} continues it" if SWEEP in held else ""
            expected = "a directory without a sweep or a run"
            raise ConfigError(f"expected {expected}, found {held[0]} in {path!r}{advice}", argument="out")
        on_error.pop_all()
    return folder


def open_directory(path: str) -> Folder:
    """Open and lock the directory of an existing sweep.  Raises DataError if there is none."""
    folder = folder_at(path)
    if folder is None or not os.path.exists(folder.file(SWEEP)):
        if folder is not None:
            folder.close()
        raise DataError(f"expected the directory of a sweep, found {path!r}", argument="resume")
    try:
        folder.lock("sweeping")
    except BaseException:
        folder.close()
        raise
    return folder


class Lines:
    """trials.jsonl, kept free of incomplete lines even if a writer was killed."""

    def __init__(self, folder: Folder) -> None:
        self.path = folder.file(TRIALS)
        self._fd = folder.open(TRIALS, os.O_RDWR | os.O_CREAT)
        with open(self._fd, "rb", closefd=False) as file:
            self.recorded, self._size = read_trials(file, self.path)
        os.ftruncate(self._fd, self._size)
        os.lseek(self._fd, self._size, os.SEEK_SET)

    def append(self, t: Trial) -> None:
        """Write a trial to the disk, or raise OSError and leave the file as it was."""
        text = json.dumps(vars(t), ensure_ascii=False, allow_nan=False) + "\n"
        data = text.encode("utf-8", "backslashreplace")  # of bytes of a path that are not UTF-8, this is JSON's escape
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
        trials = [Trial.from_json(json.loads(line)) for line in lines]
        if [t.trial for t in trials] != list(range(len(trials))):
            raise ValueError("one is missing")
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"expected a trial in every line: {error}", subject=path) from None
    return trials, sum(map(len, lines))


# ---- running a sweep ----


@dataclass
class Sweeper:
    """A running or finished sweep."""

    plan: Plan
    folder: Folder
    lines: Lines
    executor: Executor
    threads: int | None  # per trial
    stop: Sequence[object]
    bar: Any  # or None

    def __post_init__(self) -> None:
        self.trials: list[Trial] = []  # those that have ended and are written, in order
        self.token = secrets.token_hex(8)

    def best_first(self) -> list[Trial]:
        """The trials that are done, ordered by loss; then the others, the most trained first."""
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
                    self.check_settings(before, self.plan.choose(numbers, self.trials))
                    self.record_end(before)
                elif not self.stop:
                    self.run_round(numbers, before)
        finally:
            self.stop_trials()

    def stop_trials(self) -> None:
        """Make all running trials save and stop."""
        with suppress(OSError):
            os.unlink(RUNNING_FILE, dir_fd=self.folder.fd)

    def run_round(self, numbers: range, recorded: list[Trial]) -> None:
        """Train the trials of a round that are not recorded yet, and write their results."""
        chosen = self.plan.choose(numbers, self.trials)
        trials = self.new_trials(numbers, chosen)
        saved = [t for t in self.plan.round if t.trial in numbers]  # all of the round, or none
        self.check_settings(recorded, chosen)
        self.check_settings(saved, chosen)
        trials = saved or trials
        for i in range(self.plan.n_rungs * bool(saved), len(self.plan.config.steps)):
            if not self.rung(i, trials):
                return
        self.record_end(recorded)
        trials = trials[len(recorded) :]
        self.write(trials)
        for _ in self.train(trials, None):
            self.write(trials)

    def new_trials(self, numbers: range, chosen: list[dict[str, Any]]) -> list[Trial]:
        """The trials of a round: those that have the settings of an earlier trial are not trained again."""
        trials = [Trial(n, settings) for n, settings in zip(numbers, chosen)]
        first: dict[str, int] = {}
        for t in self.trials + trials:
            original = first.setdefault(json.dumps(t.settings, sort_keys=True), t.trial)
            if original != t.trial and t.status == PAUSED:
                t.status, t.same_as = REPEATED, original
        return trials

    def check_settings(self, trials: list[Trial], chosen: list[dict[str, Any]]) -> None:
        """Raise DataError unless recorded trials, the first of a round, have the settings that were chosen for them."""
        for t, expected in zip(trials, chosen):
            if t.settings != expected:
                raise DataError(
                    f"{self.lines.path}: expected trial {t.trial} to have {expected}, found {t.settings}: the file was "
                    f"edited, or another version of microgpt or Optuna chose them"
                )

    def rung(self, i: int, trials: list[Trial]) -> bool:
        """Train to a rung and stop the worse half; returns False if the sweep was stopped before all reached it."""
        step, n = self.plan.config.steps[i], sum(t.status == PAUSED for t in trials)
        if len(list(self.train(trials, step))) < n:
            return False
        reached = sorted((t for t in trials if t.status == PAUSED), key=lambda t: (t.val_loss, t.trial))
        for rank, t in enumerate(reached):
            t.rungs.append([step, t.val_loss])
            if rank >= (len(reached) + 1) // 2:
                t.status = "stopped"
        self.plan.n_rungs, self.plan.round = i + 1, trials
        self.plan.write(self.folder)
        return True

    def write(self, trials: list[Trial]) -> None:
        """Write the trials of a round that have ended, up to the first that has not."""
        first = trials[0].trial if trials else 0
        while (i := len(self.trials) - first) < len(trials) and trials[i].status != PAUSED:
            if (original := trials[i].same_as) is not None:
                trials[i] = replace(self.trials[original], trial=trials[i].trial, seconds=0.0, same_as=original)
            self.lines.append(trials[i])
            self.record_end([trials[i]])

    def record_end(self, trials: list[Trial]) -> None:
        self.trials += trials
        if self.bar is not None:
            losses = [t.val_loss for t in self.trials if t.status == "done" and t.val_loss is not None]
            self.bar.set_postfix_str(f"best loss {min(losses):.4f}" if losses else "", refresh=False)
            self.bar.update(len(trials))

    def train(self, trials: list[Trial], until: int | None) -> Iterator[Trial]:
        """Train the paused trials to a step, or to the end, and yield each when it gets there.

        Interrupted trials are not yielded.  Raises OSError if a trial cannot be saved.
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
                elif end is None:  # its second worker died too, with only this trial running
                    t.status, t.error = "died", "its worker died twice"
                    yield t
                elif end.status == UNSAVED:
                    error = error or f"trial {t.trial}: {end.error}"
                    self.stop_trials()
                elif end.status != INTERRUPTED:
                    vars(t).update(vars(end))
                    yield t
                elif not self.stop:
                    error = error or f"{path}: the worker of trial {t.trial} cannot see this directory"
            # a trial that had started may have killed its worker, so it is retried alone; the others were only queued
            suspects += (started := [t for t in dead if os.path.exists(self.folder.file(t.name))] or dead)
            waiting = [t for t in dead if t not in started]
        if error:
            raise OSError(f"{error}; fix this, then {given('resume', self.folder.path)} continues")

    def results(self, trials: list[Trial], task: Task) -> Iterator[tuple[Trial, Trial | None]]:
        """Yield (trial, its result or None if its worker died) as each one ends; cancelled trials are left out.

        Raises OSError if the executor fails.
        """
        ended: queue.SimpleQueue[Future[Trial]] = queue.SimpleQueue()
        futures: dict[Future[Trial], Trial] = {}
        halted = False
        try:
            for t in trials:
                if not self.stop:  # checked each time, because submit() may itself train the trial
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
                    if not (halted and future.cancelled()):  # an exception means that the worker died
                        yield t, None if future.exception() else future.result()
        except (RuntimeError, CancelledError) as error:  # BrokenExecutor is a RuntimeError
            raise OSError(
                f"{named('executor')}: the executor has failed ({type(error).__name__}: {error}); "
                f"{given('resume', self.folder.path)} continues with a new one"
            ) from None
        finally:
            for future in futures:
                future.cancel()


def train_trial(t: Trial, task: Task) -> Trial:
    """The function that an executor calls: train a trial further, and return it with its results.

    A new Context makes messages name settings, not flags.  Without the import at the top a sweep starts faster.
    """
    from . import worker

    return Context().run(worker.train, t, task)


# ---- the result ----


def table(sweeper: Sweeper) -> Iterator[str]:
    """The lines of the table of results, the best trial first."""
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
