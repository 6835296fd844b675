"""The same bits from every instruction set and every process: each run here is a process of its own."""

import itertools
import json
import os
import subprocess
import sys

import pytest
from helpers import INPUT, ROOT

# Train, sample both ways, and print the instruction set and hashes of the losses, parameters and samples.
RUN = """
import hashlib, json, sys
from microgpt import kernels
from microgpt.base.config import Config, Sampling
from microgpt.core.sample import Sampler, samples
from microgpt.core.trainer import Trainer

hashes = {}
for settings in json.loads(sys.argv[1]):
    config = Config(**settings)
    trainer = Trainer(config)
    losses = [trainer.step() for _ in range(config.num_steps)]
    sampler = Sampler(trainer.params)
    texts = [sampler.sample(trainer.rng, 0.8) for _ in range(5)]
    sampling = Sampling(100, temperature=1.2, top_k=20, top_p=0.95, length=20)
    texts += [text for some, _ in samples(trainer.params, sampling) for text in some]
    written = (repr(losses).encode(), trainer.params.flat.tobytes(), "\\n".join(texts).encode())
    hashes[json.dumps(settings)] = [hashlib.sha256(part).hexdigest() for part in written]
print(json.dumps([kernels.ISA, hashes]))
"""
SHAPES = [
    {},
    {"n_layer": 2, "n_embd": 21, "n_head": 3, "block_size": 7, "seed": 5},
    {"split": "none", "schedule": "cosine", "warmup_steps": 9, "weight_decay": 0.1, "grad_clip": 0.5, "n_embd": 40},
]


@pytest.fixture(scope="module")
def hashes(tmp_path_factory):
    """A function of environment variables: what RUN prints under them, run once for each."""
    path = tmp_path_factory.mktemp("data") / "documents.txt"
    lines = INPUT.read_text(encoding="utf-8").split("\n")[::40]
    path.write_text("\n".join([*lines, "a name of more than sixteen characters", "zoë"]), encoding="utf-8")
    settings = [
        {"input": str(path), "num_steps": 40, "dtype": dtype, "batch_size": batch_size} | shape
        for dtype, batch_size, shape in itertools.product(["float64", "float32"], [1, 16], SHAPES)
    ]
    found = {}

    def run(**environment):
        key = tuple(environment.items())
        if key not in found:
            env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
            command = [sys.executable, "-c", RUN, json.dumps(settings)]
            found[key] = subprocess.run(command, env=env, capture_output=True, encoding="utf-8")
        return found[key]

    return run


@pytest.mark.parametrize("isa", ["avx2", "avx512", "neon"])
def test_every_instruction_set(hashes, isa):
    """Losses, parameters and samples have the same bits as plain C's: both precisions, two batch sizes, any shape."""
    forced = hashes(MICROGPT_ISA=isa)
    if "MICROGPT_ISA: expected one of" in forced.stderr:
        pytest.skip(f"this machine has no {isa}")
    plain = hashes(MICROGPT_ISA="scalar")
    assert (plain.returncode, forced.returncode) == (0, 0), plain.stderr + forced.stderr
    (plain_isa, expected), (forced_isa, found) = json.loads(plain.stdout), json.loads(forced.stdout)
    assert (plain_isa, forced_isa) == ("scalar", isa)
    assert found == expected
    assert len(found) == 12 and len(set(map(str, found.values()))) == 12


@pytest.mark.parametrize(
    "environment", [{"PYTHONHASHSEED": "0"}, {"PYTHONHASHSEED": "1"}, {"LC_ALL": "C"}, {"MICROGPT_THREADS": "3"}]
)
def test_every_process(hashes, environment):
    """They depend neither on the seed of Python's hashes, and so on no order in a set, nor on the locale."""
    plain, other = hashes(), hashes(**environment)
    assert plain.returncode == other.returncode == 0, plain.stderr + other.stderr
    assert plain.stdout == other.stdout
