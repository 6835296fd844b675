"""The model as ONNX: onnxruntime computes the same numbers, alone and in batches."""

import json
import random

import numpy as np
import pytest
from helpers import INPUT, NAMES, SLOW, train

from microgpt import ConfigError, Model
from microgpt.export.formats import export

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install .[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install .[onnxruntime]")
CLOSE = {"float64": 1e-12, "float32": 1e-5}


def session(model, folder):
    path = str(folder / "m.onnx")
    export(model, "m", path)
    onnx.checker.check_model(path, full_check=True)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def losses(logits, targets):
    top = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
    return total - logits[np.arange(len(targets)), targets]


@pytest.mark.slow
@pytest.mark.parametrize("n_layer", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_scores(tmp_path, n_layer, dtype):
    """The losses of names equal those of score(), one by one and in batches of names of any length."""
    trainer = train(tmp_path, INPUT.read_text().split(), n_layer=n_layer, dtype=dtype, num_steps=200)
    trainer.steps(200, [], ())
    model, tokens = Model(trainer.checkpoint()), trainer.tokens
    names = random.Random(1).sample(
        [name for name in trainer.documents.training if len(name) < 16], 500 if SLOW else 60
    )
    scores, run = model.score(names), session(model, tmp_path)
    for first in range(0, len(names), 20):
        batch = names[first : first + 20]
        longest = max(map(len, batch)) + 1
        # the padding after a name must not matter
        ids = np.array([[tokens.start, *tokens.ids(name), *[first % 26] * (longest - len(name) - 1)] for name in batch])
        (logits,) = run.run(["logits"], {"tokens": ids})
        assert logits.dtype == dtype and logits.shape == (len(batch), longest, tokens.size)
        (alone,) = run.run(["logits"], {"tokens": ids[:1, : len(batch[0]) + 1]})
        for name, rows, score in [*zip(batch, logits, scores[first:]), (batch[0], alone[0], scores[first])]:
            targets = [*tokens.ids(name), tokens.end]
            found = losses(rows[: len(targets)].astype(float), targets)
            np.testing.assert_allclose(found, score.losses, rtol=0, atol=CLOSE[dtype])


@pytest.mark.parametrize("settings", [
    {"n_head": 1, "block_size": 1}, {"n_head": 8}, {"split": "none", "n_layer": 2}, {"split": "blank-line"},
])  # fmt: skip
def test_shapes(trained, tmp_path, settings):
    """Logits agree for all shapes of models at all lengths up to the context; one token more is an error."""
    model = trained(NAMES, **settings)
    run, size = session(model, tmp_path), model.config.block_size
    text = "annabo"[: size if model.params.tokens.end is None else size - 1]
    ids = [model.params.tokens.start, *model.params.tokens.ids(text)][:size]
    wanted = model.inspect(text + "a")["logits"].T
    for n in range(1, len(ids) + 1):
        (logits,) = run.run(None, {"tokens": np.array([ids[:n]] * 3)})
        np.testing.assert_allclose(logits, np.stack([wanted[:n]] * 3), rtol=0, atol=1e-12)
    with pytest.raises(Exception, match="out of data bounds"):
        run.run(None, {"tokens": np.zeros((1, size + 1), np.int64)})


def test_what_it_says(trained, tmp_path):
    """Names, shapes, opset, matrices and settings are as documented, and equal models give equal bytes."""
    model = trained(NAMES, n_layer=2)
    run = session(model, tmp_path)
    (tokens,), (logits,) = run.get_inputs(), run.get_outputs()
    assert (tokens.name, tokens.type, tokens.shape) == ("tokens", "tensor(int64)", ["batch", "time"])
    assert (logits.name, logits.type) == ("logits", "tensor(double)")
    assert logits.shape == ["batch", "time", len(model.vocab) + 1]
    before = (tmp_path / "m.onnx").read_bytes()
    found = onnx.load_from_string(before)
    assert [(opset.domain, opset.version) for opset in found.opset_import] == [("", 18)]
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in found.graph.initializer}
    for name, view in model.params.items():
        assert (arrays[name] == (view.T if name in ("wte", "wpe") else view)).all()
    said = {pair.key: pair.value for pair in found.metadata_props}
    assert json.loads(said["config"]) == model.config.as_dict() and said["vocab"] == "".join(model.vocab)
    export(model, "other", str(tmp_path / "m.onnx"))
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_too_large(trained, monkeypatch):
    """Weights that are too large for the format are refused before they are copied."""
    monkeypatch.setattr("microgpt.export.onnx.MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="at most 1000 bytes for ONNX"):
        export(trained(NAMES), "m", "never.onnx")
