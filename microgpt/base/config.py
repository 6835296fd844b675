"""The settings of a run, of sampling, of a sweep and of a trace: a table each, of names, defaults, ranges and help."""

import re
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, Generic

from .errors import ConfigError, named
from .settings import Float, Int, Range, Settings, Str, documented, setting
from .terminal import shown

BILLION = 10**9
STEPS = Range(1, BILLION)
LINE, BLANK_LINE, RUNNING_TEXT = SPLITS = "line", "blank-line", "none"
FROM_0 = Range(0, BILLION)
FRACTION = Range(0, 1, high_open=True)
RUNNING_LENGTH = 500
MAX_TRIALS = 10**5
LENGTH_HELP = f"maximum number of characters to generate; 0 means a full context, or {RUNNING_LENGTH} in running text"
EVAL_HELP = (
    "measure the held-out loss every N steps; 0 measures it once per pass over the documents, 20 to 200 times in all"
)
TEMPERATURE_HELP = "sampling temperature: higher is more random; 0 always takes the most probable character"


@dataclass(frozen=True)
class Input(Settings):
    input: str = setting("input.txt", "text file to train on", free=True)


@dataclass(frozen=True, kw_only=True)
class RunSettings(Generic[Int, Float, Str]):
    """A run's settings except its input.  In a Config each is an int, a float or a str; in a sweep, a list of them.

    The settings marked `free` may change when a run is resumed, because the steps already made do not depend on them.
    """

    seed: Int = setting(42, "seed of the shuffle, the initial weights and the samples", Range(0, 2**63 - 1))
    split: Str = setting(
        "line", "what a document is: a line, or a block between blank lines; none is running text", choices=SPLITS
    )
    num_steps: Int = setting(1000, "number of training steps", Range(1, BILLION), free=True)
    batch_size: Int = setting(1, "documents per step", Range(1, 10**6))
    shards: Int = setting(1, "parts of a batch, a power of two; more parts need less memory", Range(1, 10**6))
    n_layer: Int = setting(1, "number of layers", Range(1, 1000))
    n_embd: Int = setting(16, "width of the residual stream", Range(1, 2**16))
    n_head: Int = setting(4, "number of attention heads; must divide the residual stream's width", Range(1, 2**16))
    block_size: Int = setting(16, "context length, in tokens", Range(1, 2**20))
    learning_rate: Float = setting(0.01, "peak learning rate", Range(0, 1000, True))
    schedule: Str = setting("linear", "learning rate schedule after warm-up", choices=("linear", "cosine", "constant"))
    warmup_steps: Int = setting(0, "warm-up steps, in which the learning rate rises to its peak", FROM_0)
    min_learning_rate: Float = setting(0.0, "learning rate at the end of the schedule", Range(0, 1000))
    beta1: Float = setting(0.85, "Adam's decay rate of the mean gradient", FRACTION)
    beta2: Float = setting(0.99, "Adam's decay rate of the mean squared gradient", FRACTION)
    eps: Float = setting(1e-8, "added to Adam's denominator, to avoid division by 0", Range(1e-12, 1))
    weight_decay: Float = setting(0.0, "decoupled weight decay, multiplied by the learning rate", Range(0, 1000))
    grad_clip: Float = setting(0.0, "clip the global gradient norm; 0 disables clipping", Range(0, 1e9))
    init_std: Float = setting(0.08, "standard deviation of the initial weights", Range(0, 1000, True))
    dtype: Str = setting("float64", "precision: float64 reproduces the reference", choices=("float64", "float32"))
    val_fraction: Float = setting(
        0.0, "fraction of the documents to hold out: the last ones after the shuffle", FRACTION
    )
    val_split: Str = setting(
        "texts",
        "hold out all copies of a text together (texts), or each document by itself, as before 0.2 (documents)",
        choices=("texts", "documents"),
        needs="val_fraction",
        before="documents",
    )
    val_seed: Int = setting(
        0,
        "seed that chooses the held-out documents; 0 takes the last ones after the shuffle",
        Range(0, 2**63 - 1),
        needs="val_fraction",
    )
    eval_every: Int = setting(100, EVAL_HELP, FROM_0, free=True)
    patience: Int = setting(0, "stop after N held-out losses without a new lowest one; 0 never does", FROM_0, free=True)
    checkpoint_every: Int = setting(0, "save a checkpoint every N steps; 0 saves one per minute", FROM_0, free=True)
    log_every: Int = setting(100, "print the loss every N steps", STEPS, free=True)
    sample_every: Int = setting(0, "print a few samples every N steps; 0 never does", FROM_0, free=True)
    num_samples: Int = setting(20, "documents to generate after training", FROM_0, free=True)
    temperature: Float = setting(0.5, TEMPERATURE_HELP, Range(0, 1000), free=True)


@documented
@dataclass(frozen=True)
class Config(RunSettings[int, float, str], Input):
    """The settings of a training run; the defaults are those of Karpathy's microgpt.py.

    A Config cannot be changed; dataclasses.replace() gives a changed copy.  Raises ConfigError when a setting is out
    of range or does not fit another.  Example: Config("names.txt", n_layer=2, num_steps=5000)

    SETTINGS
    """

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
                raise ConfigError(f"expected 0 unless {named('val_fraction')} is above 0, found {found}", argument=name)


@dataclass(frozen=True)
class Sampling(Settings):
    """How to draw samples from a trained model."""

    num_samples: int = setting(20, "documents to generate; for running text, the default of the command is 1", FROM_0)
    _: KW_ONLY
    temperature: float = setting(0.5, TEMPERATURE_HELP, Range(0, 1000))
    top_k: int = setting(0, "draw only from the K most probable characters; 0 draws from all of them", FROM_0)
    top_p: float = setting(
        1.0, "draw only from the most probable characters that together reach this probability", Range(0, 1, True)
    )
    prompt: str = setting("", "text that every sample begins with")
    length: int = setting(0, LENGTH_HELP, FROM_0)
    seed: int = setting(42, "seed of the draws; sample i is the same for any number of samples", Range(0, 2**63 - 1))

    def n_draws(self, config: Config) -> int:
        """The largest number of characters to draw."""
        if self.length:
            return self.length
        return RUNNING_LENGTH if config.split == RUNNING_TEXT else config.block_size - len(self.prompt)


@dataclass(frozen=True, kw_only=True)
class Sweep(Settings):
    """A sweep's own settings, without those of its trials."""

    trials: int = setting(0, "number of trials; 0 runs all combinations of a grid", Range(0, MAX_TRIALS))
    sampler: str = setting("random", "method that chooses each trial's settings", choices=("grid", "random", "tpe"))
    round: int = setting(
        8, "trials per round; settings of later rounds may depend on earlier results", Range(1, MAX_TRIALS)
    )
    rungs: str = setting("", "steps A,B,...: after each, only the better half of a round's trials continue")
    sweep_seed: int = setting(0, "seed of the sampler", Range(0, 2**63 - 1))
    trial_timeout: float = setting(0.0, "stop a trial after this many seconds; 0 never does", Range(0, 1e9), free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.rungs.split(",") if self.rungs else []
        steps = [int(part) if re.fullmatch("[0-9]{1,10}", part) else 0 for part in parts]
        if any(before >= step for before, step in zip([0, *steps], steps)):
            raise ConfigError(f"expected increasing step numbers A,B,..., found {shown(self.rungs)}", argument="rungs")
        if not self.trials and self.sampler != "grid":
            expected = f"at least 1, or {named('sampler')} grid for all combinations"
            raise ConfigError(f"expected {expected}, found 0", argument="trials")

    @property
    def steps(self) -> list[int]:
        return [int(part) for part in self.rungs.split(",") if part]


@dataclass(frozen=True)
class Tracing(Settings):
    """How many steps of a run a trace holds."""

    steps: int = setting(3, "number of training steps to trace", Range(1, BILLION))


def resumed(saved: Config, given: dict[str, Any], step: int) -> Config:
    """The Config of a run resumed after this step.

    Raises ConfigError for a changed setting on which the steps already made depend, and for fewer steps than those.
    """
    for f in fields(Config):
        if f.name in given and not f.metadata["free"] and given[f.name] != getattr(saved, f.name):
            raise ConfigError(
                f"expected {getattr(saved, f.name)!r}, as in the run to resume, found {shown(given[f.name])}",
                argument=f.name,
            )
    config = replace(saved, **given)
    if config.num_steps < step:
        raise ConfigError(
            f"expected at least {step}, the steps that the run has made, found {config.num_steps}", argument="num_steps"
        )
    return config
