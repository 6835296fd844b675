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
    """{"uniform guess": loss, "bigram table": loss} for a run's texts; without documents, only the first.

    The bigram table is measured as the model is: on every token of the held-out texts, or, if there are none, on the
    training texts, cut to the context length, as the mean over documents of their mean losses.
    """
    found = {"uniform guess": uniform(tokens)}
    if documents is not None and documents.held_out:
        found["bigram table"] = mean(bigram(documents.training, documents.held_out, tokens))
    elif documents is not None:
        every = bigram(documents.training, documents.training, tokens)
        lengths = np.array([len(text) + (tokens.end is not None) for text in documents.training])
        places = np.arange(len(every)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        if tokens.end is None:
            found["bigram table"] = mean(every)
        else:
            found["bigram table"] = mean(every[places < config.block_size], np.minimum(lengths, config.block_size))
    return found


def uniform(tokens: Tokens) -> float:
    return math.log(tokens.size)


def bigram(training: Sequence[str], measured: Sequence[str], tokens: Tokens) -> Any:
    """The loss of each token of `measured` when the probability of a token is how often it followed the one before it
    in `training`, each count plus one."""
    seen, counts = np.unique(pairs(tokens.encode(training), tokens.size), return_counts=True)
    of_first = np.bincount(seen // tokens.size, counts, tokens.size)
    wanted = pairs(tokens.encode(measured), tokens.size)
    at = np.searchsorted(seen, wanted).clip(max=len(seen) - 1)
    found = np.where(seen[at] == wanted, counts[at], 0)
    return -np.log((found + 1) / (of_first[wanted // tokens.size] + tokens.size))


def pairs(ids: Any, size: int) -> Any:
    """Each id and the next one, encoded as a single number."""
    return ids[:-1].astype(np.int64) * size + ids[1:]
