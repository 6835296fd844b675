"""The settings of a run: names, defaults, ranges and help in one table, from which the command line is made."""

import re
from dataclasses import asdict, dataclass, field, fields


class ConfigError(ValueError):
    """A setting is out of its range; the message names it as its flag."""


def flag(name):
    """'n_embd' -> '--n-embd'."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Range:
    """low <= value <= high, or low < value, or value < high, where the ends are open."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value):
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self):
        low = f"above {self.low:g}" if self.low_open else f"at least {self.low}"
        high = f"below {self.high:g}" if self.high_open else f"at most {self.high}"
        return f"{low} and {high}"


def setting(default, help, range=None, choices=None):
    return field(default=default, metadata={"help": help, "range": range, "choices": choices})


BILLION = 10**9
FRACTION = Range(0, 1, high_open=True)


@dataclass(frozen=True)
class Config:
    """A run's settings; the defaults are microgpt.py's.  Raises ConfigError when one is out of range."""

    input: str = setting("input.txt", "text file, one document a line")
    seed: int = setting(42, "seed of the shuffle, the initial weights and the samples", Range(0, 2**63 - 1))
    num_steps: int = setting(1000, "training steps", Range(1, BILLION))
    batch_size: int = setting(1, "documents a step", Range(1, 10**6))
    n_layer: int = setting(1, "layers", Range(1, 1000))
    n_embd: int = setting(16, "width of the residual stream", Range(1, 2**16))
    n_head: int = setting(4, "attention heads, a divisor of the width", Range(1, 2**16))
    block_size: int = setting(16, "longest context, in tokens", Range(1, 2**20))
    learning_rate: float = setting(0.01, "Adam's step size at the start; it falls linearly to 0", Range(0, 1000, True))
    beta1: float = setting(0.85, "Adam's decay of the mean gradient", FRACTION)
    beta2: float = setting(0.99, "Adam's decay of the mean squared gradient", FRACTION)
    eps: float = setting(1e-8, "Adam's guard against division by 0", Range(0, 1, True))
    init_std: float = setting(0.08, "standard deviation of the initial weights", Range(0, 1000, True))
    dtype: str = setting("float64", "precision: float64 reproduces the reference", choices=("float64", "float32"))
    log_every: int = setting(100, "print the loss every so many steps", Range(1, BILLION))
    num_samples: int = setting(20, "documents to invent after training", Range(0, BILLION))
    temperature: float = setting(0.5, "how freely to sample; 0 always takes the likeliest", Range(0, 1000))

    def __post_init__(self):
        for f in fields(self):
            check(f.name, getattr(self, f.name), f.type, f.metadata["range"], f.metadata["choices"])
        if self.n_embd % self.n_head:
            raise ConfigError(f"--n-head: expected a divisor of --n-embd {self.n_embd}, found {self.n_head}")

    def as_dict(self):
        return asdict(self)


def check(name, value, kind, range=None, choices=None):
    """Raise ConfigError unless value is a `kind` within its range or choices."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{flag(name)}: expected {KIND[kind]}, found {value!r}")
    if range is not None and value not in range:
        raise ConfigError(f"{flag(name)}: expected {KIND[kind]} {range}, found {value!r}")
    if choices is not None and value not in choices:
        raise ConfigError(f"{flag(name)}: expected one of {', '.join(choices)}, found {value!r}")


KIND = {int: "a whole number", float: "a number", str: "text"}
WRITTEN = {int: r"[+-]?[0-9]{1,30}", float: r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"}


def parse(name, text, kind, range=None, choices=None):
    """The value written in `text`: plain decimal numbers only, so no nan, inf, 1_000 or other scripts' digits."""
    if kind in WRITTEN and not re.fullmatch(WRITTEN[kind], text):
        expected = f"{KIND[kind]} {range}" if range else KIND[kind]
        raise ConfigError(f"{flag(name)}: expected {expected}, found {text!r}")
    value = kind(text)
    check(name, value, kind, range, choices)
    return value
