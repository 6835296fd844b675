"""Sweeps: trials of many settings on any executor, a round after the other, in a directory that can be resumed.

A sweep is the same with 1 worker or 100: what a round tries follows from the rounds before it, and all is written in
the order of the trials' numbers, by one process: sweep.json, what is swept; trials.jsonl, a line a trial; rungs.jsonl,
a line for each rung of a round; `running`, while the sweep does; and each trial's run.
"""

from __future__ import annotations

import os
import queue
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from . import api, executors, trial
from .config import MOST_TRIALS, Config, Given, Sweep, read_recipe, suggestion
from .documents import Documents
from .errors import ConfigError, DataError, named
from .files import Folder
from .progress import sweep_line
from .signals import interrupt_at_the_end
from .space import Space, as_list, at_random, grid, grid_size, import_optuna, space_of, to_json, tpe, varied
from .sweep_folder import (
    RUNGS,
    RUNNING,
    TRIALS,
    Lines,
    created,
    goes_on,
    opened,
    read_rungs,
    read_trials,
    write_settings,
)
from .terminal import shown
from .threads import check
from .trial import INTERRUPTED, PAUSED, UNSAVED, Ending, Task, Trial

VAL_FRACTION = 0.1  # unless it is given: without a held-out part there is nothing to compare
TOGETHER = 1000  # trials to hand out at once where no round depends on another
POLL_SECONDS = 0.1


def sweep(
    out: api.Path | None = None,
    *,
    resume: api.Path | None = None,
    executor: object = "process",
    threads: int | None = None,
    recipe: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> list[Trial]:
    """Train with many settings in the directory `out`, or go on with `resume`; returns the trials, the best first.

    A setting of train() may be a value, several in a list, or "low..high" or "low..high:log"; those of the sweep are
    trials, sampler, round, rungs, sweep_seed and trial_timeout, as on the command line.  `executor` is a name as there,
    a concurrent.futures.Executor, or a callable that returns one; processes are spawned, so that a script needs its
    `if __name__ == "__main__":`.  Raises what train() does; after Ctrl-C, when all is saved, KeyboardInterrupt.

    >>> microgpt.sweep("sweeps/first", trials=24, learning_rate="1e-3..1e-1:log", n_embd=[16, 32])   # doctest: +SKIP
    """
    paths = ((out, "out"), (resume, "resume"))
    begin, go_on = (None if path is None else api.text_of(path, name) for path, name in paths)
    own = {f.name: settings.pop(f.name) for f in fields(Sweep) if f.name in settings}
    if "rungs" in own and not isinstance(own["rungs"], str):
        own["rungs"] = ",".join(map(str, own["rungs"]))
    known = [f.name for f in fields(Sweep) + fields(Config)]
    for name in settings:
        if name not in known:
            raise TypeError(f"sweep: unknown setting {name!r}{suggestion(name, known)}")
    if isinstance(settings.get("input"), os.PathLike):
        settings["input"] = os.fspath(settings["input"])
    space = space_of(({} if recipe is None else read_recipe(recipe)) | settings)
    with interrupt_at_the_end() as stop, sweep_line(progress) as report:
        done = run(begin, go_on, own, space, executor, threads, stop, report)
    return sorted(done.trials, key=rank)


def rank(t: Trial) -> tuple[Any, ...]:
    """What trials are sorted by: those that were trained to the end by their loss, then those that came less far."""
    return t.status != "done", t.status != "stopped", -(t.step or 0) * (t.status != "done"), t.val_loss or 0.0, t.trial


def run(
    out: str | None,
    resume: str | None,
    own: Given,
    space: Space,
    executor: object,
    threads: int | None,
    stop: Sequence[object],
    report: Callable[[int, int, float | None], None],
) -> Done:
    """What became of the sweep, which ends early when `stop` comes to hold something."""
    if (out is None) == (resume is None):
        raise ConfigError(f"expected either a directory for the sweep or {named('resume')}, found {shown(out)}")
    with ExitStack() as stack:
        if resume is not None:
            folder = stack.enter_context(closing(opened(resume)))
            config, space, cwd, data_sha256 = goes_on(folder, own, space)
        else:
            config, cwd, data_sha256 = Sweep(**own), os.getcwd(), None
            if "val_fraction" not in space:
                space = space_of({name: to_json(v) for name, v in space.items()} | {"val_fraction": VAL_FRACTION})
        config = fitting(config, space)
        engine = executors.engine(executor, config.trial_timeout)
        if threads is not None:
            engine = engine._replace(threads=check(threads))
        s = Sweeper(config, space, cwd, engine, stop, report)
        data_sha256 = s.check_input(data_sha256)
        with s.engine_running():
            if out is not None:
                folder = stack.enter_context(closing(created(out)))
            write_settings(folder, config, space, cwd, data_sha256)
            s.run(folder)
        return Done(s.trials, config.trials, space)


class Done(NamedTuple):
    trials: list[Trial]  # that have ended
    n: int  # how many there should be
    space: Space


def fitting(config: Sweep, space: Space) -> Sweep:
    """The settings of a new sweep, with the number of its trials.  Raises ConfigError when its space does not fit."""
    if config.sampler == "grid":
        size = grid_size(space)
        if (config.trials or size) > min(size, MOST_TRIALS):
            raise ConfigError(
                f"{named('trials')}: expected at most {min(size, MOST_TRIALS)} of a grid of {size}, "
                f"found {config.trials or size}"
            )
        config = replace(config, trials=config.trials or size)
    elif config.sampler == "tpe":
        import_optuna()
    steps = space.get("num_steps", [Config.num_steps])
    most = max(as_list(steps) or [getattr(steps, "high", 0)])
    if config.steps and config.steps[-1] >= most:
        raise ConfigError(f"{named('rungs')}: expected less than {named('num_steps')} {most}, found {config.steps[-1]}")
    return config


def config_of(settings: Given) -> Config:
    config = Config(**settings)
    if not config.val_fraction:
        raise ConfigError(
            f"{named('val_fraction')}: expected above 0, for trials are compared by their held-out losses, found 0"
        )
    return config


# ---- the sweep ----


@dataclass
class Sweeper:
    """What a sweep holds while it runs."""

    config: Sweep
    space: Space
    cwd: str
    engine: executors.Engine
    stop: Sequence[object]
    report: Callable[[int, int, float | None], None]

    def __post_init__(self) -> None:
        self.trials: list[Trial] = []  # that have ended and are written, in order
        self.token = secrets.token_hex(8)
        alone = self.config.sampler != "tpe" and not self.config.rungs
        self.round = max(self.config.round, TOGETHER) if alone else self.config.round

    def ask(self, numbers: range) -> list[dict[str, Any]]:
        """The settings of a round."""
        if self.config.sampler == "tpe":
            return tpe(self.space, self.config.sweep_seed, numbers, self.trials[: numbers.start])
        if self.config.sampler == "grid":
            return [grid(self.space, number) for number in numbers]
        return [at_random(self.space, self.config.sweep_seed, number) for number in numbers]

    def check_input(self, sha256: str | None) -> str:
        """The hash of the text of a first trial that can be.  Raises what is wrong with all, or with the text."""
        errors = []
        for settings in self.ask(range(min(self.config.round, self.config.trials))):
            try:
                config = config_of(settings)
            except ConfigError as error:
                errors.append(error)
                continue
            documents = Documents(config, self.input(config), random.Random(config.seed))
            if sha256 is not None:
                documents.must_be(sha256)
            return documents.sha256
        raise errors[0]

    def input(self, config: Config) -> str:
        """Where a trial's text is: as seen from where the sweep began, or else from here."""
        path = os.path.join(self.cwd, config.input)
        return path if os.path.exists(path) else os.path.abspath(config.input)

    @contextmanager
    def engine_running(self) -> Iterator[None]:
        self.executor = self.engine.make()
        try:
            yield
        finally:
            if self.engine.ours:
                self.executor.shutdown(wait=True)

    def run(self, folder: Folder) -> None:
        self.folder = folder
        with closing(Lines(folder, TRIALS)) as self.lines, closing(Lines(folder, RUNGS)) as self.rung_lines:
            recorded = read_trials(self.lines.values, self.lines.path)
            self.rungs = read_rungs(self.rung_lines.values, self.rung_lines.path)
            folder.write(RUNNING, self.token.encode())
            try:
                for start in range(0, self.config.trials, self.round):
                    numbers = range(start, min(start + self.round, self.config.trials))
                    before = recorded[start : numbers.stop]
                    if len(before) == len(numbers):
                        self.trials += before
                    elif not self.stop:
                        self.run_round(numbers, before)
                    self.tell()
            finally:
                self.halt()

    def halt(self) -> None:
        """Have all trials stop and save."""
        with suppress(OSError):
            os.unlink(RUNNING, dir_fd=self.folder.fd)

    def run_round(self, numbers: range, recorded: list[Trial]) -> None:
        """Train the trials of a round, those that are recorded excepted, and write how they end."""
        trials = [Trial(number, settings) for number, settings in zip(numbers, self.ask(numbers))]
        for mine, other in zip(trials, recorded):
            if mine.settings != other.settings:
                raise DataError(
                    f"{self.lines.path}: expected trial {mine.trial} to have {mine.settings}, found "
                    f"{other.settings}: another version chose it"
                )
        for t in trials:
            try:
                Context().run(config_of, t.settings)  # not among flags: in the file settings have their names
                t.run = f"trial-{t.trial:05d}"
            except ConfigError as error:
                t.status, t.error = "invalid", str(error)
        for step in self.config.steps:
            if not self.rung(numbers.start, step, [t for t in trials if t.status == PAUSED]):
                return
        self.trials += recorded
        left = [t for t in trials if t.trial >= len(self.trials)]
        for _ in self.train([t for t in left if t.status == PAUSED], None):
            self.write(left)
        self.write(left)

    def write(self, trials: list[Trial]) -> None:
        """Write those that have ended and come next."""
        while (
            len(self.trials) <= trials[-1].trial and (t := trials[len(self.trials) - trials[0].trial]).status != PAUSED
        ):
            self.lines.append(vars(t))
            self.trials.append(t)
            self.tell()

    def tell(self) -> None:
        losses = [t.val_loss for t in self.trials if t.status == "done" and t.val_loss is not None]
        self.report(len(self.trials), self.config.trials, min(losses, default=None))

    def rung(self, start: int, step: int, trials: list[Trial]) -> bool:
        """Train to a step, and stop the worse half; False when the sweep was stopped before all were there."""
        if not trials:
            return True
        if known := self.rungs.get((start, step)):
            for t, ending in zip(trials, known):
                self.end(t, ending)
        else:
            endings: dict[int, Ending] = dict(self.train(trials, step))
            if len(endings) < len(trials):
                return False
            self.rung_lines.append({"round": start, "step": step, "trials": [vars(endings[t.trial]) for t in trials]})
        there = [t for t in trials if t.status == PAUSED]
        for t in there:
            t.rungs.append((step, t.val_loss or 0.0))
        best = sorted(there, key=lambda t: (t.val_loss, t.trial))
        for t in best[(len(there) + 1) // 2 :]:
            t.status = "stopped"
        return True

    def end(self, t: Trial, ending: Ending) -> None:
        t.status, t.step, t.val_loss, t.error = ending.status, ending.step, ending.val_loss, ending.error
        t.started, t.seconds = t.started or ending.started, round(t.seconds + ending.seconds, 3)

    def train(self, trials: list[Trial], until: int | None) -> Iterator[tuple[int, Ending]]:
        """Train to a step, or to the end; (number, how it ended) of each as it does.

        Raises OSError when one cannot be saved.  After a stop those that were interrupted are missing.
        """
        by_number = {t.trial: t for t in trials}
        waves, error, again = [trials], None, False
        while waves and not self.stop and error is None:
            dead: list[int] = []
            for number, ending in (each for wave in waves for each in self.results(wave, until)):
                if ending is None and again:
                    ending = Ending("died", error="expected an answer from its worker, which died, and so did a second")
                if ending is None:
                    dead.append(number)
                elif ending.status == UNSAVED:
                    error = error or f"trial {number}: {ending.error}"
                    self.halt()
                elif ending.status != INTERRUPTED:
                    self.end(by_number[number], ending)
                    yield number, ending
            waves, again = [[by_number[number]] for number in sorted(dead)], True  # alone: who dies now is to blame
        if error:
            raise OSError(f"{error}; {named('resume')} {self.folder.path} goes on when that is mended")

    def results(self, trials: list[Trial], until: int | None) -> Iterator[tuple[int, Ending | None]]:
        """(number, Ending) of each as it ends, None of one whose worker died; nothing of those that did not begin."""
        ended: queue.SimpleQueue[Future[Ending]] = queue.SimpleQueue()
        futures: dict[Future[Ending], int] = {}
        for t in trials:
            future = self.submit(self.task(t, until))
            futures[future] = t.trial
            future.add_done_callback(ended.put)
        halted = False
        try:
            while futures:
                if self.stop and not halted:
                    halted = True
                    self.halt()
                    for future in list(futures):
                        future.cancel()
                with suppress(queue.Empty):
                    future = ended.get(timeout=POLL_SECONDS)
                    number = futures.pop(future)
                    if not (halted and future.cancelled()):
                        yield number, self.result(future)
        finally:
            for future in futures:
                future.cancel()

    def submit(self, task: Task) -> Future[Ending]:
        try:
            return self.executor.submit(trial.train, task)
        except RuntimeError as error:  # BrokenExecutor is one
            if self.engine.ours:
                self.executor.shutdown(wait=False)
                self.executor = self.engine.make()
                return self.executor.submit(trial.train, task)
            raise self.gone(error) from None

    def result(self, future: Future[Ending]) -> Ending | None:
        try:
            return future.result()
        except executors.Overdue:
            return Ending("timeout", error=trial.overdue(self.config.trial_timeout))
        except CancelledError as error:  # not by us
            raise self.gone(error) from None
        except Exception:  # the trial's own are in its Ending
            return None

    def gone(self, error: BaseException) -> OSError:
        return OSError(
            f"{named('executor')}: expected one that works, found it gone ({type(error).__name__}: {error}); "
            f"{named('resume')} {self.folder.path} goes on with another"
        )

    def task(self, t: Trial, until: int | None) -> Task:
        config = config_of(t.settings)
        path = os.path.abspath(self.folder.path)
        return Task(
            settings=t.settings,
            directory=os.path.join(path, t.run or ""),
            input=self.input(config),
            until=config.num_steps if until is None else until,
            limit=self.config.trial_timeout,
            seconds=self.config.trial_timeout - t.seconds,
            threads=self.engine.threads,
            token=(os.path.join(path, RUNNING), self.token),
        )


# ---- the end ----


def table(trials: list[Trial], space: Space) -> Iterator[str]:
    """The lines of a table, the best trial first."""
    names = varied(space)
    rows = [["trial", "held-out loss", "step", "status", *names]]
    for t in sorted(trials, key=rank):
        loss = "–" if t.val_loss is None else f"{t.val_loss:.4f}"
        rows.append([str(t.trial), loss, str(t.step or "–"), t.status, *(f"{t.settings[name]}" for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    errors = ["", *(t.error or "" for t in sorted(trials, key=rank))]
    for row, error in zip(rows, errors):
        cells = [cell.rjust(width) for cell, width in zip(row, widths)]
        cells[3] = row[3].ljust(widths[3])
        yield "  ".join([*cells, error]).rstrip()
