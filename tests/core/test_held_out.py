"""What is held out, and how it is measured: unseen texts, every character of them, whatever the context length."""

import math
import random

import numpy as np
import pytest

from microgpt.base.config import Config
from microgpt.base.errors import ConfigError, DataError, SamplingError
from microgpt.core.documents import Documents
from microgpt.core.evaluate import Evaluator, mean
from microgpt.core.intermediates import activations
from microgpt.core.params import Parameters
from microgpt.core.sample import place

VOCAB = list("\nabcdefg")


def model(split, block_size):
    config = Config(split=split, block_size=block_size, n_embd=8, n_head=2, init_std=0.5)
    params = Parameters(config, VOCAB[split != "none" :])
    params.draw(random.Random(1), 0.5)
    return params


@pytest.mark.parametrize("split", ["line", "none"])
@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 7, 30])
def test_every_character_counts(split, block_size):
    """A document is measured to its end: beyond the context a token sees what sampling would have kept of it."""
    params = model(split, block_size)
    rng = random.Random(2)
    texts = ["".join(rng.choices("abcdefg", k=n)) for n in (1, 2, 5, 8, 9, 23)]
    tokens = params.tokens
    expected = []
    for text in texts:
        ids = [tokens.start, *tokens.ids(text), *([] if tokens.end is None else [tokens.end])]
        for i in range(len(ids) - 1):
            begin = i - place(i, block_size)[0]
            expected.append(activations(params, ids[begin : i + 2])["losses"][0, -1])
    evaluator = Evaluator(params, texts)
    losses = evaluator.losses()
    assert losses.tolist() == expected
    measure = evaluator.measure()
    assert measure.loss == math.fsum(losses) / len(losses)
    assert measure.bits_per_character == measure.loss / math.log(2)
    if split == "line":
        ends = np.cumsum([len(text) + 1 for text in texts])
        means = [part[:block_size].mean() for part in np.split(losses, ends[:-1])]
        assert measure.document_loss == pytest.approx(np.mean(means), rel=1e-14)
    else:
        assert measure.document_loss is None


def test_nothing_to_predict():
    """Empty running text has nothing to predict: alone it is refused, beside others it changes nothing."""
    params = model("none", 4)
    with pytest.raises(DataError, match="expected at least one character, found none"):
        Evaluator(params, [""])
    assert Evaluator(params, ["", "abcdefg", ""]).losses().tolist() == Evaluator(params, ["abcdefg"]).losses().tolist()


@pytest.mark.parametrize("losses", [[1.0, math.inf], [math.nan], [1e308] * 3], ids=str)
def test_a_mean_is_finite(losses):
    """A mean that is not finite, or too large to add up, raises SamplingError."""
    with pytest.raises(SamplingError, match="the model's weights are too large"):
        mean(losses)


def documents(folder, lines, **settings):
    (folder / "input.txt").write_text("\n".join(lines))
    config = Config(input=str(folder / "input.txt"), **({"val_fraction": 0.1} | settings))
    return Documents(config, config.input, random.Random(config.seed))


@pytest.mark.parametrize("copies", [1, 2, 3, 20])
def test_held_out_is_unseen(tmp_path, copies):
    """All copies of a text are on the same side, and no more documents are held out than were asked for."""
    lines = [f"text {i}" for i in range(100)] * copies + ["once"]
    found = documents(tmp_path, lines)
    assert found.n_held_out == len(found.held_out) <= 10 * copies + 1
    assert found.n_held_out > 9 * copies
    assert set(found.held_out).isdisjoint(found.training) and found.n_seen == 0
    assert sorted(found.held_out + found.training) == sorted(lines)


def test_distinct_texts_are_split_as_ever(tmp_path):
    """Without copies, the held-out documents are the last ones after the shuffle, as in older runs."""
    lines = [f"text {i}" for i in range(101)]
    new, old = documents(tmp_path, lines), documents(tmp_path, lines, val_split="documents")
    assert (new.training, new.held_out) == (old.training, old.held_out) and new.n_held_out == 10


def test_older_runs_may_have_seen_copies(tmp_path):
    """The split of older runs parts copies, and says how many held-out documents were trained on."""
    found = documents(tmp_path, ["a", "b", "c"] * 20, val_split="documents")
    assert found.n_seen == found.n_held_out == 6


def test_a_text_of_many_copies(tmp_path):
    """Where every text has more copies than may be held out, one with the fewest copies is."""
    found = documents(tmp_path, ["a"] * 50 + ["b"] * 40 + ["c"] * 60)
    assert found.held_out == ["b"] * 40 and found.n_held_out == 40
    for seed in range(5):  # among equals, the last after the shuffle
        lines = list("abcdefgh" * 20)
        random.Random(seed).shuffle(order := list(lines))
        assert documents(tmp_path, lines, seed=seed, val_fraction=0.01).held_out == order[-1:] * 20
    with pytest.raises(ConfigError, match="two different documents"):
        documents(tmp_path, ["a"] * 50)


def test_a_seed_of_its_own(tmp_path):
    """With val_seed, runs of any seed hold out the same documents, in the same order, and shuffle the rest."""
    lines = [f"text {i}" for i in range(101)]
    one, two, other = (documents(tmp_path, lines, val_seed=v, seed=s) for v, s in ((5, 1), (5, 2), (6, 1)))
    assert one.held_out == two.held_out != other.held_out
    assert one.training != two.training and sorted(one.training) == sorted(two.training)
    with pytest.raises(ConfigError, match="val_seed: expected 0 unless val_fraction is above 0"):
        Config(val_seed=1)


def test_runs_without_a_held_out_part_store_no_more_than_before():
    """Settings of the held-out part are stored only if there is one."""
    assert not {"val_split", "val_seed"} & Config().as_dict().keys()
    assert {"val_split", "val_seed"} <= Config(val_fraction=0.1).as_dict().keys()
