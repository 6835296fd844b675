"""The metrics file: one JSON object a step, in full precision."""

import os
import re
from collections.abc import Iterable

from . import files
from .errors import ConfigError, named
from .terminal import reason


class Metrics:
    """Lines on their way to a file.  What cannot be written is kept and tried again, so that no line is lost.

    With keep_steps it is a run's own file, which keeps the lines of the first so many steps; any other begins empty.
    """

    def __init__(self, path: str, keep_steps: int | None = None) -> None:
        self.path = path
        self._pending = b""
        if keep_steps is None:
            self._fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o666)
            return
        self._fd = files.open_own(path)
        with open(self._fd, "rb", closefd=False) as file:
            size = size_of_steps(file, keep_steps)
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, 0, os.SEEK_END)

    @classmethod
    def beside(cls, path: str, read: dict[str, str], directory: str | None) -> "Metrics":
        """The file of --metrics: none of those that are read, by their names, or that the run writes itself."""
        try:
            for name, other in read.items():
                if os.path.exists(path) and os.path.samefile(path, other):
                    raise ConfigError(f"{named('metrics')}: expected a file other than {named(name)}, found {path!r}")
            if directory is not None and os.path.realpath(os.path.dirname(path)) == os.path.realpath(directory):
                raise ConfigError(f"{named('metrics')}: expected a file outside of the run's directory, found {path!r}")
            return cls(path)
        except OSError as error:
            raise OSError(
                f"{named('metrics')}: expected a file that can be written, found {path!r}: {reason(error)}"
            ) from None

    def add(self, first: int, losses: list[float], rates: list[float], val_loss: float | None = None) -> None:
        """The losses and learning rates of the steps from `first` on; val_loss is of the last of them."""
        lines = [
            f'{{"step": {step}, "loss": {loss!r}, "lr": {rate!r}}}\n'
            for step, (loss, rate) in enumerate(zip(losses, rates), first)
        ]
        if val_loss is not None:
            lines[-1] = f'{lines[-1][:-2]}, "val_loss": {val_loss!r}}}\n'
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
            os.close(self._fd)


def size_of_steps(file: Iterable[bytes], n_steps: int) -> int:
    """How many bytes the whole lines of steps up to `n_steps` take at the beginning of the file."""
    size = 0
    for line in file:
        step = re.match(rb'\{"step": ([0-9]{1,18}), .*\}\n', line)
        if not step or int(step[1]) > n_steps:
            break
        size += len(line)
    return size
