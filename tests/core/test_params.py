"""Parameters: the table of names, the buffer and its views, the initial weights."""

import random

import numpy as np
import pytest
from helpers import golden

from microgpt.base.config import Config
from microgpt.core.params import Parameters

CONFIG = Config(n_layer=2, n_embd=6, n_head=2, block_size=5)
VOCAB = list("abcdef")


def reference_weights(config, vocab_size, rng, std):
    """What microgpt.py draws: {name: rows}."""

    def matrix(nout, nin):
        return [[rng.gauss(0, std) for _ in range(nin)] for _ in range(nout)]

    n = config.n_embd
    weights = {"wte": matrix(vocab_size, n), "wpe": matrix(config.block_size, n), "lm_head": matrix(vocab_size, n)}
    for i in range(config.n_layer):
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            weights[f"layer{i}.{name}"] = matrix(n, n)
        weights[f"layer{i}.mlp_fc1"] = matrix(4 * n, n)
        weights[f"layer{i}.mlp_fc2"] = matrix(n, 4 * n)
    return weights


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_initial_weights(dtype):
    """The weights are the reference's draws, in its order and with nothing else drawn; an embedding is a column."""
    config = Config(n_layer=2, n_embd=6, n_head=2, block_size=5, dtype=dtype)
    params, rng, reference_rng = Parameters(config, VOCAB), random.Random(1), random.Random(1)
    params.draw(rng, 0.3)
    expected = reference_weights(config, len(VOCAB) + 1, reference_rng, 0.3)
    assert rng.getstate() == reference_rng.getstate()
    assert [name for name, _, _ in params.table] == list(expected)
    for name, rows in expected.items():
        rows = np.array(rows, dtype)
        np.testing.assert_array_equal(params[name], rows.T if name in ("wte", "wpe") else rows, name)


def test_views_share_the_buffer():
    """The views are column-major, lie in the order of the table and together are the whole buffer."""
    params = Parameters(CONFIG, VOCAB)
    params.flat[:] = np.arange(params.flat.size)
    seen = []
    for name, rows, columns in params.table:
        view = params[name]
        assert view.shape == (rows, columns) and view.flags.f_contiguous and np.shares_memory(view, params.flat)
        seen += view.ravel(order="F").tolist()
    assert seen == params.flat.tolist()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_buffer(dtype, monkeypatch):
    """The buffer is zero, in the run's precision and begins at a cache line."""
    zeros = np.zeros
    for shift in range(16):  # wherever NumPy's memory begins

        def shifted(n, dtype, shift=shift):
            return zeros(n + shift, dtype)[shift:]

        monkeypatch.setattr("microgpt.core.program.np.zeros", shifted)
        flat = Parameters(Config(dtype=dtype), VOCAB).flat
        assert flat.dtype == dtype and flat.ctypes.data % 64 == 0 and not flat.any()


@pytest.mark.parametrize("run", ["input_default", "input_l2", "names_default"])
def test_number_of_parameters(run):
    """There are as many parameters as in the reference."""
    g = golden(run)
    config = Config(**{name: g[name] for name in ("n_layer", "n_embd", "n_head", "block_size")})
    assert Parameters(config, [*map(chr, range(g["vocab_size"] - 1))]).flat.size == g["num_params"]


def test_a_mapping():
    """Parameters are a mapping from names to matrices, in the order of the table."""
    params = Parameters(CONFIG, VOCAB)
    assert list(params) == [name for name, _, _ in params.table] and len(params) == len(params.table)
    assert dict(params)["wte"] is params["wte"] and "nope" not in params
