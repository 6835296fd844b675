"""Fixtures for the tests of sweeps."""

import pytest
from helpers import write_names
from sweeping import LONG, SWEEP, checkpoints, sweep, trials


@pytest.fixture
def folder(tmp_path):
    """A directory with a file of names."""
    write_names(tmp_path / "names.txt", 100)
    return tmp_path


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """expected(sampler): the trials and checkpoints of SWEEP, trained one by one; expected("long"): those of LONG."""
    known = {}

    def of(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            write_names(folder / "names.txt", 100)
            flags = LONG if name == "long" else [*SWEEP, "--sampler", name]
            process = sweep("s", *flags, "--executor", "thread:1", cwd=folder)
            assert process.returncode == 0, process.stderr
            known[name] = trials(folder / "s"), checkpoints(folder / "s")
        return known[name]

    return of
