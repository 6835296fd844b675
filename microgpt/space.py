"""The space of a sweep: which values each setting may have, and the samplers that draw trials from it."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any

from .config import Config, check, kind, parse, plain, suggestion
from .errors import ConfigError, named
from .terminal import shown

if TYPE_CHECKING:
    from .trial import Trial

Values = list[Any]
SETTINGS = {f.name: f for f in fields(Config)}


@dataclass(frozen=True)
class Between:
    """All from low to high, both included; `log`: from 1 to 10 as much as from 10 to 100."""

    low: Any  # two ints, or two floats
    high: Any
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low!r}..{self.high!r}{':log' * self.log}"

    def draw(self, rng: random.Random) -> Any:
        whole = type(self.low) is int
        if whole and not self.log:
            return rng.randint(self.low, self.high)
        if not self.log:
            return self.rounded(rng.uniform(self.low, self.high))
        # of whole numbers each has the width from it to the next
        x = math.exp(rng.uniform(math.log(self.low), math.log(self.high + whole)))
        return min(max(int(x), self.low), self.high) if whole else self.rounded(x)

    def rounded(self, x: float) -> Any:
        """To six digits: as much as one wants to read, and no last bit of a C library's exp."""
        return min(max(x if type(self.low) is int else float(f"{x:.6g}"), self.low), self.high)


Space = dict[str, "Values | Between"]  # in the order of Config


# ---- what is asked for ----


def written(f: Field[Any], text: str) -> Values | Between:
    """What a flag says: `a`, `a,b,c` or, of numbers, `low..high[:log]`.  Raises ConfigError."""
    if kind(f) is str or ".." not in text:
        return listed(f, [parse(f, part) for part in text.split(",")])
    ends, colon, scale = text.partition(":")
    low, high = (parse(f, end) for end in ends.split("..", 1))
    if colon and scale != "log":
        raise ConfigError(f"{named(f.name)}: expected low..high or low..high:log, found {shown(text)}")
    if not low < high:
        raise ConfigError(f"{named(f.name)}: expected low..high with low below high, found {shown(text)}")
    if colon and low <= 0:
        raise ConfigError(f"{named(f.name)}: expected a low above 0 with :log, found {shown(text)}")
    return Between(low, high, bool(colon))


def given(f: Field[Any], value: object) -> Values | Between:
    """What Python says: a value, several, or of numbers a text as a flag's.  Raises ConfigError."""
    if isinstance(value, str) and kind(f) is not str:
        return written(f, value)
    # what has an order: of a set of texts it would be another each time
    several = hasattr(value, "__getitem__") and isinstance(value, Collection) and not isinstance(value, (str, bytes))
    values = [plain(v) for v in (value if isinstance(value, Collection) and several else [value])]
    for v in values:
        check(f, v)
    return listed(f, [float(v) if kind(f) is float else v for v in values])


def listed(f: Field[Any], values: Values) -> Values:
    if not values or "" in values:
        raise ConfigError(f"{named(f.name)}: expected one value or more, found {shown(values and '')}")
    if twice := [v for i, v in enumerate(values) if v in values[:i]]:
        raise ConfigError(f"{named(f.name)}: expected each value once, found {twice[0]!r} twice")
    return values


def space_of(settings: dict[str, Any]) -> Space:
    """The Space of settings as Python, or a sweep's file, says them.  Raises TypeError for a name that is none."""
    for name in settings:
        if name not in SETTINGS:
            raise TypeError(f"sweep: unknown setting {name!r}{suggestion(name, SETTINGS)}")
    return {name: given(f, settings[name]) for name, f in SETTINGS.items() if name in settings}


def to_json(values: Values | Between) -> Any:
    """What given() reads back as the same."""
    return str(values) if isinstance(values, Between) else values


def as_text(values: Values | Between) -> str:
    return str(values) if isinstance(values, Between) else ",".join(map(str, values))


def varied(space: Space) -> list[str]:
    """The settings that are not the same in every trial."""
    return [name for name, values in space.items() if isinstance(values, Between) or len(values) > 1]


# ---- samplers: the settings of trial i, whoever asks, and whenever ----


def axes(space: Space) -> list[tuple[str, Sequence[Any]]]:
    """Each setting with all its values.  Raises ConfigError for a range that has too many."""
    found: list[tuple[str, Sequence[Any]]] = []
    for name, values in space.items():
        if isinstance(values, Between) and (type(values.low) is not int or values.log):
            raise ConfigError(f"{named(name)}: expected values a,b,c with {named('sampler')} grid, found {values}")
        found.append((name, range(values.low, values.high + 1) if isinstance(values, Between) else values))
    return found


def grid_size(space: Space) -> int:
    return math.prod(extent(values) for _, values in axes(space))


def extent(values: Sequence[Any]) -> int:
    """How many; len() of a range of all seeds is an error."""
    return values.stop - values.start if isinstance(values, range) else len(values)


def grid(space: Space, number: int) -> dict[str, Any]:
    """All combinations one after the other, of which the last setting changes first."""
    settings = {}
    for name, values in reversed(axes(space)):
        number, i = divmod(number, extent(values))
        settings[name] = values[i]
    return {name: settings[name] for name in space}


def at_random(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Drawn by a generator of the trial's own."""
    rng = random.Random(f"sweep {seed}, trial {number}")
    return {
        name: values.draw(rng) if isinstance(values, Between) else values[rng.randrange(len(values))]
        for name, values in space.items()
    }


def tpe(space: Space, seed: int, numbers: Sequence[int], before: list[Trial]) -> list[dict[str, Any]]:
    """A round of Optuna's, which is told all trials before it in their order: so a sweep that goes on asks the same."""
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, Any] = {}
    for name in varied(space):
        values = space[name]
        if isinstance(values, Between):
            whole = type(values.low) is int
            distribution = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
            distributions[name] = distribution(values.low, values.high, log=values.log)
        else:
            distributions[name] = optuna.distributions.CategoricalDistribution(values)
    rng = random.Random(f"sweep {seed}, round from {numbers[0]}")
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=rng.getrandbits(32)))
    states = optuna.trial.TrialState
    for trial in before:
        rungs = dict(trial.rungs)
        state = {"done": states.COMPLETE, "stopped": states.PRUNED}.get(trial.status, states.FAIL)
        study.add_trial(
            optuna.trial.create_trial(
                params={name: trial.settings[name] for name in distributions},
                distributions=distributions,
                value=trial.val_loss if trial.status == "done" else None,
                intermediate_values=rungs,
                state=state,
            )
        )
    asked = []
    for _ in numbers:
        params = study.ask(distributions).params
        drawn: dict[str, Any] = {}
        for name, values in space.items():
            value = params[name] if name in params else as_list(values)[0]
            drawn[name] = values.rounded(value) if isinstance(values, Between) else value
        asked.append(drawn)
    return asked


def as_list(values: Values | Between) -> Values:
    return [] if isinstance(values, Between) else values


def import_optuna() -> Any:
    """The module.  Raises ConfigError when it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{named('sampler')}: tpe needs Optuna (pip install optuna), found no module {error.name!r}"
        ) from None
    return optuna
