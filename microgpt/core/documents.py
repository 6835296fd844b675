"""Documents: the texts of a file, divided into a training set and a held-out set."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby

from ..base.config import BLANK_LINE, LINE, RUNNING_TEXT, Config
from ..base.errors import ConfigError, DataError, named, renamed
from ..base.files import open_file
from ..base.terminal import notice, reason, shown

TEXTS = "(texts)"  # stands for the path of a file if the texts are given in Python
SINGLE_DOCUMENTS = "documents"  # a value of val_split
# the separator of documents for each `split`; no document contains it
PARTED_BY = {LINE: "\n", BLANK_LINE: "\n\n", RUNNING_TEXT: ""}

LONG_CONTEXT = 1024  # a longer one takes too much time and memory to suggest
BOM = "\ufeff"  # the byte-order mark
PROBED = 4096  # bytes to search for NUL bytes
NUL_PATTERNS: dict[tuple[bool, ...], str] = {
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
    (False, True, True, True): "UTF-32LE",
    (False, False, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
    (True, True, False, False): "UTF-32BE",
}
KINDS = {  # by the first bytes
    b"\xff\xfe\0\0": "the byte-order mark of UTF-32; convert it: iconv -f UTF-32 -t UTF-8",
    b"\0\0\xfe\xff": "the byte-order mark of UTF-32; convert it: iconv -f UTF-32 -t UTF-8",
    b"\xff\xfe": "the byte-order mark of UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "the byte-order mark of UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\x1f\x8b": "a gzip file; unpack it: gunzip",
    b"PK\3\4": "a zip file (or a document or package that is one, such as .docx); unpack it: unzip",
    b"BZh91AY&SY": "a bzip2 file; unpack it: bunzip2",
    b"\xfd7zXZ\0": "an xz file; unpack it: unxz",
    b"\x28\xb5\x2f\xfd": "a Zstandard file; unpack it: unzstd",
    b"%PDF-": "a PDF file; extract its text: pdftotext",
}


def read(path: str, split: str = Config.split) -> tuple[list[str], bool]:
    """The documents of a file, and whether it began with a byte-order mark (which is dropped).

    `line`: the file's lines, stripped, without blank ones, as the reference reads it.  `blank-line`: the parts between
    blank lines, not stripped.  `none`: the whole file.  \\r\\n and \\r count as the newline \\n.  Raises DataError.
    """
    try:
        with open(path, "rb", opener=open_file) as file:
            data = file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"cannot be read: {reason(error)}", subject=path) from None
    with renamed("", subject=path):
        return from_bytes(data, split)


def from_bytes(data: bytes, split: str) -> tuple[list[str], bool]:
    """What read() returns for a file that contains `data`."""
    text = decoded(data)
    bom = text.startswith(BOM)
    documents = divided(text[1:] if bom else text, split)
    if not documents:
        raise DataError(f"expected at least one {'character' if split == RUNNING_TEXT else 'line of text'}, found none")
    return documents, bom


def decoded(data: bytes) -> str:
    """The text of UTF-8 bytes.  Raises DataError, which tells only what the bytes prove about another kind of file."""
    for start, kind in KINDS.items():
        if data.startswith(start):
            raise DataError(f"expected UTF-8 text, found {kind}")
    if code := NUL_PATTERNS.get(nul_pattern(data[:PROBED])):
        raise DataError(
            f"expected UTF-8 text, found NUL bytes as in {code}; if it is {code}, convert it: iconv -f {code} -t UTF-8"
        )
    try:
        return unified(data.decode())
    except UnicodeDecodeError as error:
        raise DataError(
            f"expected UTF-8 text, found byte 0x{data[error.start]:02x} at offset {error.start}; "
            "if the file is in another encoding, convert it: iconv -f ENCODING -t UTF-8"
        ) from None


def nul_pattern(data: bytes) -> tuple[bool, ...]:
    """Whether most bytes at the offsets 0, 1, 2 and 3, modulo 4, are NUL."""
    return tuple(2 * (part := data[i::4]).count(0) > max(len(part), 3) for i in range(4))


def unified(text: str) -> str:
    """The text with \\n for \\r\\n and \\r."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def from_texts(texts: Sequence[str], split: str) -> list[str]:
    """The documents that a list of texts gives: those of a file that contains them, one document for each text.

    Texts of running text are joined.  Raises DataError.
    """
    for i, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(f"expected characters that UTF-8 can encode, found {shown(text)} at index {i}") from None
    if split == RUNNING_TEXT:
        documents = divided(unified("".join(texts)), split)
    else:
        parts = [divided(unified(text), split) for text in texts]
        for i, part in enumerate(parts):
            if len(part) != 1:
                what = "line" if split == LINE else "block between blank lines"
                raise DataError(
                    f"expected each text to be one {what} ({named('split')} {split!r}), found {shown(texts[i])} "
                    f"at index {i}"
                )
        documents = [document for part in parts for document in part]
    if not documents:
        raise DataError("expected at least one text, found none")
    return documents


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

    def __init__(self, config: Config, source: str | Sequence[str], rng: random.Random) -> None:
        """Read and shuffle the documents, and hold some out: all copies of a text, or the end of running text.

        `source` is the path of a file, or a list of texts.  Raises DataError, ConfigError.
        """
        self.split, self.had_bom = config.split, False
        if isinstance(source, str):
            self.path = source
            documents, self.had_bom = read(source, config.split)
        else:
            self.path = TEXTS
            with renamed("", argument="input"):
                documents = from_texts(source, config.split)
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
        training = set(self.training if self.held_out else [])
        return sum(document in training for document in self.held_out)

    def notice_unusual(self, block_size: int) -> None:
        """Print notices, or issue warnings, about anything unusual in the texts, for this context length."""
        if self.had_bom:
            notice(f"{self.path}: removed the byte-order mark")
        if "\0" in self.vocab:
            n = sum(text.count("\0") for text in self.training + self.held_out)
            notice(f"{self.path}: found {n} NUL character{'s' * (n > 1)}, which the model learns like any other")
        if self.n_seen:
            notice(
                f"{self.path}: {self.n_seen} of {self.n_held_out} held-out documents are also in the training set, "
                "so the held-out loss is too low; a new run keeps all copies of a text together"
            )
        if not self.running:
            self._notice_cut(block_size)

    def _notice_cut(self, block_size: int) -> None:
        lengths = [len(text) for text in self.training if len(text) >= block_size]  # the end needs a place too
        if not lengths:
            return
        n, longest = len(lengths), max(lengths) + 1
        lost = (sum(lengths) - n * block_size) / sum(map(len, self.training))
        what, block = f"{'line' if self.split == LINE else 'paragraph'}{'s' * (n > 1)}", named("block_size")
        remedies = [f"{block} {longest}"] * (longest <= LONG_CONTEXT)
        remedies.append(f"{named('split')} {RUNNING_TEXT}, which reads the file as running text")
        notice(
            f"{self.path}: {block} {block_size} cuts off the ends of {n} {what}, {lost:.1%} of the characters; "
            f"to use all of them: {', or '.join(remedies)}"
        )

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
