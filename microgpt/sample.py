"""Sampling: one token after another, from BOS until BOS comes again or the context is full."""

from __future__ import annotations

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
from .threads import number

ROW = 4096  # bytes of a feature of all documents that are drawn side by side, so that they stay in the cache
CACHE = 2**21  # numbers, likewise, of their keys and values
WORTH_KEEPING = 0.75  # of the columns


class Sampler:
    """The model with a cache of keys and values, for up to `columns` documents that grow side by side."""

    def __init__(self, params: Parameters, columns: int = 1, n_threads: int = 1) -> None:
        self.config = config = params.config
        self.vocab = params.vocab
        self.bos = len(self.vocab)
        self.columns, self.n_threads = columns, n_threads
        ops = Program()
        model.forward(ops, params.arrays, config, ops.attention_cached)
        self._tokens, self._positions = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        given = {**params.views, "tokens": self._tokens, "positions": self._positions}
        self._replay = Replay(ops, config.dtype, columns, given, n_threads, documents=False)
        values = self._replay.values
        self._logits = values["logits"]
        self._uniforms = np.empty(columns)
        vocab_size = self.bos + 1
        probs, work = (
            np.empty(vocab_size * (columns + n_threads), config.dtype),
            np.empty(vocab_size * n_threads, np.int32),
        )
        self._draw = c.drawing(self._tokens, probs, work, self._logits, self._uniforms, vocab_size, n_threads)
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
            start, width = c.columns_apart(begin, thread) * size, c.token_rows(end - begin)
            yield begin, cache[start : start + n_rows * width].reshape(n_rows, width)[:, : end - begin]

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

    def batch(
        self, uniforms: Any, sampling: Sampling, want_probs: bool = False
    ) -> tuple[list[str], list[list[float]] | None]:
        """(texts, probs): documents drawn side by side, each with its own of the uniform numbers, n x block_size.

        probs, None unless asked for, has a list for each text: the probability of each of its characters, given those
        before, and of the end if it has one.
        """
        n, block_size = uniforms.shape
        prompt = [self.vocab.index(char) for char in sampling.prompt]
        ids = np.full((n, block_size), self.bos)  # what each document says
        lengths = np.full(n, block_size)
        probs = np.empty((n, block_size)) if want_probs else None
        document = np.arange(n)  # that each column is
        going = np.ones(n, bool)  # whether it has not ended
        self._tokens[:n] = self.bos
        for position in range(block_size):
            self._positions[:n] = position
            self._replay.over(0, n)
            tokens = self._tokens[:n]
            if position < len(prompt):
                tokens[:] = prompt[position]
            else:
                self._draw_tokens(uniforms[document, position], sampling)
            ids[document, position] = tokens
            if probs is not None:
                probs[document, position] = kernels.softmax_forward(self._logits[:, :n])[tokens, np.arange(n)]
            ended = going & (tokens == self.bos)
            lengths[document[ended]] = position
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

    def _draw_tokens(self, uniforms: Any, sampling: Sampling) -> None:
        """The next token of each column, from its logits.  Raises SamplingError."""
        n, vocab_size = len(uniforms), self.bos + 1
        self._uniforms[:n] = uniforms
        top_k = min(sampling.top_k, vocab_size) or vocab_size
        if not self._draw(n, sampling.temperature, top_k, sampling.top_p):
            raise SamplingError("expected finite logits, found others: the model's weights are too large")

    def _texts(self, ids: Any, lengths: Sequence[int], probs: Any) -> tuple[list[str], list[list[float]] | None]:
        codes = np.array([*map(ord, self.vocab), 0], "<u4")
        text, block_size = codes[ids].tobytes().decode("utf-32-le"), ids.shape[1]
        texts = [text[i : i + length] for i, length in zip(range(0, len(text), block_size), lengths)]
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

    Sample i draws its characters with the numbers i * block_size and on of one random.Random(seed), so it is the same
    however many are drawn side by side, by however many threads.
    """
    config, num_samples = params.config, sampling.num_samples
    if columns is None:
        columns = columns_for(config, num_samples, number(threads))
    n_threads = number(threads, columns * params.flat.size)
    rng, sampler = random.Random(sampling.seed), Sampler(params, columns, n_threads)
    for first in range(0, num_samples, columns):
        n = min(columns, num_samples - first)
        yield sampler.batch(uniform(rng, n * config.block_size).reshape(n, config.block_size), sampling, want_probs)


def columns_for(config: Config, num_samples: int, n_threads: int = 1) -> int:
    """How many documents to draw side by side."""
    most = ROW // np.dtype(config.dtype).itemsize, CACHE // (2 * config.n_layer * config.n_embd * config.block_size)
    return max(1, min(num_samples, n_threads * min(most)))


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


def uniform(rng: random.Random, n: int) -> Any:
    """What n calls of rng.random() would return, in one call: each is 53 bits of two 32-bit words."""
    words = np.frombuffer(rng.getrandbits(64 * n).to_bytes(8 * n, "little"), "<u4").reshape(n, 2)
    high, low = words[:, 0] >> np.uint32(5), words[:, 1] >> np.uint32(6)
    return (high * 2.0**26 + low) / 2.0**53
