"""Adam (Kingma & Ba 2015), bias-corrected, and its weight decay (Loshchilov & Hutter 2019) and clipping.

The state is here; the schedule is schedule.py's, and the arithmetic one kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.config import Config
from ..kernels import compiled
from .program import aligned
from .schedule import schedule


class Adam:
    """Adam over one flat buffer, at the learning rates of the schedule."""

    def __init__(self, flat: Any, grad: Any, config: Config) -> None:
        self.m = aligned(flat.size, flat.dtype)
        self.v = aligned(flat.size, flat.dtype)
        self.config = config
        self.step_count = 0
        self.rate = schedule(config)
        # beta^t by multiplication: the platform's pow need not give the same bits everywhere
        self.beta1_t = self.beta2_t = 1.0
        self._constants = config.beta1, config.beta2, config.eps, config.weight_decay
        self.arrays = flat, self.m, self.v, grad
        self.clip = config.grad_clip
        self.squares = np.zeros(
            compiled.n_blocks(flat.size) if self.clip else 0
        )  # of the gradient's numbers, block by block

    def learning_rate(self, step_count: int | None = None) -> float:
        """The rate of the step after so many, or of the next one."""
        return self.rate(self.step_count if step_count is None else step_count)

    def numbers(self) -> tuple[float, ...]:
        """Of the next step, as microgpt_adam takes them: learning rate, betas, eps, and the two corrections; and what
        weights are multiplied by before."""
        beta1, beta2, eps, weight_decay = self._constants
        rate = self.rate(self.step_count)
        return rate, beta1, beta2, eps, 1 - self.beta1_t * beta1, 1 - self.beta2_t * beta2, 1 - rate * weight_decay

    def count(self) -> None:
        """That step has been done."""
        self.step_count += 1
        beta1, beta2, _, _ = self._constants
        self.beta1_t *= beta1
        self.beta2_t *= beta2
