"""The plan of a sweep: what sweep.json keeps, and what follows from it."""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..base.config import Config, Sweep
from ..base.errors import ConfigError, DataError, named
from ..base.files import Folder
from ..base.settings import Given
from ..base.terminal import reason
from ..core.documents import Documents
from ..runs.inputs import input_of_trial
from ..runs.run import SWEEP
from .space import (
    Space,
    as_text,
    bounds,
    grid_point,
    grid_size,
    import_optuna,
    random_point,
    space_of,
    to_json,
    tpe_points,
)
from .trial import Trial

VAL_FRACTION = 0.1  # unless it is given: without a held-out part there is nothing to compare


@dataclass
class Plan:
    config: Sweep
    space: Space
    cwd: str  # where the sweep was begun
    data_sha256: str = ""
    n_rungs: int = 0  # that `round` has behind it
    round: list[Trial] = field(default_factory=list)  # the last that came to a rung, as it was then

    @classmethod
    def of(cls, own: Given, given: dict[str, Any]) -> Plan:
        """A new one.  Raises ConfigError, or DataError, when none of its trials could be trained."""
        config, space = Sweep(**own), space_of({"val_fraction": VAL_FRACTION} | given)
        if config.sampler == "tpe":
            import_optuna()
        elif config.sampler == "grid":
            size = grid_size(space)
            config = replace(config, trials=config.trials or size)
            if config.trials > size:
                raise ConfigError(
                    f"expected at most {size}, the size of the grid, found {config.trials}", argument="trials"
                )
        most = bounds(space.get("num_steps", [Config.num_steps]))[1]
        if config.steps and config.steps[-1] >= most:
            raise ConfigError(
                f"expected less than {named('num_steps')} {most}, found {config.steps[-1]}", argument="rungs"
            )
        plan = cls(config, space, os.getcwd())
        plan.data_sha256 = plan.documents().sha256
        return plan

    @classmethod
    def read(cls, folder: Folder) -> Plan:
        """That of a sweep that was begun.  Raises DataError."""
        try:
            with open(folder.file(SWEEP), "rb", opener=folder.open) as file:
                saved = json.load(file)
            trials = [Trial(**t) for t in saved.pop("round")]
            return cls(Sweep(**saved.pop("config")), space_of(saved.pop("space")), **saved, round=trials)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"expected a sweep's settings: {reason(error)}", subject=folder.file(SWEEP)) from None

    def write(self, folder: Folder) -> None:
        """Write what read() reads."""
        text = asdict(self) | {"space": {name: to_json(values) for name, values in self.space.items()}}
        folder.write(SWEEP, (json.dumps(text, indent=1) + "\n").encode())

    def resume(self, own: Given, given: dict[str, Any]) -> None:
        """Change what may be changed.  Raises ConfigError for what may not, and DataError when the text is another."""
        for name, values in space_of(given).items():
            must_equal(name, as_text(self.space.get(name, [getattr(Config, name)])), as_text(values))
        before, self.config = self.config, replace(self.config, **own)
        # trials are added to whole rounds only: a part of a round was judged as it was
        more = self.config.trials > before.trials and (self.independent or before.trials % before.round == 0)
        for f in fields(Sweep):
            if not f.metadata["free"] and not (f.name == "trials" and more):
                must_equal(f.name, getattr(before, f.name), getattr(self.config, f.name))
        self.documents().must_be(self.data_sha256)

    @property
    def independent(self) -> bool:
        """Whether no trial depends on those before it."""
        return self.config.sampler != "tpe" and not self.config.rungs

    def choose(self, numbers: range, before: list[Trial]) -> list[dict[str, Any]]:
        """The settings of a round."""
        if self.config.sampler == "tpe":
            return tpe_points(self.space, self.config.sweep_seed, numbers, before)
        if self.config.sampler == "grid":
            return [grid_point(self.space, number) for number in numbers]
        return [random_point(self.space, self.config.sweep_seed, number) for number in numbers]

    def documents(self) -> Documents:
        """Those of the first trial that can be.  Raises what is wrong with all of a first round, or with the text."""
        errors = []
        for settings in self.choose(range(min(self.config.round, self.config.trials)), []):
            try:
                config = Config(**settings)
            except ConfigError as error:
                errors.append(error)
            else:
                return Documents(config, input_of_trial(config.input, self.cwd), random.Random(config.seed))
        raise ConfigError(f"none of the first {len(errors)} trials can be: {errors[0]}")


def must_equal(name: str, before: object, now: object) -> None:
    if now != before:
        raise ConfigError(f"expected {before}, with which the sweep to resume began, found {now}", argument=name)
