"""What the model computes for one text, position by position."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import kernels
from ..core.evaluate import mean
from ..runs.trained import Trained

Named = list[tuple[str, Any]]  # (label, array), in the order of the model

ALTERNATIVES, GLIMPSES = 5, 3  # number of likeliest characters shown, for the prediction and for earlier stages


def reading(model: Trained, text: str) -> dict[str, Any]:
    """All figures about one text, in the form that the page needs."""
    found = model.inspect(text)
    losses = found["losses"][0].astype(np.float64)
    n = len(losses)
    names, values = zip(*parts(model, found))
    return {
        "text": text,
        "inputs": inputs(model, text)[:n],
        "targets": [*text, None][:n],
        "loss": mean(losses),
        "bits": (losses / math.log(2)).tolist(),
        "likeliest": likeliest(model, found["probs"], ALTERNATIVES),
        "attention": [triangles(found[f"layer{layer}.attn.probs"]) for layer in range(model.config.n_layer)],
        "lens": [{"name": name, "likeliest": likeliest(model, p, GLIMPSES)} for name, p in logit_lens(model, found)],
        "parts": {
            "names": names,
            "values": np.stack(values, axis=1).tolist(),
            "logits": (found["logits"].max(axis=0) - found["logits"].mean(axis=0, dtype=np.float64)).tolist(),
        },
    }


def inputs(model: Trained, text: str) -> list[str | None]:
    """The input characters of the model for a text; None is the start of a document."""
    tokens = model.params.tokens
    return [model.vocab[tokens.start] if tokens.end is None else None, *text]


def outputs(model: Trained) -> list[str | None]:
    """The possible predictions, by id; None is the end of a document."""
    return [*model.vocab, *([] if model.params.tokens.end is None else [None])]


def likeliest(model: Trained, probs: Any, count: int) -> list[list[tuple[str | None, float]]]:
    """For each column of probabilities, the `count` largest with their characters."""
    outcomes, order = outputs(model), np.argsort(-probs, axis=0, kind="stable")[:count]
    return [[(outcomes[i], float(column[i])) for i in best] for best, column in zip(order.T, probs.T)]


def triangles(heads: Any) -> list[list[list[float]]]:
    """The rows of each head's attention, up to the token itself."""
    return [[row[: i + 1].tolist() for i, row in enumerate(head)] for head in heads]


def logit_lens(model: Trained, found: Any) -> Named:
    """The probabilities that lm_head gives for the residual stream at its start and after each addition to it."""
    stages = [("normed embedding", "x")]
    for layer in range(model.config.n_layer):
        stages += [(f"attention {layer}", f"layer{layer}.x_attn"), (f"MLP {layer}", f"layer{layer}.x_mlp")]
    lm_head = model.params["lm_head"]
    return [(name, kernels.softmax_forward(kernels.matmul_forward(lm_head, found[key]))) for name, key in stages]


def parts(model: Trained, found: Any) -> Named:
    """The contribution of each addition to the residual stream to the largest logit of each column, minus its
    contribution to the mean logit of the vocabulary.

    logits = lm_head x, and x is a sum, so each term contributes its product with the winner's row of lm_head.  The term
    of a head is attn_wo times the head's rows of "attn".  A vector added to every row of lm_head changes no
    probability; relative to the mean row, it changes no contribution either.
    """
    config, winners = model.config, found["logits"].argmax(axis=0)
    lm_head = model.params["lm_head"].astype(np.float64)
    rows = (lm_head[winners] - lm_head.mean(axis=0)).T  # n_embd x tokens

    def contribution(part: Any) -> Any:
        return (rows * part).sum(axis=0)

    named, size = [("normed embedding", contribution(found["x"]))], config.n_embd // config.n_head
    for layer in range(config.n_layer):
        wo = model.params[f"layer{layer}.attn_wo"].astype(np.float64)
        for head in range(config.n_head):
            own = slice(head * size, (head + 1) * size)
            named.append((f"head {layer}.{head}", contribution(wo[:, own] @ found[f"layer{layer}.attn"][own])))
        named.append((f"MLP {layer}", contribution(found[f"layer{layer}.mlp_out"])))
    return named
