"""Documents: the texts of a file, divided into a training set and a held-out set."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby

from ..base.config import BLANK_LINE, LINE, RUNNING_TEXT, Config
from ..base.errors import ConfigError, DataError, named
from ..base.files import open_file
from ..base.terminal import reason, shown

SINGLE_DOCUMENTS = "documents"  # a value of val_split
# the separator of documents for each `split`; no document contains it
PARTED_BY = {LINE: "\n", BLANK_LINE: "\n\n", RUNNING_TEXT: ""}


def read(path: str, split: str = Config.split) -> tuple[list[str], bool]:
    """The documents of a file, and whether it began with a byte-order mark (which is dropped).

    `line`: the file's lines, stripped, without blank ones, as the reference reads it.  `blank-line`: the parts between
    blank lines, not stripped.  `none`: the whole file.  \\r\\n and \\r count as the newline \\n.  Raises DataError.
    """
    try:
        with open(path, encoding="utf-8", opener=open_file) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        code = "UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "CP1252"  # as Windows writes it
        raise DataError(
            f"expected UTF-8 text, found byte 0x{error.object[error.start]:02x} at offset {error.start}; "
            f"if the file is in {code}, convert it with 'iconv -f {code} -t UTF-8'",
            subject=path,
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"cannot be read: {reason(error)}", subject=path) from None
    bom = text.startswith("\ufeff")
    if bom:
        text = text[1:]
    documents = divided(text, split)
    if not documents:
        raise DataError(
            f"expected at least one {'character' if split == RUNNING_TEXT else 'line of text'}, found none",
            subject=path,
        )
    return documents, bom


def divided(text: str, split: str) -> list[str]:
    if split == RUNNING_TEXT:
        return [text] if text else []
    if split == LINE:
        return [line for line in map(str.strip, text.strip().split("\n")) if line]
    groups = groupby(text.split("\n"), lambda line: bool(line.strip()))
    return ["\n".join(lines) for has_text, lines in groups if has_text]


def vocabulary(documents: Iterable[str]) -> list[str]:
    """The sorted distinct characters.  A character's id is its index."""
    return sorted(set[str]().union(*documents))


class Documents:
    """The documents of a run in its order: first `training`, then `held_out`."""

    def __init__(self, config: Config, path: str, rng: random.Random) -> None:
        """Read and shuffle the documents, and hold some out: all copies of a text, or the end of running text.

        Raises DataError, ConfigError.
        """
        self.path, self.split = path, config.split
        documents, self.had_bom = read(path, config.split)
        self.vocab = vocabulary(documents)
        self.running = config.split == RUNNING_TEXT
        order = list(documents)  # in which the held-out documents are chosen, from the end
        rng.shuffle(documents)
        self.key = rng.getrandbits(64) if self.running else None  # the seed of its windows
        self.count = len(documents[0]) if self.running else len(documents)  # documents, or characters of running text
        n = n_held_out(self.count, config.val_fraction, "characters" if self.running else "documents")
        if self.running:
            text = documents[0]
            self.training, self.held_out = [text[: self.count - n]], [text[self.count - n :]] if n else []
        elif config.val_split == SINGLE_DOCUMENTS or n == 0:
            self.training, self.held_out = documents[: self.count - n], documents[self.count - n :]
        else:
            if config.val_seed:
                random.Random(config.val_seed).shuffle(order)
            chosen = choose_texts(order if config.val_seed else documents, n)
            self.training = [document for document in documents if document not in chosen]
            self.held_out = [document for document in (order if config.val_seed else documents) if document in chosen]
        self.n_held_out = n if self.running else len(self.held_out)

    @cached_property
    def n_seen(self) -> int:
        """How many held-out documents have a copy among the training documents."""
        training = set(self.training)
        return sum(document in training for document in self.held_out)

    def __repr__(self) -> str:
        what = "characters" if self.running else "documents"
        return f"<Documents of {shown(self.path)}: {self.count} {what}, {self.n_held_out} of them held out>"

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the documents in their order, so that it also detects a different shuffle."""
        from hashlib import sha256

        return sha256(PARTED_BY[self.split].join(self.training + self.held_out).encode()).hexdigest()

    def must_be(self, sha256: str) -> None:
        """Raise DataError unless the documents have this SHA-256."""
        if self.sha256 != sha256:
            raise DataError(
                f"expected the documents that the run started with (SHA-256 {sha256}), "
                f"found others ({self.sha256}); set {named('input')} to the file that has them",
                subject=self.path,
            )


def choose_texts(documents: Sequence[str], n: int) -> set[str]:
    """Texts to hold out, the last ones, so that with all their copies they are at most n documents, or one text.

    Raises ConfigError where that leaves nothing to train on.
    """
    copies = Counter(documents)
    chosen, count = set[str](), 0
    for text in reversed(documents):
        if text not in chosen and count + copies[text] <= n:
            chosen.add(text)
            count += copies[text]
    if not chosen:
        chosen.add(min(reversed(documents), key=copies.__getitem__))
    if len(chosen) == len(copies):
        raise ConfigError("expected at least two different documents, found copies of one", argument="val_fraction")
    return chosen


def n_held_out(n: int, fraction: float, what: str = "documents") -> int:
    """How many of n to hold out.  Raises ConfigError if that leaves none to train on."""
    if fraction == 0:
        return 0
    held_out = max(1, int(n * fraction))
    if held_out >= n:
        raise ConfigError(
            f"expected to leave {what} to train on, found {held_out} of {n} held out", argument="val_fraction"
        )
    return held_out
