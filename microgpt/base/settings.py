"""Settings: a table's rows, each with a name, a default, a range and a help text, and how a value is checked or read.

The command line, files of settings, and the signatures of the Python functions are made from such tables (config.py).
"""

import numbers
import operator
import re
from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from .errors import ConfigError
from .terminal import shown

# the types in a table of which another has several values for a setting
Int = TypeVar("Int")
Float = TypeVar("Float")
Str = TypeVar("Str")
TYPES: dict[object, type] = {Int: int, Float: float, Str: str, int: int, float: float, str: str}
Given = dict[str, Any]  # the settings that somebody gave, by name, without those left at their defaults


def flag(name: str) -> str:
    """'n_embd' -> '--n-embd'."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Range:
    """low <= value <= high, or low < value, or value < high, where the ends are open."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.low_open else f"at least {self.low}"
        high = f"below {self.high:g}" if self.high_open else f"at most {self.high}"
        return f"{low} and {high}"


def setting(
    default: object,
    help: str,
    range: Range | None = None,
    choices: tuple[str, ...] | None = None,
    free: bool = False,
    needs: str = "",
    before: object = None,
) -> Any:
    """A field of Settings.

    `free` settings may change when a run is resumed.  A setting that `needs` another is stored only if that one is set.
    `before` is what checkpoints that are older than the setting were computed with, if not with the default.
    """
    metadata = {"help": help, "range": range, "choices": choices, "free": free, "needs": needs, "before": before}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """What every table of settings does: each value is checked, and NumPy's numbers are made Python's.

    Whole numbers stand for the numbers they are.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            value = plain(getattr(self, f.name))
            check(f, value)
            if kind(f) is float and type(value) is int:
                value = float(value)
            object.__setattr__(self, f.name, value)  # frozen

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, without those that need another that is not set."""
        needed = {f.name: f.metadata["needs"] for f in fields(self)}
        return {name: getattr(self, name) for name, needs in needed.items() if not needs or getattr(self, needs)}


def kind(f: Field[Any]) -> type:
    """int, float or str, which a flag, a file and Python can all say."""
    found = TYPES.get(f.type)
    if found is None:
        raise TypeError(f"{f.name}: expected a setting that is an int, a float or a str, found {f.type}")
    return found


def plain(value: Any) -> Any:
    """A number of another library, such as NumPy's, as Python's; all else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return operator.index(value)
    return float(value) if isinstance(value, numbers.Real) else value


def check(f: Field[Any], value: Any) -> None:
    """Raise ConfigError unless value is of the setting's type, and within its range or choices."""
    limits, choices = f.metadata["range"], f.metadata["choices"]
    if choices is not None and (type(value) is not str or value not in choices):
        raise ConfigError(f"expected one of {', '.join(choices)}, found {shown(value)}", argument=f.name)
    if type(value) is not kind(f) and not (kind(f) is float and type(value) is int):
        raise ConfigError(f"expected {KIND[kind(f)]}, found {shown(value)}", argument=f.name)
    if limits is not None and value not in limits:
        raise ConfigError(f"expected {KIND[kind(f)]} {limits}, found {shown(value)}", argument=f.name)


KIND = {int: "a whole number", float: "a number", str: "text"}
WRITTEN = {int: r"[+-]?[0-9]{1,30}", float: r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"}


def parse(f: Field[Any], text: str) -> Any:
    """The value written in `text`: plain decimal numbers only, so no nan, inf, 1_000 or other scripts' digits."""
    limits = f.metadata["range"]
    if kind(f) in WRITTEN and not re.fullmatch(WRITTEN[kind(f)], text):
        expected = f"{KIND[kind(f)]} {limits}" if limits else KIND[kind(f)]
        raise ConfigError(f"expected {expected}, found {shown(text)}", argument=f.name)
    value = kind(f)(text)
    check(f, value)
    return value


def parsed(settings: type[Settings], texts: dict[str, Any]) -> dict[str, Any]:
    """{name: value} of the texts that are not None, by the fields of a Settings class."""
    return {f.name: parse(f, texts[f.name]) for f in fields(settings) if texts.get(f.name) is not None}


def suggestion(word: str, words: Iterable[str]) -> str:
    """'; did you mean ...?' when one of the words is near: one with such a part, such initials, or such a spelling."""
    import difflib

    def split(text: str) -> list[str]:
        return re.split("[-_]", text.lower().strip("-"))

    names, wanted = list(words), "_".join(split(word))
    near = [name for name in names if wanted in split(name)]
    near += [name for name in names if len(wanted) > 2 and any(part.startswith(wanted) for part in split(name))]
    near += [name for name in names if len(wanted) > 1 and wanted == "".join(part[:1] for part in split(name))]
    near += difflib.get_close_matches(word, names, n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""
