"""Evaluation: the loss of documents that are not trained on, and of each of their characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from . import model
from .config import Config
from .data import Dataset
from .errors import SamplingError
from .params import Parameters, arrays
from .program import Program, Replay
from .threads import number

COLUMNS = 1024  # at once for each thread, or as many as the longest document has


class Evaluator:
    """The losses of some documents, again and again as the parameters change.  All characters must be known."""

    def __init__(self, params: Parameters, documents: list[str], threads: int | None = None) -> None:
        config = params.config
        self.dataset = d = Dataset(documents, params.vocab, config.block_size, 1, config.dtype)
        ops = record(config, len(params.vocab) + 1)
        n_threads = number(threads, params.flat.size * d.offsets[-1])
        max_tokens = min(d.offsets[-1], max(d.max_columns, COLUMNS * n_threads))
        self._replay = Replay(ops, config.dtype, max_tokens, {**params.views, **d.arrays}, n_threads)

    def losses(self) -> Any:
        """-log probability of each character, and of each document's end, one document after the other: float64."""
        offsets, most = self.dataset.offsets, self._replay.max_tokens
        losses = np.empty(offsets[-1])
        start = 0
        for end, following in zip(offsets[1:], [*offsets[2:], math.inf]):
            if following - start > most:  # no room for one more document
                self._replay.over(start, end - start)
                losses[start:end] = self._replay.values["losses"].reshape(-1, order="F")[: end - start]
                start = end
        return losses

    def loss(self) -> float:
        """The mean over the documents of their mean losses, which is what training lowers."""
        return mean_loss(self.losses(), self.dataset.offsets)


def record(config: Config, vocab_size: int) -> Program:
    """The program of the losses alone."""
    ops = Program()
    model.loss(ops, model.forward(ops, arrays(config, vocab_size), config, ops.attention_forward))
    return ops


def mean_loss(losses: Any, offsets: Sequence[int]) -> float:
    weights = np.repeat(1 / np.diff(offsets), np.diff(offsets))
    return total(losses * weights) / (len(offsets) - 1)


def bits_per_character(losses: Any) -> float:
    """The mean over all characters and ends, in bits."""
    return total(losses) / len(losses) / math.log(2)


def total(losses: Any) -> float:
    """The exact sum, so that the order and the machine do not matter; SamplingError when it is not finite."""
    found = math.nan
    with suppress(OverflowError):  # beyond the largest number; no loss is below 0, so infinities have one sign
        found = math.fsum(losses)
    if not math.isfinite(found):
        raise SamplingError(f"expected a finite loss, found {found}: the model's weights are too large")
    return found
