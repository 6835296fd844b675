"""The README's examples in Python, as they stand there, one after the other."""

import re
import subprocess
import sys

import pytest
from helpers import INPUT, ROOT, microgpt

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_examples(tmp_path):
    """Each runs where the README's first commands have been run, and leaves what it says."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    (tmp_path / "input.txt").symlink_to(INPUT)
    assert microgpt("train", "--out", "runs/first", "--num-steps", 20, cwd=tmp_path).returncode == 0
    checks = """
assert len(val_losses) == 5 and val_losses[-1] < val_losses[0] < 2.8
assert [step for step, _ in model.history.val_losses] == [200, 400, 600, 800, 1000]
assert probs.argmax(axis=0).tolist() == targets.tolist() and dx.shape == (64, 1024)
assert trainer.value("layer0.q").shape[0] == 16 == trainer.attention(0)[0].shape[0] * 4 and trainer.step_count == 500
"""
    assert len(EXAMPLES) == 5
    code = "\n".join([*EXAMPLES, checks])
    env = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "HOME": str(tmp_path)}
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "history.png").stat().st_size > 10_000
    assert microgpt("sample", "model.npz", "--num-samples", 1, cwd=tmp_path).returncode == 0
