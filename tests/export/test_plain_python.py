"""The file of plain Python: under each Python its samples equal the model's exactly, and its losses to 1e-9."""

import ast
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import microgpt, often, trained

from microgpt.export.formats import export

VERSIONS = ["3.11", "3.12", "3.13"]
SETTINGS = [
    {"num_samples": 40}, {"temperature": 1.0, "seed": 2**63 - 1}, {"temperature": 1.5}, {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 3}, {"temperature": 1.2, "top_p": 0.7},
    {"temperature": 1.5, "top_k": 5, "top_p": 0.5}, {"prompt": "an"}, {"temperature": 1.5, "length": 30},
    {"temperature": 1.5, "length": 30, "prompt": "anna"}, {"temperature": 1e-320}, {"num_samples": 0},
]  # fmt: skip
HOSTILE = [
    '"""',
    "\\",
    "'#",
    "{a}%s",
    "\u202e\u05d0\u2028",
    "\U0001f600e\u0301",
    "\x00\x7f\t.",
    "a\x85\xa0b",
    "exec(0)",
]


def python(version):
    """The command of this Python without installed packages, or None."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for path in [sys.executable] if version == here else [*installed, shutil.which(f"python{version}")]:
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return [path, "-I", "-S"]
    return None


PYTHONS = [found for found in map(python, VERSIONS) if found is not None]


@pytest.mark.parametrize("version", VERSIONS)
def test_versions(version):
    """Each Python that runs the files below; none can import NumPy."""
    found = python(version)
    if found is None:
        pytest.skip(f"needs python{version}")
    wanted = f"import sys; assert '{version}.' in sys.version; import numpy"
    done = subprocess.run([*found, "-c", wanted], capture_output=True, text=True)
    assert "No module named 'numpy'" in done.stderr


ALL = """
import json, runpy, sys
model = runpy.run_path(sys.argv[1])
settings, texts = json.load(sys.stdin)
print(json.dumps([[list(model["samples"](**given)) for given in settings], list(map(model["score"], texts))]))
"""


def check(model, path, settings, texts, pythons=PYTHONS):
    """Compare the file's samples with each of the settings, and its losses of each text, with the model's."""
    export(model, "m", str(path))
    wanted, wanted_losses = [model.sample(**given) for given in settings], [model.score(text).losses for text in texts]
    # the file computes float32 models in doubles
    close = {"rtol": 0, "atol": 1e-9 if model.config.dtype == "float64" else 1e-5}
    for interpreter in pythons:
        given = json.dumps([settings, texts])
        done = subprocess.run([*interpreter, "-c", ALL, path], input=given, capture_output=True, encoding="utf-8")
        assert (done.returncode, done.stderr) == (0, "")
        samples, losses = json.loads(done.stdout)
        assert samples == wanted
        for found, right in zip(losses, wanted_losses, strict=True):
            np.testing.assert_allclose(found, right, **close)


def names(n, longest=8):
    rng = random.Random(7)
    return ["".join(rng.choices("abdefghjkno", k=rng.randint(1, longest))) for _ in range(n)]


@pytest.mark.slow
@pytest.mark.parametrize("n_layer, dtype", [(1, "float64"), (2, "float32"), (3, "float64")])
def test_lines(tmp_path, n_layer, dtype):
    """Names are sampled and scored as by the model, with all sampling settings."""
    model = trained(tmp_path, ["anna", *names(40)], n_layer=n_layer, dtype=dtype)
    chars = set(model.vocab)
    texts = [name for name in names(often(40, 500)) if chars.issuperset(name)]
    settings = [{"num_samples": often(10, 100)} | given for given in SETTINGS]
    check(model, tmp_path / "m.py", settings, ["", "anna", *texts])


@pytest.mark.parametrize("block_size", [1, 2, 5, 8])
def test_running_text(tmp_path, block_size):
    """Running text is continued and scored past the context, with and without newlines."""
    text = ("\n" if block_size % 2 else "").join(names(40))
    model = trained(tmp_path, [text], split="none", n_layer=2, block_size=block_size)
    drawn = [{"prompt": ""}, {"prompt": text[:1]}, {"prompt": text[: 3 * block_size]}, {"temperature": 1.5}]
    settings = [{"num_samples": 3, "length": 40} | given for given in drawn]
    settings += [{"num_samples": 1, "temperature": 1.0}]  # 500 characters
    check(model, tmp_path / "m.py", settings, [text[2 : 3 + n] for n in range(3 * block_size)], PYTHONS[:1])


@pytest.mark.parametrize("split", ["line", "blank-line", "none"])
def test_hostile_vocabulary(tmp_path, split):
    """With any vocabulary (quotes, escapes, direction marks) the file is ASCII and its texts are right."""
    texts = [text.strip() for text in HOSTILE]
    model = trained(tmp_path, ["\n\n".join(texts)] if split == "blank-line" else texts, split=split, block_size=32)
    drawn = [{"temperature": 1.5, "num_samples": 10, "length": 40, "prompt": text[:3]} for text in texts]
    check(model, tmp_path / "m.py", drawn, texts)
    (tmp_path / "m.py").read_text(encoding="ascii")


def test_equals(tmp_path):
    """Among equally likely characters, the one with the lowest id ranks first."""
    model = trained(tmp_path, names(40))
    model.params["lm_head"][1:6] = model.params["lm_head"][0]
    drawn = [{"temperature": 1.0, "top_k": 3}, {"temperature": 1.5, "top_p": 0.3}, {"temperature": 0.0}]
    check(model, tmp_path / "m.py", drawn, ["ab"])


@pytest.mark.parametrize("split", ["line", "blank-line", "none"])
def test_what_it_prints(tmp_path, split):
    """stdout equals that of sample and score exactly."""
    text = "anna\nbo\n\nhanna\nabba" if split != "line" else "anna"
    model = trained(tmp_path, [text, "bo", "hanna"], split=split, block_size=16)
    model.save(tmp_path / "m.npz")
    export(model, "m", str(tmp_path / "m.py"))
    few = ["--num-samples", "2"] if split == "none" else []
    drawn = [
        "--num-samples",
        "2" if split == "none" else "12",
        "--temperature",
        "0.9",
        "--seed",
        "7",
        "--top-k",
        "5",
        "--top-p",
        "0.9",
    ]
    for given, wanted in [
        (few, ["sample", "m.npz", *few]), (drawn, ["sample", "m.npz", *drawn]),
        (["--prompt", "an", "--length", "9"], ["sample", "m.npz", "--prompt", "an", "--length", "9"]),
        (["--score", "anna", "bo", "anna" * 6], ["score", "m.npz", "anna", "bo", "anna" * 6]),
    ]:  # fmt: skip
        wanted = microgpt(*wanted, cwd=tmp_path).stdout
        for interpreter in PYTHONS if split == "line" else PYTHONS[:1]:
            found = subprocess.run([*interpreter, "m.py", *given], cwd=tmp_path, capture_output=True, text=True)
            assert (found.returncode, found.stdout, found.stderr) == (0, wanted, "")


def test_mistakes(tmp_path):
    """Invalid arguments are refused by name, in one line after the usage."""
    export(trained(tmp_path, ["anna"]), "m", str(tmp_path / "m.py"))
    for given, said in [
        (["--prompt", "Z"], "'Z' at position 1"), (["--prompt", "a" * 8], "at most 7"),
        (["--score", "aZ\n"], "'Z' at position 2"), (["--temperature", "-1"], "--temperature"),
        (["--temperature", "nan"], "--temperature"), (["--top-k", "-1"], "--top-k"),
        (["--top-p", "0"], "--top-p: expected a number above 0 and at most 1, found '0'"),
        (["--temperature", "0,5"], "--temperature: expected a number at least 0 and at most 1000, found '0,5'"),
        (["--length", "1000000001"], "--length: expected a whole number at least 0 and at most 1000000000, found"),
        (["--seed", "x"], "--seed"), (["--num", "3"], "--num"),
    ]:  # fmt: skip
        done = subprocess.run([*PYTHONS[0], "m.py", *given], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode in (1, 2) and done.stdout == "" and "Traceback" not in done.stderr
        assert said in done.stderr.splitlines()[-1]


def test_stopped(tmp_path):
    """As with the command, a closed stdout is no failure, a full disk gives one line, and Ctrl-C is silent."""
    export(trained(tmp_path, ["anna"]), "m", str(tmp_path / "m.py"))
    endless = [*PYTHONS[0], tmp_path / "m.py", "--num-samples", "1000000000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for stop, code in ((lambda run: run.stdout.close(), 0), (lambda run: run.send_signal(signal.SIGINT), 130)):
        with subprocess.Popen(endless, **pipes) as run:
            assert run.stdout.readline().startswith("sample  1: ")
            stop(run)
            assert (run.wait(60), run.stderr.read()) == (code, "")
    with open("/dev/full", "w") as full:
        for n in ("3", "1000000000"):
            done = subprocess.run([*endless[:-1], n], stdout=full, stderr=subprocess.PIPE, text=True)
            assert (done.returncode, done.stderr) == (1, "m.py: stdout: No space left on device\n")


def test_long_text(tmp_path):
    """A short text takes no memory for the length that was allowed."""
    model = trained(tmp_path, ["anna"])
    export(model, "m", str(tmp_path / "m.py"))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))"
    code = f"{limit}; import m; print(next(m.samples(temperature=1.0, length=10**9)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (model.sample(1, temperature=1.0, length=99), "")


def test_weights_too_large(tmp_path):
    """A model whose weights are too large gives an error."""
    model = trained(tmp_path, ["anna"])
    model.params["lm_head"][:] = 1e308
    export(model, "m", str(tmp_path / "m.py"))
    done = subprocess.run([*PYTHONS[0], "m.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "weights are too large" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_weights(tmp_path, dtype):
    """The file holds the weights exactly, and imports only the standard library."""
    model = trained(tmp_path, ["anna"], dtype=dtype)
    model.params["wte"][:2, 0] = [-0.0, 1e-40]
    export(model, "m", str(tmp_path / "m.py"))
    tree = ast.parse((tmp_path / "m.py").read_text())
    (literal,) = (node.value for node in tree.body if isinstance(node, ast.AnnAssign) and node.target.id == "WEIGHTS")
    found = ast.literal_eval(literal)
    assert list(found) == list(model.params)
    for name, text in found.items():
        rows = np.array([row.split() for row in text.splitlines()], dtype)
        assert (rows.T if name in ("wte", "wpe") else rows).tobytes() == model.params[name].tobytes()
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
