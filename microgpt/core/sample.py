"""Sampling: one token after another, from BOS until BOS comes again or the context is full."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..base import memory
from ..base.config import Config, Sampling
from ..base.errors import SamplingError
from ..base.threads import number
from ..kernels import compiled
from ..kernels.checks import indices
from . import model
from .generator import uniform
from .params import Parameters
from .program import Program, Replay

ROW = 4096  # bytes of a feature of all documents that are drawn side by side, so that they stay in the cache
CACHE = 2**21  # numbers, likewise, of their keys and values
TEXT = 2**22  # characters that are drawn side by side
WORTH_KEEPING = 0.75  # of the columns


class Sampler:
    """The model with a cache of keys and values, for up to `columns` documents that grow side by side."""

    def __init__(self, params: Parameters, columns: int = 1, n_threads: int = 1) -> None:
        self.config = config = params.config
        self.tokens = params.tokens
        self.columns, self.n_threads = columns, n_threads
        ops = Program()
        model.forward(ops, params.arrays, config, ops.attention_cached)
        self._tokens, self._positions = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        given = {**params.views, "tokens": self._tokens, "positions": self._positions}
        self._replay = Replay(ops, config.dtype, columns, given, n_threads, documents=False)
        values = self._replay.values
        self._logits = values["logits"]
        self._uniforms = np.empty(columns)
        vocab_size = self.tokens.size
        probs, work = (
            np.empty(vocab_size * (columns + n_threads), config.dtype),
            np.empty(vocab_size * n_threads, np.int32),
        )
        self._draw = compiled.drawing(self._tokens, probs, work, self._logits, self._uniforms, vocab_size, n_threads)
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
        tokens = indices("tokens", np.asarray(tokens), self.tokens.size)  # a copy, as it will be used
        n = len(tokens)
        if not 0 < n <= self.columns or not 0 <= position < self.config.block_size:
            raise ValueError(
                f"expected up to {self.columns} columns and a position in the context, found {n} at {position}"
            )
        self._tokens[:n] = tokens
        self._run(n, position)
        logits = self._logits[:, :n]
        if not np.isfinite(logits).all():
            raise SamplingError("expected finite logits, found others: the model's weights are too large")
        return logits

    def keep(self, columns: Any, n: int, n_positions: int) -> None:
        """Go on with these of the n columns only."""
        for cache in self._caches:
            parts = [part for _, part in self._parts(cache, n, n_positions)]
            kept = np.take(np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0], columns, axis=1)
            for begin, part in self._parts(cache, len(columns), n_positions):
                part[:] = kept[:, begin : begin + part.shape[1]]

    def _parts(self, cache: Any, n: int, n_positions: int) -> Iterator[tuple[int, Any]]:
        """(first column, n_positions n_embd x columns) of each thread's part of the cache of n columns."""
        n_rows = n_positions * self.config.n_embd
        size = self.config.block_size * self.config.n_embd  # numbers of one column
        for thread in range(self.n_threads):
            # as C shares out columns: before_thread in csrc/common.h
            begin, end = n * thread // self.n_threads, n * (thread + 1) // self.n_threads
            start, width = compiled.part_offset(begin, thread) * size, compiled.token_rows(end - begin)
            yield begin, cache[start : start + n_rows * width].reshape(n_rows, width)[:, : end - begin]

    def sample(self, rng: random.Random, temperature: float) -> str:
        """One new document, drawn with a random.Random as the reference draws."""
        token, ids = self.tokens.start, list[int]()
        for i in range(Sampling().n_draws(self.config)):
            position, n_again = place(i, self.config.block_size)
            for p in range(n_again):
                self.logits([ids[i - 1 - n_again + p]], p)
            token = draw(rng, self.logits([token], position), temperature)
            if token == self.tokens.end:
                break
            ids.append(token)
        return self.tokens.text(ids)

    def batch(
        self, uniforms: Any, sampling: Sampling, want_probs: bool = False
    ) -> tuple[list[str], list[list[float]] | None]:
        """(texts, probs): documents drawn side by side, each with its own of the n x length uniform numbers, of which
        there is one for each character, those of the prompt too.

        probs, None unless asked for, has a list for each text: the probability of each of its characters, given those
        before, and of the end if it has one.
        """
        n, length = uniforms.shape
        prompt, end = self.tokens.ids(sampling.prompt), self.tokens.end
        alone = end is None and bool(prompt)  # the context begins with the prompt, and what is before it is forgotten
        ids = np.full((n, length), end or 0, np.int32)  # what each document says
        lengths = np.full(n, length)
        probs = np.empty((n, length)) if want_probs else None
        document = np.arange(n)  # that each column is
        going = np.ones(n, bool)  # whether it has not ended
        self._tokens[:n] = self.tokens.start
        for i in range(length):
            position, n_again = place(i - alone, self.config.block_size) if i else (0, 0)
            if n_again:
                latest = self._tokens[:n].copy()
                for p in range(n_again):
                    self._tokens[:n] = ids[document, i - 1 - n_again + p]
                    self._run(n, p)
                self._tokens[:n] = latest
            self._run(n, position)
            tokens = self._tokens[:n]
            if i < len(prompt):
                tokens[:] = prompt[i]
            else:
                self._draw_tokens(uniforms[document, i], sampling)
            ids[document, i] = tokens
            if probs is not None:
                probs[document, i] = kernels.softmax_forward(self._logits[:, :n])[tokens, np.arange(n)]
            if end is None:
                continue
            ended = going & (tokens == end)
            lengths[document[ended]] = i
            going &= ~ended
            left = np.flatnonzero(going)
            if len(left) == 0:
                break
            if (
                len(left) < WORTH_KEEPING * n
            ):  # to go on with columns that have ended costs less than to move the others
                self.keep(left, n, position + 1)
                tokens[: len(left)] = tokens[left]
                document, going, n = document[left], going[left], len(left)
        return self._texts(ids, lengths.tolist(), probs)

    def _run(self, n: int, position: int) -> None:
        """Run the model on the first n of the tokens, all of them at this position."""
        self._positions[:n] = position
        self._replay.over(0, n)

    def _draw_tokens(self, uniforms: Any, sampling: Sampling) -> None:
        """The next token of each column, from its logits.  Raises SamplingError."""
        n, vocab_size = len(uniforms), self.tokens.size
        self._uniforms[:n] = uniforms
        top_k = min(sampling.top_k, vocab_size) or vocab_size
        if not self._draw(n, sampling.temperature, top_k, sampling.top_p):
            raise SamplingError("expected finite logits, found others: the model's weights are too large")

    def _texts(self, ids: Any, lengths: Sequence[int], probs: Any) -> tuple[list[str], list[list[float]] | None]:
        text = self.tokens.text(ids)
        texts = [text[i : i + length] for i, length in zip(range(0, len(text), ids.shape[1]), lengths)]
        if probs is not None:
            probs = [row[: len(text) + 1].tolist() for text, row in zip(texts, probs)]
        return texts, probs


def samples(
    params: Parameters,
    sampling: Sampling,
    want_probs: bool = False,
    threads: int | None = None,
    columns: int | None = None,
) -> Iterator[tuple[list[str], list[list[float]] | None]]:
    """What a Sampling wants, as Sampler.batch() gives it, batch by batch.

    Sample i has the numbers i * length and on of one random.Random(seed), one for each character that it may have, so
    it is the same however many are drawn side by side, by however many threads.
    """
    config, num_samples = params.config, sampling.num_samples
    length = len(sampling.prompt) + sampling.n_draws(config)
    memory.require(24 * length, f"texts of {length} characters")
    if columns is None:
        columns = columns_for(config, num_samples, length, number(threads))
    n_threads = number(threads, columns * params.flat.size)
    rng, sampler = random.Random(sampling.seed), Sampler(params, columns, n_threads)
    for first in range(0, num_samples, columns):
        n = min(columns, num_samples - first)
        yield sampler.batch(uniform(rng, n * length).reshape(n, length), sampling, want_probs)


def columns_for(config: Config, num_samples: int, length: int, n_threads: int = 1) -> int:
    """How many documents to draw side by side."""
    most = ROW // np.dtype(config.dtype).itemsize, CACHE // (2 * config.n_layer * config.n_embd * config.block_size)
    return max(1, min(num_samples, n_threads * min(most), TEXT // length))


def place(i: int, block_size: int) -> tuple[int, int]:
    """(the position of a text's i-th token in the context, how many of those before it are run again before).

    When the context is full its older half is dropped, and the rest run again.
    """
    if i < block_size:
        return i, 0
    half = block_size // 2
    behind = (i - block_size) % (block_size - half)
    return half + behind, 0 if behind else half


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
