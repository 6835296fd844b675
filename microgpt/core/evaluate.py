"""Evaluation: the loss of held-out documents, and of each of their characters."""

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

COLUMNS = 1024  # per thread and call, unless the longest document has more


class Measure(NamedTuple):
    """Mean losses in nats.

    `loss` is the mean over all tokens: characters and, except for running text, the documents' ends.  `document_loss`
    is what training minimizes: the mean of per-document means, over the tokens that fit into the context; None for
    running text.
    """

    loss: float
    document_loss: float | None

    @property
    def bits_per_character(self) -> float:
        return self.loss / math.log(2)


class Evaluator:
    """Computes the losses of some documents repeatedly, as the parameters change.

    All characters must be in the vocabulary.  Every character and every document's end is predicted, whatever the
    context length: beyond it, the older half of a full context is dropped, as in sampling.  Raises DataError if there
    is nothing to predict.
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
        """-log probability of each character and of each document's end, document by document, as float64."""
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
        losses, lengths, size = self.losses(), self.lengths, self.params.config.block_size
        if self.params.tokens.end is None:
            return Measure(mean(losses), None)
        places = np.arange(len(losses)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # in each document
        return Measure(mean(losses), mean(losses[places < size], np.minimum(lengths, size)))


def record(config: Config, vocab_size: int) -> Program:
    """The program that computes only the losses."""
    ops = Program()
    model.loss(ops, model.forward(ops, arrays(config, vocab_size), config, ops.attention_forward))
    return ops


def mean(losses: Any, lengths: Any = None) -> float:
    """The mean of the losses; with the lengths of consecutive documents, the mean of per-document means."""
    if lengths is None:
        return total(losses) / len(losses)
    weighted = np.repeat(1 / np.asarray(lengths), lengths)
    weighted *= losses
    return total(weighted) / len(lengths)


def total(losses: Any) -> float:
    """The exact sum, independent of order and machine.  Raises SamplingError if it is not finite."""
    found = math.nan
    with suppress(OverflowError):  # the sum is too large; no loss is negative, so infinities have one sign
        found = math.fsum(losses)
    if not math.isfinite(found):
        raise SamplingError(f"expected a finite loss, found {found}: the model's weights are too large")
    return found
