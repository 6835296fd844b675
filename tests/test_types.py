"""A type checker, signatures and calls know the name, type and default of every setting."""

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from helpers import ROOT, TINY, write_names

import microgpt
from microgpt.base.config import Config, Sampling

PROGRAM = """\
from pathlib import Path
import microgpt
from microgpt import Model, load, train

model = microgpt.train("names.txt", num_steps=3, learning_rate=1, dtype="float32")
same = train(input=Path("names.txt"), out=Path("run"), metrics="metrics.jsonl")
again = train(resume="run", num_steps=4)
reveal_type(model)  # Model
reveal_type(load(Path("run")))  # Model
reveal_type(model.sample(3, temperature=1, prompt="a"))  # list[str]
reveal_type(Model.sample_probs(model, top_k=2))  # list[tuple[str, list[float]]]
reveal_type(model.score("anna").bits)  # list[float]
reveal_type(model.score(["anna"])[0].losses)  # list[float]
reveal_type(model.evaluate(["anna"]).loss)  # float
microgpt.train("names.txt", num_stepz=3)  # call-arg
microgpt.train("names.txt", num_steps="3")  # arg-type
microgpt.train("names.txt", 3)  # call-arg
microgpt.train(3)  # arg-type
model.sample(temperatur=1)  # call-arg
model.sample(prompt=1)  # arg-type
model.sample(3, 0.5)  # call-arg
model.evaluate("anna")  # arg-type
model.sampel()  # attr-defined
reveal_type(microgpt.sweep("s", trials=2, n_embd=[8, 16], seed=range(3), eps="1e-9..1e-7:log"))  # list[Trial]
reveal_type(microgpt.sweep(resume=Path("s"), executor="thread:2", dtype=["float32"], split="line"))  # list[Trial]
microgpt.sweep(num_stepz=3)  # call-arg
microgpt.sweep("s", trials=[2, 3])  # arg-type
microgpt.sweep("s", n_embd=[8.5])  # list-item
microgpt.sweep("s", 24)  # call-arg
microgpt.plot([Path("run"), "other"], "losses.png", log_x=True)
microgpt.plot("run")  # call-arg
model.report(Path("page.html"), texts=["anna"])
model.export("model.onnx")
reveal_type(model.num_params)  # int
microgpt.trian("names.txt")  # attr-defined
microgpt.train(["anna", "otto"], num_steps=3)
"""
KERNELS = """\
import numpy as np
import torch
from microgpt import kernels

a, t = np.ones((2, 2)), torch.ones(2, 2)
m, tokens = np.memmap("m", np.float64, "r", shape=(2, 2)), np.memmap("t", np.uint16, "r", shape=(2,))
reveal_type(kernels.softmax_forward(m))  # numpy.ndarray[Any, numpy.dtype[numpy.float64]]
reveal_type(kernels.matmul_forward(t, a))  # numpy.ndarray[Any, numpy.dtype[numpy.float64]]
kernels.matmul_backward(t, t, t, out=(t, None), accumulate=True)
kernels.embedding_forward(a, t, tokens, torch.tensor([0, 1]), out=t)
kernels.attention_backward(t, kernels.attention_forward(t, t, t, torch.tensor([0, 2]), 2)[1])
kernels.cross_entropy_forward(t, tokens, torch.ones(2))
kernels.softmax_forward(np.ones((2, 2), np.int64))  # type-var
kernels.softmax_forward([[1.0]])  # arg-type
kernels.embedding_forward(a, a, [0, 1], tokens)  # arg-type
"""


@pytest.mark.parametrize("program, needed", [(PROGRAM, "mypy"), (KERNELS, "torch")], ids=["models", "kernels"])
def test_type_checker(tmp_path, program, needed):
    """mypy --strict reports the mistakes and return types in the comments above, and nothing else."""
    pytest.importorskip("mypy")
    pytest.importorskip(needed)
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "program.py"]
    checked = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    found = re.findall(r'program.py:(\d+): (?:error: .*\[|note: Revealed type is ")(.*)["\]]\n', checked.stdout)
    assert checked.stderr == ""
    wanted = [(i, line.partition("  # ")[2]) for i, line in enumerate(program.splitlines(), 1) if "  # " in line]
    assert [(int(i), re.sub(r"builtins\.|microgpt\.(api|sweeps\.records)\.", "", what)) for i, what in found] == wanted


@pytest.mark.parametrize("function, settings, more", [
    (microgpt.train, Config, [
        "recipe", "out", "fresh", "resume", "init_from", "last", "metrics", "threads", "progress",
    ]),
    (microgpt.Model.sample, Sampling, ["self"]), (microgpt.Model.sample_probs, Sampling, ["self"]),
])  # fmt: skip
def test_signatures(function, settings, more):
    """The signature has every setting with its default; only the first is positional."""
    found = inspect.signature(function).parameters
    assert {f.name for f in fields(settings)} == set(found) - set(more) and set(more) <= set(found)
    assert all(found[f.name].default == f.default for f in fields(settings))
    by_place = [name for name, parameter in found.items() if parameter.kind == parameter.POSITIONAL_OR_KEYWORD]
    assert [name for name in by_place if name != "self"] == [fields(settings)[0].name]


def test_resume_takes_what_is_given(tmp_path):
    """A resumed run keeps the settings that are not given; given ones count even if they equal the default."""
    settings = TINY | {"val_fraction": 0.1, "num_samples": 3}
    microgpt.train(write_names(tmp_path / "names.txt"), out=tmp_path / "run", **settings)
    config = microgpt.train(resume=tmp_path / "run", patience=5, num_steps=9, num_samples=20).config
    assert (config.n_embd, config.val_fraction, config.patience, config.num_samples) == (TINY["n_embd"], 0.1, 5, 20)
    with pytest.raises(microgpt.ConfigError, match=r"^n_embd: expected 4, as in the run to resume"):
        microgpt.train(resume=tmp_path / "run", n_embd=16)
    with pytest.raises(microgpt.ConfigError, match=r"^num_steps: expected a whole number, found '9'$"):
        microgpt.train(resume=tmp_path / "run", num_steps="9")
