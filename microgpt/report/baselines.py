"""Baselines: the losses of a uniform guess and of a bigram table."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base.config import Config
from ..core.documents import Documents
from ..core.evaluate import mean
from ..core.tokens import Tokens


def losses(config: Config, tokens: Tokens, documents: Documents | None) -> dict[str, float]:
    """{"uniform guess": loss, "bigram table": loss} for a run's texts; without documents, only the first."""
    found = {"uniform guess": uniform(tokens)}
    if documents is not None:
        measured = documents.held_out or documents.training
        found["bigram table"] = bigram(documents.training, measured, tokens)
    return found


def uniform(tokens: Tokens) -> float:
    return math.log(tokens.size)


def bigram(training: Sequence[str], measured: Sequence[str], tokens: Tokens) -> float:
    """The mean loss over the tokens of `measured` when the probability of a token is how often it followed the one
    before it in `training`, each count plus one."""
    seen, counts = np.unique(pairs(tokens.encode(training), tokens.size), return_counts=True)
    of_first = np.bincount(seen // tokens.size, counts, tokens.size)
    wanted = pairs(tokens.encode(measured), tokens.size)
    at = np.searchsorted(seen, wanted).clip(max=len(seen) - 1)
    found = np.where(seen[at] == wanted, counts[at], 0)
    return mean(-np.log((found + 1) / (of_first[wanted // tokens.size] + tokens.size)))


def pairs(ids: Any, size: int) -> Any:
    """Each id and the next one, encoded as a single number."""
    return ids[:-1].astype(np.int64) * size + ids[1:]
