"""Novelty: how far a sample is from the training texts."""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import numpy as np


class Nearest:
    """Finds the nearest of some texts by edit distance."""

    def __init__(self, texts: Iterable[str]) -> None:
        by_length: dict[int, list[str]] = {}
        for text in sorted(set(texts)):
            by_length.setdefault(len(text), []).append(text)
        self.groups = {
            length: (group, codes("".join(group)).reshape(len(group), length)) for length, group in by_length.items()
        }

    def to(self, text: str) -> tuple[str, int]:
        """The nearest text and its edit distance (insertions, deletions and replacements of characters).

        Ties go to the text nearest in length, then to the shorter one, then to the first in order.
        """
        best: tuple[int, str] | None = None
        for difference in count():  # the edit distance is at least the difference in length
            if best is not None and difference >= best[0]:
                break
            for length in dict.fromkeys((len(text) - difference, len(text) + difference)):
                if length in self.groups:
                    group, found = self.groups[length][0], distances(text, self.groups[length][1])
                    i = int(found.argmin())
                    if best is None or found[i] < best[0]:
                        best = int(found[i]), group[i]
        assert best is not None  # the loop ends only after finding a text
        return best[1], best[0]


def distances(text: str, group: Any) -> Any:
    """The edit distance of a text to each row of codes.

    Computes row i of the usual dynamic-programming table for all texts at once: first the minimum over deletion and
    replacement, then insertions.  An insertion costs 1 per column, so after subtracting the column number they are a
    running minimum.
    """
    columns = np.ascontiguousarray(group.T)
    number = np.arange(len(columns) + 1, dtype=np.int32)[:, None]
    row = np.repeat(number, len(group), axis=1)
    for i, code in enumerate(codes(text), 1):
        row[1:] = np.minimum(row[1:] + 1, row[:-1] + (columns != code))
        row[0] = i
        row -= number
        np.minimum.accumulate(row, axis=0, out=row)
        row += number
    return row[-1]


def codes(text: str) -> Any:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def longest_run(text: str, training: str) -> tuple[int, int]:
    """(start, length) of the longest part of a text that also occurs in the training text."""
    start = length = 0
    for i in range(len(text)):
        while i + length < len(text) and text[i : i + length + 1] in training:
            start, length = i, length + 1
    return start, length


def share_new(samples: Sequence[str], training: Iterable[str]) -> float:
    known = set(training)
    return sum(sample not in known for sample in samples) / len(samples)
