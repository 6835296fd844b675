"""Neurons: the texts for which the hidden units of the MLPs are most active."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..runs.trained import Trained
from .lens import inputs

N_NEURONS, N_EXAMPLES = 6, 5  # neurons shown per layer, and texts per neuron
BEFORE, AFTER = 16, 8  # characters shown around the one with the peak


def neurons(model: Trained, texts: Sequence[str]) -> dict[str, Any]:
    """For each layer the number of dead neurons, and the most active ones with the texts of their peaks."""
    config, n_tokens = model.config, 0
    shape = config.n_layer, len(texts), 4 * config.n_embd
    peaks, places = np.zeros(shape), np.zeros(shape, np.int64)  # a neuron's largest activation in a text, and where
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
        chosen = [j for j in np.argsort(-sums[layer], kind="stable")[:N_NEURONS].tolist() if active[layer, j]]
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
    """The texts with a neuron's largest peaks: the character at the peak, and its surroundings."""
    found: dict[str, dict[str, Any]] = {}
    for i in np.argsort(-peaks, kind="stable"):
        if len(found) == N_EXAMPLES or peaks[i] == 0:
            break
        text, at = texts[i], int(places[i]) - 1  # token 0 is the start, before the text
        found.setdefault(text[: at + 1], {  # the neuron does not depend on what comes after
            "before": text[max(0, at - BEFORE) : max(0, at)],
            "char": inputs(model, text)[at + 1],
            "after": text[at + 1 : at + 1 + AFTER],
            "cut": [at > BEFORE, len(text) > at + 1 + AFTER],
            "value": float(peaks[i]),
        })  # fmt: skip
    return list(found.values())
