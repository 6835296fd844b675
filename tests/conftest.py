"""Fixtures: kernels of every instruction set, both precisions, tiny models."""

import functools
import os
import signal

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
