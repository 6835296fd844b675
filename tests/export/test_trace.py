"""A trace, checked by the oracle: a tape in plain Python computes every number in it again."""

import json
import random
import re

import numpy as np
import pytest
import reference
from helpers import ROOT, microgpt, train, write_names
from reference import add, attention_packed, backward, cross_entropy, embedding, matmul, relu, rmsnorm

from microgpt import ConfigError
from microgpt.base.config import Config
from microgpt.core.params import table
from microgpt.export.trace import to_bytes, trace

safetensors = pytest.importorskip("safetensors", reason="needs safetensors: pip install .[export]")
numpy_io = pytest.importorskip("safetensors.numpy")

NAMES = ["anna", "bo", "hanna", "abba", "noah", "", "ona"]
CLOSE = {"rtol": 0, "atol": 1e-12}
SHAPES = [
    {}, {"n_layer": 2, "batch_size": 2}, {"n_layer": 2, "batch_size": 4, "shards": 2}, {"split": "none"},
    {"schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.1},
]  # fmt: skip


def traced(folder, steps, **settings):
    """(settings, trace) of a run of that many steps, read back from the bytes of its trace."""
    small = {"n_embd": 4, "n_head": 2, "block_size": 5, "num_steps": 8}
    config = train(folder, NAMES, **small | settings).config
    (folder / "trace.safetensors").write_bytes(to_bytes(config, steps))
    return config, numpy_io.load_file(folder / "trace.safetensors")


def step_of(found, step):
    """{name: nested lists} of the arrays of a step."""
    prefix = f"step{step}."
    return {name.removeprefix(prefix): array.tolist() for name, array in found.items() if name.startswith(prefix)}


def weights_among(config, arrays):
    return {name: arrays[name] for name, _, _ in table(config, 1)}


def intermediates(config, p, s):
    """Every intermediate of a step as Values, by the names of model.py, and its loss."""
    offsets = [i for i, position in enumerate(s["positions"]) if position == 0] + [len(s["positions"])]
    found = {"embedding": embedding(p["wte"], p["wpe"], s["tokens"], s["positions"])}
    x = found["x"] = list(map(rmsnorm, found["embedding"]))
    for layer in range(config.n_layer):
        l = f"layer{layer}."
        h = found[l + "attn_norm"] = list(map(rmsnorm, x))
        for name in "qkv":
            found[l + name] = matmul(p[f"{l}attn_w{name}"], h)
        h = found[l + "attn"] = attention_packed(*(found[l + name] for name in "qkv"), offsets, config.n_head)
        h = found[l + "attn_out"] = matmul(p[l + "attn_wo"], h)
        x = found[l + "x_attn"] = list(map(add, x, h))
        h = found[l + "mlp_norm"] = list(map(rmsnorm, x))
        h = found[l + "mlp_hidden"] = matmul(p[l + "mlp_fc1"], h)
        h = found[l + "mlp_relu"] = list(map(relu, h))
        h = found[l + "mlp_out"] = matmul(p[l + "mlp_fc2"], h)
        x = found[l + "x_mlp"] = list(map(add, x, h))
    found["logits"] = matmul(p["lm_head"], x)
    found["losses"] = list(map(cross_entropy, found["logits"], s["targets"]))
    return found, reference.dot(found["losses"], reference.as_values(s["weights"]))


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_oracle(tmp_path, settings):
    """From the first weights on, the tape computes every number in every step of the trace."""
    config, found = traced(tmp_path, 3, **settings)
    p = weights_among(config, step_of(found, 0))
    m, v = ({name: [[0.0] * len(row) for row in rows] for name, rows in p.items()} for _ in range(2))
    for step in (1, 2, 3):
        s = step_of(found, step)
        left = set(s) - {"tokens", "positions", "targets", "weights"}

        def check(name, wanted):
            np.testing.assert_allclose(s[name], wanted, **CLOSE, err_msg=name)
            left.discard(name)

        values = {name: reference.as_values(rows) for name, rows in p.items()}
        made, loss = intermediates(config, values, s)
        gradient = backward(loss)
        check("loss", loss.data)
        for name, value in made.items():
            check(name, reference.numbers(value))
            layer, dot, last = name.rpartition(".")
            if last not in ("losses", "attn_out", "mlp_out"):  # the branches' are those of the residual stream
                check(f"{layer}{dot}d{last}", reference.gradients_like(value, gradient))
        check("probs", [reference.numbers(reference.softmax(column)) for column in made["logits"]])
        grads = {name: reference.gradients_like(rows, gradient) for name, rows in values.items()}
        for name, rows in grads.items():
            check(f"grad.{name}", rows)
        rate = s["learning_rate"]
        left.discard("learning_rate")
        for rows in p.values():
            for row in rows:
                row[:] = [weight * (1 - rate * config.weight_decay) for weight in row]
        reference.adam_step(p, m, v, grads, step - 1, rate)
        for prefix, wanted in (("", p), ("m.", m), ("v.", v)):
            for name, rows in wanted.items():
                check(prefix + name, rows)
        for name, norm in [(name, name.removesuffix(".rstd")) for name in left if name.endswith(".rstd")]:
            check(name, (np.mean(np.square(s[normed(norm)]), axis=1) + 1e-5) ** -0.5)
        for name in [name for name in left if name.endswith("attn.probs")]:
            check(name, probs(config, name.removesuffix("attn.probs"), s))
        assert left == set()


def normed(norm):
    """The input of a norm."""
    if norm == "x":
        return "embedding"
    layer, _, name = norm.partition(".")
    i = int(layer.removeprefix("layer"))
    return f"{layer}.x_attn" if name == "mlp_norm" else f"layer{i - 1}.x_mlp" if i else "x"


def probs(config, l, s):
    """The n_head x columns x columns attention weights of a step, computed with NumPy."""
    q, k = (np.array(s[l + name]).reshape(len(s["tokens"]), config.n_head, -1).transpose(1, 0, 2) for name in "qk")
    document = np.cumsum(np.array(s["positions"]) == 0)
    seen = np.tri(len(document), dtype=bool) & (document[:, None] == document)
    e = np.where(seen, np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[2])), 0)
    return e / e.sum(axis=2, keepdims=True)


def test_the_first_weights(tmp_path):
    """From the file of names alone, plain Python computes the shuffle, vocabulary, first weights and tokens."""
    config, found = traced(tmp_path, 3)
    rng = random.Random(config.seed)
    documents = [name for name in (tmp_path / "documents.txt").read_text().split("\n") if name]
    rng.shuffle(documents)
    vocab = sorted(set("".join(documents)))
    for name in ORDER:
        rows = found[f"step0.{name}"]
        assert rows.tolist() == [[rng.gauss(0, 0.08) for _ in row] for row in rows]
    for step in (1, 2, 3):
        document = documents[step - 1]
        ids = [len(vocab), *map(vocab.index, document), len(vocab)]
        n = min(config.block_size, len(ids) - 1)
        s = step_of(found, step)
        assert (s["tokens"], s["targets"]) == (ids[:n], ids[1 : n + 1])
        assert s["positions"] == list(range(n)) and s["weights"] == [1 / n] * n
        assert s["learning_rate"] == config.learning_rate * (1 - (step - 1) / config.num_steps)


ORDER = ["wte", "wpe", "lm_head", *(f"layer0.{name}" for name in reference.LAYER_PARAMETERS)]


def test_it_is_the_run(tmp_path):
    """Losses and weights have the same bits as a run's, and float32 runs are traced in float32."""
    for dtype in ("float64", "float32"):
        config, found = traced(tmp_path, 4, n_layer=2, dtype=dtype, batch_size=2)
        trainer = train_again(tmp_path, config)
        for step in range(1, 5):
            assert trainer.step() == found[f"step{step}.loss"]
            for name, view in trainer.params.items():
                rows = view.T if name in ("wte", "wpe") else view
                assert found[f"step{step}.{name}"].tobytes() == rows.tobytes("C")
        reals = {
            a.dtype.name for name, a in found.items() if a.dtype.kind == "f" and not name.endswith((".loss", "_rate"))
        }
        assert reals == {dtype}


def train_again(folder, config):
    settings = config.as_dict()
    del settings["input"]
    return train(folder, NAMES, **settings)


def test_from_python(tmp_path):
    """A trace may begin at any step of a trainer, and moves the trainer forward."""
    _, whole = traced(tmp_path, 4)
    trainer = train_again(tmp_path, traced(tmp_path, 1)[0])
    trainer.step()
    found = trace(trainer, 2)
    assert trainer.step_count == 3
    for name, array in found.items():
        assert whole[name].tobytes() == array.tobytes(), name


def test_command(tmp_path):
    """The command takes a run's settings, prints what it wrote, and is deterministic; mistakes have exit code 2."""
    write_names(tmp_path / "names.txt")
    flags = ["--input", "names.txt", "--n-embd", 8, "--steps", 2]
    for name in ("a", "b"):
        done = microgpt("trace", *flags, "-o", f"{name}.safetensors", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {name}.safetensors\n", "")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "run.toml").write_text('input = "names.txt"\nn-embd = 8\n')
    done = microgpt("trace", "--config", "run.toml", "--steps", 2, "-o", "b.safetensors", cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "run.toml").unlink()
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        state = json.loads(file.metadata()["microgpt"])
    assert state == {"config": Config(input="names.txt", n_embd=8).as_dict(), "vocab": "abcdefgh", "steps": 2}
    for arguments, code, said in [
        (["-o", "t.npz"], 2, ".safetensors"), (["-o", "t.safetensors", "--steps", 0], 2, "--steps"),
        ([], 2, "--output"),
        (["-o", "t.safetensors", "--num-steps", 1], 2, "--steps: expected at most 1 of --num-steps, found 2"),
        (["-o", "no/t.safetensors"], 1, "no/t.safetensors"), (["-o", "t.safetensors", "--input", "no"], 1, "no"),
    ]:  # fmt: skip
        refused = microgpt("trace", *flags, *arguments, cwd=tmp_path)
        assert refused.returncode == code and refused.stderr.count("\n") == 1 and said in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors", "names.txt"]
    refused = microgpt("score", "a.safetensors", "a", cwd=tmp_path)
    assert refused.returncode == 1 and "a.safetensors" in refused.stderr and refused.stderr.count("\n") == 1


def test_default_input_elsewhere(tmp_path):
    """In an empty directory the trace uses the names that come with the package, but never for a named input."""
    flags = ["--n-embd", 4, "--steps", 1, "-o"]
    here = microgpt("trace", *flags, tmp_path / "here.safetensors")  # beside input.txt
    elsewhere = microgpt("trace", *flags, "elsewhere.safetensors", cwd=tmp_path)
    assert (here.returncode, here.stderr, elsewhere.returncode) == (0, "", 0)
    assert elsewhere.stderr.startswith("microgpt: input.txt: not found in this directory")
    assert (tmp_path / "elsewhere.safetensors").read_bytes() == (tmp_path / "here.safetensors").read_bytes()
    assert microgpt("trace", "--input", "input.txt", *flags, "a.safetensors", cwd=tmp_path).returncode == 1


def test_the_page(tmp_path):
    """docs/porting.md names exactly the intermediates of a layer that a trace has."""
    _, found = traced(tmp_path, 1)
    page = (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
    order = page[page.index("## In which order") : page.index("## What usually")]
    names = {name.removeprefix("step1.") for name in found if name.startswith("step1.")}
    named = {name for name in re.findall(r"`([a-z](?:[\w.]*\w)?)`", order) if not name.startswith("step0")}
    assert named <= names
    weights = {prefix + name for name in ORDER for prefix in ("", "grad.", "m.", "v.")} - {"grad.lm_head"}
    besides = {"positions", "weights", "learning_rate", "layer0.attn_norm.rstd", "layer0.mlp_norm.rstd"}
    assert named == names - weights - besides


def test_too_long(tmp_path, monkeypatch):
    """A trace that does not fit into memory is refused before its first step."""
    trainer = train(tmp_path, NAMES, n_embd=64, num_steps=10**6)
    with pytest.raises(MemoryError, match=r"a trace of 1000000 steps: expected .* GB of memory"):
        trace(trainer, 10**6)
    assert trainer.step_count == 0
    with pytest.raises(ConfigError, match="steps: expected at most 1000000 of num_steps, found 1000001"):
        trace(trainer, 10**6 + 1)
