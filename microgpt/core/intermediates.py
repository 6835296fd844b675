"""Activations: every intermediate of the model on one text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from .. import kernels
from ..base.config import Config
from ..base.settings import suggestion
from . import evaluate
from .params import Parameters
from .program import Program, Replay


class Activations(dict[str, Any]):
    """A mapping from each name in model.py to its array: rows x tokens, one column for each token.

    "logits" and "probs" (vocab_size x tokens) predict the token after each token.  "losses" (1 x tokens) are the losses
    of the tokens that do follow.  "layer0.attn.probs" (n_head x tokens x tokens) is how much each token attends to each
    other.
    """

    def __repr__(self) -> str:
        return f"<Activations: {len(self)} arrays, from {next(iter(self), None)!r} to {next(reversed(self), None)!r}>"

    def __missing__(self, name: object) -> NoReturn:
        meant = suggestion(name, self) if isinstance(name, str) else ""
        raise KeyError(f"expected one of {', '.join(self)}, found {name!r}{meant}")


def activations(params: Parameters, ids: Sequence[int]) -> Activations:
    """The activations of the tokens ids[:-1]; their targets are ids[1:]."""
    config, n = params.config, len(ids) - 1
    columns = {
        "tokens": np.array(ids[:-1], np.int32),
        "positions": np.arange(n, dtype=np.int32),
        "targets": np.array(ids[1:], np.int32),
        "weights": np.full(n, 1 / n, config.dtype),
    }
    ops = evaluate.record(config, params.tokens.size)
    replay = Replay(ops, config.dtype, n, {**params.views, **columns})
    replay.over(0, n)
    return collect_activations(ops, replay, np.array([0, n]), config)


def collect_activations(ops: Program, replay: Replay, offsets: Any, config: Config) -> Activations:
    """The arrays of a program that has just run on a batch.

    `offsets` are the columns at which the batch's documents begin; the last entry is where the last document ends.
    """
    n, found = int(offsets[-1]), Activations()
    for name, _, fixed in ops.arrays.values():
        layer, _, last = name.rpartition("attn.probs")
        if name in ops.own_layout and not (layer and not last):
            continue
        found[name] = replay.values[name] if fixed else replay.values[name][:, :n]
        if layer and not last:  # the kernel has its own layout: compute the matrices again
            q, k, v = (found[layer + x] for x in "qkv")
            _, cache = kernels.attention_forward(q, k, v, offsets, config.n_head)
            found[name] = np.zeros((config.n_head, n, n), config.dtype)  # no document attends to another
            for i, (begin, end) in enumerate(pairwise(offsets)):
                found[name][:, begin:end, begin:end] = kernels.attention_weights(cache, i)
    return found
