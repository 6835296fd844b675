""".safetensors files: the safetensors package reads them, and load() returns the same model."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from helpers import NAMES, microgpt, write_names

from microgpt import ConfigError, DataError, load
from microgpt.export.formats import export

safetensors = pytest.importorskip("safetensors", reason="needs safetensors: pip install .[export]")
numpy_io = pytest.importorskip("safetensors.numpy")


def rows(model):
    """The matrices in the documented layout: outputs x inputs, and a row for each token or position."""
    return {name: view.T if name in ("wte", "wpe") else view for name, view in model.params.items()}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("split", ["line", "blank-line", "none"])
def test_the_package_reads_it(trained, tmp_path, dtype, split):
    """The package reads every matrix by name, row-major and bit for bit, and the settings and vocabulary."""
    model, path = trained(NAMES, n_layer=2, dtype=dtype, split=split), str(tmp_path / "m.safetensors")
    export(model, "m", path)
    found = numpy_io.load_file(path)
    assert set(found) == set(model.params)
    for name, matrix in rows(model).items():
        assert found[name].dtype == dtype and found[name].shape == matrix.shape
        assert found[name].tobytes() == matrix.tobytes("C")
    with safetensors.safe_open(path, "np") as file:
        state = json.loads(file.metadata()["microgpt"])
    assert state["config"] == model.config.as_dict() and state["vocab"] == "".join(model.vocab)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_it_is_the_model(trained, tmp_path, dtype):
    """A loaded model has the same bits, samples, losses and settings, and can be saved as a checkpoint."""
    model, path = trained(NAMES, n_layer=2, dtype=dtype, val_fraction=0.3), tmp_path / "m.safetensors"
    export(model, "m", str(path))
    for found in (load(path), load(str(path), threads=2)):
        assert found.params.flat.tobytes() == model.params.flat.tobytes()
        assert (found.config, found.vocab) == (model.config, model.vocab)
        assert found.sample(5) == model.sample(5) and found.score("anna") == model.score("anna")
        assert found.held_out() == model.held_out()
    found.save(tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").params.flat.tobytes() == model.params.flat.tobytes()
    export(found, "other", str(tmp_path / "again.safetensors"))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_what_the_package_writes(trained, tmp_path):
    """A file that the package has read and written again is the same model, bit for bit."""
    model, path = trained(NAMES), str(tmp_path / "m.safetensors")
    export(model, "m", path)
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    numpy_io.save_file(numpy_io.load_file(path), tmp_path / "package.safetensors", metadata)
    assert load(tmp_path / "package.safetensors").params.flat.tobytes() == model.params.flat.tobytes()
    data = (tmp_path / "m.safetensors").read_bytes()  # as others may lay it out: another order, and spaces
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    names, at, parts = sorted(model.params, reverse=True), 0, []
    for name in names:
        begin, end = header[name]["data_offsets"]
        parts.append(data[start + begin : start + end])
        header[name]["data_offsets"] = [at, at := at + end - begin]
    text = json.dumps({name: header[name] for name in ["__metadata__", *names]}, indent=1).encode()
    (tmp_path / "other.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    assert load(tmp_path / "other.safetensors").params.flat.tobytes() == model.params.flat.tobytes()


def test_a_run_goes_on_from_weights(trained, tmp_path):
    """A checkpoint made from weights alone is a run at step 0 and trains like a new run with these weights."""
    model = trained(NAMES, steps=8)
    export(model, "m", str(tmp_path / "m.safetensors"))
    (tmp_path / "run").mkdir()
    load(tmp_path / "m.safetensors").save(tmp_path / "run" / "checkpoint.npz")
    done = microgpt("train", "--resume", "run", "--num-samples", 0, cwd=tmp_path)
    assert done.returncode == 0 and "step    8 /    8" in done.stdout
    assert load(tmp_path / "run").score("anna").loss < model.score("anna").loss


def test_commands(tmp_path):
    """export writes equal files for equal runs, and sample, eval and score print the same for the file and the run."""
    for run in ("a", "b"):
        settings = ["--input", write_names(tmp_path / "n\xe4mes\udcff.txt"), "--out", run, "--num-steps", 5]
        assert microgpt("train", *settings, "--num-samples", 0, cwd=tmp_path).returncode == 0
        done = microgpt("export", run, "-o", f"{run}.safetensors", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {run}.safetensors\n", "")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    for command in (["sample", "--num-samples", 3], ["eval"], ["score", "abba"]):
        found, wanted = (microgpt(command[0], path, *command[1:], cwd=tmp_path) for path in ("a.safetensors", "a"))
        assert found.returncode == 0 and (found.stdout, found.stderr) == (wanted.stdout, wanted.stderr)


def test_too_much_for_a_header(trained):
    """A vocabulary that load() would reject is not written."""
    model = trained(NAMES)
    model.params.vocab = list(map(chr, range(0x10000, 0x30000)))
    with pytest.raises(DataError, match="at most 1048576 bytes"):
        export(model, "m", "never.safetensors")


def test_what_was_changed_elsewhere(trained, tmp_path):
    """Changed weights are refused; the message names the difference and how to change weights."""
    model, path = trained(NAMES), tmp_path / "m.safetensors"
    export(model, "m", str(path))
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    good = numpy_io.load_file(path)
    for changed, said in [
        (good["wpe"].astype(np.float32), "expected wpe with dtype F64, found 'F32'"),
        (good["wpe"][:, :1].copy(), r"expected wpe with shape \[8, 8\], found \[8, 1\]"),
        (good["wpe"] + 1, r"expected contents with .*; to change weights, use Model\.params"),
    ]:
        numpy_io.save_file(good | {"wpe": changed}, path, metadata)
        with pytest.raises(DataError, match=said):
            load(path)


def test_capitals(trained, tmp_path):
    """The ending may be in capitals, both for writing and for reading."""
    model, path = trained(NAMES), str(tmp_path / "M.SAFETENSORS")
    export(model, "m", path)
    assert load(path).params.flat.tobytes() == model.params.flat.tobytes()


def test_no_ending(trained):
    """Another ending is refused, and the message lists the possible endings."""
    with pytest.raises(ConfigError, match=r"\.safetensors"):
        export(trained(NAMES), "m", "m.gguf")


@pytest.mark.parametrize("ending, module", [("safetensors", "safetensors"), ("onnx", "onnx")])
def test_without_the_package(trained, tmp_path, ending, module):
    """Without the package, one line says what to install; reading works without it."""
    model = trained(NAMES)
    model.save(tmp_path / "m.npz")
    export(model, "m", str(tmp_path / "m.safetensors"))
    code = (
        f"import sys; sys.modules[{module!r}] = None; from microgpt.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments):
        return subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)

    refused = run("export", "m.npz", "-o", f"new.{ending}")
    assert refused.returncode == 1 and refused.stdout == "" and refused.stderr.count("\n") == 1
    assert f"pip install {module}" in refused.stderr and "[export]" in refused.stderr
    assert not (tmp_path / f"new.{ending}").exists()
    assert run("sample", "m.safetensors").returncode == 0


def test_model_is_a_copy(trained, tmp_path):
    """Loaded weights can be changed, which does not change the file."""
    model, path = trained(NAMES), tmp_path / "m.safetensors"
    export(model, "m", str(path))
    before, found = path.read_bytes(), load(path)
    found.params["wte"][:] = np.float64(0)
    assert path.read_bytes() == before and not found.params["wte"].any()
