"""The whole model, forward and backward, against the scalar tape and against itself."""

import random

import numpy as np
import pytest
import reference
from helpers import encoded, train

from microgpt.core.sample import Sampler

# n_layer, n_embd, n_head, block_size, distinct characters, documents in the batch
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (1, 1, 1, 5, 2, 3),
    (1, 3, 1, 4, 4, 3),
    (2, 3, 3, 5, 2, 3),
    (1, 16, 2, 1, 10, 2),
    (1, 16, 4, 16, 6, 2),
    (1, 17, 1, 3, 16, 2),
    (1, 24, 3, 8, 7, 2),
    (2, 4, 2, 6, 15, 4),
    (2, 10, 5, 4, 3, 5),
]
# an error is a few roundings of numbers like the largest gradient of the same matrix
ROUNDINGS = 64


def names(n, n_characters, seed=0):
    """n documents of different lengths that together use n_characters characters."""
    rng = random.Random(seed)
    characters = [chr(ord("a") + i) for i in range(n_characters)]
    documents = ["".join(rng.choices(characters, k=1 + 3 * i % 7)) for i in range(n - 1)]
    return ["".join(characters), *documents]


def fixed(folder, documents, n_layer, n_embd, n_head, block_size, **settings):
    """A Trainer whose steps leave the parameters as they are; they are large, so that nothing is nearly linear."""
    settings = {"init_std": 0.3, "learning_rate": 1e-300, "num_steps": 10**6} | settings
    return train(folder, documents, n_layer=n_layer, n_embd=n_embd, n_head=n_head, block_size=block_size, **settings)


def rows(params):
    """{name: rows}, as the reference holds them: an embedding is a row."""
    views = params.views
    return {name: (view.T if name in ("wte", "wpe") else view).tolist() for name, view in views.items()}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n_layer, n_embd, n_head, block_size, n_characters, batch_size", SHAPES)
def test_loss_and_gradients(tmp_path, dtype, n_layer, n_embd, n_head, block_size, n_characters, batch_size):
    """The loss and the gradient of every parameter of a packed batch are those of the tape, to a few roundings."""
    documents = names(batch_size, n_characters)
    trainer = fixed(tmp_path, documents, n_layer, n_embd, n_head, block_size, batch_size=batch_size, dtype=dtype)
    eps = float(np.finfo(dtype).eps)
    loss, gradients = reference.loss_and_gradients(trainer.config, rows(trainer.params), encoded(trainer))
    assert trainer.step() == pytest.approx(loss, rel=8 * eps)
    largest = {name: np.abs(gradient).max() for name, gradient in gradients.items()}
    for name, found in rows(trainer.grads).items():
        # one feature is normalised to 1 or -1, and its gradient is what cancellation leaves of larger ones
        scale = largest[name] if n_embd > 1 else max(largest.values())
        np.testing.assert_allclose(found, gradients[name], rtol=0, atol=ROUNDINGS * eps * scale, err_msg=name)


@pytest.mark.parametrize("block_size", [4, 8])
def test_packed_gradient_is_the_mean(tmp_path, block_size):
    """The gradient and loss of a batch are the means of those of its documents, each trained on alone."""
    documents, shape = names(5, 9), (2, 12, 3, block_size)
    packed = fixed(tmp_path, documents, *shape, batch_size=5)
    single = fixed(tmp_path, documents, *shape)
    loss, gradients, losses = packed.step(), [], []
    for _ in documents:
        losses.append(single.step())
        gradients.append(single.grads.flat.copy())
    mean = np.mean(gradients, axis=0)
    assert loss == pytest.approx(np.mean(losses), rel=1e-14)
    np.testing.assert_allclose(packed.grads.flat, mean, rtol=0, atol=1e-14 * np.abs(mean).max())


def test_central_differences(tmp_path):
    """The gradient of every parameter is what the loss itself says, by a step up and a step down."""
    trainer = fixed(tmp_path, names(3, 5), 2, 6, 2, 6, batch_size=3)
    trainer.step()
    gradient, flat, h = trainer.grads.flat.copy(), trainer.params.flat, 1e-5
    slopes = np.empty_like(gradient)
    for i in range(flat.size):
        kept = flat[i]
        flat[i] = kept + h
        above = trainer.step()
        flat[i] = kept - h
        slopes[i] = (above - trainer.step()) / (2 * h)
        flat[i] = kept
    np.testing.assert_allclose(slopes, gradient, rtol=0, atol=1e-8)
    assert np.abs(gradient).max() > 0.1


def test_gradients_start_from_zero(tmp_path):
    """A step's gradient does not depend on the steps before."""
    trainer = fixed(tmp_path, names(2, 4), 1, 8, 2, 8, batch_size=2)
    losses, gradients = zip(*((trainer.step(), trainer.grads.flat.tobytes()) for _ in range(3)))
    assert len(set(losses)) == len(set(gradients)) == 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n_embd, n_head", [(3, 1), (16, 4), (18, 3), (40, 2)])
def test_columns_do_not_depend_on_their_neighbours(tmp_path, dtype, n_embd, n_head):
    """A document's logits have the same bits alone, within a batch and from the cache, one at a time or several."""
    documents, shape = names(6, 11, seed=3), (2, n_embd, n_head, 9)
    packed = fixed(tmp_path, documents, *shape, batch_size=6, dtype=dtype)
    single = fixed(tmp_path, documents, *shape, dtype=dtype)
    packed.step()
    together = packed.value("logits")
    sampler = Sampler(packed.params)
    samplers = Sampler(packed.params, columns=3)
    first = 0
    for document in encoded(packed):
        single.step()
        alone = single.value("logits")
        n = alone.shape[1]
        assert n == min(len(document) - 1, 9)
        assert alone.tobytes() == together[:, first : first + n].tobytes()
        for position, token in enumerate(document[:n]):
            expected = alone[:, position].tobytes()
            assert sampler.logits([token], position)[:, 0].tobytes() == expected
            neighbours = [position % len(packed.vocab), token, len(packed.vocab)]
            assert samplers.logits(neighbours, position)[:, 1].tobytes() == expected
        first += n
    assert first == together.shape[1]


def test_attention(tmp_path):
    """A token's attention weights are the softmax of its scores, sum to 1 and give nothing to later tokens."""
    documents, n_head = names(4, 8), 3
    trainer = fixed(tmp_path, documents, 2, 12, n_head, 6, batch_size=4)
    trainer.step()
    for layer in range(2):
        q, k = (trainer.value(f"layer{layer}.{name}").reshape(n_head, 4, -1) for name in "qk")
        weights = trainer.attention(layer)
        assert [len(w[0]) for w in weights] == [min(len(document) + 1, 6) for document in trainer.documents.training]
        first = 0
        for w in weights:
            n = w.shape[1]
            assert w.shape == (n_head, n, n)
            np.testing.assert_allclose(w.sum(axis=2), 1, rtol=1e-15)
            assert not np.triu(w, 1).any() and (np.tril(w) > 0).sum() == n_head * n * (n + 1) // 2
            columns = slice(first, first + n)
            scores = np.einsum("hdt,hds->hts", q[:, :, columns], k[:, :, columns]) / 2  # sqrt(head_dim) = 2
            exps = np.exp(np.where(np.tri(n), scores, -np.inf))
            np.testing.assert_allclose(w, exps / exps.sum(axis=2, keepdims=True), rtol=1e-12)
            first += n


def test_intermediates(tmp_path):
    """Every intermediate can be looked at after a step, and each follows from those before it."""
    trainer = fixed(tmp_path, names(3, 5), 1, 8, 2, 6, batch_size=3)
    trainer.step()
    value, p = trainer.value, trainer.params
    start, n = trainer.dataset.batch(0)
    token, position, target, weight = (
        trainer.dataset.arrays[name][start : start + n] for name in ("tokens", "positions", "targets", "weights")
    )

    def rmsnorm(x):
        return x / np.sqrt((x * x).mean(axis=0) + 1e-5)

    same = np.testing.assert_allclose
    same(value("embedding"), p["wte"][:, token] + p["wpe"][:, position])
    same(value("x"), rmsnorm(value("embedding")))
    same(value("layer0.attn_norm"), rmsnorm(value("x")))
    for name in "qkv":
        same(value(f"layer0.{name}"), p[f"layer0.attn_w{name}"] @ value("layer0.attn_norm"))
    heads = value("layer0.v").reshape(2, 4, n)
    mixed, first = np.empty_like(heads), 0
    for w in trainer.attention(0):
        columns = slice(first, first + w.shape[1])
        mixed[:, :, columns] = np.einsum("hts,hds->hdt", w, heads[:, :, columns])
        first = columns.stop
    same(value("layer0.attn"), mixed.reshape(8, n))
    same(value("layer0.attn_out"), p["layer0.attn_wo"] @ value("layer0.attn"))
    same(value("layer0.x_attn"), value("x") + value("layer0.attn_out"))
    same(value("layer0.mlp_norm"), rmsnorm(value("layer0.x_attn")))
    same(value("layer0.mlp_hidden"), p["layer0.mlp_fc1"] @ value("layer0.mlp_norm"))
    same(value("layer0.mlp_relu"), np.maximum(value("layer0.mlp_hidden"), 0))
    same(value("layer0.mlp_out"), p["layer0.mlp_fc2"] @ value("layer0.mlp_relu"))
    same(value("layer0.x_mlp"), value("layer0.x_attn") + value("layer0.mlp_out"))
    same(value("logits"), p["lm_head"] @ value("layer0.x_mlp"))
    exps = np.exp(value("logits"))
    same(value("probs"), exps / exps.sum(axis=0))
    same(value("losses")[0], -np.log(value("probs")[target, np.arange(n)]))
    same(value("loss")[0, 0], weight @ value("losses")[0])


@pytest.mark.parametrize("n_layer, n_embd, n_head, block_size", [(1, 16, 4, 16), (3, 6, 2, 5)])
def test_memory_is_foreseen(tmp_path, n_layer, n_embd, n_head, block_size):
    """The memory that a model is refused for is what its program takes."""
    settings = {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "block_size": block_size}
    trainer = train(tmp_path, ["abc", "b"], **settings)
    taken = sum(array.size for array in trainer.replay.values.values())
    assert trainer.program.count(trainer.dataset.max_columns) == taken


def test_nothing_to_look_at_yet(tmp_path):
    """Before the first step there are no intermediates, and attention's own arrays are not ones of columns."""
    trainer = train(tmp_path, ["abc"])
    with pytest.raises(ValueError, match="no step has been made yet"):
        trainer.value("x")
    with pytest.raises(ValueError, match="no step has been made yet"):
        trainer.attention(0)
    trainer.step()
    with pytest.raises(ValueError, match=r"name: expected one of embedding, x, .* found 'nope'"):
        trainer.value("nope")
    for layer in 1, 9, -1:
        with pytest.raises(ValueError, match=rf"layer: expected an integer in range\(1\), found {layer}"):
            trainer.attention(layer)
    for name in "layer0.attn.probs", "work":
        with pytest.raises(ValueError, match=rf"name: expected one of (?!.*{name},)"):
            trainer.value(name)
