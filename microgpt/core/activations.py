"""Activations: every intermediate of the model on one text, to be looked at."""

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
    """An array for every name that model.py gives: rows x tokens, one column for each token.

    "logits" and "probs" (vocab_size x tokens) say what follows each token, "losses" (1 x tokens) what the model lost on
    what does follow, and "layer0.attn.probs" (n_head x tokens x tokens) how much each token took from which.
    """

    def __missing__(self, name: object) -> NoReturn:
        meant = suggestion(name, self) if isinstance(name, str) else ""
        raise KeyError(f"expected one of {', '.join(self)}, found {name!r}{meant}")


def activations(params: Parameters, ids: Sequence[int]) -> Activations:
    """Those of the tokens ids[:-1], which ids[1:] follow."""
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
    return looked_at(ops, replay, np.array([0, n]), config)


def looked_at(ops: Program, replay: Replay, offsets: Any, config: Config) -> Activations:
    """What a program has made of the documents of a batch, which begin at these columns, but for the last that ends."""
    n, found = int(offsets[-1]), Activations()
    for name, _, fixed in ops.arrays.values():
        if name == "work":
            continue
        found[name] = replay.values[name] if fixed else replay.values[name][:, :n]
        layer, _, last = name.rpartition("attn.probs")
        if layer and not last:  # as the kernel lays them out they are no matrices
            q, k, v = (found[layer + x] for x in "qkv")
            _, cache = kernels.attention_forward(q, k, v, offsets, config.n_head)
            found[name] = np.zeros((config.n_head, n, n), config.dtype)  # no document looks at another
            for i, (begin, end) in enumerate(pairwise(offsets)):
                found[name][:, begin:end, begin:end] = kernels.attention_weights(cache, i)
    return found
