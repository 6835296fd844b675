"""Many random numbers at once: the same ones that random.Random, the reference's generator, draws one by one."""

import random
from typing import Any

import numpy as np


def uniform(rng: random.Random, n: int) -> Any:
    """What n calls of rng.random() would return; each number takes 53 bits of two 32-bit words."""
    words = np.frombuffer(rng.getrandbits(64 * n).to_bytes(8 * n, "little"), "<u4").reshape(n, 2)
    high, low = words[:, 0] >> np.uint32(5), words[:, 1] >> np.uint32(6)
    return (high * 2.0**26 + low) / 2.0**53


def permutation(rng: random.Random, n: int) -> Any:
    """A random permutation of 0 to n - 1: the order that sorts n uniform random numbers."""
    return np.argsort(uniform(rng, n), kind="stable")
