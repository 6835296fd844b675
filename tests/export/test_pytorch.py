"""The model as a PyTorch module: same numbers, same names, and training results can be converted back."""

import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import NAMES, train

from microgpt import ConfigError, Model, load
from microgpt.export.formats import export

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install .[torch]")

TEXTS = ["anna", "bo", "hannah"]
CLOSE = {"float64": 1e-12, "float32": 1e-5}


def ids(model, text):
    return [model.params.tokens.start, *model.params.tokens.ids(text)]


@pytest.mark.parametrize("n_layer", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_logits(trained, n_layer, dtype):
    """Its logits equal the model's, alone and in a batch, whatever tokens follow."""
    model = trained(NAMES, n_layer=n_layer, dtype=dtype)
    gpt = model.to_torch()
    tokens = torch.zeros(len(TEXTS), model.config.block_size, dtype=torch.int64)
    for row, text in zip(tokens, TEXTS):
        row[: len(text) + 1] = torch.tensor(ids(model, text))
    batch = gpt(tokens).detach().numpy()
    for text, found in zip(TEXTS, batch):
        wanted = model.inspect(text)["logits"].T
        for logits in (found[: len(text) + 1], gpt(torch.tensor([ids(model, text)]))[0].detach().numpy()):
            np.testing.assert_allclose(logits, wanted, rtol=0, atol=CLOSE[dtype])
    assert batch.dtype == dtype


def test_state_dict(trained, tmp_path):
    """Its state_dict() has the names and bits of the .safetensors file, and can be loaded from it."""
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors: pip install .[export]")
    model, other = trained(NAMES, n_layer=2), trained(NAMES, n_layer=2, seed=9)
    export(model, "m", str(tmp_path / "m.safetensors"))
    state = safetensors.load_file(tmp_path / "m.safetensors")
    found = model.to_torch().state_dict()
    assert list(found) == list(model.params) and set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)
    gpt = other.to_torch()
    gpt.load_state_dict(state)
    assert Model.from_torch(gpt).params.flat.tobytes() == model.params.flat.tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_step_of_pytorch(tmp_path, dtype):
    """A step of PyTorch's Adam with PyTorch's gradients equals a step of ours, after converting back."""
    settings = {"n_layer": 2, "n_embd": 8, "n_head": 2, "block_size": 8, "num_steps": 2, "schedule": "constant"}
    trainer = train(tmp_path, ["anna", "bo", "hanna", "noah"], batch_size=2, dtype=dtype, **settings)
    before = Model(trainer.checkpoint())
    gpt = before.to_torch()
    c = trainer.config
    adam = torch.optim.Adam(gpt.parameters(), lr=c.learning_rate, betas=(c.beta1, c.beta2), eps=c.eps)
    losses = []
    for document in trainer.documents.training[:2]:
        targets = torch.tensor([*before.params.tokens.ids(document), before.params.tokens.end])
        logits = gpt(torch.tensor([ids(before, document)]))[0]
        losses.append(torch.nn.functional.cross_entropy(logits, targets))
    torch.stack(losses).mean().backward()
    adam.step()
    trainer.step()
    found = Model.from_torch(gpt)
    # the first step is the gradient's sign but for eps, so the smallest gradients say what the precision does
    np.testing.assert_allclose(found.params.flat, trainer.params.flat, rtol=0, atol=CLOSE[dtype] * 100)
    assert abs(found.params.flat - before.params.flat).max() > 0.009
    assert (found.config, found.vocab) == (before.config, before.vocab)
    found.save(tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").sample(5) == found.sample(5)


def test_it_is_a_copy(trained):
    """The module and the model do not share memory."""
    model = trained(NAMES)
    before, gpt = model.params.flat.copy(), model.to_torch()
    found = Model.from_torch(gpt)
    with torch.no_grad():
        gpt.wte.zero_()
    assert (model.params.flat == before).all() and (found.params.flat == before).all()
    model.params["wpe"][:] = 0
    assert gpt.wpe.any() and found.params["wpe"].any()


def test_other_precisions(trained):
    """A module in another precision is converted back in that precision, if microgpt supports it."""
    model = trained(NAMES)
    found = Model.from_torch(model.to_torch().float())
    assert found.config.dtype == "float32" and (found.params.flat == model.params.flat.astype(np.float32)).all()
    for convert, name in ((torch.nn.Module.bfloat16, "bfloat16"), (torch.nn.Module.half, "float16")):
        with pytest.raises(ConfigError, match=f"module: .* found {name}: call .float"):
            Model.from_torch(convert(model.to_torch()))


def test_mistakes(trained):
    """Foreign objects and modified modules are refused by name."""
    model = trained(NAMES)
    weights = model.to_torch()
    for other in (torch.nn.Linear(2, 2), weights.state_dict()):
        said = f"^module: expected a module from to_torch\\(\\), found {type(other).__name__}; for a compiled module"
        with pytest.raises(TypeError, match=said):
            Model.from_torch(other)
    for name, weight, said in [
        ("wpe", torch.zeros(8, 1).double(), r"\(8, 1\)"), ("wte", torch.full_like(weights.wte, np.nan), "finite"),
        ("lm_head", weights.lm_head.float(), "float32"),
    ]:  # fmt: skip
        gpt = model.to_torch()
        setattr(gpt, name, torch.nn.Parameter(weight))
        with pytest.raises(ConfigError, match=f"module: expected {name} .*found .*{said}"):
            Model.from_torch(gpt)
    for shape in ([1, 9], [8], [1, 8, 1]):
        with pytest.raises(
            ValueError, match=re.escape(f"tokens: expected shape [batch, time] with time at most 8, found {shape}")
        ):
            weights(torch.zeros(shape, dtype=torch.int64))


def test_without_pytorch(trained, tmp_path):
    """Without PyTorch, one line says what to install; nothing else needs it."""
    trained(NAMES).save(tmp_path / "m.npz")
    code = "import sys; sys.modules['torch'] = None; import microgpt; microgpt.load('m.npz').to_torch()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith(
        "microgpt.base.errors.ExtraError: to_torch() needs torch: pip install torch, or the extra [torch]; found"
    )
    assert "[torch]" in done.stderr
