"""Looking inside: what each intermediate is, by NumPy, and that they are the model's own."""

import numpy as np
import pytest
from helpers import train

import microgpt
from microgpt.api import Model

DOCUMENTS = ["anna", "bo", "nab", "abba", "", "oooo\n"]
SHAPES = [{"n_layer": 1}, {"n_layer": 3, "dtype": "float32"}, {"n_layer": 2, "n_head": 1, "split": "none"}]
SMALL = {"n_embd": 8, "n_head": 2, "block_size": 6, "num_steps": 20, "learning_rate": 0.05}


@pytest.fixture(params=SHAPES, ids=str)
def model(request, tmp_path):
    trainer = train(tmp_path, DOCUMENTS, **SMALL | request.param)
    for _ in range(20):
        trainer.step()
    return Model(trainer.checkpoint())


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def norm(x):
    return x / np.sqrt((x.astype(float) ** 2).mean(axis=0) + 1e-5)


def test_every_intermediate(model):
    """Each follows by NumPy from those before it and the parameters, from the tokens to the losses."""
    text, config, p = "banna", model.config, model.params
    a = model.inspect(text)
    ids = [p.tokens.start, *p.tokens.ids(text), *([] if p.tokens.end is None else [p.tokens.end])]
    n = len(ids) - 1
    close = {"rtol": 0, "atol": 1e-13 if config.dtype == "float64" else 1e-5}

    def check(name, wanted):
        assert a[name].shape == wanted.shape and a[name].dtype == config.dtype
        np.testing.assert_allclose(a[name], wanted, **close)
        left.discard(name)
        return a[name]

    left = {name for name in a if not name.endswith("rstd")}
    x = check("x", norm(check("embedding", p["wte"][:, ids[:-1]] + p["wpe"][:, :n])))
    for layer in range(config.n_layer):
        l = f"layer{layer}."
        h = check(l + "attn_norm", norm(x))
        q, k, v = (check(l + name, p[l + "attn_w" + name] @ h).reshape(config.n_head, -1, n) for name in "qkv")
        scores = q.transpose(0, 2, 1) @ k / np.sqrt(q.shape[1]) + np.triu(np.full((n, n), -np.inf), 1)
        weights = check(l + "attn.probs", softmax(scores, 2))
        h = check(l + "attn", (v @ weights.transpose(0, 2, 1)).reshape(-1, n))
        x = check(l + "x_attn", x + check(l + "attn_out", p[l + "attn_wo"] @ h))
        h = check(l + "mlp_hidden", p[l + "mlp_fc1"] @ check(l + "mlp_norm", norm(x)))
        h = check(l + "mlp_relu", np.maximum(h, 0))
        x = check(l + "x_mlp", x + check(l + "mlp_out", p[l + "mlp_fc2"] @ h))
    probs = check("probs", softmax(check("logits", p["lm_head"] @ x), 0))
    losses = check("losses", -np.log(probs[ids[1:], np.arange(n)])[None])
    check("loss", losses.mean(keepdims=True))
    assert left == set()


def test_they_are_the_models_own(model):
    """What inspect() says is what score() measures and, at the last character, what next() says, to the bit."""
    for text in ["b", "anna", "bannao"[: model.config.block_size]]:
        a = model.inspect(text)
        assert a["losses"][0].tolist() == model.score(text).losses[: model.config.block_size]
        assert [layer.shape for layer in model.attention(text)] == [
            (model.config.n_head,) + a["probs"].shape[1:] * 2
        ] * (model.config.n_layer)
        if model.config.split == "line":
            for i in range(min(len(text) + 1, model.config.block_size)):
                assert list(model.next(text[:i]).values()) == a["probs"][:, i].tolist()


def test_next_is_what_is_drawn(model):
    """next() has the probabilities that samples are drawn by, past the context too, to the bit; None is the end."""
    running = model.config.split == "none"
    for prompt in ("", "an"):
        for text, probs in model.sample_probs(5, prompt=prompt, length=20 if running else 0):
            last = 1 if running and not prompt else len(probs)  # a newline came first, which is no prefix
            for i in range(len(prompt), last):
                found = model.next(text[:i])
                assert found[text[i] if i < len(text) else None] == probs[i]
    assert list(model.next()) == [*model.vocab, *([] if running else [None])]
    assert sum(model.next("a").values()) == pytest.approx(1, abs=1e-6)


def test_mistakes(model):
    """What is unknown is named, with what is there."""
    for look in (model.inspect, model.attention, model.next):
        for wrong in ("Z", 1, None, *(["a" * 7] if look != model.next or model.config.split == "line" else [])):
            with pytest.raises(microgpt.ConfigError, match=r"(text|prefix): expected .*, found"):
                look(wrong)
    a = model.inspect("an")
    for name, said in (("layer9.q", "layer0.q"), ("logit", "did you mean 'logits'"), (1, "found 1")):
        with pytest.raises(KeyError, match=said):
            a[name]
    if model.config.split == "none":
        with pytest.raises(microgpt.ConfigError, match="text: expected at least one character, found none"):
            model.inspect("")
    else:
        assert model.inspect("")["probs"].shape[1] == 1
