"""Sampling: one token after another, from BOS until the next BOS or a full context."""

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

# limits on the documents drawn side by side: the first two keep their data in the processor's cache
ROW = 4096  # bytes of one feature of all documents
CACHE = 2**21  # numbers in their keys and values
TEXT = 2**22  # characters in their texts
MIN_ACTIVE = 0.75  # of the columns: with fewer, moving the active ones costs less than running all


class Sampler:
    """The model with a cache of keys and values, for up to `columns` documents side by side."""

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
        """vocab_size x len(tokens): the logits of the token after each of these tokens, all of them at this position.

        The earlier positions must have been run before, with the same columns.  Raises SamplingError if a logit is not
        finite, ValueError for a bad id, position or number of columns.
        """
        tokens = indices("tokens", np.asarray(tokens), self.tokens.size)  # a copy, which cannot change
        n = len(tokens)
        if not 0 < n <= self.columns or not 0 <= position < self.config.block_size:
            raise ValueError(
                f"expected 1 to {self.columns} columns and a position in range({self.config.block_size}), "
                f"found {n} columns at position {position}"
            )
        self._tokens[:n] = tokens
        self._run(n, position)
        logits = self._logits[:, :n]
        if not np.isfinite(logits).all():
            raise SamplingError("expected finite logits, found infinity or NaN: the model's weights are too large")
        return logits

    def keep(self, columns: Any, n: int, n_positions: int) -> None:
        """Continue with only these of the n columns."""
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
            # the columns of a thread in C: see before_thread in csrc/common.h
            begin, end = n * thread // self.n_threads, n * (thread + 1) // self.n_threads
            start, width = compiled.part_offset(begin, thread) * size, compiled.token_rows(end - begin)
            yield begin, cache[start : start + n_rows * width].reshape(n_rows, width)[:, : end - begin]

    def sample(self, rng: random.Random, temperature: float) -> str:
        """One new document; `rng` is used exactly as in the reference."""
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
        """(texts, probs): n documents drawn side by side.

        `uniforms` is n x length: one uniform number for each character of each document, also for those of the prompt.
        `probs` is None unless want_probs is True.  It has a list for each text: the probability of each character given
        those before, and of the end if the text has one.
        """
        n, length = uniforms.shape
        prompt, end = self.tokens.ids(sampling.prompt), self.tokens.end
        forget_start = end is None and bool(prompt)  # then the context begins with the prompt
        ids = np.full((n, length), end or 0, np.int32)  # of each document's characters
        lengths = np.full(n, length)
        probs = np.empty((n, length)) if want_probs else None
        document = np.arange(n)  # the document in each column
        active = np.ones(n, bool)  # whether a column's document has not ended
        self._tokens[:n] = self.tokens.start
        for i in range(length):
            position, n_again = place(i - forget_start, self.config.block_size) if i else (0, 0)
            if n_again:
                self._run_again(ids[document, i - 1 - n_again : i - 1])
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
            ended = active & (tokens == end)
            lengths[document[ended]] = i
            active &= ~ended
            left = np.flatnonzero(active)
            if len(left) == 0:
                break
            if len(left) < MIN_ACTIVE * n:
                self.keep(left, n, position + 1)
                tokens[: len(left)] = tokens[left]
                document, active, n = document[left], active[left], len(left)
        return self._texts(ids, lengths.tolist(), probs)

    def _run_again(self, ids: Any) -> None:
        """Run the columns of ids (documents x tokens) at the positions from 0; the current tokens stay the same."""
        n, current = len(ids), self._tokens[: len(ids)].copy()
        for position in range(ids.shape[1]):
            self._tokens[:n] = ids[:, position]
            self._run(n, position)
        self._tokens[:n] = current

    def _run(self, n: int, position: int) -> None:
        """Run the model on the first n tokens, all of them at this position."""
        self._positions[:n] = position
        self._replay.over(0, n)

    def _draw_tokens(self, uniforms: Any, sampling: Sampling) -> None:
        """Draw the next token of each column from its logits.  Raises SamplingError."""
        n, vocab_size = len(uniforms), self.tokens.size
        self._uniforms[:n] = uniforms
        top_k = min(sampling.top_k, vocab_size) or vocab_size
        if not self._draw(n, sampling.temperature, top_k, sampling.top_p):
            raise SamplingError("expected finite logits, found infinity or NaN: the model's weights are too large")

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
    """The samples of a Sampling, batch by batch, as Sampler.batch() returns them.

    Sample i uses the numbers from i * length of one random.Random(seed), one for each character that it may have.  So
    it does not depend on how many samples are drawn side by side, nor on the number of threads.
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
    """(position, n_again): the position of a text's i-th token in the context, and how many earlier tokens to run again
    first.

    When the context is full, its older half is dropped and the rest is run again from position 0.
    """
    if i < block_size:
        return i, 0
    half = block_size // 2
    behind = (i - block_size) % (block_size - half)
    return half + behind, 0 if behind else half


# ---- drawing one token ----


def draw(rng: random.Random, logits: Any, temperature: float) -> int:
    """A token id drawn from softmax(logits / temperature), vocab_size x 1; at temperature 0 the most likely one."""
    if temperature == 0:
        return int(logits.argmax())
    probs = tempered(logits, temperature)
    return rng.choices(range(len(probs)), weights=probs[:, 0].tolist())[0]


def tempered(logits: Any, temperature: float) -> Any:
    """softmax(logits / temperature); a temperature too low for the dtype counts as 0."""
    with np.errstate(all="ignore"):
        scaled = logits / temperature
    probs = kernels.softmax_forward(scaled)
    overflowed = np.isnan(probs).any(axis=0)
    if overflowed.any():
        probs[:, overflowed] = np.arange(len(logits))[:, None] == logits.argmax(axis=0)[overflowed]
    return probs
