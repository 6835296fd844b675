"""Settings: each has a name, a default, a range and a help text; values are checked and parsed.

The command line, settings files and the signatures of the Python functions are made from tables of them (config.py).
"""

import inspect
import numbers
import operator
import re
from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from .errors import ConfigError
from .terminal import shown

# the types of settings in RunSettings: int, float and str in a Config, several values in a sweep
T = TypeVar("T")
Int = TypeVar("Int")
Float = TypeVar("Float")
Str = TypeVar("Str")
TYPES: dict[object, type] = {Int: int, Float: float, Str: str, int: int, float: float, str: str}
Given = dict[str, Any]  # explicitly given settings by name, without those left at their defaults


def flag(name: str) -> str:
    """'n_embd' -> '--n-embd'."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Range:
    """low <= value <= high, or with < in place of <= at an open end."""

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
    """Base of the tables of settings: checks each value, and converts NumPy's numbers, and an int for a float."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = plain(getattr(self, f.name))
            check(f, value)
            if kind(f) is float and type(value) is int:
                value = float(value)
            object.__setattr__(self, f.name, value)  # frozen

    def as_dict(self) -> dict[str, Any]:
        """The settings by name.  A setting that needs another one is left out if the other is not set."""
        needed = {f.name: f.metadata["needs"] for f in fields(self)}
        return {name: getattr(self, name) for name, needs in needed.items() if not needs or getattr(self, needs)}


def kind(f: Field[Any]) -> type:
    """The type of a setting: int, float or str, which a flag, a file and Python can all express."""
    found = TYPES.get(f.type)
    if found is None:
        raise TypeError(f"{f.name}: expected a setting that is an int, a float or a str, found {f.type}")
    return found


def plain(value: Any) -> Any:
    """A number of another library, such as NumPy, as an int or a float; anything else unchanged."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return operator.index(value)
    return float(value) if isinstance(value, numbers.Real) else value


def check(f: Field[Any], value: Any) -> None:
    """Raise ConfigError unless the value is of the setting's type, and within its range or choices."""
    limits, choices = f.metadata["range"], f.metadata["choices"]
    if choices is not None and (type(value) is not str or value not in choices):
        raise ConfigError(f"expected one of {', '.join(choices)}, found {shown(value)}", argument=f.name)
    if type(value) is not kind(f) and not (kind(f) is float and type(value) is int):
        raise ConfigError(f"expected {KIND[kind(f)]}, found {shown(value)}", argument=f.name)
    if limits is not None and value not in limits:
        raise ConfigError(f"expected {KIND[kind(f)]} {limits}, found {shown(value)}", argument=f.name)


KIND = {int: "a whole number", float: "a number", str: "text"}
PATTERN = {int: r"[+-]?[0-9]{1,30}", float: r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"}


def parse(f: Field[Any], text: str) -> Any:
    """The value written in `text`.  Numbers are plain decimal ones: no nan, inf, 1_000 or digits of other scripts."""
    limits = f.metadata["range"]
    if kind(f) in PATTERN and not re.fullmatch(PATTERN[kind(f)], text):
        expected = f"{KIND[kind(f)]} {limits}" if limits else KIND[kind(f)]
        raise ConfigError(f"expected {expected}, found {shown(text)}", argument=f.name)
    value = kind(f)(text)
    check(f, value)
    return value


def parsed(settings: type[Settings], texts: dict[str, Any]) -> dict[str, Any]:
    """{name: value} parsed from the texts that are not None."""
    return {f.name: parse(f, texts[f.name]) for f in fields(settings) if texts.get(f.name) is not None}


def described(settings: Any) -> str:
    """A line for each setting of the table: its name, default and help."""
    return "\n".join(f"{f.name} = {f.default!r}: {f.metadata['help']}" for f in fields(settings) if f.metadata)


def documented(settings: type[T]) -> type[T]:
    """Decorate a table of settings: SETTINGS in its docstring becomes their descriptions."""
    settings.__doc__ = settings.__doc__ and inspect.cleandoc(settings.__doc__).replace("SETTINGS", described(settings))
    return settings


# what users of other programs call a setting or an argument
SYNONYMS = {
    "num_steps": "epochs epoch max_iters max_steps iters iterations niter train_steps n_steps",
    "learning_rate": "lr max_lr step_size alpha",
    "min_learning_rate": "min_lr",
    "warmup_steps": "warmup_iters",
    "weight_decay": "wd decay l2",
    "grad_clip": "clip clip_grad max_norm max_grad_norm gradient_clip_val",
    "batch_size": "batch bs bsz mini_batch",
    "shards": "gradient_accumulation_steps grad_accum accumulate",
    "n_layer": "layers n_layers num_layers num_hidden_layers depth",
    "n_head": "heads n_heads num_heads num_attention_heads",
    "n_embd": "n_embed embd embed embedding_dim embed_dim d_model dim hidden hidden_size hidden_dim width",
    "block_size": "context context_length context_size ctx ctx_len n_ctx seq_len seq_length sequence_length max_length",
    "dtype": "precision",
    "val_fraction": "test_size validation_split val_size",
    "eval_every": "eval_interval eval_freq eval_steps",
    "log_every": "log_interval log_freq logging_steps",
    "checkpoint_every": "save_every save_interval save_steps",
    "patience": "early_stopping",
    "input": "data dataset data_dir file train_file text corpus",
    "out": "out_dir output_dir save save_dir",
    "length": "max_new_tokens max_tokens",
    "prompt": "start",
    "schedule": "scheduler lr_scheduler lr_schedule decay_lr",
    "temperature": "temp",
    "threads": "workers num_workers n_jobs cpus",
}
SYNONYM = {synonym: name for name, synonyms in SYNONYMS.items() for synonym in synonyms.split()}
ABSENT = {  # what they look for in vain
    "device": "microgpt computes on the CPU",
    "gpu": "microgpt computes on the CPU",
    "cuda": "microgpt computes on the CPU",
    "compile": "the kernels are compiled already",
    "optimizer": "the optimizer is Adam, with decoupled weight decay",
    "dropout": "there is no dropout",
}


def suggestion(word: str, words: Iterable[str]) -> str:
    """What to use in place of an unknown word: '; did you mean ...?' with one of the words, or another hint, or ''.

    The word is close by being a synonym, or by a part of it, its initials or its spelling.
    """
    import difflib

    def split(text: str) -> list[str]:
        return re.split("[-_]", text.lower().strip("-"))

    names, wanted = list(words), "_".join(split(word))
    near = [name for name in names if "_".join(split(name)) == SYNONYM.get(wanted)]
    if not near and wanted in ABSENT:
        return f"; {ABSENT[wanted]}"
    near += [name for name in names if wanted in split(name)]
    near += [name for name in names if len(wanted) > 2 and any(part.startswith(wanted) for part in split(name))]
    near += [name for name in names if len(wanted) > 1 and wanted == "".join(part[:1] for part in split(name))]
    near += difflib.get_close_matches(word, names, n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""
