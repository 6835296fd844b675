"""Fixtures: kernels of every instruction set, both precisions, tiny models."""

import functools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from builds import KERNELS

pytest_plugins = ["page_fixtures"]  # node and a browser, for the tests of pages

# A script's background processes ignore SIGINT, and nohup's SIGHUP, and so would every process that a test starts and
# then waits for: give these signals back to them.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

os.environ.pop("PYTHONUNBUFFERED", None)  # or else no process would show what is written too late


@pytest.fixture(params=KERNELS, scope="session")
def kernels(request):
    return KERNELS[request.param]


@pytest.fixture(params=["float32", "float64"], scope="session")
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def trained(tmp_path):
    """trained(documents, n_layer=2, ...): a tiny Model after some steps."""
    import helpers

    return functools.partial(helpers.trained, tmp_path)


# ---- MICROGPT_PASSED: a file of the ids of tests that have passed, which are not run again ----

PASSED = os.environ.get("MICROGPT_PASSED")
outcomes = {}  # by id, whether a test has passed so far: its setup, call and teardown


def pytest_collection_modifyitems(config, items):
    if PASSED and os.path.exists(PASSED):
        passed = set(Path(PASSED).read_text(encoding="utf-8").splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]


def pytest_runtest_logreport(report):
    outcomes[report.nodeid] = outcomes.get(report.nodeid, True) and report.passed


def pytest_sessionfinish(session):
    if PASSED and not hasattr(session.config, "workerinput"):  # the one process that hears of every test
        with open(PASSED, "a", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name, passed in outcomes.items() if passed)
