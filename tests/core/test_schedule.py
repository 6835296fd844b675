"""Learning rates against the formulas, with the platform's cosine."""

import math

import pytest

from microgpt.base.config import Config
from microgpt.core.schedule import cos_pi, schedule

FALL = {
    "linear": lambda part: 1 - part,
    "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
    "constant": lambda part: 1,
}


def rates(**settings):
    config = Config(**settings)
    rate = schedule(config)
    return [rate(done) for done in range(config.num_steps)]


@pytest.mark.parametrize("warmup", [0, 1, 7, 100])
@pytest.mark.parametrize("least", [0.0, 0.007, 0.3])
@pytest.mark.parametrize("name", FALL)
def test_formula(name, least, warmup):
    """Over the warm-up the rate rises in equal steps to the full one; then it falls towards the least one."""
    found = rates(learning_rate=0.3, min_learning_rate=least, schedule=name, warmup_steps=warmup, num_steps=100)
    falling = [least + (0.3 - least) * FALL[name](i / (100 - warmup)) for i in range(100 - warmup)]
    expected = [0.3 * i / warmup for i in range(1, warmup + 1)] + falling
    assert found == pytest.approx(expected, rel=1e-12 if name == "cosine" else 1e-15, abs=0)


@pytest.mark.parametrize("name", FALL)
def test_ends(name):
    """The last step of the warm-up and the first after it have the full rate, that after the last would have the least,
    and one in the middle is halfway down; no step is below the least, nor above the one before it."""
    for least in 0.0, 0.004:
        rate = schedule(
            Config(schedule=name, learning_rate=0.1, min_learning_rate=least, warmup_steps=20, num_steps=220)
        )
        assert rate(19) == 0.1 == pytest.approx(rate(20), rel=1e-15)
        if name != "constant":
            assert rate(220) == pytest.approx(least, abs=1e-17)
            assert rate(120) == pytest.approx((0.1 + least) / 2, rel=1e-15)
            assert all(rate(i) > rate(i + 1) > least for i in range(20, 219))


def test_the_reference():
    """The defaults give lr * (1 - step / num_steps), bit for bit."""
    for n, lr in (1000, 0.01), (7, 0.3), (100_000, 1e-3):
        assert rates(num_steps=n, learning_rate=lr) == [lr * (1 - s / n) for s in range(n)]


def test_nothing_but_warmup():
    """A warm-up may be as long as the run."""
    assert rates(num_steps=4, warmup_steps=4, learning_rate=0.5, schedule="cosine") == [0.125, 0.25, 0.375, 0.5]


def test_cosine():
    """The cosine is exact at both ends and in the middle, and the platform's to 1e-15."""
    assert [cos_pi(0.0), cos_pi(0.5), cos_pi(1.0)] == [1, 0, -1]
    for i in range(1001):
        assert cos_pi(i / 1000) == pytest.approx(math.cos(math.pi * i / 1000), abs=1e-15)
