"""Training runs against the reference's own figures."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import INPUT, everything, golden, tiny_trainer, train

from microgpt.base.config import Config
from microgpt.base.errors import ConfigError, DataError, NotFiniteError, SamplingError
from microgpt.core.sample import Sampler
from microgpt.core.trainer import Trainer


def run(g, path=INPUT, **settings):
    """Train and sample with a golden file's settings: losses, samples and the parameters at the end."""
    names = ("seed", "num_steps", "n_layer", "n_embd", "n_head", "block_size", "temperature")
    config = Config(input=str(path), **{name: g[name] for name in names}, **settings)
    trainer = Trainer(config)
    losses = [trainer.step() for _ in range(config.num_steps)]
    sampler = Sampler(trainer.params)
    samples = [sampler.sample(trainer.rng, config.temperature) for _ in range(config.num_samples)]
    return SimpleNamespace(trainer=trainer, losses=losses, samples=samples)


def check_golden(g, result):
    """Counts, the loss of every step, the parameters at the end, the samples."""
    trainer = result.trainer
    assert len(trainer.documents.training) == g["num_docs"]
    assert trainer.tokens.size == g["vocab_size"]
    assert trainer.params.flat.size == g["num_params"]
    np.testing.assert_allclose(result.losses, g["losses"], rtol=0, atol=1e-12)
    assert list(g["final_params_sum_first_last"]) == [name for name, _, _ in trainer.params.table]
    for name, expected in g["final_params_sum_first_last"].items():
        w = trainer.params[name]
        np.testing.assert_allclose([w.sum(), w[0, 0], w[-1, -1]], expected, rtol=0, atol=1e-11, err_msg=name)
    assert result.samples == g["samples"]


@pytest.fixture(scope="module")
def default():
    return run(golden("input_default"))


def test_default_run(default):
    """The default run has the reference's loss at each of 1,000 steps, its final parameters and its 20 samples."""
    check_golden(golden("input_default"), default)


def test_two_layers():
    """So has a run with 2 layers, 3 heads of 8, a block of 8, another seed and another temperature."""
    g = golden("input_l2")
    check_golden(g, run(g))


@pytest.mark.skipif("MICROGPT_NAMES" not in os.environ, reason="MICROGPT_NAMES is not set to the path of names.txt")
def test_names():
    """So has the published run, on the file of names that it was published with."""
    g = golden("names_default")
    check_golden(g, run(g, os.environ["MICROGPT_NAMES"]))


def test_float32():
    """In float32 every loss of the default run is within 1e-5 of the reference."""
    g = golden("input_default")
    result = run(g, dtype="float32")
    assert result.trainer.params.flat.dtype == np.float32
    np.testing.assert_allclose(result.losses, g["losses"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"dtype": "float32", "batch_size": 4}])
def test_two_runs_give_equal_bits(settings):
    """The same settings give the same losses, parameters, moments and samples to the last bit."""
    g = golden("input_l2")
    first, second = run(g, **settings), run(g, **settings)
    assert first.losses == second.losses and first.samples == second.samples
    a, b = first.trainer, second.trainer
    assert a.params.flat.tobytes() == b.params.flat.tobytes()
    for name in "m", "v":
        assert a.optimizer.arrays[name].tobytes() == b.optimizer.arrays[name].tobytes()


def test_seed_matters():
    """Another seed shuffles, initialises and samples differently."""
    g = golden("input_l2")
    other = run(g | {"seed": 1})
    assert other.losses[0] != g["losses"][0] and other.samples != g["samples"]


def test_it_learns(tmp_path):
    """On a few documents the loss falls to nearly what knowing them by heart leaves, in batches that wrap around."""
    documents = ["anna", "bob", "carol", "dave"]
    trainer = train(tmp_path, documents, num_steps=300, batch_size=3)
    losses = [trainer.step() for _ in range(300)]
    # the first letter is one of four, the rest follows: log(4) over the 5, 4, 6 and 5 tokens of each
    at_best = np.mean([np.log(4) / (len(document) + 1) for document in documents])
    assert losses[0] > 2
    assert np.mean(losses[-12:]) == pytest.approx(at_best, rel=0.1)
    sampler = Sampler(trainer.params)
    samples = {sampler.sample(trainer.rng, 0.1) for _ in range(20)}
    assert samples and samples <= set(documents)


def test_greedy_sampling(default):
    """At temperature 0 the likeliest token is taken, so every sample is the same, and low temperatures agree."""
    trainer = default.trainer
    sampler = Sampler(trainer.params)
    assert len({sampler.sample(trainer.rng, t) for t in (0, 0, 0, 1e-3, 1e-6)}) == 1


def test_samples_end_with_the_block(tmp_path):
    """A sample never has more characters than the block has tokens."""
    trainer = train(tmp_path, ["abcabcabcabcabc"], num_steps=50, block_size=4)
    for _ in range(50):
        trainer.step()
    sampler = Sampler(trainer.params)
    assert max(len(sampler.sample(trainer.rng, 1.0)) for _ in range(20)) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loss_not_finite(tmp_path, dtype, bad):
    """A loss that is not finite raises, names its step and leaves the parameters as they were."""
    trainer = train(tmp_path, ["ab"], num_steps=9, dtype=dtype)
    trainer.step()
    trainer.step()
    trainer.params["wte"][:] = bad
    before = trainer.params.flat.tobytes()
    with pytest.raises(NotFiniteError, match="step 3") as raised:
        trainer.step()
    assert raised.value.step == 3
    assert trainer.params.flat.tobytes() == before


def test_sampling_not_finite(tmp_path):
    """Where the logits are not finite nothing is drawn, at no temperature: the sampler raises."""
    trainer = train(tmp_path, ["ab"])
    sampler = Sampler(trainer.params)
    for bad in (np.nan, np.inf):
        trainer.params["lm_head"][:] = bad
        for temperature in (0, 1.0):
            with pytest.raises(SamplingError, match="finite"):
                sampler.sample(trainer.rng, temperature)


def test_errors_of_a_trainer(tmp_path, monkeypatch):
    """A trainer refuses a missing file, and a model that no memory holds, before it makes any of it."""
    with pytest.raises(DataError, match=r"missing\.txt"):
        Trainer(Config(input=str(tmp_path / "missing.txt")))
    with pytest.raises(ConfigError, match="n_embd 65536"):
        train(tmp_path, ["ab"], n_embd=65536, n_head=1)
    monkeypatch.setattr("os.sysconf", lambda name: 2**30)  # however much memory there is
    with pytest.raises(ConfigError, match="n_embd 65536"):
        train(tmp_path, ["ab"], n_embd=65536, n_head=1)


def test_held_out_loss_not_finite(tmp_path):
    """A held-out loss that is not finite names its step, and is no measurement."""
    trainer = tiny_trainer(tmp_path, 3, val_fraction=0.3)
    trainer.params["lm_head"][:] = np.nan
    with pytest.raises(NotFiniteError, match="step 3: expected a finite loss, found infinity or NaN on the held-out"):
        trainer.evaluate()
    assert trainer.best_val_loss is None and trainer.n_worse == 0


def test_a_tie_is_no_new_best(tmp_path):
    """A held-out loss that is only as good as the best counts among those that --patience waits for."""
    trainer = tiny_trainer(tmp_path, val_fraction=0.3)
    assert [trainer.record(loss) for loss in (2.0, 2.0, 2.5, 1.5)] == [True, False, False, True]
    assert (trainer.best_val_loss, trainer.n_worse) == (1.5, 0)
    assert not trainer.record(1.5) and trainer.n_worse == 1


def test_evaluate_changes_nothing(tmp_path):
    """Evaluating is a query: it counts no measurement, and the run continues with the same bits."""
    trainer, same = (tiny_trainer(tmp_path, 3, val_fraction=0.3) for _ in range(2))
    before = everything(trainer.checkpoint())
    assert trainer.evaluate() == trainer.evaluate()
    assert everything(trainer.checkpoint()) == before
    assert trainer.step() == same.step() and everything(trainer.checkpoint()) == everything(same.checkpoint())


def test_attention_is_that_of_the_last_batch(tmp_path):
    """Each step's attention weights have its own documents' lengths, and rows that sum to 1."""
    trainer = train(tmp_path, ["a", "abcdef", "abc", "ab"], num_steps=4, batch_size=2, n_embd=4, n_head=2)
    lengths = [len(document) + 1 for document in trainer.documents.training]
    for step in range(4):
        trainer.step()
        first = 2 * step % 4
        found = trainer.attention(0)
        assert [weights.shape for weights in found] == [(2, n, n) for n in lengths[first : first + 2]]
        assert all(np.allclose(weights.sum(axis=2), 1) for weights in found)


def test_repr(tmp_path):
    """A trainer says in one line where it is."""
    trainer = tiny_trainer(tmp_path, 3)
    assert repr(trainer) == f"<Trainer at step 3 of 8: {trainer.params.flat.size:,} parameters>"


@pytest.mark.parametrize("setting", ["n_embd", "n_layer", "block_size"])
def test_a_checkpoint_of_another_size(tmp_path, setting):
    """A Trainer refuses a checkpoint of a model of another size, and names the setting."""
    trainer = tiny_trainer(tmp_path)
    size = getattr(trainer.config, setting)
    with pytest.raises(ConfigError, match=f"{setting}: expected {size}, as in the checkpoint, found {2 * size}"):
        Trainer(replace(trainer.config, **{setting: 2 * size}), trainer.checkpoint())
