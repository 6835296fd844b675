"""Schedules: the learning rate of each step.

By the sums and products of plain numbers, so that it is the same everywhere: the platform's cos need not be.
"""

import math
from collections.abc import Callable

from ..base.config import Config

# what is left of the way from the learning rate to the least, at a part of the time
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda part: 1 - part,
    "cosine": lambda part: 0.5 * (1 + cos_pi(part)),
    "constant": lambda part: 1.0,
}
SERIES = [(-1) ** k / math.factorial(2 * k + 1) for k in reversed(range(12))]  # of sin(x) / x in x^2


def cos_pi(x: float) -> float:
    """cos(pi x) for x from 0 to 1, as the sine of what is left to pi / 2."""
    angle = math.pi * (0.5 - x)
    square, total = angle * angle, 0.0
    for factor in SERIES:
        total = total * square + factor
    return angle * total


def schedule(config: Config) -> Callable[[int], float]:
    """rate(done): the learning rate of the step after so many.

    Over the warm-up steps it rises to config.learning_rate; from then on it falls to min_learning_rate at the end.
    """
    fall, warmup = SCHEDULES[config.schedule], config.warmup_steps
    least, way = config.min_learning_rate, config.learning_rate - config.min_learning_rate
    n = max(1, config.num_steps - warmup)

    def rate(done: int) -> float:
        if done < warmup:
            return config.learning_rate * ((done + 1) / warmup)
        return least + way * fall((done - warmup) / n)

    return rate
