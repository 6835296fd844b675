"""A checkpoint: a run at one step.  runs/checkpoint.py writes and reads it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..base.config import Config


@dataclass
class Checkpoint:
    """All that a run needs to resume exactly, except its documents, which it knows by their hash."""

    config: Config
    vocab: list[str]
    data_sha256: str
    step: int  # how many steps are done
    scalars: dict[str, float]  # of the optimizer, by its own names
    best_val_loss: float | None
    n_worse: int  # measurements of the held-out loss since the best one
    rng_state: tuple[Any, ...]  # of random.Random
    params: dict[str, NDArray[Any]]  # name: rows x columns
    arrays: dict[str, NDArray[Any]]  # of the optimizer, by its own names: as many numbers as there are parameters

    @classmethod
    def beginning(
        cls, config: Config, vocab: list[str], data_sha256: str, params: dict[str, NDArray[Any]]
    ) -> Checkpoint:
        """A run with these weights before its first step; any optimizer can continue from it."""
        rng_state = random.Random(config.seed).getstate()
        return cls(config, vocab, data_sha256, 0, {}, None, 0, rng_state, params, {})
