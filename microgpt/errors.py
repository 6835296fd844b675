"""What can go wrong for a user to mend.  Each message names the thing, what was expected and what was found."""


class ConfigError(ValueError):
    """A setting is out of its range; the message names it as its flag."""


class DataError(ValueError):
    """A file cannot be used, such as an input that cannot be trained on; the message names it."""


class CheckpointError(DataError):
    """A checkpoint cannot be used; the message names the file."""


class UnreadableError(CheckpointError):
    """A checkpoint cannot be read now, or not by this version; for all that is known it is whole."""


class PlotError(DataError):
    """There is nothing to draw, or nothing to draw it with."""


class NotFiniteError(ArithmeticError):
    """The loss, or what Adam made of it, became infinite or NaN; `step` (from 1) says when."""

    def __init__(self, step: int, found: object, expected: str = "a finite loss") -> None:
        super().__init__(f"step {step}: expected {expected}, found {found}; a smaller --learning-rate may help")
        self.step = step


class SamplingError(ArithmeticError):
    """The model's numbers are so large that they say nothing about what comes next."""
