"""The settings of a run: names, defaults, ranges and help in one table.

The command line, files of settings, and the signatures of the Python functions are made from it.
"""

import functools
import inspect
import numbers
import operator
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, Field, dataclass, field, fields, replace
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from .errors import ConfigError, DataError, named
from .files import NO_FILE, open_file
from .package import PACKAGE
from .terminal import reason, shown


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
    default: object, help: str, range: Range | None = None, choices: tuple[str, ...] | None = None, free: bool = False
) -> Any:
    return field(default=default, metadata={"help": help, "range": range, "choices": choices, "free": free})


BILLION = 10**9
STEPS = Range(1, BILLION)
LINE, BLANK_LINE, RUNNING = SPLITS = "line", "blank-line", "none"
FROM_0 = Range(0, BILLION)
FRACTION = Range(0, 1, high_open=True)
RUNNING_LENGTH = 500
MOST_TRIALS = 10**5
LENGTH_HELP = f"how many characters to go on for; 0 is to the end of the context, or {RUNNING_LENGTH} in running text"
TEMPERATURE_HELP = "how freely to sample; 0 always takes the likeliest"


@dataclass(frozen=True)
class Settings:
    """What every table of settings does: each value is checked, and NumPy's numbers are made Python's.

    Whole numbers stand for the numbers they are.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            value = plain(getattr(self, f.name))
            check(f, value)
            if f.type is float and type(value) is int:
                value = float(value)
            object.__setattr__(self, f.name, value)  # frozen

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Config(Settings):
    """A run's settings; the defaults are microgpt.py's.  Raises ConfigError when one is out of range.

    The settings marked `free` may change when a run is resumed: they do not touch what it computes.
    """

    input: str = setting("input.txt", "text file", free=True)
    _: KW_ONLY
    seed: int = setting(42, "seed of the shuffle, the initial weights and the samples", Range(0, 2**63 - 1))
    split: str = setting(
        "line", "what a document is: a line, what is between blank lines, or all as running text", choices=SPLITS
    )
    num_steps: int = setting(1000, "training steps", Range(1, BILLION), free=True)
    batch_size: int = setting(1, "documents a step", Range(1, 10**6))
    shards: int = setting(1, "parts of a step, a power of two: more take less memory", Range(1, 10**6))
    n_layer: int = setting(1, "layers", Range(1, 1000))
    n_embd: int = setting(16, "width of the residual stream", Range(1, 2**16))
    n_head: int = setting(4, "attention heads, a divisor of the width", Range(1, 2**16))
    block_size: int = setting(16, "longest context, in tokens", Range(1, 2**20))
    learning_rate: float = setting(0.01, "Adam's step size, from which it falls", Range(0, 1000, True))
    schedule: str = setting("linear", "how it falls", choices=("linear", "cosine", "constant"))
    warmup_steps: int = setting(0, "steps over which it rises before", FROM_0)
    min_learning_rate: float = setting(0.0, "where it falls to", Range(0, 1000))
    beta1: float = setting(0.85, "Adam's decay of the mean gradient", FRACTION)
    beta2: float = setting(0.99, "Adam's decay of the mean squared gradient", FRACTION)
    eps: float = setting(1e-8, "Adam's guard against division by 0", Range(1e-12, 1))
    weight_decay: float = setting(0.0, "each step takes this part of the rate of each weight away", Range(0, 1000))
    grad_clip: float = setting(
        0.0, "longest gradient (2-norm of all); longer ones are shortened; 0 is any", Range(0, 1e9)
    )
    init_std: float = setting(0.08, "standard deviation of the initial weights", Range(0, 1000, True))
    dtype: str = setting("float64", "precision: float64 reproduces the reference", choices=("float64", "float32"))
    val_fraction: float = setting(0.0, "part of the documents, the last after the shuffle, to hold out", FRACTION)
    eval_every: int = setting(100, "measure the loss of the held-out part every so many steps", STEPS, free=True)
    patience: int = setting(0, "stop after so many measurements without a new best; 0 never does", FROM_0, free=True)
    checkpoint_every: int = setting(0, "save the run every so many steps; 0 is once a minute", FROM_0, free=True)
    log_every: int = setting(100, "print the loss every so many steps", STEPS, free=True)
    sample_every: int = setting(0, "print a few samples every so many steps; 0 never does", FROM_0, free=True)
    num_samples: int = setting(20, "documents to invent after training", FROM_0, free=True)
    temperature: float = setting(0.5, TEMPERATURE_HELP, Range(0, 1000), free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.input:
            raise ConfigError(f"{named('input')}: expected a file, found ''")
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"{named('n_head')}: expected a divisor of {named('n_embd')} {self.n_embd}, found {self.n_head}"
            )
        if self.shards & (self.shards - 1) or self.shards > self.batch_size:
            raise ConfigError(
                f"{named('shards')}: expected a power of two of at most {named('batch_size')} {self.batch_size}, "
                f"found {self.shards}"
            )
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(
                f"{named('min_learning_rate')}: expected at most {named('learning_rate')} {self.learning_rate}, "
                f"found {self.min_learning_rate}"
            )
        if self.warmup_steps > self.num_steps:
            raise ConfigError(
                f"{named('warmup_steps')}: expected at most {named('num_steps')} {self.num_steps}, "
                f"found {self.warmup_steps}"
            )
        if self.patience and not self.val_fraction:
            raise ConfigError(f"{named('patience')}: expected 0 without {named('val_fraction')}, found {self.patience}")


@dataclass(frozen=True)
class Sampling(Settings):
    """How to draw samples from a trained model."""

    num_samples: int = setting(20, "documents to invent", FROM_0)
    _: KW_ONLY
    temperature: float = setting(0.5, TEMPERATURE_HELP, Range(0, 1000))
    top_k: int = setting(0, "draw from the K likeliest characters only; 0 is all of them", FROM_0)
    top_p: float = setting(1.0, "draw from the likeliest characters that make up this probability", Range(0, 1, True))
    prompt: str = setting("", "what every sample begins with")
    length: int = setting(0, LENGTH_HELP, FROM_0)
    seed: int = setting(42, "seed of the draws; sample i does not depend on how many there are", Range(0, 2**63 - 1))

    def n_draws(self, config: Config) -> int:
        """How many characters to draw, at most."""
        if self.length:
            return self.length
        return RUNNING_LENGTH if config.split == RUNNING else config.block_size - len(self.prompt)


@dataclass(frozen=True)
class Sweep(Settings):
    """A sweep's own settings, beside its space."""

    trials: int = setting(0, "how many trials; 0 is all of a grid", Range(0, MOST_TRIALS))
    _: KW_ONLY
    sampler: str = setting("random", "what chooses the settings of a trial", choices=("grid", "random", "tpe"))
    round: int = setting(8, "trials that are chosen together, from what those before them gave", Range(1, MOST_TRIALS))
    rungs: str = setting("", "steps A,B,... after each of which only the better half of a round goes on")
    sweep_seed: int = setting(0, "seed of the sampler", Range(0, 2**63 - 1))
    trial_timeout: float = setting(
        0.0, "seconds after which a trial is stopped; 0 never does", Range(0, 1e9), free=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.rungs.split(",") if self.rungs else []
        steps = [int(part) if re.fullmatch("[0-9]{1,10}", part) else 0 for part in parts]
        if any(before >= step for before, step in zip([0, *steps], steps)):
            raise ConfigError(
                f"{named('rungs')}: expected numbers of steps A,B,... that rise, found {shown(self.rungs)}"
            )
        if not self.trials and self.sampler != "grid":
            expected = f"how many to draw, or {named('sampler')} grid for all combinations"
            raise ConfigError(f"{named('trials')}: expected {expected}, found none")

    @property
    def steps(self) -> list[int]:
        return [int(part) for part in self.rungs.split(",") if part]


@dataclass(frozen=True)
class Tracing(Settings):
    """How much of a run to write down."""

    steps: int = setting(3, "training steps to write down", Range(1, BILLION))


def resumed(saved: Config, given: dict[str, Any]) -> Config:
    """The Config of a run that goes on with some settings changed; ConfigError for what would make it another run."""
    for f in fields(Config):
        if f.name in given and not f.metadata["free"] and given[f.name] != getattr(saved, f.name):
            raise ConfigError(
                f"{named(f.name)}: expected {getattr(saved, f.name)!r}, with which the run to resume began, "
                f"found {shown(given[f.name])}"
            )
    config = replace(saved, **given)
    if config.num_steps < saved.num_steps:
        raise ConfigError(
            f"{named('num_steps')}: expected at least {saved.num_steps}, the run's own, found {config.num_steps}"
        )
    return config


# ---- checking ----


def kind(f: Field[Any]) -> type:
    """int, float or str, which a flag, a file and Python can all say."""
    if f.type not in (int, float, str):
        raise TypeError(f"{f.name}: expected a setting that is an int, a float or a str, found {f.type}")
    return f.type


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
        raise ConfigError(f"{named(f.name)}: expected one of {', '.join(choices)}, found {shown(value)}")
    if type(value) is not f.type and not (f.type is float and type(value) is int):
        raise ConfigError(f"{named(f.name)}: expected {KIND[kind(f)]}, found {shown(value)}")
    if limits is not None and value not in limits:
        raise ConfigError(f"{named(f.name)}: expected {KIND[kind(f)]} {limits}, found {shown(value)}")


KIND = {int: "a whole number", float: "a number", str: "text"}
WRITTEN = {int: r"[+-]?[0-9]{1,30}", float: r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"}


def parse(f: Field[Any], text: str) -> Any:
    """The value written in `text`: plain decimal numbers only, so no nan, inf, 1_000 or other scripts' digits."""
    limits = f.metadata["range"]
    if kind(f) in WRITTEN and not re.fullmatch(WRITTEN[kind(f)], text):
        expected = f"{KIND[kind(f)]} {limits}" if limits else KIND[kind(f)]
        raise ConfigError(f"{named(f.name)}: expected {expected}, found {shown(text)}")
    value = kind(f)(text)
    check(f, value)
    return value


def parsed(settings: type[Settings], texts: dict[str, Any]) -> dict[str, Any]:
    """{name: value} of the texts that are not None, by the fields of a Settings class."""
    return {f.name: parse(f, texts[f.name]) for f in fields(settings) if texts.get(f.name) is not None}


# ---- files ----

PATHS = "paths"  # a table that is no setting
RECIPES = os.path.join(PACKAGE, "recipes")


def read_toml(path: str) -> dict[str, Any]:
    """{name: value} of a file of settings, `num-steps = 1000` and so on.

    Raises ConfigError, or DataError for a file that cannot be read now.
    """
    table = parse_toml(path)
    table.pop(PATHS, None)
    known = {flag(f.name)[2:]: f for f in fields(Config)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        f = known.get(name)
        if f is None:
            meant = suggestion(name, known)
            raise ConfigError(f"--config: {path}: expected the name of a setting, found {key!r}{meant}")
        if f.name in values:
            raise ConfigError(f"--config: {path}: expected {key!r} once, found it in two spellings")
        try:
            check(f, value)
        except ConfigError as error:
            raise ConfigError(f"--config: {path}: {error}") from None
        values[f.name] = value
    return values


def recipes() -> list[str]:
    """The names of the recipes, sets of settings that come with the package."""
    return sorted(name[: -len(".toml")] for name in os.listdir(RECIPES) if name.endswith(".toml"))


def read_recipe(name: str) -> dict[str, Any]:
    """{name: value} of a recipe.  Raises ConfigError, which names the recipes."""
    if name not in (known := recipes()):
        meant = suggestion(name, known) if isinstance(name, str) else ""
        raise ConfigError(f"{named('recipe')}: expected one of {', '.join(known)}, found {shown(name)}{meant}")
    return read_toml(os.path.join(RECIPES, f"{name}.toml"))


def parse_toml(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb", opener=open_file) as file:
            return tomllib.load(file)
    except (OSError, MemoryError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not TOML
        message = f"--config: expected a TOML file of settings, found {path!r}: {reason(error)}"
        passing = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in NO_FILE)
        raise (DataError if passing else ConfigError)(message) from None


def remembered_input(path: str) -> str | None:
    """Where the input was, by a run's file of settings, or None; DataError when that cannot be read now."""
    try:
        paths = parse_toml(path).get(PATHS)
    except ConfigError:  # there is none, or it is not one
        return None
    found = paths.get("input") if isinstance(paths, dict) else None
    return found if isinstance(found, str) else None


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


def to_toml(config: Config, input: str | None = None) -> str:
    """The text of a file that --config reads back as the same Config, and remembered_input as `input`."""
    lines = [f"{flag(name)[2:]} = {toml_value(value)}\n" for name, value in config.as_dict().items()]
    if input is not None:
        lines.append(f"\n[{PATHS}]  # where it was, which does not matter to the run\ninput = {toml_value(input)}\n")
    return "".join(lines)


def toml_value(value: object) -> str:
    import json

    # a JSON string is a TOML string but for DEL, which TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if type(value) is str else repr(value)


# ---- Python ----

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Given = dict[str, Any]  # the settings that were given, by name; of the others it says nothing


class accepts(Generic[P]):  # noqa: N801 - a decorator
    """@accepts(Sampling) gives a function or method of one Given the signature of Sampling instead.

    To a caller and a type checker it takes the settings by their names, with their types and defaults.
    """

    def __init__(self, settings: Callable[P, object]) -> None:
        self.signature = inspect.signature(settings)
        helps = [f for f in fields(settings) if f.metadata]  # type: ignore[arg-type]
        self.described = "\n".join(f"{f.name} = {f.default!r}: {f.metadata['help']}" for f in helps)

    @overload
    def __call__(self, function: Callable[[Given], R]) -> Callable[P, R]: ...
    @overload
    def __call__(self, function: Callable[[T, Given], R]) -> Callable[Concatenate[T, P], R]: ...
    def __call__(self, function: Callable[..., R]) -> Callable[..., R]:
        own = inspect.signature(function)
        *before, _ = own.parameters.values()  # `self`, if it is a method
        n = len(before)

        @functools.wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> R:
            return function(*args[:n], self._given(function.__name__, args[n:], kwargs))

        signature = own.replace(parameters=[*before, *self.signature.parameters.values()])
        accepting.__signature__ = signature  # type: ignore[attr-defined]
        accepting.__doc__ = function.__doc__ and inspect.cleandoc(function.__doc__).replace("SETTINGS", self.described)
        return accepting

    def _given(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
        for key in kwargs:
            if key not in self.signature.parameters:
                raise TypeError(f"{name}: unknown setting {key!r}{suggestion(key, self.signature.parameters)}")
        most = sum(
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in self.signature.parameters.values()
        )
        if len(args) > most:
            raise TypeError(f"{name}: expected all but the first argument by name, found {len(args)} without")
        try:
            return self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
