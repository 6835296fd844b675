"""Data: documents as columns for the model; a batch is a slice of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import memory
from ..base.config import Config
from ..base.errors import DataError
from .generator import permutation
from .tokens import Tokens

MAX_COUNT = 2**31 - 1  # the largest int32
STRETCH = 2**18  # columns in memory at once, unless a batch has more
EPOCHS = 10**9  # more than any run reaches


class Dataset:
    """Documents packed side by side.

    Column t of `arrays` has tokens[t], positions[t] (in the document), targets[t] and weights[t], the names of
    model.py.  A document's columns predict ids + [end] from [start] + ids, truncated to block_size.

    Running text is cut into windows of block_size columns, which are then its documents; their beginnings and their
    order are drawn from `key` anew for every epoch.  A batch is `batch_size` consecutive documents; the first document
    follows the last.  `whole` truncates nothing: a document longer than the context becomes several windows.

    A weight is 1 / (batch_size * columns of the document), so a weighted sum of losses is the mean over documents of
    their mean losses.

    `arrays` has room for part of the documents and is filled on demand.  `n_batches` limits how many batches will be
    requested, and so how many documents are encoded.
    """

    def __init__(
        self,
        documents: Sequence[str],
        tokens: Tokens,
        config: Config,
        batch_size: int = 1,
        n_batches: int | None = None,
        key: int | None = None,
        whole: bool = False,
    ) -> None:
        self.batch_size, self._tokens, self._key, self._dtype = batch_size, tokens, key, config.dtype
        sizes = np.fromiter(map(len, documents), np.int64, len(documents))
        if (found := int(sizes.sum()) + len(sizes)) > MAX_COUNT:
            raise DataError(f"expected at most {MAX_COUNT} characters and ends of documents, found {found}")
        begins, lengths = np.cumsum(sizes + 1) - sizes - 1, sizes + (tokens.end is not None)  # positions in the ids
        context = np.zeros_like(lengths)
        if whole:
            begins, lengths, context = overlapping_windows(begins, lengths, config.block_size)
        elif tokens.end is None:
            begins, lengths = moving_windows(begins, lengths, config.block_size)
        self._spare = found - len(sizes) - int(lengths.sum())  # characters by which the windows may move
        self.n_characters = found - len(sizes)
        lengths = np.minimum(lengths, config.block_size)

        self.n_documents = n = len(lengths)
        if n == 0:
            raise DataError("expected at least one character, found none")
        self._period = n if key is None else EPOCHS * n
        n_repeated = batch_size - 1
        if tokens.end is not None and n_batches is not None and n_batches * batch_size <= n:  # none is used twice
            n, n_repeated = n_batches * batch_size, 0
            documents, begins = documents[:n], begins[:n]
        self._documents, self._begins, self._context = documents, begins, context
        self.offsets = np.concatenate(([0], np.cumsum(np.resize(lengths[:n], n + n_repeated))))
        if (found := int(self.offsets[-1])) > MAX_COUNT:
            raise DataError(f"expected at most {MAX_COUNT} tokens, found {found}")
        self.max_columns = self.widest(batch_size)
        self._room = min(found, max(STRETCH, self.max_columns))
        self._first, self._starts = 0, [0]  # what the arrays hold: the first document, and all boundaries
        self._moved: tuple[int, Any] | None = None  # an epoch, and where its windows begin

    def __repr__(self) -> str:
        return f"<Dataset of {self.n_documents} documents and {self.n_characters} characters>"

    @property
    def n_bytes(self) -> int:
        """An upper bound for the memory that encoding takes."""
        return 8 * self.n_characters + 40 * (len(self.offsets) + self.n_documents + self._room)

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """tokens, positions, targets and weights; batch(), part() and find() fill them."""
        dtypes = {"tokens": "i4", "positions": "i4", "targets": "i4", "weights": self._dtype}
        return {name: np.zeros(self._room, dtype) for name, dtype in dtypes.items()}

    @cached_property
    def _ids(self) -> Any:
        memory.require(self.n_bytes, f"{self.n_documents} documents")
        return self._tokens.encode(self._documents)

    @property
    def counted(self) -> Any:
        """Which columns are counted: all but those that a window repeats to have a context."""
        lengths = np.diff(self.offsets)
        return np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], lengths) >= np.repeat(self._context, lengths)

    def widest(self, count: int) -> int:
        """The largest number of columns in `count` consecutive documents."""
        return int(np.max(self.offsets[count:] - self.offsets[:-count]))

    def batch(self, step: int) -> tuple[int, int]:
        """The first column of this step's batch, and its number of columns."""
        return self.find(step * self.batch_size % self._period, self.batch_size)

    def part(self, step: int, begin: int, count: int) -> tuple[int, int]:
        """The first column and the number of columns of `count` documents of the batch, from its document `begin`."""
        return self.find(step * self.batch_size % self._period + begin, count)

    def find(self, first: int, count: int) -> tuple[int, int]:
        """The first column and the number of columns of `count` documents, from document `first`.

        They must be at most batch_size documents, or fit into STRETCH columns.
        """
        i, starts = first - self._first, self._starts
        if not 0 <= i < len(starts) - count:
            self._fill(first)
            i, starts = 0, self._starts
        start = starts[i]
        return start, starts[i + count] - start

    def _fill(self, first: int) -> None:
        """Fill the arrays with as many documents as they have room for, from document `first`."""
        epoch, begin = divmod(first, self.n_documents)
        end = int(np.searchsorted(self.offsets, self.offsets[begin] + self._room, "right")) - 1
        starts = self.offsets[begin : end + 1] - self.offsets[begin]
        lengths, n = np.diff(starts), int(starts[-1])
        epochs = [self._begins_in(epoch + e) for e in range(-(-end // self.n_documents))]
        begins = np.concatenate(epochs)[begin:end]
        position = np.arange(n, dtype=np.int32) - np.repeat(starts[:-1].astype(np.int32), lengths)
        at = np.repeat(begins.astype(np.int32), lengths) + position
        arrays = self.arrays
        arrays["tokens"][:n] = self._ids[at]
        arrays["targets"][:n] = self._ids[at + 1]
        arrays["positions"][:n] = position
        arrays["weights"][:n] = np.repeat(1 / (lengths * np.float64(self.batch_size)), lengths)
        self._first, self._starts = first, starts.tolist()  # plain ints: the training loop reads them every step

    def _begins_in(self, epoch: int) -> Any:
        """Where in the ids each document of this epoch begins."""
        if self._key is None:
            return self._begins
        if self._moved is None or self._moved[0] != epoch:
            rng = random.Random(self._key + epoch)
            moved = self._begins + rng.randrange(self._spare + 1)
            self._moved = epoch, moved[permutation(rng, len(moved))]
        return self._moved[1]


def moving_windows(begins: Any, lengths: Any, size: int) -> tuple[Any, Any]:
    """Where the windows of a running text begin, and their length: they leave room for each to move by one length."""
    n = max(1, lengths[0] // size - 1)
    return begins[0] + size * np.arange(n), np.full(n, min(size, lengths[0]))


def overlapping_windows(begins: Any, lengths: Any, size: int) -> tuple[Any, Any, Any]:
    """Where the windows of texts begin, their lengths, and how many of their first columns are context alone.

    A text that is longer than the context is cut as sampling does it: when the context is full, the older half is
    dropped.  So each window begins with the newer half of the one before, and every token is counted once.
    """
    half = size // 2
    step = size - half
    counts = np.where(lengths > 0, 1 + -(-(lengths - size).clip(0) // step), 0)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of each window in its text
    starts = number * step
    ends = np.minimum(starts + size, np.repeat(lengths, counts))
    return np.repeat(begins, counts) + starts, ends - starts, np.where(number > 0, half, 0)
