"""Evaluation: the loss of documents that are not trained on, and of each of their characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ..base.config import Config
from ..base.errors import SamplingError
from ..base.threads import number
from . import model
from .data import Dataset
from .params import Parameters, arrays
from .program import Program, Replay

COLUMNS = 1024  # at once for each thread, or as many as the longest document has


class Evaluator:
    """The losses of some documents, again and again as the parameters change.  All characters must be known.

    Running text is cut into windows, from its beginning on.  Raises DataError where there is nothing to predict.
    """

    def __init__(self, params: Parameters, documents: Sequence[str], threads: int | None = None) -> None:
        self.params, config = params, params.config
        self.dataset = d = Dataset(documents, params.tokens, config)
        n_threads = number(threads, params.flat.size * d.offsets[-1])
        max_tokens = min(int(d.offsets[-1]), max(d.max_columns, COLUMNS * n_threads))
        ops = record(config, params.tokens.size)
        self._replay = Replay(ops, config.dtype, max_tokens, {**params.views, **d.arrays}, n_threads)

    def losses(self) -> Any:
        """-log probability of each character, and of each document's end, one document after the other: float64."""
        offsets, most = self.dataset.offsets, self._replay.max_tokens
        losses = np.empty(offsets[-1])
        first = 0
        while first < len(offsets) - 1:
            end = int(np.searchsorted(offsets, offsets[first] + most, "right")) - 1
            start, n = self.dataset.find(first, end - first)
            self._replay.over(start, n)
            losses[offsets[first] : offsets[end]] = self._replay.values["losses"].reshape(-1, order="F")[:n]
            first = end
        return losses

    def mean(self, losses: Any) -> float:
        """What training lowers: the mean over documents of their means, or over the characters of running text."""
        return mean(losses, None if self.params.tokens.end is None else np.diff(self.dataset.offsets))

    def loss(self) -> float:
        return self.mean(self.losses())


def record(config: Config, vocab_size: int) -> Program:
    """The program of the losses alone."""
    ops = Program()
    model.loss(ops, model.forward(ops, arrays(config, vocab_size), config, ops.attention_forward))
    return ops


def mean(losses: Any, lengths: Any) -> float:
    """The mean over documents, so long and one after the other, of their means; without lengths that of all losses."""
    if lengths is None:
        return total(losses) / len(losses)
    weighted = np.repeat(1 / np.asarray(lengths), lengths)
    weighted *= losses
    return total(weighted) / len(lengths)


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
