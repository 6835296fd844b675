"""Schedules: the learning rate of each step.

They use only sums and products, which give the same bits everywhere; the platform's cos may not.
"""

import math
from collections.abc import Callable

from ..base.config import Config

# the part of the decay that is still to come, at a fraction of the steps after warm-up
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda fraction: 1 - fraction,
    "cosine": lambda fraction: 0.5 * (1 + cos_pi(fraction)),
    "constant": lambda fraction: 1.0,
}
SERIES = [(-1) ** k / math.factorial(2 * k + 1) for k in reversed(range(12))]  # of sin(x) / x in x^2


def cos_pi(x: float) -> float:
    """cos(pi x) for x from 0 to 1, computed as sin(pi (1/2 - x))."""
    angle = math.pi * (0.5 - x)
    square, total = angle * angle, 0.0
    for factor in SERIES:
        total = total * square + factor
    return angle * total


def schedule(config: Config) -> Callable[[int], float]:
    """rate(done): the learning rate of the step after `done` steps.

    It rises to config.learning_rate during warm-up, then falls to min_learning_rate at the last step.
    """
    decay, warmup = SCHEDULES[config.schedule], config.warmup_steps
    minimum, span = config.min_learning_rate, config.learning_rate - config.min_learning_rate
    n = max(1, config.num_steps - warmup)

    def rate(done: int) -> float:
        if done < warmup:
            return config.learning_rate * ((done + 1) / warmup)
        return minimum + span * decay((done - warmup) / n)

    return rate
