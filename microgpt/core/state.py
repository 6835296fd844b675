"""A checkpoint: the state of a run at one step.  runs/checkpoint.py writes and reads it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..base.config import Config


@dataclass
class Checkpoint:
    """Everything that a run needs to resume exactly, except its documents; it stores only their SHA-256."""

    config: Config
    vocab: list[str]
    data_sha256: str
    step: int  # number of completed steps
    scalars: dict[str, float]  # the optimizer's numbers, by its own names
    best_val_loss: float | None
    n_worse: int  # evaluations of the held-out loss since the best one
    rng_state: tuple[Any, ...]  # from random.Random.getstate()
    params: dict[str, NDArray[Any]]  # name -> rows x columns
    arrays: dict[str, NDArray[Any]]  # the optimizer's arrays, each as long as the flat parameters

    @classmethod
    def beginning(
        cls, config: Config, vocab: list[str], data_sha256: str, params: dict[str, NDArray[Any]]
    ) -> Checkpoint:
        """A run with these weights before its first step.  Training can start from it with any optimizer."""
        rng_state = random.Random(config.seed).getstate()
        return cls(config, vocab, data_sha256, 0, {}, None, 0, rng_state, params, {})
