"""Documents and their encoding: a text file becomes flat arrays of which every batch is a slice."""

import os
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import memory
from .errors import DataError
from .terminal import reason

MAX_COUNT = 2**31 - 1  # what int32 can count
ENCODING = 56  # bytes for each character while it is encoded, and 20 from then on


def read_documents(path: str) -> tuple[list[str], bool]:
    """The file's lines, stripped, without blank ones; and whether it began with a byte-order mark (which is dropped).

    As in the reference the file is split at newlines alone (\\r\\n and \\r count as such).  Raises DataError.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{path}: expected a text file, found something else (a directory or a device)")
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8 text, found byte 0x{error.object[error.start]:02x} at offset {error.start}"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read: {reason(error)}") from None
    bom = text.startswith("\ufeff")
    lines = (line.strip() for line in text.removeprefix("\ufeff").strip().split("\n"))
    documents = [line for line in lines if line]
    if not documents:
        raise DataError(f"{path}: expected at least one line of text, found none")
    return documents, bom


def vocabulary(documents: list[str]) -> list[str]:
    """The sorted distinct characters.  A character's id is its place; BOS is one more id, after the last."""
    return sorted(set[str]().union(*documents))


class Dataset:
    """Encoded documents, packed side by side: column t of all has tokens[t], positions[t] (in its document) and so on.

    Document d, read cyclically, has the columns offsets[d] to offsets[d + 1]: [BOS] + ids predicts ids + [BOS], cut
    to block_size.  A batch is `batch_size` documents in a row; past the last document comes the first again, so the
    columns go on for batch_size - 1 documents more.  There are n_columns of them, max_columns in the largest batch.

    The arrays are made when they are first asked for, since they may be large.  With `n_batches`, of which no more will
    be asked for, they hold no more documents than these have.
    """

    def __init__(
        self,
        documents: Sequence[str],
        vocab: list[str],
        block_size: int,
        batch_size: int,
        dtype: str,
        n_batches: int | None = None,
    ) -> None:
        self.n_documents, self.batch_size = len(documents), batch_size
        self._vocab, self._dtype = vocab, dtype
        self._full_lengths = np.fromiter(map(len, documents), np.int64, len(documents)) + 1  # and the end
        if self._full_lengths.sum() > MAX_COUNT:
            raise DataError(f"expected at most {MAX_COUNT} characters and ends, found {self._full_lengths.sum()}")
        self.n_truncated = int(np.count_nonzero(self._full_lengths > block_size))
        n, again = len(documents), batch_size - 1
        if n_batches is not None and n_batches * batch_size <= n:  # no document comes again
            n, again = n_batches * batch_size, 0
        self._documents, self._full_lengths = documents[:n], self._full_lengths[:n]
        self.n_bytes = ENCODING * int(self._full_lengths.sum())
        self._lengths = np.minimum(self._full_lengths, block_size)
        offsets = np.concatenate(([0], np.cumsum(np.resize(self._lengths, n + again))))
        self.n_columns = int(offsets[-1])
        if self.n_columns > MAX_COUNT:
            raise DataError(f"expected at most {MAX_COUNT} tokens, found {self.n_columns}")
        self.max_columns = int(np.max(offsets[batch_size:] - offsets[:-batch_size]))
        self._arrays: dict[str, NDArray[Any]] | None = None
        self.offsets: list[int] = offsets.tolist()  # plain ints: the training loop indexes it every step

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """tokens, positions, targets and weights, the names of model.py.

        A weight is 1 / (batch_size * columns of the document), which makes a weighted sum of losses the mean over
        documents of their mean losses.
        """
        if self._arrays is None:
            self._arrays = self._encode()
        return self._arrays

    def _encode(self) -> dict[str, NDArray[Any]]:
        memory.require(self.n_bytes, f"{len(self._documents)} documents")
        # one separator before, between and after the documents: the BOS of one is the end of the one before
        text = "\n".join(["", *self._documents, ""])
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        ids = np.zeros(max(codes.max(), ord(self._vocab[-1])) + 1, np.int32)
        ids[[ord(char) for char in self._vocab]] = np.arange(len(self._vocab))
        ids[ord("\n")] = len(self._vocab)
        encoded = ids[codes]
        begins = (np.cumsum(self._full_lengths) - self._full_lengths).astype(np.int32)
        position = np.arange(len(encoded) - 1, dtype=np.int32) - np.repeat(begins, self._full_lengths)
        keep = position < np.repeat(self._lengths, self._full_lengths)
        weights = np.repeat(1 / (self._lengths * np.float64(self.batch_size)), self._lengths).astype(self._dtype)
        arrays = {
            "tokens": encoded[:-1][keep],
            "positions": position[keep],
            "targets": encoded[1:][keep],
            "weights": weights,
        }
        return {name: np.resize(array, self.n_columns) for name, array in arrays.items()}

    def batch(self, step: int) -> tuple[int, int]:
        """The first column of this step's batch and how many columns it has."""
        first = step * self.batch_size % self.n_documents
        start = self.offsets[first]
        return start, self.offsets[first + self.batch_size] - start
