"""Shards: a batch in parts has the gradient of the whole, in less memory, and in one order."""

import numpy as np
import pytest
from helpers import INPUT

from microgpt.base.config import Config
from microgpt.base.errors import NotFiniteError
from microgpt.core.shards import Tree, cut
from microgpt.core.trainer import Trainer


def trainer(shards, threads=1, **settings):
    settings = {"batch_size": 12, "num_steps": 40, "n_embd": 8, "n_head": 2, "learning_rate": 0.02} | settings
    return Trainer(Config(input=str(INPUT), shards=shards, **settings), threads=threads)


@pytest.mark.parametrize("settings", [{}, {"grad_clip": 0.5, "weight_decay": 0.1}, {"split": "none", "block_size": 7}])
@pytest.mark.parametrize("shards", [2, 4, 8])
def test_gradients(shards, settings):
    """The gradients and losses of some shards are those of one, to 1e-12, step after step."""
    whole, parts = trainer(1, **settings), trainer(shards, **settings)
    for _ in range(20):
        assert parts.step() == pytest.approx(whole.step(), abs=1e-12)
        np.testing.assert_allclose(parts.grads.flat, whole.grads.flat, rtol=0, atol=1e-12)
    np.testing.assert_allclose(parts.params.flat, whole.params.flat, rtol=0, atol=1e-10)  # Adam divides by small roots


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_threads(dtype):
    """The bits do not depend on how many threads work on each shard."""
    found = set()
    for threads in 1, 2, 3:
        t = trainer(4, threads, dtype=dtype, grad_clip=0.5)
        losses = [t.step() for _ in range(10)]
        found.add((*losses, t.params.flat.tobytes(), t.optimizer.arrays["v"].tobytes()))
    assert len(found) == 1


def test_memory():
    """Activations are those of the largest shard alone."""
    whole, parts = (trainer(s, batch_size=64) for s in (1, 8))
    assert parts.replay.max_tokens * 4 < whole.replay.max_tokens
    assert parts.replay.max_tokens >= max(parts.dataset.part(step, *s)[1] for step in range(30) for s in parts.shards)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_tree(n, dtype):
    """The sum is that of the tree which adds neighbours, to the bit, and halves can be summed apart."""
    gradients = np.random.default_rng(n).standard_normal((n, 33)).astype(dtype) * 10.0 ** np.arange(n)[:, None]
    gradients = gradients.astype(dtype)
    losses = (gradients[:, 0] * 0.1).astype(float).tolist()

    def whole(values):
        return values[0] if len(values) == 1 else whole(values[: len(values) // 2]) + whole(values[len(values) // 2 :])

    def summed(gradients, losses):
        gradient = np.empty(33, dtype)
        tree = Tree(len(gradients), gradient)
        for i, (one, loss) in enumerate(zip(gradients, losses)):
            gradient[:] = one
            total = tree.add(i, loss)
        return gradient, total

    gradient, loss = summed(gradients, losses)
    assert gradient.tobytes() == whole(list(gradients)).tobytes() and loss == whole(losses)
    if n > 1:
        halves = [summed(gradients[part], losses[part]) for part in (slice(0, n // 2), slice(n // 2, n))]
        assert (halves[0][0] + halves[1][0]).tobytes() == gradient.tobytes()
        assert halves[0][1] + halves[1][1] == loss


@pytest.mark.parametrize("batch_size, n_shards", [(1, 1), (8, 8), (12, 8), (13, 4)])
def test_cut(batch_size, n_shards):
    """Every document is in one shard, none is empty, and their sizes differ by one at most."""
    shards = cut(batch_size, n_shards)
    assert [i for begin, n in shards for i in range(begin, begin + n)] == list(range(batch_size))
    sizes = [n for _, n in shards]
    assert len(shards) == n_shards and min(sizes) > 0 and max(sizes) - min(sizes) <= 1


def test_a_loss_that_is_not_finite():
    """Nothing is updated when one shard's loss is not finite."""
    t = trainer(4)
    start, _ = t.dataset.part(0, *t.shards[2])
    t.params["wte"][:, t.dataset.arrays["tokens"][start + 1]] = np.nan
    before = t.params.flat.tobytes()
    with pytest.raises(NotFiniteError, match="step 1"):
        t.step()
    assert t.params.flat.tobytes() == before


def test_a_loss_is_summed_in_double_precision():
    """In float32 the loss of shards is the sum of the losses' products with their weights, each in float64."""
    t, expected = trainer(2, dtype="float32"), 0.0
    for shard in t.shards:
        start, n = t.dataset.part(0, *shard)
        t.replay.over(start, n)
        losses, weights = t.replay.values["losses"][0, :n].tolist(), t.dataset.arrays["weights"][start : start + n]
        products = 0.0
        for loss, weight in zip(losses, weights.tolist()):
            products += loss * weight
        expected += products
    assert t.step() == expected != float(np.float32(expected))
