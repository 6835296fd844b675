"""Lenses: what one text shows of a model, position by position."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..runs.trained import Trained

Named = list[tuple[str, Any]]  # what each array is of, in the model's order

ALTERNATIVES, GLIMPSES = 5, 3  # how many of the likeliest characters, at the end and on the way


def reading(model: Trained, text: str) -> dict[str, Any]:
    """All of a text's figures, as the page has them."""
    score, found = model.score(text), model.inspect(text)
    n = len(score.losses)
    names, values = zip(*parts(model, found))
    return {
        "text": text,
        "inputs": inputs(model, text)[:n],
        "targets": [*text, None][:n],
        "loss": score.loss,
        "bits": score.bits,
        "likeliest": likeliest(model, found["probs"], ALTERNATIVES),
        "attention": [triangles(found[f"layer{layer}.attn.probs"]) for layer in range(model.config.n_layer)],
        "lens": [{"name": name, "likeliest": likeliest(model, p, GLIMPSES)} for name, p in logit_lens(model, found)],
        "parts": {
            "names": names,
            "values": np.stack(values, axis=1).tolist(),
            "logits": found["logits"].max(axis=0).tolist(),
        },
    }


def inputs(model: Trained, text: str) -> list[str | None]:
    """The characters that the model is given for a text; the start of a document is None."""
    tokens = model.params.tokens
    return [model.vocab[tokens.start] if tokens.end is None else None, *text]


def outputs(model: Trained) -> list[str | None]:
    """What the model can say, by id; the end of a document is None."""
    return [*model.vocab, *([] if model.params.tokens.end is None else [None])]


def likeliest(model: Trained, probs: Any, count: int) -> list[list[tuple[str | None, float]]]:
    """For each column of probabilities its largest ones, each with its character."""
    says, order = outputs(model), np.argsort(-probs, axis=0, kind="stable")[:count]
    return [[(says[i], float(column[i])) for i in best] for best, column in zip(order.T, probs.T)]


def triangles(heads: Any) -> list[list[list[float]]]:
    """The rows of each head's attention as far as a token can see."""
    return [[row[: i + 1].tolist() for i, row in enumerate(head)] for head in heads]


def logit_lens(model: Trained, found: Any) -> Named:
    """The probabilities that lm_head would read off the residual stream as it begins, and after each addition to it."""
    stages = [("normed embedding", "x")]
    for layer in range(model.config.n_layer):
        stages += [(f"attention {layer}", f"layer{layer}.x_attn"), (f"MLP {layer}", f"layer{layer}.x_mlp")]
    lm_head = model.params["lm_head"]
    return [(name, kernels.softmax_forward(kernels.matmul_forward(lm_head, found[key]))) for name, key in stages]


def parts(model: Trained, found: Any) -> Named:
    """What each addition to the residual stream gives to the largest logit of each column.

    logits = lm_head x, where x is a sum, so that each part has its own product with the winner's row of lm_head; a
    head's part of x is what attn_wo makes of its rows of "attn" alone.
    """
    config, winners = model.config, found["logits"].argmax(axis=0)
    rows = model.params["lm_head"][winners].T.astype(np.float64)  # n_embd x tokens

    def given(part: Any) -> Any:
        return (rows * part).sum(axis=0)

    named, size = [("normed embedding", given(found["x"]))], config.n_embd // config.n_head
    for layer in range(config.n_layer):
        wo = model.params[f"layer{layer}.attn_wo"].astype(np.float64)
        for head in range(config.n_head):
            own = slice(head * size, (head + 1) * size)
            named.append((f"head {layer}.{head}", given(wo[:, own] @ found[f"layer{layer}.attn"][own])))
        named.append((f"MLP {layer}", given(found[f"layer{layer}.mlp_out"])))
    return named
