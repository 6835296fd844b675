"""Sweeps: what is recorded, whatever happens meanwhile."""

import random
import signal
import time

import pytest
from helpers import often
from sweeping import SAMPLERS, SWEEP, begin, checkpoints, trials


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_killed_again_and_again_and_resumed(sampler, expected, folder):
    """A sweep that is killed at any moment, often, and resumed has the same trials, none twice and none lost."""
    rng, kills, directory = random.Random(7), 0, folder / "s"
    for _ in range(200):
        begun = (directory / "sweep.json").exists()
        flags = ["--resume", "s"] if begun else ["s", *SWEEP, "--sampler", sampler]
        process = begin(*flags, "--executor", "process:2", cwd=folder)
        if kills < often(6, 20):
            before = len(trials(directory)) if (directory / "trials.jsonl").exists() else 0
            wanted, end = before + rng.choice([0, 0, 1, 2]), time.monotonic() + 20
            while process.poll() is None and time.monotonic() < end:  # until so many trials more have ended
                try:
                    if (directory / "running").exists() and (directory / "trials.jsonl").read_bytes().count(
                        b"\n"
                    ) >= wanted:
                        break
                except FileNotFoundError:
                    pass
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.3 if wanted > before else 1.2))  # or anywhere, even before it begins
            process.kill()
        _, stderr = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL and "Traceback" not in stderr, stderr
        kills += 1
        if (directory / "trials.jsonl").exists():
            text = (directory / "trials.jsonl").read_text()
            assert not text or text.endswith("\n")
            assert trials(directory) == expected(sampler)[0][: len(trials(directory))]
    assert kills >= often(6, 20) - 2
    assert trials(directory) == expected(sampler)[0]
    assert checkpoints(directory) == expected(sampler)[1]
