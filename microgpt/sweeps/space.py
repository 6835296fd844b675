"""The search space of a sweep: the values that each setting may have, and the samplers that draw trials."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any

from ..base.config import MAX_TRIALS, Config
from ..base.errors import ConfigError, named, optional
from ..base.settings import check, kind, parse, plain, suggestion
from ..base.terminal import shown

if TYPE_CHECKING:
    from .records import Trial

FIXED = {"input", "split", "val_fraction", "val_split", "val_seed"}  # which choose the texts
SETTINGS = {f.name: f for f in fields(Config)}


@dataclass(frozen=True)
class Between:
    """A range from low to high, both included; with `log`, each decade is drawn equally often."""

    low: Any  # two ints, or two floats
    high: Any
    log: bool = False

    @property
    def whole(self) -> bool:
        return type(self.low) is int

    def __str__(self) -> str:
        return f"{self.low!r}..{self.high!r}{':log' * self.log}"

    def draw(self, rng: random.Random) -> Any:
        if self.log:  # a whole number k stands for the interval from k to k + 1
            return self.rounded(math.exp(rng.uniform(math.log(self.low), math.log(self.high + self.whole))))
        return rng.randint(self.low, self.high) if self.whole else self.rounded(rng.uniform(self.low, self.high))

    def rounded(self, x: float) -> Any:
        """x within the range, to six digits: readable, and the same whatever the C library's exp."""
        return min(max(int(x) if self.whole else float(f"{x:.6g}"), self.low), self.high)


Values = list[Any] | Between
Space = dict[str, Values]  # in the order of Config


# ---- reading a space ----


def values_of_flag(f: Field[Any], text: str) -> Values:
    """The values in a flag's text: `a`, `a,b,c` or, for numbers, `low..high[:log]`.  Raises ConfigError."""
    if kind(f) is str or ".." not in text:
        return checked_list(f, [parse(f, part) for part in text.split(",")])
    ends, colon, scale = text.partition(":")
    low, high = (parse(f, end) for end in ends.split("..", 1))
    if low >= high or scale != "log" * len(colon) or (colon and low <= 0):
        expected = "low..high with low < high, or low..high:log with 0 < low < high"
        raise ConfigError(f"expected {expected}, found {shown(text)}", argument=f.name)
    return Between(low, high, bool(colon))


def values_of(f: Field[Any], value: object) -> Values:
    """The values of a setting from Python or sweep.json: one, several, or a flag's text.  Raises ConfigError."""
    if isinstance(value, Between) or (isinstance(value, str) and kind(f) is not str):
        return values_of_flag(f, str(value))
    several = value.tolist() if hasattr(value, "tolist") else value  # a NumPy array or number
    several = [*several] if isinstance(several, (list, tuple, range)) else [several]  # a set has no fixed order
    values: list[Any] = [os.fspath(v) if isinstance(v, os.PathLike) else plain(v) for v in several]
    for v in values:
        check(f, v)
    return checked_list(f, [float(v) if kind(f) is float else v for v in values])


def checked_list(f: Field[Any], values: list[Any]) -> Values:
    if not values or "" in values:
        raise ConfigError(f"expected values that are not empty, found {shown(values and '')}", argument=f.name)
    if twice := [v for i, v in enumerate(values) if v in values[:i]]:
        raise ConfigError(f"expected each value once, found {twice[0]!r} twice", argument=f.name)
    return values


def space_of(settings: dict[str, Any]) -> Space:
    """The Space of settings in the forms that values_of() takes.  Raises TypeError for an unknown name, ConfigError."""
    for name in settings:
        if name not in SETTINGS:
            raise TypeError(f"sweep: unknown setting {name!r}{suggestion(name, SETTINGS)}")
    space = {name: values_of(f, settings[name]) for name, f in SETTINGS.items() if name in settings}
    for name in FIXED & space.keys():
        if name in varied_settings(space):
            raise ConfigError(
                "expected one value, because trials are compared by their losses on the same held-out texts, "
                f"found {as_text(space[name])}",
                argument=name,
            )
    if "val_fraction" in space and not bounds(space["val_fraction"])[0]:
        raise ConfigError("expected above 0, because held-out losses are compared, found 0", argument="val_fraction")
    return space


def to_json(values: Values) -> Any:
    """A JSON value that values_of() reads back as the same values."""
    return values if isinstance(values, list) else str(values)


def as_text(values: Values) -> str:
    return ",".join(map(str, values)) if isinstance(values, list) else str(values)


def bounds(values: Values) -> tuple[Any, Any]:
    """The smallest and the largest value."""
    return (min(values), max(values)) if isinstance(values, list) else (values.low, values.high)


def varied_settings(space: Space) -> list[str]:
    """The settings that differ between trials."""
    return [name for name, values in space.items() if not isinstance(values, list) or len(values) > 1]


# ---- samplers: the number of a trial determines its settings ----


def all_values(name: str, values: Values) -> Sequence[Any]:
    """All the values of a setting.  Raises ConfigError for a range that has too many."""
    if isinstance(values, list):
        return values
    if not values.whole or values.log or values.high - values.low >= MAX_TRIALS:
        raise ConfigError(
            f"expected a list a,b,c or few whole numbers with {named('sampler')} grid, found {values}", argument=name
        )
    return range(values.low, values.high + 1)


def grid_size(space: Space) -> int:
    return math.prod(len(all_values(name, values)) for name, values in space.items())


def grid_point(space: Space, number: int) -> dict[str, Any]:
    """The combination with this number; the last setting changes fastest."""
    settings = {}
    for name, values in reversed(space.items()):
        every = all_values(name, values)
        number, i = divmod(number, len(every))
        settings[name] = every[i]
    return {name: settings[name] for name in space}


def random_point(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Random settings.  Each has its own generator, so the ranges of the other settings do not affect it."""
    settings = {}
    for name, values in space.items():
        rng = random.Random(f"{seed}/{number}/{name}")
        settings[name] = rng.choice(values) if isinstance(values, list) else values.draw(rng)
    return settings


def tpe_points(space: Space, seed: int, numbers: range, before: list[Trial]) -> list[dict[str, Any]]:
    """A round of Optuna's TPE.  It depends only on the trials before it, so a resumed sweep gets the same."""
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states, kinds = optuna.trial.TrialState, optuna.distributions
    distributions: dict[str, Any] = {}
    for name in varied_settings(space):
        values = space[name]
        if isinstance(values, list):
            distributions[name] = kinds.CategoricalDistribution(values)
        else:
            distribution = kinds.IntDistribution if values.whole else kinds.FloatDistribution
            distributions[name] = distribution(values.low, values.high, log=values.log)
    rng = random.Random(f"sweep {seed}, round from {numbers.start}")
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=rng.getrandbits(32)))
    for t in before:
        finished = optuna.trial.create_trial(
            params={name: t.settings[name] for name in distributions},
            distributions=distributions,
            value=t.val_loss if t.status == "done" else None,
            intermediate_values=dict(t.rungs),
            state={"done": states.COMPLETE, "stopped": states.PRUNED}.get(t.status, states.FAIL),
        )
        study.add_trial(finished)
    points = []
    for _ in numbers:
        params = study.ask(distributions).params
        settings = {
            name: params.get(name, values[0]) if isinstance(values, list) else values.rounded(params[name])
            for name, values in space.items()
        }
        points.append(settings)
    return points


def import_optuna() -> Any:
    return optional("optuna", "sweep", f"{named('sampler')}: tpe")
