"""The metrics file: one JSON object a step, in full precision."""

import os
import re
from collections.abc import Iterable

from .errors import ConfigError
from .terminal import reason


class Metrics:
    """Lines on their way to a file.  What cannot be written is kept and tried again, so that no line is lost.

    A file whose run is resumed keeps the lines of the first `keep_steps` steps; any other begins empty.
    """

    def __init__(self, path: str, keep_steps: int = 0) -> None:
        self.path = path
        self._pending = b""
        flags = os.O_RDWR if keep_steps else os.O_WRONLY | os.O_TRUNC
        self._fd = os.open(path, flags | os.O_CREAT, 0o666)
        if keep_steps:
            with open(self._fd, "rb", closefd=False) as file:
                size = size_of_steps(file, keep_steps)
            os.ftruncate(self._fd, size)
            os.lseek(self._fd, 0, os.SEEK_END)

    @classmethod
    def beside(cls, path: str, input: str, directory: str | None) -> "Metrics":
        """The file of --metrics: none that the run reads or writes itself."""
        try:
            if os.path.exists(path) and os.path.samefile(path, input):
                raise ConfigError(f"--metrics: expected a file other than --input, found {path!r}")
            if directory is not None and os.path.realpath(os.path.dirname(path)) == os.path.realpath(directory):
                raise ConfigError(f"--metrics: expected a file outside of the run's directory, found {path!r}")
            return cls(path)
        except OSError as error:
            raise OSError(f"--metrics: expected a file that can be written, found {path!r}: {reason(error)}") from None

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
