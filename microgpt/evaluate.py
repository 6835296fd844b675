"""Evaluation: the loss of documents that are not trained on, and of each of their characters."""

import math

import numpy as np

from . import model
from .data import Dataset
from .program import Program

COLUMNS = 1024  # at once, or as many as the longest document has


class Evaluator:
    """The losses of some documents, again and again as the parameters change.  All characters must be known."""

    def __init__(self, params, documents):
        config = params.config
        self.dataset = d = Dataset(documents, params.vocab, config.block_size, 1, config.dtype)
        self._program = k = Program(config.dtype, min(d.offsets[-1], max(d.max_columns, COLUMNS)))
        model.loss(k, model.forward(k, params, config, k.attention_forward))
        self._run = k.compile(d.token, d.position, d.target, d.weight)

    def losses(self):
        """-log probability of each character, and of each document's end, one document after the other: float64."""
        offsets, most = self.dataset.offsets, self._program.max_tokens
        losses = np.empty(offsets[-1])
        start = 0
        for end, following in zip(offsets[1:], [*offsets[2:], math.inf]):
            if following - start > most:  # no room for one more document
                self._run(start, end - start)
                losses[start:end] = self._program.values["losses"].reshape(-1, order="F")[: end - start]
                start = end
        return losses

    def loss(self):
        """The mean over the documents of their mean losses, which is what training lowers."""
        return mean_loss(self.losses(), self.dataset.offsets)


def mean_loss(losses, offsets):
    # fsum is exact, so that the order and the machine do not matter
    weights = np.repeat(1 / np.diff(offsets), np.diff(offsets))
    return math.fsum(losses * weights) / (len(offsets) - 1)


def bits_per_character(losses):
    """The mean over all characters and ends, in bits."""
    return math.fsum(losses) / len(losses) / math.log(2)
