"""The plan of a sweep: the contents of sweep.json, and the settings that each round tries."""

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
from .records import Trial
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
    varied_settings,
)

VAL_FRACTION = 0.1  # the default here, because trials are compared by their held-out losses


@dataclass
class Plan:
    config: Sweep
    space: Space
    cwd: str  # the working directory in which the sweep started
    data_sha256: str = ""
    n_rungs: int = 0  # the number of rungs that `round` has passed
    round: list[Trial] = field(default_factory=list)  # the last round that reached a rung, in its state then

    @classmethod
    def of(cls, own: Given, given: dict[str, Any]) -> Plan:
        """A new plan.  Raises ConfigError or DataError if no trial of the first round could be trained."""
        config, given = Sweep(**own), {"val_fraction": VAL_FRACTION} | given
        space = space_of(given)
        if "seed" in varied_settings(space):  # or else each trial would hold out other documents
            space = space_of({"val_seed": 1} | given)
        if config.sampler == "tpe":
            import_optuna()
        elif config.sampler == "grid":
            size = grid_size(space)
            config = replace(config, trials=config.trials or size)
            if config.trials > size:
                raise ConfigError(
                    f"expected at most {size}, the size of the grid, found {config.trials}", argument="trials"
                )
        max_steps = bounds(space.get("num_steps", [Config.num_steps]))[1]
        if config.steps and config.steps[-1] >= max_steps:
            raise ConfigError(
                f"expected less than {named('num_steps')} {max_steps}, found {config.steps[-1]}", argument="rungs"
            )
        plan = cls(config, space, os.getcwd())
        plan.data_sha256 = plan.documents().sha256
        return plan

    @classmethod
    def read(cls, folder: Folder) -> Plan:
        """The saved plan of the sweep in `folder`.  Raises DataError if it is damaged."""
        try:
            with open(folder.file(SWEEP), "rb", opener=folder.open) as file:
                saved = json.load(file)
            trials = [Trial.from_json(t, paused=True) for t in saved.pop("round")]
            return cls(Sweep(**saved.pop("config")), space_of(saved.pop("space")), **saved, round=trials)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else reason(error)
            raise DataError(f"expected the settings of a sweep: {why}", subject=folder.file(SWEEP)) from None

    def write(self, folder: Folder) -> None:
        text = asdict(self) | {"space": {name: to_json(values) for name, values in self.space.items()}}
        folder.write(SWEEP, (json.dumps(text, indent=1) + "\n").encode())

    def resume(self, own: Given, given: dict[str, Any]) -> None:
        """Apply new settings.  Raises ConfigError for one that must not change, DataError if the input has changed."""
        for name, values in space_of(given).items():
            must_equal(name, as_text(self.space.get(name, [getattr(Config, name)])), as_text(values))
        before, self.config = self.config, replace(self.config, **own)
        # the rungs judged an incomplete last round as it was, so trials can be added to whole rounds only
        more = self.config.trials > before.trials and (self.independent or before.trials % before.round == 0)
        for f in fields(Sweep):
            if not f.metadata["free"] and not (f.name == "trials" and more):
                must_equal(f.name, getattr(before, f.name), getattr(self.config, f.name))
        self.documents().must_be(self.data_sha256)

    @property
    def independent(self) -> bool:
        """Whether no trial depends on earlier trials."""
        return self.config.sampler != "tpe" and not self.config.rungs

    def choose(self, numbers: range, before: list[Trial]) -> list[dict[str, Any]]:
        """The settings of the trials with these numbers, given the trials before them."""
        if self.config.sampler == "tpe":
            return tpe_points(self.space, self.config.sweep_seed, numbers, before)
        if self.config.sampler == "grid":
            return [grid_point(self.space, number) for number in numbers]
        return [random_point(self.space, self.config.sweep_seed, number) for number in numbers]

    def documents(self) -> Documents:
        """The documents of the first trial with possible settings.  Raises ConfigError if the first round has none."""
        errors = []
        for settings in self.choose(range(min(self.config.round, self.config.trials)), []):
            try:
                config = Config(**settings)
            except ConfigError as error:
                errors.append(error)
            else:
                documents = Documents(config, input_of_trial(config.input, self.cwd), random.Random(config.seed))
                documents.notice_unusual(bounds(self.space.get("block_size", [Config.block_size]))[0])
                return documents
        raise ConfigError(f"all of the first {len(errors)} trials have impossible settings: {errors[0]}")


def must_equal(name: str, before: object, now: object) -> None:
    if now != before:
        raise ConfigError(f"expected {before}, as when the sweep started, found {now}", argument=name)
