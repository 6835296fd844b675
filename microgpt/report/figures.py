"""Compute the numbers that a report shows, from a trained model and the texts of its run."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.config import RUNNING_TEXT
from ..base.terminal import escaped
from ..core.evaluate import Evaluator
from ..runs.trained import Trained
from . import novelty
from .comparison import HELD_OUT, TRAIN, Series
from .lens import outputs
from .plot import smooth

if TYPE_CHECKING:
    from ..core.documents import Documents

MAX_POINTS = 200  # of a curve; more would not be visible
EXCERPT, N_EXCERPTS = 32, 3  # length in characters, and number, of the texts shown
MEASURED, INSPECTED = 2**15, 2**12  # largest number of tokens for losses, and for the neurons' activations
MAX_POSITIONS = 64  # whose vectors are compared
SAMPLES, LONG_SAMPLES, LONG = 20, 5, 200  # number of samples; their number and length for running text
COMPARED = 64  # longest context for which the nearest training text is searched


def settings(model: Trained, documents: Documents | None) -> dict[str, Any]:
    """The settings of the run, and the number of its texts."""
    config = model.config
    # only the file name of the input: a page may be published, and a path can be private
    values = asdict(config) | {"input": escaped(os.path.basename(config.input))}
    counts = None
    if documents is not None:
        counts = {"count": documents.count, "held_out": documents.n_held_out}
    return {
        "step": model.step,
        "n_params": model.num_params,
        "vocab": model.vocab,
        "texts": counts,
        "running": config.split == RUNNING_TEXT,
        "settings": values,
    }


def curves(series: Series) -> dict[str, Any]:
    """A run's smoothed training losses and held-out losses, each with at most MAX_POINTS points."""
    (steps, losses), held_out = series[TRAIN], series[HELD_OUT]
    return {"train": thinned(steps, smooth(losses)), "held_out": thinned(*held_out)}


def thinned(steps: list[int], losses: list[float]) -> list[tuple[int, float]]:
    """The first point, the last, and some evenly between them; losses that are not finite are left out."""
    points = [(step, loss) for step, loss in zip(steps, losses) if math.isfinite(loss)]
    if len(points) <= MAX_POINTS:
        return points
    return [points[i * (len(points) - 1) // (MAX_POINTS - 1)] for i in range(MAX_POINTS)]


def excerpts(model: Trained, documents: Documents | None) -> list[str]:
    """A few texts to show: the first short held-out ones, else the first short training ones, else samples."""
    size = min(EXCERPT, model.config.block_size)
    if documents is None:
        running = model.config.split == RUNNING_TEXT
        samples = model.sample(num_samples=N_EXCERPTS, length=size if running else 0)
        return list(dict.fromkeys(text[: model.config.block_size] for text in samples))
    texts = documents.held_out or documents.training
    if documents.running:
        return pieces(texts[0], size)[:N_EXCERPTS]
    short = [text for text in texts if len(text) <= size] or [text[: model.config.block_size] for text in texts]
    return list(dict.fromkeys(short))[:N_EXCERPTS]


def pieces(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def measured(documents: Documents, most: int, longest: float = math.inf) -> list[str]:
    """The first held-out texts (or training texts, if none are held out) that have at most `most` tokens together when
    each has at most `longest`.  Running text gives a single text."""
    texts = documents.held_out or documents.training
    if documents.running:
        return [texts[0][:most]]
    ends = np.cumsum([min(len(text) + 1, longest) for text in texts])
    return texts[: max(1, int(np.searchsorted(ends, most, "right")))]


def inspected(model: Trained, documents: Documents, most: int) -> list[str]:
    """The texts of measured() as the model can inspect them: running text in pieces, and documents cut to block_size
    characters."""
    size = model.config.block_size
    texts = measured(documents, most, size)
    return pieces(texts[0], size) if documents.running else [text[:size] for text in texts]


def losses_by(model: Trained, texts: Sequence[str]) -> dict[str, Any]:
    """The mean losses of whole texts in bits, and their token counts, by position in the context and by character; and,
    by position, the loss of a guess that knows only how often each character occurs there."""
    size, tokens = model.config.block_size, model.params.tokens
    bits = Evaluator(model.params, texts, model.threads).losses() / math.log(2)
    ids = tokens.encode(texts)[1:]  # what is predicted
    lengths = np.array([len(text) + (tokens.end is not None) for text in texts])
    places = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # in each text
    half = size // 2  # that a full context keeps, as in sampling
    positions = np.where(places < size, places, half + (places - size) % (size - half))
    outcomes = outputs(model)
    return {
        "n_texts": len(texts),
        "n_tokens": len(bits),
        "bits": math.fsum(bits) / len(bits),
        "positions": means(bits, positions),
        "by_position_alone": entropies(ids, positions).tolist(),
        "characters": [(outcomes[i], mean, n) for i, (mean, n) in enumerate(means(bits, ids)) if n],
    }


def means(values: Any, groups: Any) -> list[tuple[float, int]]:
    """(mean, count) of the values in each group."""
    counts, sums = np.bincount(groups), np.bincount(groups, values)
    return [(float(total) / max(1, int(n)), int(n)) for total, n in zip(sums, counts)]


def entropies(ids: Any, groups: Any) -> Any:
    """The entropy in bits of the ids in each group.  No group may be empty."""
    size = int(ids.max()) + 1
    pairs, n = np.unique(groups * size + ids, return_counts=True)
    of_group = np.bincount(pairs // size, n)
    return np.bincount(pairs // size, n * np.log2(of_group[pairs // size] / n)) / of_group


def embedding(model: Trained) -> dict[str, Any]:
    """The characters' vectors in their first two principal components, and the cosines between the positions' vectors,
    relative to their mean."""
    points, shares = principal(model.params["wte"].T.astype(np.float64))
    wpe = model.params["wpe"].astype(np.float64)
    wpe = (wpe - wpe.mean(axis=1, keepdims=True))[:, :MAX_POSITIONS]  # without what could be part of wte instead
    lengths = np.sqrt((wpe * wpe).sum(axis=0))
    unit = wpe / np.where(lengths > 0, lengths, 1)
    return {
        "characters": [(char, *point) for char, point in zip(outputs(model), points[:, :2].tolist())],
        "shares": shares[:2].tolist(),
        "positions": [row[: i + 1] for i, row in enumerate((unit.T @ unit).tolist())],
    }


def principal(rows: Any) -> tuple[Any, Any]:
    """The rows in their principal components (at least two), and each component's share of the variance.

    The sign of a component is arbitrary; here its largest coordinate is positive.
    """
    rows = np.pad(rows, ((0, 0), (0, max(0, 2 - rows.shape[1]))))
    u, s, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    u, s = (np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, max(0, 2 - len(s)))]) for a in (u, s))
    points = u * s
    points *= np.where(points[np.abs(points).argmax(axis=0), np.arange(len(s))] < 0, -1, 1)
    total = (s * s).sum()
    return points, s * s / (total if total > 0 else 1)


def samples(model: Trained, documents: Documents | None) -> dict[str, Any]:
    """Samples; for each, whether it is new, and its nearest training text or its longest copied passage."""
    config = model.config
    running = config.split == RUNNING_TEXT
    texts = model.sample(LONG_SAMPLES, length=LONG) if running else model.sample(SAMPLES)
    found: dict[str, Any] = {"texts": [{"text": text} for text in texts], "new": None}
    if documents is None:
        return found
    if not running:
        known = set(documents.training)
        found["new"] = novelty.share_new(texts, known)
        for entry in found["texts"]:
            entry["new"] = entry["text"] not in known
    if not running and config.block_size <= COMPARED:
        nearest = novelty.Nearest(documents.training)
        for entry in found["texts"]:
            entry["nearest"], entry["distance"] = nearest.to(entry["text"])
    else:
        training = "\n\n".join(documents.training)
        for entry in found["texts"]:
            entry["run"] = novelty.longest_run(entry["text"], training)
    return found
