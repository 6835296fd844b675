"""The metrics file: one line of JSON for each step, in full precision."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator

from ..base.errors import ConfigError, named
from ..base.files import Folder, naming
from ..base.terminal import reason
from ..core.evaluate import Measure

CHECKPOINT = "checkpoint.npz"


class Metrics:
    """A metrics file that is being written.  Lines that cannot be written are kept and tried again.

    On the disk of a run's `folder`, the lines leave as much space as the next checkpoint needs.
    """

    def __init__(self, path: str, fd: int, folder: Folder | None) -> None:
        self.path = path
        self._fd, self._folder = fd, folder
        self._pending = bytearray()

    @classmethod
    def of_run(cls, folder: Folder, name: str, n_steps: int) -> "Metrics":
        """Open a run's own metrics file and keep only the lines of the first `n_steps` steps."""
        fd = folder.open(name, os.O_RDWR | os.O_CREAT)
        try:
            with naming(name), open(fd, "rb", closefd=False) as file:
                os.ftruncate(fd, size_of_steps(file, n_steps))
            os.lseek(fd, 0, os.SEEK_END)
        except BaseException:
            os.close(fd)
            raise
        return cls(folder.file(name), fd, folder)

    @classmethod
    def beside(cls, path: str, read: dict[str, str], folder: Folder | None) -> "Metrics":
        """Open the file of --metrics and empty it.

        Raises ConfigError for a file in `read` ({setting: path}) or in the run's folder.  Links are followed first.
        """
        try:
            if folder is not None and is_same(os.fstat(folder.fd), os.path.dirname(path) or "."):
                raise refused(path, "outside the run's directory")
            fd = open_output(path)
            try:
                status = os.fstat(fd)
                for name, other in read.items():
                    if is_same(status, other):
                        raise refused(path, f"other than {named(name)}")
                if folder is not None and any(is_same(status, name, folder.fd) for name in os.listdir(folder.fd)):
                    raise refused(path, "outside the run's directory")
                if stat.S_ISREG(status.st_mode):
                    os.ftruncate(fd, 0)
            except BaseException:
                os.close(fd)
                raise
            one_disk = folder is not None and os.fstat(folder.fd).st_dev == status.st_dev
            return cls(path, fd, folder if one_disk else None)
        except OSError as error:
            raise OSError(
                f"{named('metrics')}: expected a file that can be written, found {path!r}: {reason(error)}"
            ) from None

    def add(self, first: int, losses: list[float], rates: list[float], held_out: Measure | None = None) -> None:
        """Add the losses and learning rates of the steps from `first` on, and the held-out losses after the last."""
        lines = [
            f'{{"step": {step}, "loss": {loss!r}, "lr": {rate!r}}}\n'
            for step, (loss, rate) in enumerate(zip(losses, rates), first)
        ]
        if held_out is not None:
            document_loss = held_out.document_loss
            more = "" if document_loss is None else f', "val_document_loss": {document_loss!r}'
            lines[-1] = f'{lines[-1][:-2]}, "val_loss": {held_out.loss!r}{more}}}\n'
        self._pending += "".join(lines).encode()

    def flush(self, last: bool = False) -> None:
        """Write all lines so far.  If that fails, keep the unwritten lines and raise OSError.

        After the `last` checkpoint, no space is left for another one.
        """
        try:
            if self._pending and not last and self._folder is not None and not self._folder.has_space(CHECKPOINT):
                raise OSError(errno.ENOSPC, "the space that is left is kept for the checkpoint")
            while self._pending:
                del self._pending[: os.write(self._fd, self._pending)]
        except OSError as error:
            raise OSError(f"{self.path}: cannot be written: {reason(error)}") from None

    def sync(self, last: bool = False) -> None:
        """Write all lines and wait until they are on the disk."""
        self.flush(last)
        os.fsync(self._fd)

    def close(self) -> None:
        try:
            self.flush(last=True)
        finally:
            try:
                os.close(self._fd)
            except OSError as error:
                raise OSError(f"{self.path}: cannot be written: {reason(error)}") from None


def refused(path: str, expected: str) -> ConfigError:
    return ConfigError(f"{named('metrics')}: expected a file {expected}, found {path!r}")


def is_same(status: os.stat_result, path: str, directory: int | None = None) -> bool:
    try:
        return os.path.samestat(status, os.stat(path, dir_fd=directory))
    except FileNotFoundError:
        return False


def open_output(path: str) -> int:
    """Open an existing file without truncating it, a new file, a device, or a FIFO with a reader; return a descriptor.

    A broken link is refused, because it could create a file anywhere.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # do not wait for a FIFO's reader
    except FileNotFoundError:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            raise OSError("a broken link") from None
    os.set_blocking(fd, True)
    return fd


def lines_of_steps(file: Iterable[bytes], n_steps: int) -> Iterator[re.Match[bytes]]:
    """Yield the complete lines of steps up to `n_steps`; the step is the first group of each match."""
    for line in file:
        step = re.match(rb'\{"step": ([0-9]{1,18}), .*\}\n', line)
        if not step or int(step[1]) > n_steps:
            break
        yield step


def size_of_steps(file: Iterable[bytes], n_steps: int) -> int:
    """The number of bytes of the complete lines of steps up to `n_steps`."""
    return sum(len(line[0]) for line in lines_of_steps(file, n_steps))
