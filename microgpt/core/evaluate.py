"""Evaluation: the loss of documents that are not trained on, and of each of their characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from ..base.config import Config
from ..base.errors import SamplingError
from ..base.threads import number
from . import model
from .data import Dataset
from .params import Parameters, arrays
from .program import Program, Replay

COLUMNS = 1024  # at once for each thread, or as many as the longest document has


class Measure(NamedTuple):
    """Mean losses in nats."""

    loss: float  # over all tokens: characters and, but for running text, the documents' ends
    document_loss: float | None  # over documents of their mean losses, which training lowers; None for running text

    @property
    def bits_per_character(self) -> float:
        return self.loss / math.log(2)


class Evaluator:
    """The losses of some documents, again and again as the parameters change.  All characters must be known.

    Every character is predicted, and every document's end, whatever the context length: beyond the context as in
    sampling, which drops the older half of a full context.  Raises DataError where there is nothing to predict.
    """

    def __init__(self, params: Parameters, documents: Sequence[str], threads: int | None = None) -> None:
        self.params, config = params, params.config
        self.dataset = d = Dataset(documents, params.tokens, config, whole=True)
        has_end = params.tokens.end is not None
        self.lengths = np.array([len(document) + has_end for document in documents])  # predictions of each document
        self._counted = d.counted
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
        return losses[self._counted]

    def measure(self) -> Measure:
        losses = self.losses()
        return Measure(mean(losses), None if self.params.tokens.end is None else mean(losses, self.lengths))


def record(config: Config, vocab_size: int) -> Program:
    """The program of the losses alone."""
    ops = Program()
    model.loss(ops, model.forward(ops, arrays(config, vocab_size), config, ops.attention_forward))
    return ops


def mean(losses: Any, lengths: Any = None) -> float:
    """The mean of the losses; with the documents' lengths, the mean over documents of their mean losses."""
    if lengths is None:
        return total(losses) / len(losses)
    weighted = np.repeat(1 / np.asarray(lengths), lengths)
    weighted *= losses
    return total(weighted) / len(lengths)


def total(losses: Any) -> float:
    """The exact sum, so that the order and the machine do not matter; SamplingError when it is not finite."""
    found = math.nan
    with suppress(OverflowError):  # beyond the largest number; no loss is below 0, so infinities have one sign
        found = math.fsum(losses)
    if not math.isfinite(found):
        raise SamplingError(f"expected a finite loss, found {found}: the model's weights are too large")
    return found
