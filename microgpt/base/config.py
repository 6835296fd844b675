"""The settings of a run, of sampling, of a sweep and of a trace: names, defaults, ranges and help in one table each."""

import re
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, Generic

from .errors import ConfigError, named
from .settings import Float, Int, Range, Settings, Str, setting
from .terminal import shown

BILLION = 10**9
STEPS = Range(1, BILLION)
LINE, BLANK_LINE, RUNNING_TEXT = SPLITS = "line", "blank-line", "none"
FROM_0 = Range(0, BILLION)
FRACTION = Range(0, 1, high_open=True)
RUNNING_LENGTH = 500
MOST_TRIALS = 10**5
LENGTH_HELP = f"how many characters to go on for; 0 is to the end of the context, or {RUNNING_LENGTH} in running text"
TEMPERATURE_HELP = "how freely to sample; 0 always takes the likeliest"


@dataclass(frozen=True)
class Input(Settings):
    input: str = setting("input.txt", "text file", free=True)


@dataclass(frozen=True, kw_only=True)
class RunSettings(Generic[Int, Float, Str]):
    """A run's settings beside its input: those of a Config are an int, a float or a str; a sweep's are several.

    The settings marked `free` may change when a run is resumed: they do not touch what it computes.
    """

    seed: Int = setting(42, "seed of the shuffle, the initial weights and the samples", Range(0, 2**63 - 1))
    split: Str = setting(
        "line", "what a document is: a line, what is between blank lines, or all as running text", choices=SPLITS
    )
    num_steps: Int = setting(1000, "training steps", Range(1, BILLION), free=True)
    batch_size: Int = setting(1, "documents a step", Range(1, 10**6))
    shards: Int = setting(1, "parts of a step, a power of two: more take less memory", Range(1, 10**6))
    n_layer: Int = setting(1, "layers", Range(1, 1000))
    n_embd: Int = setting(16, "width of the residual stream", Range(1, 2**16))
    n_head: Int = setting(4, "attention heads, a divisor of the width", Range(1, 2**16))
    block_size: Int = setting(16, "longest context, in tokens", Range(1, 2**20))
    learning_rate: Float = setting(0.01, "Adam's step size, from which it falls", Range(0, 1000, True))
    schedule: Str = setting("linear", "how it falls", choices=("linear", "cosine", "constant"))
    warmup_steps: Int = setting(0, "steps over which it rises before", FROM_0)
    min_learning_rate: Float = setting(0.0, "where it falls to", Range(0, 1000))
    beta1: Float = setting(0.85, "Adam's decay of the mean gradient", FRACTION)
    beta2: Float = setting(0.99, "Adam's decay of the mean squared gradient", FRACTION)
    eps: Float = setting(1e-8, "Adam's guard against division by 0", Range(1e-12, 1))
    weight_decay: Float = setting(0.0, "each step takes this part of the rate of each weight away", Range(0, 1000))
    grad_clip: Float = setting(
        0.0, "longest gradient (2-norm of all); longer ones are shortened; 0 is any", Range(0, 1e9)
    )
    init_std: Float = setting(0.08, "standard deviation of the initial weights", Range(0, 1000, True))
    dtype: Str = setting("float64", "precision: float64 reproduces the reference", choices=("float64", "float32"))
    val_fraction: Float = setting(0.0, "part of the documents, the last after the shuffle, to hold out", FRACTION)
    val_split: Str = setting(
        "texts",
        "hold out whole texts, with all their copies, or single documents, as versions before 0.2 did",
        choices=("texts", "documents"),
        needs="val_fraction",
        before="documents",
    )
    val_seed: Int = setting(
        0,
        "seed that chooses the held-out documents; 0 takes the last ones after the run's own shuffle",
        Range(0, 2**63 - 1),
        needs="val_fraction",
    )
    eval_every: Int = setting(100, "measure the loss of the held-out part every so many steps", STEPS, free=True)
    patience: Int = setting(0, "stop after so many measurements without a new best; 0 never does", FROM_0, free=True)
    checkpoint_every: Int = setting(0, "save the run every so many steps; 0 is once a minute", FROM_0, free=True)
    log_every: Int = setting(100, "print the loss every so many steps", STEPS, free=True)
    sample_every: Int = setting(0, "print a few samples every so many steps; 0 never does", FROM_0, free=True)
    num_samples: Int = setting(20, "documents to invent after training", FROM_0, free=True)
    temperature: Float = setting(0.5, TEMPERATURE_HELP, Range(0, 1000), free=True)


@dataclass(frozen=True)
class Config(RunSettings[int, float, str], Input):
    """A run's settings; the defaults are microgpt.py's.  Raises ConfigError when one is out of range."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.input:
            raise ConfigError("expected a file, found ''", argument="input")
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"expected a divisor of {named('n_embd')} {self.n_embd}, found {self.n_head}", argument="n_head"
            )
        if self.shards & (self.shards - 1) or self.shards > self.batch_size:
            raise ConfigError(
                f"expected a power of two of at most {named('batch_size')} {self.batch_size}, found {self.shards}",
                argument="shards",
            )
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(
                f"expected at most {named('learning_rate')} {self.learning_rate}, found {self.min_learning_rate}",
                argument="min_learning_rate",
            )
        if self.warmup_steps > self.num_steps:
            raise ConfigError(
                f"expected at most {named('num_steps')} {self.num_steps}, found {self.warmup_steps}",
                argument="warmup_steps",
            )
        for name in ("patience", "val_seed"):
            if getattr(self, name) and not self.val_fraction:
                found = getattr(self, name)
                raise ConfigError(f"expected 0 without {named('val_fraction')}, found {found}", argument=name)


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
        return RUNNING_LENGTH if config.split == RUNNING_TEXT else config.block_size - len(self.prompt)


@dataclass(frozen=True, kw_only=True)
class Sweep(Settings):
    """A sweep's own settings, beside its space."""

    trials: int = setting(0, "how many trials; 0 is all of a grid", Range(0, MOST_TRIALS))
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
                f"expected numbers of steps A,B,... that rise, found {shown(self.rungs)}", argument="rungs"
            )
        if not self.trials and self.sampler != "grid":
            expected = f"how many to draw, or {named('sampler')} grid for all combinations"
            raise ConfigError(f"expected {expected}, found none", argument="trials")

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
                f"expected {getattr(saved, f.name)!r}, with which the run to resume began, "
                f"found {shown(given[f.name])}",
                argument=f.name,
            )
    config = replace(saved, **given)
    if config.num_steps < saved.num_steps:
        raise ConfigError(
            f"expected at least {saved.num_steps}, the run's own, found {config.num_steps}", argument="num_steps"
        )
    return config
