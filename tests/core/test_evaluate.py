"""eval and score: the losses of any texts, equal to what training computes."""

import json
import math
import re

import numpy as np
import pytest
from helpers import microgpt, tiny_trainer, write_names

from microgpt import api
from microgpt.base.errors import DataError, SamplingError
from microgpt.core.evaluate import Evaluator
from microgpt.core.trainer import Trainer
from microgpt.runs import checkpoint


@pytest.fixture
def folder(tmp_path):
    """A directory with a small run in it."""
    write_names(tmp_path / "names.txt", 100)
    flags = ["--input", "names.txt", "--num-steps", 20, "--n-embd", 8, "--block-size", 8, "--num-samples", 0]
    assert microgpt("train", "--out", "run", *flags, cwd=tmp_path).returncode == 0
    return tmp_path


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_the_loss_of_training(tmp_path, dtype):
    """The mean of the documents' mean losses is the loss of one training step on a batch of them all."""
    trainer = tiny_trainer(tmp_path, batch_size=60, dtype=dtype)
    evaluator = Evaluator(trainer.params, trainer.documents.training)
    found = evaluator.measure().document_loss
    np.testing.assert_allclose(found, trainer.step(), rtol=1e-12 if dtype == "float64" else 1e-5)


def test_any_number_of_columns(tmp_path, monkeypatch):
    """However many documents are run at once, every loss is the same to the last bit."""
    trainer = tiny_trainer(tmp_path, 5)
    expected = Evaluator(trainer.params, trainer.documents.training).losses()
    for columns in 1, 5, 64:
        monkeypatch.setattr("microgpt.core.evaluate.COLUMNS", columns)
        found = Evaluator(trainer.params, trainer.documents.training).losses()
        np.testing.assert_array_equal(found, expected)


def test_scores_are_log_probabilities(tmp_path):
    """The probabilities of all one-character texts, of the empty one and of those that go on sum to 1."""
    trainer = tiny_trainer(tmp_path, 5)
    model = api.Model(trainer.checkpoint())
    first = sum(math.exp(-model.score(char).losses[0]) for char in model.vocab)
    assert first + math.exp(-model.score("").losses[0]) == pytest.approx(1, abs=1e-12)
    score = model.score("abba")
    assert len(score.losses) == 5 and score.loss == pytest.approx(np.mean(score.losses))


def test_eval_command(folder):
    """eval prints the mean loss and the bits per character of the run's own file or another, and the same as JSON."""
    plain = microgpt("eval", "run", cwd=folder)
    assert re.fullmatch(
        r"input: .*\nnum docs: 100\nloss: \d\.\d{4} \(mean over the characters and ends, in nats\)\n"
        r"bits per character: \d\.\d{4} \(the same in bits\)\n"
        r"document loss: \d\.\d{4} \(mean of per-document means, as in training, in nats\)\n",
        plain.stdout,
    )
    (folder / "other.txt").write_text("abc\nba\n")
    found = json.loads(microgpt("eval", "run", "--input", "other.txt", "--json", cwd=folder).stdout)
    lines = microgpt("score", "run", "abc", "ba", "--json", cwd=folder).stdout.splitlines()
    scores = [json.loads(line) for line in lines]
    assert found["n_documents"] == 2
    assert found["document_loss"] == pytest.approx(np.mean([score["loss"] for score in scores]))
    assert found["loss"] == pytest.approx(np.mean([loss for score in scores for loss in score["losses"]]))
    assert found["bits_per_character"] == pytest.approx(np.mean([bit for score in scores for bit in score["bits"]]))


def test_eval_of_long_documents(folder):
    """Documents longer than the context count to their end, in eval as in score."""
    (folder / "long.txt").write_text("abcdefgh" * 3)
    process = microgpt("eval", "run", "--input", "long.txt", "--json", cwd=folder)
    found = json.loads(process.stdout)
    score = json.loads(microgpt("score", "run", "abcdefgh" * 3, "--json", cwd=folder).stdout)
    assert (found["n_characters"], len(score["losses"]), process.stderr) == (24, 25, "")
    assert found["loss"] == pytest.approx(score["loss"], rel=1e-14)
    assert found["document_loss"] == pytest.approx(np.mean(score["losses"][:8]), rel=1e-14)  # the context is 8


def test_score_command(folder):
    """score prints for each text its loss and the bits of each character and of the end."""
    process = microgpt("score", "run", "abba", "", cwd=folder)
    number = r" \d+\.\d\d"
    first, second = process.stdout.splitlines()
    characters = "  ".join(char + number for char in ["a", "b", "b", "a", "<end>"])
    assert re.fullmatch(rf"abba: loss \d+\.\d{{4}}, bits  {characters}", first)
    assert re.fullmatch(rf": loss \d+\.\d{{4}}, bits  <end>{number}", second)
    for flags in (["--last", "abba"], ["abba", "--last"], ["--threads=1", "--last", "abba"]):  # in any order
        assert microgpt("score", "run", *flags, cwd=folder).stdout.splitlines() == [first]


def test_unknown_characters(folder):
    """A character that the model does not know is named with its place and the vocabulary."""
    refused = microgpt("score", "run", "abz", cwd=folder)
    assert refused.returncode == 2 and refused.stdout == ""
    assert "'abcdefgh', found 'z' at position 3 of 'abz'" in refused.stderr
    (folder / "other.txt").write_text("abc\nbax\n")
    refused = microgpt("eval", "run", "--input", "other.txt", cwd=folder)
    assert refused.returncode == 1 and "other.txt" in refused.stderr and "found 'x' at position 3" in refused.stderr


def test_documents_with_unknown_characters(tmp_path):
    """From Python the same is a DataError."""
    trainer = tiny_trainer(tmp_path)
    with pytest.raises(DataError, match="found '!'"):
        api.Model(trainer.checkpoint()).evaluate(["ab", "a!"])
    assert isinstance(trainer, Trainer)


@pytest.mark.parametrize("weight", [1e307, 1e308])  # only the sum over documents overflows, or every loss
def test_losses_without_sense(tmp_path, weight):
    """A loss that is not finite is exit 3 and one line, with --json too, from eval and score; an error in Python."""
    trainer = tiny_trainer(tmp_path)
    trainer.params["lm_head"][:] = weight
    trainer.params["lm_head"][0] = -weight
    (tmp_path / "c.npz").write_bytes(checkpoint.to_bytes(trainer.checkpoint()))
    commands = [["eval", "c.npz"], ["score", "c.npz", trainer.documents.training[0]]]
    for command in commands if weight == 1e308 else commands[:1]:
        for flags in ([], ["--json"]):
            result = microgpt(*command, *flags, cwd=tmp_path)
            assert (result.returncode, result.stdout) == (3, "")
            untrained, line = result.stderr.splitlines()
            assert untrained.endswith("so the model is untrained")
            assert re.fullmatch(r"microgpt: expected a finite loss, found [a-z]+: [^\n]+", line)
    with pytest.raises(SamplingError):
        api.Model(trainer.checkpoint()).evaluate(trainer.documents.training)


def test_scores_of_running_text(tmp_path):
    """Each of several texts has the score that it has alone, with a loss for each character and none for an end."""
    trainer = tiny_trainer(tmp_path, split="none")
    model = api.Model(trainer.checkpoint())
    texts = ["abc", "bad" * 5, "a"]
    scores = model.score(texts)
    assert scores == [model.score(text) for text in texts]
    assert [len(score.losses) for score in scores] == list(map(len, texts))
