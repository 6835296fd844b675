"""A run's directory: checkpoint.npz, checkpoint.prev.npz, metrics.jsonl and config.toml, with one writer at a time."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from . import checkpoint, files
from .checkpoint import Checkpoint
from .config import to_toml
from .errors import CheckpointError, ConfigError, UnreadableError, named
from .metrics import Metrics
from .terminal import notice, reason

if TYPE_CHECKING:
    from .trainer import Trainer

CHECKPOINT, PREVIOUS, BAD = "checkpoint.npz", "checkpoint.prev.npz", "checkpoint.bad.npz"
METRICS, CONFIG = "metrics.jsonl", "config.toml"
A_DIRECTORY = "a directory that can be written"


def load(path: str) -> Checkpoint:
    """The checkpoint in a file, or of a run's directory.  Raises CheckpointError."""
    return load_newest(path)[1] if os.path.isdir(path) else checkpoint.load(path)


def load_newest(directory: str) -> tuple[str, Checkpoint]:
    """(file name, checkpoint) of the last one, or of the one before when the last is damaged or missing.

    One that only cannot be read now is neither: it raises UnreadableError, and nothing is taken for it.
    """
    try:
        return CHECKPOINT, checkpoint.load(os.path.join(directory, CHECKPOINT))
    except UnreadableError:
        raise
    except CheckpointError as error:
        try:
            previous = checkpoint.load(os.path.join(directory, PREVIOUS))
        except CheckpointError:
            raise error from None
        notice(f"{error}; using {PREVIOUS}, of step {previous.step}")
        return PREVIOUS, previous


class Run:
    """A directory that one trainer writes to.  Every method raises OSError when it cannot."""

    metrics: Metrics  # from start() on

    def __init__(self, path: str) -> None:
        self.path = path
        self.saved_step: int | None = None
        self.num_steps_before: int | None = None  # when it was last trained
        self._metrics_failed = False  # the last time
        self._held = ExitStack()  # the lock and the metrics, until close()

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def create(self) -> None:
        """Begin a new run here; the directory is made if need be.  ConfigError when it holds a run already."""
        path = self.path
        try:
            os.makedirs(path, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise OSError(f"{named('out')}: expected {A_DIRECTORY}, found {path!r}: {reason(error)}") from None
        held = [name for name in (CHECKPOINT, PREVIOUS, METRICS, CONFIG) if os.path.lexists(self.file(name))]
        if held:
            goes_on = f"; {named('resume')} {path} goes on with it" if held[0] in (CHECKPOINT, PREVIOUS) else ""
            raise ConfigError(
                f"{named('out')}: expected a directory without a run, found {held[0]} in {path!r}{goes_on}"
            )

    def resume(self) -> Checkpoint:
        """The checkpoint with which to go on; CheckpointError when there is none that can be used."""
        path = self.path
        if not os.path.isdir(path):
            raise CheckpointError(f"{named('resume')}: expected the directory of a run, found {path!r}")
        try:
            self._take_lock()
        except OSError as error:
            raise OSError(f"{named('resume')}: expected {A_DIRECTORY}, found {path!r}: {reason(error)}") from None
        name, saved = load_newest(path)
        if name == PREVIOUS:  # make it the last one too, or else the next save would drop it for the bad one
            with suppress(FileNotFoundError):
                os.replace(self.file(CHECKPOINT), self.file(BAD))
            files.keep(self.file(PREVIOUS), self.file(CHECKPOINT))
        self.saved_step, self.num_steps_before = saved.step, saved.config.num_steps
        return saved

    def start(self, trainer: Trainer) -> None:
        """Before the first step: a first checkpoint of a new run, its settings, its metrics."""
        try:
            if self.saved_step is None:
                self._write_checkpoint(trainer)
            files.write(self.file(CONFIG), to_toml(trainer.config).encode("utf-8", "surrogateescape"))
            self.metrics = Metrics(self.file(METRICS), keep_steps=trainer.step_count)
            self._held.callback(self.metrics.close)
        except OSError as error:
            name = named("out" if self.num_steps_before is None else "resume")
            raise OSError(f"{name}: expected {A_DIRECTORY}, found {self.path!r}: {reason(error)}") from None

    def add_metrics(self, first: int, losses: list[float], rates: list[float], val_loss: float | None) -> None:
        """Write the metrics of some steps; that they cannot be written is a notice, and once is enough."""
        self.metrics.add(first, losses, rates, val_loss)
        try:
            self.metrics.flush()
        except OSError as error:
            if not self._metrics_failed:
                notice(f"{error}; training goes on")
            self._metrics_failed = True
        else:
            self._metrics_failed = False

    def save(self, trainer: Trainer) -> None:
        """Save the run at the trainer's step, if it is not yet."""
        if self.saved_step == trainer.step_count:
            return
        try:
            self.metrics.sync()
            self._write_checkpoint(trainer)
        except OSError as error:
            path, step = self.file(CHECKPOINT), trainer.step_count
            raise OSError(f"{path}: the run cannot be saved at step {step}: {reason(error)}") from None

    def _write_checkpoint(self, trainer: Trainer) -> None:
        files.write(self.file(CHECKPOINT), trainer.checkpoint().to_bytes(), self.file(PREVIOUS))
        self.saved_step = trainer.step_count

    def _take_lock(self) -> None:
        """Hold the directory until close() or the end of the process, however it ends."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock
            return
        lock = os.open(self.path, os.O_RDONLY)
        self._held.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process is training in {self.path!r}") from None

    def close(self) -> None:
        self._held.close()
