"""What a fuzzer began with and what it found, tried again without it."""

from pathlib import Path

import pytest
import readers

SEEDS = sorted((Path(__file__).parent / "seeds").glob("*/*"))
BROKEN = {
    "checkpoint": ("microgpt.runs.checkpoint.check_arrays", lambda arrays, state: None),
    "weights": ("microgpt.runs.safetensors.check_arrays", lambda arrays, state: None),
    "settings": ("microgpt.base.config.Range.__contains__", lambda self, value: value == value),
    "metrics": ("microgpt.runs.metrics.size_of_steps", lambda file, n_steps: 0),
    "text": ("microgpt.core.data.Dataset.batch", lambda self, step: (0, 1)),
    "prompts": ("microgpt.runs.trained.Trained._check_text", lambda self, name, text, most: None),
    "arguments": ("microgpt.kernels.checks.overlap", lambda a, b: False),
}


def try_all(reader):
    for path in SEEDS:
        if path.parent.name == reader:
            data = path.read_bytes()
            for end in {len(data), len(data) // 2, 1, 0}:  # the whole, and beginnings
                readers.READERS[reader](data[:end])


@pytest.mark.parametrize("reader", readers.READERS)
def test_seeds(reader):
    """Every seed is answered rightly."""
    try_all(reader)


@pytest.mark.parametrize("reader", readers.READERS)
def test_mistakes_are_seen(reader, monkeypatch):
    """When a check is left out, or a result is wrong, some seed fails."""
    monkeypatch.setattr(*BROKEN[reader])
    with pytest.raises(Exception):  # noqa: B017, PT011 - whichever
        try_all(reader)
