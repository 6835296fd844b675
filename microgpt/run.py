"""A run's directory: checkpoint.npz, checkpoint.prev.npz, metrics.jsonl and config.toml, with one writer at a time."""

import os
from contextlib import suppress

from . import checkpoint, files
from .config import to_toml
from .errors import CheckpointError, ConfigError
from .metrics import Metrics
from .terminal import notice, reason

CHECKPOINT, PREVIOUS, BAD = "checkpoint.npz", "checkpoint.prev.npz", "checkpoint.bad.npz"
METRICS, CONFIG = "metrics.jsonl", "config.toml"
A_DIRECTORY = "a directory that can be written"


def load(path):
    """The checkpoint in a file, or of a run's directory.  Raises CheckpointError."""
    return load_newest(path)[1] if os.path.isdir(path) else checkpoint.load(path)


def load_newest(directory):
    """(file name, checkpoint) of the last one, or of the one before when the last cannot be used."""
    try:
        return CHECKPOINT, checkpoint.load(os.path.join(directory, CHECKPOINT))
    except CheckpointError as error:
        try:
            previous = checkpoint.load(os.path.join(directory, PREVIOUS))
        except CheckpointError:
            raise error from None
        notice(f"{error}; using {PREVIOUS}, of step {previous.step}")
        return PREVIOUS, previous


class Run:
    """A directory that one trainer writes to.  Every method raises OSError when it cannot."""

    def __init__(self, path):
        self.path = path
        self.metrics = None
        self.metrics_failed = False  # the last time
        self.saved_step = None
        self.num_steps_before = None  # when it was last trained
        self._lock = None

    def file(self, name):
        return os.path.join(self.path, name)

    def create(self):
        """Begin a new run here; the directory is made if need be.  ConfigError when it holds a run already."""
        path = self.path
        try:
            os.makedirs(path, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise OSError(f"--out: expected {A_DIRECTORY}, found {path!r}: {reason(error)}") from None
        held = [name for name in (CHECKPOINT, PREVIOUS, METRICS, CONFIG) if os.path.lexists(self.file(name))]
        if held:
            goes_on = f"; --resume {path} goes on with it" if held[0] in (CHECKPOINT, PREVIOUS) else ""
            raise ConfigError(f"--out: expected a directory without a run, found {held[0]} in {path!r}{goes_on}")

    def resume(self):
        """The checkpoint with which to go on; CheckpointError when there is none that can be used."""
        path = self.path
        if not os.path.isdir(path):
            raise CheckpointError(f"--resume: expected the directory of a run, found {path!r}")
        try:
            self._take_lock()
        except OSError as error:
            raise OSError(f"--resume: expected {A_DIRECTORY}, found {path!r}: {reason(error)}") from None
        name, saved = load_newest(path)
        if name == PREVIOUS:  # make it the last one too, or else the next save would drop it for the bad one
            with suppress(FileNotFoundError):
                os.replace(self.file(CHECKPOINT), self.file(BAD))
            files.keep(self.file(PREVIOUS), self.file(CHECKPOINT))
        self.saved_step, self.num_steps_before = saved.step, saved.config.num_steps
        return saved

    def start(self, trainer):
        """Before the first step: a first checkpoint of a new run, its settings, its metrics."""
        try:
            if self.saved_step is None:
                self._write_checkpoint(trainer)
            files.write(self.file(CONFIG), to_toml(trainer.config).encode("utf-8", "surrogateescape"))
            self.metrics = Metrics(self.file(METRICS), keep_steps=trainer.step_count)
        except OSError as error:
            flag = "--out" if self.num_steps_before is None else "--resume"
            raise OSError(f"{flag}: expected {A_DIRECTORY}, found {self.path!r}: {reason(error)}") from None

    def save(self, trainer):
        """Save the run at the trainer's step, if it is not yet."""
        if self.saved_step == trainer.step_count:
            return
        try:
            self.metrics.sync()
            self._write_checkpoint(trainer)
        except OSError as error:
            path, step = self.file(CHECKPOINT), trainer.step_count
            raise OSError(f"{path}: the run cannot be saved at step {step}: {reason(error)}") from None

    def _write_checkpoint(self, trainer):
        files.write(self.file(CHECKPOINT), trainer.checkpoint().to_bytes(), self.file(PREVIOUS))
        self.saved_step = trainer.step_count

    def _take_lock(self):
        """Hold the directory until close() or the end of the process, however it ends."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process is training in {self.path!r}") from None

    def close(self):
        if self.metrics is not None:
            self.metrics.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
