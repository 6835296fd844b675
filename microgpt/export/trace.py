"""A trace: every number that the first steps of a run compute, to check a port against (docs/porting.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base import memory
from ..base.config import Config
from ..base.errors import ConfigError, named
from ..core.intermediates import collect_activations
from ..core.params import by_rows
from ..core.program import Replay
from ..core.trainer import Trainer, gradient_of, record
from ..runs import safetensors


def to_bytes(config: Config, steps: int, input: str | None = None) -> bytes:
    """The trace as a .safetensors file; its metadata holds the settings, vocabulary and number of steps."""
    trainer = Trainer(config, input=input)
    arrays = trace(trainer, steps)
    state = {"config": config.as_dict(), "vocab": "".join(trainer.vocab), "steps": steps}
    return safetensors.pack(arrays, state)


def trace(trainer: Trainer, steps: int) -> dict[str, Any]:
    """Run the next `steps` steps of a trainer; returns {name: array}, with the names of model.py and the run's dtype.

    "step0.wte" is a weight before the first step.  The arrays of step 1 begin with "step1.", and so on:

    - inputs: "tokens", "positions", "targets", "weights", each [tokens]
    - intermediates and their gradients: "layer0.q", "layer0.dq", ..., with one row per token
    - "loss" (in nats, before the update) and "learning_rate", each one float64
    - for each weight: its gradient "grad.wte", Adam's "m.wte" and "v.wte", and the weight after the step, "wte".
      These are outputs x inputs; embeddings have one row per token or position.

    Raises ConfigError if fewer steps are left, MemoryError, and the exceptions of Trainer.step.
    """
    config, d, params = trainer.config, trainer.dataset, trainer.params
    if (left := config.num_steps - trainer.step_count) < steps:
        raise ConfigError(f"expected at most {left} of {named('num_steps')}, found {steps}", argument="steps")
    ops = record(config, trainer.tokens.size, keep=True)
    n_numbers = ops.count(d.max_columns) + config.n_layer * config.n_head * d.max_columns**2 + 4 * params.flat.size
    # twice the size: the arrays and the file
    memory.require(2 * steps * n_numbers * params.flat.itemsize, f"a trace of {steps} steps")
    gradients = {gradient_of(name): view for name, view in trainer.grads.items()}
    replay = Replay(ops, config.dtype, d.max_columns, {**params, **gradients, **d.arrays})

    saved: dict[str, Any] = {}
    state = {"": params.flat, "grad.": trainer.grads.flat}
    state |= {f"{name}.": array for name, array in trainer.optimizer.arrays.items()}

    def keep(step: int, arrays: dict[str, Any]) -> None:
        saved.update({f"step{step}.{name}": np.array(array, order="C") for name, array in arrays.items()})

    keep(trainer.step_count, by_rows(params))
    for step in range(trainer.step_count + 1, trainer.step_count + steps + 1):
        start, n = d.batch(step - 1)
        replay.over(start, n)
        columns = {name: array[start : start + n] for name, array in d.arrays.items()}
        keep(step, columns)
        offsets = np.append(np.flatnonzero(columns["positions"] == 0), n)
        keep(
            step, {name: by_columns(array) for name, array in collect_activations(ops, replay, offsets, config).items()}
        )
        keep(step, {"learning_rate": np.float64(trainer.learning_rate(step - 1)), "loss": np.float64(trainer.step())})
        for prefix, flat in state.items():
            keep(step, {prefix + name: rows for name, rows in by_rows(params.matrices(flat)).items()})
    return saved


def by_columns(array: Any) -> Any:
    """One row per token; the last dimension is dropped if each token has a single number."""
    return array if array.ndim == 3 else array[0] if len(array) == 1 else array.T
