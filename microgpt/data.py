"""Documents and their encoding: a text file becomes flat arrays of which every batch is a slice."""

import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .terminal import reason

MAX_COUNT = 2**31 - 1  # what int32 can count


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
    """Encoded documents, packed side by side: column t of all has token, position (in its document), target, weight.

    Document d, read cyclically, has the columns offsets[d] to offsets[d + 1]: [BOS] + ids predicts ids + [BOS], cut
    to block_size.  A batch is `batch_size` documents in a row; past the last document comes the first again, so the
    arrays go on for batch_size - 1 documents more.  weight is 1 / (batch_size * columns of the document), which makes
    a weighted sum of losses the mean over documents of their mean losses.

    `fits` is called with the columns of the largest batch and of all, before anything of that size is made.
    """

    def __init__(
        self,
        documents: Sequence[str],
        vocab: list[str],
        block_size: int,
        batch_size: int,
        dtype: str,
        fits: Callable[[int, int], None] | None = None,
    ) -> None:
        # one separator before, between and after the documents: the BOS of one is the end of the one before
        text = "\n".join(["", *documents, ""])
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        ids = np.zeros(max(codes.max(), ord(vocab[-1])) + 1, np.int32)
        ids[[ord(char) for char in vocab]] = np.arange(len(vocab))
        ids[ord("\n")] = len(vocab)
        bos = np.flatnonzero(codes == ord("\n")).astype(np.int32)
        encoded = ids[codes]

        full_lengths = np.diff(bos)
        lengths = np.minimum(full_lengths, block_size)
        position = np.arange(len(encoded) - 1, dtype=np.int32) - np.repeat(bos[:-1], full_lengths)
        keep = position < block_size

        self.n_documents = len(documents)
        self.n_truncated = int(np.count_nonzero(full_lengths > block_size))
        self.batch_size = batch_size
        cyclic = np.resize(lengths, len(documents) + batch_size - 1)
        offsets = np.concatenate(([0], np.cumsum(cyclic, dtype=np.int64)))
        n_columns = int(offsets[-1])
        if n_columns > MAX_COUNT:
            raise DataError(f"expected at most {MAX_COUNT} tokens, found {n_columns}")
        self.max_columns = int(np.max(offsets[batch_size:] - offsets[:-batch_size]))
        if fits is not None:
            fits(self.max_columns, n_columns)
        self.token = np.resize(encoded[:-1][keep], n_columns)
        self.target = np.resize(encoded[1:][keep], n_columns)
        self.position = np.resize(position[keep], n_columns)
        self.weight = np.repeat(1 / (lengths * np.float64(batch_size)), lengths).astype(dtype)
        self.weight = np.resize(self.weight, n_columns)
        self.offsets = offsets.tolist()  # plain ints: the training loop indexes it every step

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a program reads of a batch, by the names of model.py."""
        return {"tokens": self.token, "positions": self.position, "targets": self.target, "weights": self.weight}

    def batch(self, step: int) -> tuple[int, int]:
        """The first column of this step's batch and how many columns it has."""
        first = step * self.batch_size % self.n_documents
        start = self.offsets[first]
        return start, self.offsets[first + self.batch_size] - start
