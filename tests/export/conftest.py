"""What the tests of exports share: tiny models."""

from functools import partial

import helpers
import pytest

NAMES = ["anna", "bo", "hanna", "abba", "noah", "ona", "bab", "nob"]


@pytest.fixture
def trained(tmp_path):
    """trained(n_layer=2, ...): a tiny Model after some steps."""
    return partial(helpers.trained, tmp_path, NAMES)
