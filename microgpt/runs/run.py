"""A run's directory: checkpoint.npz, checkpoint.prev.npz, best.npz, metrics.jsonl and config.toml, with one writer at a
time."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sized
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress

from ..base.config_file import to_toml
from ..base.errors import CheckpointError, ConfigError, MissingError, UnreadableError, given, named
from ..base.files import Folder, folder_at
from ..base.terminal import notice, reason
from ..core.documents import TEXTS
from ..core.evaluate import Measure
from ..core.state import Checkpoint
from . import checkpoint
from .history import History
from .metrics import CHECKPOINT, Metrics

PREVIOUS, BAD = "checkpoint.prev.npz", "checkpoint.bad.npz"
BEST = "best.npz"  # the checkpoint with the lowest held-out loss
METRICS, CONFIG = "metrics.jsonl", "config.toml"
FILES = CHECKPOINT, PREVIOUS, BAD, BEST, METRICS, CONFIG
SWEEP = "sweep.json"  # only a sweep's directory has it

FULL = errno.ENOSPC, errno.EDQUOT
PATIENCE_SECONDS = 300  # for a disk that is full at the end of a run
RETRY_SECONDS = 2


def load(path: str, last: bool = False) -> Checkpoint:
    """The checkpoint in a file or in a run's directory; for a .safetensors file, a run at step 0 with its weights.

    In a directory, the best checkpoint, if there is one and not `last`; otherwise the last.  Notices say which, and
    whether the model is untrained.  Raises CheckpointError.
    """
    folder = opened(path)
    if folder is not None:
        with closing(folder):
            saved = load_from(folder, last)
    elif path.lower().endswith(".safetensors"):
        from . import safetensors

        return safetensors.load(path)
    else:
        saved = checkpoint.load(path)
    if saved.step == 0 and saved.arrays:  # otherwise it has only weights, which may come from elsewhere
        notice(f"{path}: the run is at step 0, so the model is untrained")
    return saved


def load_from(folder: Folder, last: bool) -> Checkpoint:
    best = None if last else load_best(folder)
    if best is not None:
        loss = "unknown" if best.best_val_loss is None else f"{best.best_val_loss:.4f}"
        final = f"{given('last')} selects the final weights"
        notice(f"{folder.path}: using {BEST}, step {best.step}, held-out loss {loss}; {final}")
        return best
    saved, error = load_newest(folder)
    if error is not None:
        notice(using_previous(saved, error))
    return saved


def load_best(folder: Folder) -> Checkpoint | None:
    """The checkpoint with the lowest held-out loss; None if there is none, or, with a notice, if it is damaged."""
    try:
        return checkpoint.load(folder.file(BEST), folder.open)
    except UnreadableError:  # it may be whole, so nothing takes its place
        raise
    except CheckpointError as error:
        if not isinstance(error, MissingError):
            notice(f"{error}; using the final weights")
        return None


def history(path: str, n_steps: int) -> History:
    """The losses of a run up to its last checkpoint, or of `n_steps` steps, as far as its metrics can be read."""
    with suppress(OSError), ExitStack() as stack:
        if (folder := folder_at(path)) is not None:
            stack.enter_context(closing(folder))
            with suppress(CheckpointError):
                n_steps = max(n_steps, load_newest(folder)[0].step)
            file = stack.enter_context(open(folder.file(METRICS), "rb", opener=folder.open))
            return History.read(file, n_steps)
    return History()


def opened(path: str) -> Folder | None:
    try:
        return folder_at(path)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {reason(error)}") from None


def load_newest(folder: Folder) -> tuple[Checkpoint, CheckpointError | None]:
    """The last checkpoint and None; or, if it is damaged or missing, the previous one and the error.

    Raises UnreadableError for a last checkpoint that cannot be read now but may be intact: the previous one would lose
    steps.
    """
    try:
        return checkpoint.load(folder.file(CHECKPOINT), folder.open), None
    except UnreadableError:
        raise
    except CheckpointError as error:
        try:
            return checkpoint.load(folder.file(PREVIOUS), folder.open), error
        except UnreadableError as other:
            raise UnreadableError(f"{error}; and {other}") from None
        except CheckpointError as other:
            if isinstance(error, MissingError) and isinstance(other, MissingError):
                raise MissingError(f"{folder.path}: {no_run(folder)}") from None
            raise error from None


def no_run(folder: Folder) -> str:
    """The message about a directory without a checkpoint, which may contain runs."""
    runs = []
    if os.path.exists(folder.file(SWEEP)):
        return "expected a run's directory, found a sweep's; each of its trials is a run"
    with suppress(OSError):  # only for the hint
        runs = [p for p in map(folder.file, sorted(os.listdir(folder.fd))) if os.path.exists(f"{p}/{CHECKPOINT}")]
    near = f"; did you mean {runs[0]!r}?" if runs else ""
    return f"expected a run's directory, found one without {CHECKPOINT}{near}"


def of_weights(path: str) -> str:
    """For a checkpoint file in a run's directory (one with metrics), that directory; otherwise the path itself."""
    directory = os.path.dirname(path) or os.curdir
    beside = path.endswith(".npz") and os.path.isfile(path) and os.path.isfile(os.path.join(directory, METRICS))
    return directory if beside else path


def using_previous(saved: Checkpoint, error: CheckpointError) -> str:
    return f"{error}; using {PREVIOUS} from step {saved.step}"


class Run:
    """The directory that one training process writes to.  Every method raises OSError if it fails."""

    folder: Folder  # set by create() or resume()
    metrics: Metrics  # set by start()

    def __init__(self, path: str) -> None:
        self.path = path
        self._saved: tuple[int, int] | None = None  # (step, num_steps) of the last checkpoint
        self._replaces = False  # whether the directory holds another run, which start() replaces
        self.num_steps_before: int | None = None  # in the checkpoint to resume
        self._best: bytes | None = None  # the best checkpoint, until it is saved
        self._last: Checkpoint | None = None  # of the end of the run, until it is saved
        self._metrics_failed = False  # at the last attempt
        self._held = ExitStack()  # the directory, its lock and the metrics, until close()

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def create(self, fresh: bool = False) -> None:
        """Create the directory, if needed, for a new run.

        If it already holds a run, start() will replace it, if `fresh`; otherwise raises ConfigError, and always for a
        sweep's directory.
        """
        path = self.path
        try:
            with suppress(FileExistsError):
                os.makedirs(path)
            self._hold(Folder(path))
            there = os.listdir(self.folder.fd)
            held = [name for name in FILES if name in there]
            if held and fresh:
                self._check_files()
        except OSError as error:
            raise self._cannot_be_used("out", error) from None
        if SWEEP in there:
            raise ConfigError(f"{named('out')}: expected a directory without a sweep, found {SWEEP} in {path!r}")
        self._replaces = bool(held)
        if held and not fresh:
            resume = f"{given('resume', path)} continues it, " if held[0] in (CHECKPOINT, PREVIOUS) else ""
            raise ConfigError(
                f"{named('out')}: expected a directory without a run, found {held[0]} in {path!r}; "
                f"{resume}{given('fresh')} replaces it"
            )

    def _check_files(self) -> None:
        """Raise OSError if something else has the name of one of the run's files; remove temporary files."""
        for name in FILES:
            self.folder.check(name, in_place=name == METRICS)
            self.folder.remove_temporary(name)

    def resume(self) -> Checkpoint:
        """Return the checkpoint from which to continue.  Raises CheckpointError if there is no usable one."""
        folder = opened(self.path)
        if folder is None:
            raise CheckpointError(f"{named('resume')}: expected the directory of a run, found {self.path!r}")
        try:
            self._hold(folder)
            self._check_files()
            saved, error = load_newest(folder)
            if error is not None:  # move it to CHECKPOINT, so that the next save keeps it and not the bad one
                notice(using_previous(saved, error))
                if not isinstance(error, MissingError):
                    folder.rename(CHECKPOINT, BAD)
                folder.link(PREVIOUS, CHECKPOINT)
        except OSError as error:
            raise self._cannot_be_used("resume", error) from None
        self._saved, self.num_steps_before = (saved.step, saved.config.num_steps), saved.config.num_steps
        return saved

    def start(self, saved: Checkpoint, input: str) -> None:
        """Before the first step, write the settings and a new run's first checkpoint, and open the metrics."""
        try:
            if self._saved is None:
                self._write_checkpoint(saved)
            if self._replaces:  # the new checkpoint is on the disk, and the old one is now the previous one
                for name in PREVIOUS, BAD, BEST, METRICS:
                    self.folder.remove(name)
            path = None if input == TEXTS else os.path.abspath(input)
            self.folder.write(CONFIG, to_toml(saved.config, path).encode())
            self.metrics = Metrics.of_run(self.folder, METRICS, saved.step)
            self._held.callback(self.metrics.close)
        except OSError as error:
            raise self._cannot_be_used("out" if self.num_steps_before is None else "resume", error) from None

    def _cannot_be_used(self, name: str, error: OSError) -> OSError:
        file = error.filename if isinstance(error.filename, str) and error.filename != self.path else None
        why = f"{file}: {reason(error)}" if file is not None else reason(error)
        return OSError(f"{named(name)}: expected a directory that can be written, found {self.path!r}: {why}")

    def add_metrics(self, first: int, losses: list[float], rates: list[float], held_out: Measure | None) -> None:
        """Write the metrics of some steps.  If that fails, print a notice, but only for the first failure."""
        self.metrics.add(first, losses, rates, held_out)
        try:
            self.metrics.flush()
        except OSError as error:
            if not self._metrics_failed:
                notice(f"{error}; training continues")
            self._metrics_failed = True
        else:
            self._metrics_failed = False

    def save(self, saved: Checkpoint) -> None:
        """Save the last checkpoint, and keep the one before it as the previous one.  Do nothing for the same step.

        The weights matter most: they are saved even if the metrics cannot be written.
        """
        if self._saved == (saved.step, saved.config.num_steps):
            return
        with suppress(OSError):  # add_metrics() and finish() report it
            self.metrics.sync()
        with self._saving(CHECKPOINT, saved):
            self._write_checkpoint(saved)

    def save_last(self, saved: Checkpoint) -> bool:
        """Save the end of the run; returns False if finish() has to try again."""
        self._last = saved
        with suppress(OSError):
            self._save_all(saved)
        return self._last is None

    def finish(self, stop: Sized = (), seconds: float | None = None) -> None:
        """If the end of the run is not saved, try again for some minutes, or until `stop` gets longer.

        Prints what is wrong.  Raises OSError if the run still cannot be saved.
        """
        seconds, n_stops = PATIENCE_SECONDS if seconds is None else seconds, len(stop)
        until, told = time.monotonic() + seconds, ""
        while self._last is not None:
            try:
                self._save_all(self._last)
            except OSError as error:
                cause = error.__context__
                too_large = isinstance(cause, OSError) and cause.errno == errno.EFBIG  # a limit, which stays
                if too_large or time.monotonic() >= until or len(stop) > n_stops:
                    raise
                if str(error) != told:
                    told = str(error)
                    minutes = f"trying again for {seconds / 60:.0f} minutes"
                    notice(f"{told}; {minutes}: free space or make it writable, or press Ctrl-C to give up")
                wait_until = time.monotonic() + RETRY_SECONDS
                while time.monotonic() < wait_until and len(stop) == n_stops:
                    time.sleep(0.05)
            else:
                if told:
                    notice(f"{self.path}: saved")

    def _save_all(self, saved: Checkpoint) -> None:
        self.save(saved)
        with self._saving(BEST, saved):
            self._write_best()
        self.metrics.sync(last=True)
        self._last = None

    def save_best(self, saved: Checkpoint) -> None:
        """Save a checkpoint whose held-out loss is the lowest so far."""
        with self._saving(BEST, saved):
            self._best = checkpoint.to_bytes(saved)
            self._write_best()

    def _write_best(self) -> None:
        if self._best is not None:
            self._write(BEST, self._best)
            self._best = None

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest held-out loss, if there is a readable one."""
        return load_best(self.folder)

    @contextmanager
    def _saving(self, name: str, saved: Checkpoint) -> Iterator[None]:
        try:
            yield
        except (OSError, MemoryError) as error:
            path = self.file(name)
            raise OSError(f"{path}: the run cannot be saved at step {saved.step}: {reason(error)}") from None

    def _write_checkpoint(self, saved: Checkpoint) -> None:
        self._write(CHECKPOINT, checkpoint.to_bytes(saved), PREVIOUS)
        self._saved = saved.step, saved.config.num_steps

    def _write(self, name: str, data: bytes, previous: str | None = None) -> None:
        """Write a file.  If the disk is full and the last checkpoint is good, delete the previous one for its space."""
        try:
            self.folder.write(name, data, previous)
        except OSError as error:
            if error.errno not in FULL:
                raise
            try:
                checkpoint.load(self.folder.file(CHECKPOINT), self.folder.open)
                if self.folder.holds(name, data):  # only the last fsync has failed
                    raise
                os.unlink(PREVIOUS, dir_fd=self.folder.fd)
            except (CheckpointError, FileNotFoundError):
                raise error from None
            self.folder.write(name, data, previous)

    def _hold(self, folder: Folder) -> None:
        """Lock the directory against other writers until close() or the end of the process."""
        self.folder = folder
        self._held.callback(folder.close)
        folder.lock("training")

    def close(self) -> None:
        with nullcontext() if self._last is None else suppress(OSError):  # finish() has raised the error that matters
            self._held.close()
