"""Sampling: one token after another, from BOS until BOS comes again or the context is full."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import c, kernels, model
from .arguments import indices
from .config import Config, Sampling
from .errors import SamplingError
from .params import Parameters
from .program import Program, Replay

COLUMNS = 2048  # documents drawn side by side, when that many fit into CACHE numbers
CACHE = 2**21


class Sampler:
    """The model with a cache of keys and values, for up to `columns` documents that grow side by side."""

    def __init__(self, params: Parameters, columns: int = 1) -> None:
        self.config = config = params.config
        self.vocab = params.vocab
        self.bos = len(self.vocab)
        self.columns = columns
        ops = Program()
        model.forward(ops, params.arrays, config, ops.attention_cached)
        self._tokens, self._positions = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        given = {**params.views, "tokens": self._tokens, "positions": self._positions}
        self._replay = Replay(ops, config.dtype, columns, given)
        values = self._replay.values
        self._logits = values["logits"]
        self._caches = [
            values[f"layer{layer}.attn.{name}"].reshape(-1, order="F")
            for layer in range(config.n_layer)
            for name in ("keys", "values")
        ]

    def logits(self, tokens: Any, position: int) -> Any:
        """vocab_size x len(tokens): what follows these tokens, all of them at this position.

        The earlier positions must have been run before, with the same columns.  Raises SamplingError; ValueError for
        what is not an id, a position or so many columns.
        """
        tokens = indices("tokens", np.asarray(tokens), self.bos + 1)  # a copy, as it will be used
        n = len(tokens)
        if not 0 < n <= self.columns or not 0 <= position < self.config.block_size:
            raise ValueError(
                f"expected up to {self.columns} columns and a position in the context, found {n} at {position}"
            )
        self._tokens[:n] = tokens
        self._positions[:n] = position
        self._replay.over(0, n)
        logits = self._logits[:, :n]
        if not np.isfinite(logits).all():
            raise SamplingError("expected finite logits, found others: the model's weights are too large")
        return logits

    def keep(self, columns: Any, n: int, n_positions: int) -> None:
        """Go on with these of the n columns only."""
        rows = n_positions * self.config.n_embd  # the cache is token_rows(columns) x n_embd for each position
        for cache in self._caches:
            kept = np.take(cache[: rows * c.token_rows(n)].reshape(rows, -1), columns, axis=1)
            moved = cache[: rows * c.token_rows(len(columns))].reshape(rows, -1)
            moved[:, : len(columns)] = kept

    def sample(self, rng: random.Random, temperature: float) -> str:
        """One new document, drawn with a random.Random as the reference draws."""
        token, text = self.bos, []
        for position in range(self.config.block_size):
            logits = self.logits([token], position)
            token = draw(rng, logits, temperature)
            if token == self.bos:
                break
            text.append(self.vocab[token])
        return "".join(text)

    def samples(self, sampling: Sampling, probs: bool = False) -> Iterator[tuple[list[str], list[list[float]] | None]]:
        """Yield lists (texts, probs), as a Sampling wants them: probs, None unless asked for, has a list for each text,
        the probability of each of its characters, given those before, and of the end if it has one.

        Sample i draws its characters with the numbers i * block_size and on of one random.Random(seed), so it is the
        same however many are drawn side by side.
        """
        rng = random.Random(sampling.seed)
        ids = {char: i for i, char in enumerate(self.vocab)}
        prompt = [ids[char] for char in sampling.prompt]
        block_size = self.config.block_size
        for first in range(0, sampling.num_samples, self.columns):
            n = min(self.columns, sampling.num_samples - first)
            uniforms = uniform(rng, n * block_size).reshape(n, block_size)
            yield self._side_by_side(uniforms.T, prompt, sampling, probs)

    def _side_by_side(
        self, uniforms: Any, prompt: list[int], sampling: Sampling, want_probs: bool
    ) -> tuple[list[str], list[list[float]] | None]:
        block_size, n = uniforms.shape
        ids = np.full((n, block_size), self.bos)  # what each document says
        ids[:, : len(prompt)] = prompt
        lengths = np.full(n, block_size)
        probs = np.empty((n, block_size)) if want_probs else None
        alive = np.arange(n)  # the document that each column is
        tokens = np.full(n, self.bos)
        for position in range(block_size):
            logits = self.logits(tokens, position)
            if position < len(prompt):
                tokens = ids[alive, position]
            else:
                tokens = choose(logits, uniforms[position, alive], sampling)
                ids[alive, position] = tokens
            if probs is not None:
                probs[alive, position] = kernels.softmax_forward(logits)[tokens, np.arange(len(tokens))]
            going = np.flatnonzero(tokens != self.bos)
            if len(going) < len(tokens):
                lengths[alive[tokens == self.bos]] = position
                if len(going) == 0:
                    break
                self.keep(going, len(tokens), position + 1)
                alive, tokens = alive[going], tokens[going]
        return self._texts(ids, lengths.tolist(), probs)

    def _texts(self, ids: Any, lengths: Sequence[int], probs: Any) -> tuple[list[str], list[list[float]] | None]:
        codes = np.array([*map(ord, self.vocab), 0], "<u4")
        text, block_size = codes[ids].tobytes().decode("utf-32-le"), ids.shape[1]
        texts = [text[i : i + length] for i, length in zip(range(0, len(text), block_size), lengths)]
        if probs is not None:
            probs = [row[: len(text) + 1].tolist() for text, row in zip(texts, probs)]
        return texts, probs


def columns_for(config: Config, num_samples: int) -> int:
    """How many documents to draw side by side."""
    return max(1, min(num_samples, COLUMNS, CACHE // (2 * config.n_layer * config.n_embd * config.block_size)))


# ---- drawing one token ----


def draw(rng: random.Random, logits: Any, temperature: float) -> int:
    """A token id drawn from softmax(logits / temperature) of a vocab_size x 1 array; at temperature 0 the likeliest."""
    if temperature == 0:
        return int(logits.argmax())
    probs = tempered(logits, temperature)
    return rng.choices(range(len(probs)), weights=probs[:, 0].tolist())[0]


def tempered(logits: Any, temperature: float) -> Any:
    """softmax(logits / temperature), where a temperature too low for the precision is as good as 0."""
    with np.errstate(all="ignore"):
        scaled = logits / temperature
    probs = kernels.softmax_forward(scaled)
    overflown = np.isnan(probs).any(axis=0)
    if overflown.any():
        probs[:, overflown] = np.arange(len(logits))[:, None] == logits.argmax(axis=0)[overflown]
    return probs


def choose(logits: Any, uniforms: Any, sampling: Sampling) -> Any:
    """A token id for each column of logits: where a uniform number falls among the cumulated probabilities."""
    if sampling.temperature == 0:
        return logits.argmax(axis=0)
    # one row per token, so that the sums run down them, in order, for all columns at once
    probs = np.ascontiguousarray(tempered(logits, sampling.temperature), np.float64)
    if 0 < sampling.top_k < len(probs) or sampling.top_p < 1:
        probs = np.where(likeliest(probs, sampling.top_k or len(probs), sampling.top_p), probs, 0)
    for below, row in itertools.pairwise(probs):  # numpy.cumsum, and five times as fast
        row += below
    # a uniform number is at most 1 - 2^-53, so the product is below the sum, rounded too
    return np.count_nonzero(probs <= uniforms * probs[-1], axis=0)


def likeliest(probs: Any, top_k: int, top_p: float) -> Any:
    """Where the top_k likeliest of each column are, and the likeliest that make up top_p; of equals the first."""
    order = np.argsort(-probs, axis=0, kind="stable")
    ranked = np.take_along_axis(probs, order, axis=0)
    before = np.cumsum(ranked, axis=0) - ranked
    kept = (np.arange(len(probs))[:, None] < top_k) & (before < top_p)
    mask = np.empty_like(kept)
    np.put_along_axis(mask, order, kept, axis=0)
    return mask


def uniform(rng: random.Random, n: int) -> Any:
    """What n calls of rng.random() would return, in one call: each is 53 bits of two 32-bit words."""
    words = np.frombuffer(rng.getrandbits(64 * n).to_bytes(8 * n, "little"), "<u4").reshape(n, 2)
    high, low = words[:, 0] >> np.uint32(5), words[:, 1] >> np.uint32(6)
    return (high * 2.0**26 + low) / 2.0**53
