"""Neurons: which texts excite the hidden units of the MLPs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..runs.trained import Trained
from .lens import inputs

MOST_ACTIVE, EXAMPLES = 6, 5  # neurons shown of each layer, and texts of each
BEFORE, AFTER = 16, 8  # characters of a text around the one that excites


def neurons(model: Trained, texts: Sequence[str]) -> dict[str, Any]:
    """Of each layer how many are never active, and of the most active ones the texts that excite them most."""
    config, n_tokens = model.config, 0
    shape = config.n_layer, len(texts), 4 * config.n_embd
    peaks, places = np.zeros(shape), np.zeros(shape, np.int64)  # the most that a neuron does in a text, and where
    active, sums = np.zeros((shape[0], shape[2]), np.int64), np.zeros((shape[0], shape[2]))
    for i, text in enumerate(texts):
        found = model.inspect(text)
        n_tokens += found["probs"].shape[1]
        for layer in range(config.n_layer):
            relu = found[f"layer{layer}.mlp_relu"]
            peaks[layer, i], places[layer, i] = relu.max(axis=1), relu.argmax(axis=1)
            active[layer] += (relu > 0).sum(axis=1)
            sums[layer] += relu.sum(axis=1, dtype=np.float64)
    layers = []
    for layer in range(config.n_layer):
        chosen = [j for j in np.argsort(-sums[layer], kind="stable")[:MOST_ACTIVE].tolist() if active[layer, j]]
        layers.append({
            "count": shape[2],
            "dead": int((active[layer] == 0).sum()),
            "most_active": [
                {
                    "index": j,
                    "active": active[layer, j] / n_tokens,
                    "examples": examples(model, texts, peaks[layer, :, j], places[layer, :, j]),
                }
                for j in chosen
            ],
        })  # fmt: skip
    return {"n_texts": len(texts), "n_tokens": n_tokens, "layers": layers}


def examples(model: Trained, texts: Sequence[str], peaks: Any, places: Any) -> list[dict[str, Any]]:
    """The beginnings of texts that excite a neuron most: the character at which they do, and what is around it."""
    found: dict[str, dict[str, Any]] = {}
    for i in np.argsort(-peaks, kind="stable"):
        if len(found) == EXAMPLES or peaks[i] == 0:
            break
        text, at = texts[i], int(places[i]) - 1  # token 0 is the start, before the text
        found.setdefault(text[: at + 1], {  # what comes after does not matter to it
            "before": text[max(0, at - BEFORE) : max(0, at)],
            "char": inputs(model, text)[at + 1],
            "after": text[at + 1 : at + 1 + AFTER],
            "cut": [at > BEFORE, len(text) > at + 1 + AFTER],
            "value": float(peaks[i]),
        })  # fmt: skip
    return list(found.values())
