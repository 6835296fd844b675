"""A kernel that is added as CONTRIBUTING.md says is right in every number of threads, and its parameter is trained.

The sources are copied, a gain for each feature is added (y = gain x, whose gradient sums over tokens), and the model
applies it to the embedding.
"""

import os
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

HEADER = """
void microgpt_gain_forward_{p}({real} *y, const {real} *gain, const {real} *x, int m, int n, int ldy, int ldx);
void microgpt_gain_backward_{p}({real} *dgain, {real} *dx, const {real} *dy, const {real} *gain, const {real} *x, int m,
                               int n, int lddx, int lddy, int ldx, int accumulate);
"""

BODY = """
void API(gain_forward)(real *y, const real *gain, const real *x, int m, int n, int ldy, int ldx)
{
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++)
            y[(size_t)j * ldy + i] = gain[i] * x[(size_t)j * ldx + i];
}

void API(gain_backward)(real *dgain, real *dx, const real *dy, const real *gain, const real *x, int m, int n, int lddx,
                        int lddy, int ldx, int accumulate)
{
    for (int i = 0; dgain && i < m; i++) {
        real sum = accumulate & 1 ? dgain[i] : 0;
        for (int j = 0; j < n; j++)
            sum = FMA(dy[(size_t)j * lddy + i], x[(size_t)j * ldx + i], sum);
        dgain[i] = sum;
    }
    for (int j = 0; dx && j < n; j++)
        for (int i = 0; i < m; i++) {
            real *to = &dx[(size_t)j * lddx + i];
            *to = gain[i] * dy[(size_t)j * lddy + i] + (accumulate & 2 ? *to : 0);
        }
}
"""

ROWS = """
KERNEL(gain_forward, STRIDED, "y[m,n] = gain[m] x[m,n]", API(gain_forward)(a[0], a[1], a[2], m, n, ld[0], ld[2]))
KERNEL(gain_backward, {traits}, "dgain?[m] dx?[m,n] = dy[m,n] gain[m] x[m,n]",
       API(gain_backward)(a[0], a[1], a[2], a[3], a[4], m, n, ld[1], ld[2], ld[4], accumulate))
"""

FORWARD = """\
x = ops.gain_forward("scaled", p["gain"], x)
    x = ops.rmsnorm_forward("x", x, eps=RMSNORM_EPS)"""
BACKWARD = """\
_, dembedding = ops.gain_backward((g["gain"], "dscaled"), dembedding, p["gain"], a["embedding"])
    ops.embedding_backward("""
MODEL = [('x = ops.rmsnorm_forward("x", x, eps=RMSNORM_EPS)', FORWARD), ("ops.embedding_backward(", BACKWARD)]

USE = """
import numpy as np
from microgpt import Config, Trainer, kernels
from microgpt.core.params import table
from microgpt.kernels.checks import call

rng = np.random.default_rng(0)
dy, x = (np.asfortranarray(rng.standard_normal((300, 3000))) for _ in range(2))
gain = rng.standard_normal(300)
found = []
for threads in (1, 2, 3):
    kernels.set_threads(threads)
    found.append(call("gain_backward", None, False, 0.0, dy, gain, x))
    assert all((one == other).all() for one, other in zip(found[-1], found[0]))
assert np.allclose(found[0][0], (dy * x).sum(axis=1)) and (found[0][1] == gain[:, None] * dy).all()

runs = []
for threads in (1, 2, 3, 5):
    for clip in (0.0, 1e9):
        trainer = Trainer(Config(batch_size=16, num_steps=3, grad_clip=clip), threads=threads)
        assert trainer.replay.early
        before = trainer.params["gain"].copy()
        losses = [trainer.step() for _ in range(3)]
        assert (trainer.params["gain"] != before).all()
        scaled = trainer.params["gain"], trainer.value("scaled")
        runs.append((losses, trainer.params.flat.tobytes(), trainer.value("scaled").tobytes()))
assert all(run == runs[0] for run in runs)
print("as it should be")
"""


@pytest.mark.parametrize("traits", ["STRIDED", "STRIDED | SPLIT"])
def test_a_gain(tmp_path, traits):
    """Its gradient is right by kernels.set_threads, in a step of any number of threads, and the parameter moves."""
    if not (ROOT / "csrc").exists():
        pytest.skip("needs a checkout, to build from")
    for name in ("csrc", "microgpt"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("build_ffi.py", "pyproject.toml", "README.md", "LICENSE", "input.txt"):
        shutil.copy(ROOT / name, tmp_path)
    edit(tmp_path / "csrc/kernels.h", "#ifdef __cplusplus\n}", lambda old: declarations() + old)
    edit(tmp_path / "csrc/kernels.c", "/* ---- Adam ----", lambda old: BODY + old)
    edit(tmp_path / "csrc/table.h", "KERNEL(relu_forward", lambda old: ROWS.format(traits=traits).lstrip() + old)
    for old, new in MODEL:
        edit(tmp_path / "microgpt/core/model.py", old, lambda _, new=new: new)
    edit(
        tmp_path / "microgpt/core/params.py", "    return rows\n", lambda old: '    rows.append(("gain", 1, n))\n' + old
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "MICROGPT_ISA": "scalar", "MICROGPT_CFLAGS": "-O1"}
    only_scalar = (
        "import build_ffi, setuptools; build_ffi.FLAGS = {'scalar': ['-DMICROGPT_SCALAR']}; setuptools.setup()"
    )
    for code, *arguments in ([only_scalar, "-q", "build_ext", "--inplace"], [USE]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
    assert done.stdout == "as it should be\n"


def declarations():
    return "".join(HEADER.format(p=p, real=real) for p, real in (("f32", "float"), ("f64", "double")))


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new(old)))
