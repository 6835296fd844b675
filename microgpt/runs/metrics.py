"""The metrics file: one JSON object a step, in full precision."""

import os
import re
import stat
from collections.abc import Iterable, Iterator

from ..base.errors import ConfigError, named
from ..base.files import Folder, naming
from ..base.terminal import reason
from ..core.evaluate import Measure


class Metrics:
    """Lines on their way to a file.  What cannot be written is kept and tried again, so that no line is lost."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._pending = b""

    @classmethod
    def of_run(cls, folder: Folder, name: str, n_steps: int) -> "Metrics":
        """A run's own file, which keeps the lines of the first so many steps."""
        fd = folder.open(name, os.O_RDWR | os.O_CREAT)
        try:
            with naming(name), open(fd, "rb", closefd=False) as file:
                os.ftruncate(fd, size_of_steps(file, n_steps))
            os.lseek(fd, 0, os.SEEK_END)
        except BaseException:
            os.close(fd)
            raise
        return cls(folder.file(name), fd)

    @classmethod
    def beside(cls, path: str, read: dict[str, str], folder: Folder | None) -> "Metrics":
        """The file of --metrics, which begins empty: none of those that are read, by their names, or of the run's own.

        A link is followed, and what it leads to is what counts.
        """
        try:
            if folder is not None and is_same(os.fstat(folder.fd), os.path.dirname(path) or "."):
                raise refused(path, "outside of the run's directory")
            fd = open_output(path)
            try:
                status = os.fstat(fd)
                for name, other in read.items():
                    if is_same(status, other):
                        raise refused(path, f"other than {named(name)}")
                if folder is not None and any(is_same(status, name, folder.fd) for name in os.listdir(folder.fd)):
                    raise refused(path, "outside of the run's directory")
                if stat.S_ISREG(status.st_mode):
                    os.ftruncate(fd, 0)
            except BaseException:
                os.close(fd)
                raise
            return cls(path, fd)
        except OSError as error:
            raise OSError(
                f"{named('metrics')}: expected a file that can be written, found {path!r}: {reason(error)}"
            ) from None

    def add(self, first: int, losses: list[float], rates: list[float], held_out: Measure | None = None) -> None:
        """Losses and learning rates of the steps from `first` on, and the held-out losses after the last step."""
        lines = [
            f'{{"step": {step}, "loss": {loss!r}, "lr": {rate!r}}}\n'
            for step, (loss, rate) in enumerate(zip(losses, rates), first)
        ]
        if held_out is not None:
            document_loss = held_out.document_loss
            more = "" if document_loss is None else f', "val_document_loss": {document_loss!r}'
            lines[-1] = f'{lines[-1][:-2]}, "val_loss": {held_out.loss!r}{more}}}\n'
        self._pending += "".join(lines).encode()

    def flush(self) -> None:
        """Write the lines so far.  Raises OSError, and then keeps those that are not written yet."""
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._fd, self._pending) :]
        except OSError as error:
            raise OSError(f"{self.path}: cannot be written: {reason(error)}") from None

    def sync(self) -> None:
        """Have all lines on the disk."""
        self.flush()
        os.fsync(self._fd)

    def close(self) -> None:
        try:
            self.flush()
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
    """A descriptor of the file, as it is; of a new one if there is none; or of a device, or a FIFO that is being read.

    A link that leads nowhere is refused: who knows what would be made there.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # which does not wait for the reader of a FIFO
    except FileNotFoundError:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            raise OSError("a link to nothing") from None
    os.set_blocking(fd, True)
    return fd


def lines_of_steps(file: Iterable[bytes], n_steps: int) -> Iterator[re.Match[bytes]]:
    """The whole lines of steps up to `n_steps` at the beginning of the file; the step is each match's first group."""
    for line in file:
        step = re.match(rb'\{"step": ([0-9]{1,18}), .*\}\n', line)
        if not step or int(step[1]) > n_steps:
            break
        yield step


def size_of_steps(file: Iterable[bytes], n_steps: int) -> int:
    """How many bytes the whole lines of steps up to `n_steps` take at the beginning of the file."""
    return sum(len(line[0]) for line in lines_of_steps(file, n_steps))
