"""Sums over tokens: which are parameters' gradients, when these are updated, and how threads share sums."""

import numpy as np
import pytest

from microgpt import Config, Trainer, kernels
from microgpt.core import model
from microgpt.core.program import Array, Program, Replay, aligned, permits_early_updates
from microgpt.kernels import compiled

M, K, TOKENS = 6, 5, 11
THREADS = 1, 2, 3, 5


def trained(program, shapes, given, threads, clip=0.0):
    """What one step of Adam makes of parameters of these shapes: (parameters, gradients, whether updates were early).

    The program has the gradient of `w` as "grad.w"; the loss that a step wants is 0.
    """
    size = sum(rows * columns for rows, columns in shapes.values())
    param, m, v, grad = (aligned(size, "float64") for _ in range(4))
    param[:] = np.arange(size) / size
    views, start = {}, 0
    for name, (rows, columns) in shapes.items():
        end = start + rows * columns
        for prefix, flat in (("", param), ("grad.", grad)):
            views[prefix + name] = flat[start:end].reshape(rows, columns, order="F")
        start = end
    gradients = {f"grad.{name}": name for name in shapes}
    replay = Replay(program, "float64", TOKENS, {**given, **views}, threads, documents=False, gradients=gradients)
    zeros = np.zeros(TOKENS)
    squares = np.zeros(compiled.n_blocks(size))
    step = compiled.stepping(replay.over, zeros, zeros, (param, m, v, grad), squares, clip)
    step(0, TOKENS, 0.01, 0.85, 0.99, 1e-8, 0.15, 0.01, 1.0)
    return param, grad, replay.early


def expected(size, grad):
    """One step of Adam, by the kernel alone, from the parameters that trained() begins with."""
    param, m, v = aligned(size, "float64"), np.zeros(size), np.zeros(size)
    param[:] = np.arange(size) / size
    replay = compiled.recorded("float64", [])
    zeros = np.zeros(TOKENS)
    step = compiled.stepping(replay, zeros, zeros, (param, m, v, grad.copy()), np.zeros(1), 0.0)
    step(0, 0, 0.01, 0.85, 0.99, 1e-8, 0.15, 0.01, 1.0)
    return param


def numbers(rows, columns=TOKENS, seed=0):
    return np.asfortranarray(np.random.default_rng([seed, rows, columns]).standard_normal((rows, columns)))


@pytest.mark.parametrize("threads", THREADS)
def test_a_gradient_of_any_kernel(threads):
    """A parameter is trained whatever kernel sums its gradient: here a weighted sum, which is no matrix product."""
    ops = Program()
    ops.cross_entropy_sum(Array("grad.s", 1, 1), Array("x"), Array("y"))
    given = {"x": numbers(1), "y": numbers(1, seed=1)}
    param, grad, early = trained(ops, {"s": (1, 1)}, given, threads)
    assert grad[0] == pytest.approx((given["x"] * given["y"]).sum(), rel=1e-14)
    assert param.tobytes() == expected(1, grad).tobytes() and param[0] != 0 and early


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("clip", [0.0, 1e9])
def test_a_tied_weight(threads, clip):
    """A parameter that is used twice gets one update with the whole gradient, at the end."""
    ops = Program()
    w, dw = Array("w", M, K), Array("grad.w", M, K)
    ops.matmul_backward((dw, None), Array("dy", M), w, Array("x", K))
    ops.matmul_backward((dw, "dx"), Array("dz", M), w, Array("x", K), accumulate=(True, False))
    given = {"dy": numbers(M), "dz": numbers(M, seed=1), "x": numbers(K)}
    param, grad, early = trained(ops, {"w": (M, K)}, given, threads, clip)
    whole = kernels.matmul_backward(given["dy"], np.zeros((M, K)), given["x"])[0].copy(order="F")
    kernels.matmul_backward(given["dz"], np.zeros((M, K)), given["x"], out=(whole, None), accumulate=True)
    assert grad.tobytes() == whole.tobytes(order="F") and not early
    assert param.tobytes() == expected(M * K, grad).tobytes()


@pytest.mark.parametrize("threads", THREADS)
def test_a_weight_that_is_read_later(threads):
    """A parameter that a later call reads is updated after it."""
    ops = Program()
    w, dw = Array("w", M, M), Array("grad.w", M, M)
    ops.matmul_backward((dw, None), Array("dy", M), w, Array("x", M))
    ops.relu_forward(Array("x", M), Array("dy", M))  # so that the sum cannot wait
    ops.matmul_forward("y", w, Array("x", M))
    given = {"dy": numbers(M), "x": numbers(M, seed=2)}
    before = kernels.matmul_backward(given["dy"], np.zeros((M, M)), given["x"])[0]
    param, grad, early = trained(ops, {"w": (M, M)}, given, threads)
    assert grad.tobytes() == before.tobytes(order="F") and not early
    assert param.tobytes() == expected(M * M, grad).tobytes()


def test_the_model_permits_early_updates():
    """Every gradient of the model is made by one call, after everything that reads its parameter."""
    for n_layer in (1, 3):
        trainer = Trainer(Config(n_layer=n_layer, num_steps=1))
        assert trainer.replay.early
        names = {"grad." + name: name for name in trainer.params}
        ops = Program()
        model.loss(ops, model.forward(ops, trainer.params.arrays, trainer.config, ops.attention_forward))
        assert not permits_early_updates(ops.phases(), names)  # nobody makes the gradients


@pytest.mark.parametrize("settings", [{}, {"shards": 4}, {"split": "none"}], ids=str)
def test_values(settings, tmp_path):
    """Every intermediate of a step is the same for any number of threads, and is what its formula says."""
    config = Config(batch_size=8, num_steps=2, n_layer=2, n_embd=8, n_head=2, block_size=8, **settings)
    found = {}
    for threads in THREADS:
        trainer = Trainer(config, threads=threads)
        trainer.step()
        before = {name: view.copy(order="F") for name, view in trainer.params.items()}
        loss = trainer.step()
        assert trainer.program.own_layout == {"work", "layer0.attn.probs", "layer1.attn.probs"}
        names = trainer.replay.values.keys() - trainer.program.own_layout
        values = {name: trainer.value(name).copy() for name in names}
        if not found:
            found = values
            check_formulas(trainer, before, values)
        assert values.keys() == found.keys()
        for name, value in values.items():
            assert value.tobytes() == found[name].tobytes(), (name, threads)
        if not settings.get("shards"):
            assert float(values["loss"][0, 0]) == loss


def check_formulas(trainer, params, values):
    """The values of the last batch, or of its last shard, by the public kernels."""
    start, n = trainer._start, trainer.n_columns
    columns = {name: array[start : start + n] for name, array in trainer.dataset.arrays.items()}
    x = kernels.embedding_forward(params["wte"], params["wpe"], columns["tokens"], columns["positions"])
    assert (values["embedding"] == x).all()
    logits = kernels.matmul_forward(params["lm_head"], values["layer1.x_mlp"])
    assert (values["logits"] == logits).all()
    loss, losses, probs = kernels.cross_entropy_forward(logits, columns["targets"], columns["weights"])
    assert (values["probs"] == probs).all() and (values["losses"] == losses).all() and values["loss"] == loss
