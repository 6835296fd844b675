"""Tokens: maps characters to ids and back, and marks where a text begins and ends."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base.config import RUNNING_TEXT

BREAK = "\ud800"  # separates documents while they are encoded: a lone surrogate, which no text contains
SLICE = 2**20  # characters to encode at once


class Tokens:
    """The ids 0 to size - 1: the characters of `vocab`, then BOS, which comes before and after every document.

    `start` is the id before a text, `end` the one after it, or None.  Running text has no BOS: its `start` is the
    newline, or the first character of a vocabulary without one.
    """

    def __init__(self, vocab: Sequence[str], split: str) -> None:
        self.vocab = list(vocab)
        self.start = self.vocab.index("\n") if split == RUNNING_TEXT and "\n" in self.vocab else 0
        self.end: int | None = None
        if split != RUNNING_TEXT:
            self.start = self.end = len(self.vocab)
        self.size = len(self.vocab) + (self.end is not None)

    def encode(self, documents: Sequence[str]) -> Any:
        """The ids of the documents, with `start` before each and `end`, if there is one, after the last."""
        text = BREAK.join(["", *documents, *([] if self.end is None else [""])])
        ids = np.empty(len(text), np.min_scalar_type(self.size))
        of_code = np.zeros(max(map(ord, [BREAK, *self.vocab])) + 1, ids.dtype)
        of_code[[ord(char) for char in self.vocab]] = np.arange(len(self.vocab))
        of_code[ord(BREAK)] = self.start
        for i in range(0, len(text), SLICE):  # because UTF-32 takes four bytes for each character
            codes = text[i : i + SLICE].encode("utf-32-le", "surrogatepass")
            ids[i : i + SLICE] = of_code[np.frombuffer(codes, np.uint32)]
        return ids

    def ids(self, text: str) -> list[int]:
        """The id of each character."""
        return list(map(self.vocab.index, text))

    def text(self, ids: Any) -> str:
        """The characters of the ids; BOS gives NUL."""
        codes = np.array([*map(ord, self.vocab), 0], "<u4")
        return str(codes[ids].tobytes(), "utf-32-le")
