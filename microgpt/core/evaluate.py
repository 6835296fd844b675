"""Evaluation: the loss of held-out documents, and of each of their characters."""

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

COLUMNS = 1024  # per thread and call, unless the longest document has more


class Evaluator:
    """Computes the losses of some documents repeatedly, as the parameters change.

    All characters must be in the vocabulary.  Running text is cut into windows from its beginning.  Raises DataError if
    there is nothing to predict.
    """

    def __init__(self, params: Parameters, documents: Sequence[str], threads: int | None = None) -> None:
        self.params, config = params, params.config
        self.dataset = d = Dataset(documents, params.tokens, config)
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
        return losses

    def mean(self, losses: Any) -> float:
        """The quantity that training minimizes: the mean of per-document means, or the mean over running text."""
        return mean(losses, None if self.params.tokens.end is None else np.diff(self.dataset.offsets))

    def loss(self) -> float:
        return self.mean(self.losses())


def record(config: Config, vocab_size: int) -> Program:
    """The program that computes only the losses."""
    ops = Program()
    model.loss(ops, model.forward(ops, arrays(config, vocab_size), config, ops.attention_forward))
    return ops


def mean(losses: Any, lengths: Any) -> float:
    """The mean of per-document means, for consecutive documents of these lengths; for None, the mean of all losses."""
    if lengths is None:
        return total(losses) / len(losses)
    weighted = np.repeat(1 / np.asarray(lengths), lengths)
    weighted *= losses
    return total(weighted) / len(lengths)


def bits_per_character(losses: Any) -> float:
    """The mean over all characters and ends, in bits."""
    return total(losses) / len(losses) / math.log(2)


def total(losses: Any) -> float:
    """The exact sum, independent of order and machine.  Raises SamplingError if it is not finite."""
    found = math.nan
    with suppress(OverflowError):  # the sum is too large; no loss is negative, so infinities have one sign
        found = math.fsum(losses)
    if not math.isfinite(found):
        raise SamplingError(f"expected a finite loss, found {found}: the model's weights are too large")
    return found
