"""The losses of one training run."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from .metrics import lines_of_steps


@dataclass(repr=False)
class History:
    """The losses of one training run, in nats.

    - `losses`: an array of floats, one for each step, starting at step `first_step`
    - `steps`: the numbers of these steps, a range
    - `val_losses`: a list of (step, held-out loss), one for each evaluation
    """

    first_step: int = 1
    losses: array[float] = field(default_factory=lambda: array("d"))  # eight bytes each
    val_losses: list[tuple[int, float]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<History of {len(self.losses)} steps, {len(self.val_losses)} held-out losses>"

    @property
    def steps(self) -> range:
        """The numbers of the steps in `losses`."""
        return range(self.first_step, self.first_step + len(self.losses))

    @classmethod
    def read(cls, file: Iterable[bytes], n_steps: int) -> History:
        """The history in the lines of a metrics file: consecutive steps up to `n_steps`."""
        history = cls()
        with suppress(ValueError, TypeError, KeyError, RecursionError):  # stop at a damaged line
            for line in lines_of_steps(file, n_steps):
                values, step = json.loads(line[0]), int(line[1])
                measured = [(step, float(values["val_loss"]))] if "val_loss" in values else []
                if not history.losses:
                    history.first_step = step
                if step != history.steps.stop:
                    break
                history.losses.append(values["loss"])
                history.val_losses += measured
        return history
