"""Adam (Kingma & Ba 2015), bias-corrected: the state and the schedule are here, the arithmetic is one kernel."""

from __future__ import annotations

from typing import Any

from .config import Config
from .program import aligned


class Adam:
    """Adam over one flat buffer.  learning_rate falls linearly from its start to 0 over num_steps."""

    def __init__(self, flat: Any, grad: Any, config: Config) -> None:
        self.m = aligned(flat.size, flat.dtype)
        self.v = aligned(flat.size, flat.dtype)
        self.config = config
        self.step_count = 0
        # beta^t by multiplication: the platform's pow need not give the same bits everywhere
        self.beta1_t = self.beta2_t = 1.0
        self._constants = config.beta1, config.beta2, config.eps
        self.arrays = flat, self.m, self.v, grad

    def learning_rate(self, step_count: int | None = None) -> float:
        """The rate of the step after so many, or of the next one."""
        done = self.step_count if step_count is None else step_count
        return self.config.learning_rate * (1 - done / self.config.num_steps)

    def numbers(self) -> tuple[float, ...]:
        """Of the next step, as microgpt_adam takes them: learning rate, betas, eps, and the two corrections."""
        beta1, beta2, eps = self._constants
        return self.learning_rate(), beta1, beta2, eps, 1 - self.beta1_t * beta1, 1 - self.beta2_t * beta2

    def count(self) -> None:
        """That step has been done."""
        self.step_count += 1
        beta1, beta2, _ = self._constants
        self.beta1_t *= beta1
        self.beta2_t *= beta2
