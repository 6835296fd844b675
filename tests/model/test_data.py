"""Documents and their encoding, against the reference's few lines of Python."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from microgpt import data
from microgpt.config import Config
from microgpt.data import Dataset
from microgpt.documents import read
from microgpt.errors import DataError
from microgpt.tokens import Tokens, vocabulary

FILES = {
    "plain": b"emma\nolivia\nava\n",
    "no final newline": b"emma\nolivia",
    "carriage returns and newlines": b"emma\r\nolivia\r\n\r\nava\r\n",
    "lone carriage returns": b"emma\rolivia\rava",
    "one document": b"emma\n",
    "one distinct character": b"aaa\na\n",
    "one character": b"a",
    "blank lines and spaces": b"\n\n  emma \n \t \n\nanna maria\n\n",
    "NUL and control characters": b"a\x00b\n\x1b[31m\n\x07\n",
    "emoji and accents": "zoë\n👩‍🚀\n\U0010ffff\n".encode(),
    "other line separators inside": "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\nab\n".encode(),
    "other line separators around": "\x85ab\u2028\n\x0bcd\x1c\n".encode(),
    "longer than the block": b"abcdefgh\nabcdefg\nabcdef\nabc\n",
    "byte-order mark inside": "ab\ufeffc\n\ufeffd\n".encode(),
}


def reference(path, block_size):
    """What microgpt.py does: the vocabulary, and of every document (token, position, target) at each position."""
    with open(path, encoding="utf-8") as file:
        docs = [line.strip() for line in file.read().strip().split("\n") if line.strip()]
    uchars = sorted(set("".join(docs)))
    bos = len(uchars)
    columns = []
    for doc in docs:
        tokens = [bos] + [uchars.index(ch) for ch in doc] + [bos]
        n = min(block_size, len(tokens) - 1)
        columns.append([(tokens[pos_id], pos_id, tokens[pos_id + 1]) for pos_id in range(n)])
    return docs, uchars, columns


def load(path, block_size=6, batch_size=1, dtype="float64"):
    documents, had_bom = read(str(path))
    vocab = vocabulary(documents)
    config = Config(block_size=block_size, dtype=dtype)
    dataset = Dataset(documents, Tokens(vocab, config.split), config, batch_size)
    return SimpleNamespace(documents=documents, had_bom=had_bom, vocab=vocab, dataset=dataset)


def batch(dataset, step):
    """(token, position, target) of every column of a step's batch, and their weights."""
    start, n = dataset.batch(step)
    columns = slice(start, start + n)
    arrays = [dataset.arrays[name][columns] for name in ("tokens", "positions", "targets")]
    return list(zip(*(array.tolist() for array in arrays))), dataset.arrays["weights"][columns]


def check(path, block_size, batch_size):
    docs, uchars, columns = reference(path, block_size)
    loaded = load(path, block_size, batch_size)
    assert loaded.documents == docs
    assert loaded.vocab == uchars
    for step in range(2 * len(docs) + 1):
        numbers = [(step * batch_size + i) % len(docs) for i in range(batch_size)]
        found, weight = batch(loaded.dataset, step)
        assert found == [column for number in numbers for column in columns[number]]
        lengths = [len(columns[number]) for number in numbers]
        expected = [1 / (batch_size * n) for n in lengths for _ in range(n)]
        np.testing.assert_allclose(weight, expected, rtol=1e-15)
        assert len(found) <= loaded.dataset.max_columns


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "input.txt"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_every_batch_is_the_reference_s_documents(write, content, batch_size):
    """Documents, vocabulary and every batch of two epochs are the reference's; a batch wraps around at the end."""
    check(write(content), 6, batch_size)


@pytest.mark.parametrize("block_size", [1, 2, 7, 8, 9, 100])
def test_long_documents_are_cut_to_the_block(write, block_size):
    """A document has min(block_size, length + 1) columns at any block_size, and those that lost some are counted."""
    path = write(FILES["longer than the block"])
    check(path, block_size, 3)
    lengths = [len(document) + 1 for document in load(path).documents]
    assert load(path, block_size).dataset.n_truncated == sum(n > block_size for n in lengths)


def test_arrays(write):
    """The data set is flat int32 arrays, weights in the run's precision, and an offset per document and one more."""
    dataset = load(write(FILES["plain"]), block_size=6, batch_size=2, dtype="float32").dataset
    assert dataset.offsets.tolist() == [0, 5, 11, 15, 20]  # emma, olivia (cut), ava, and emma again to fill a batch
    assert dataset.max_columns == 11
    for array in (dataset.arrays[name] for name in ("tokens", "positions", "targets")):
        assert array.dtype == np.int32 and array.shape == (20,) and array.flags.c_contiguous
    assert dataset.arrays["weights"].dtype == np.float32
    assert batch(dataset, 0)[1].sum() == pytest.approx(1, rel=1e-6)


def test_byte_order_mark_is_dropped(write):
    """A byte-order mark at the beginning is no character of the first document, and the caller is told of it."""
    with_bom, without = load(write(b"\xef\xbb\xbfemma\nava\n")), load(write(b"emma\nava\n"))
    assert with_bom.had_bom and not without.had_bom
    assert with_bom.documents == without.documents == ["emma", "ava"]


def test_any_text(tmp_path):
    """Whatever text a file holds, it is encoded as the reference encodes it, or refused when all of it is blank."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\n\r \t\x0b\x1c\x85\u2028\0ab")
    texts = st.text(characters, max_size=40).filter(lambda text: not text.startswith("\ufeff"))

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(texts, st.integers(1, 8), st.integers(1, 4))
    def same(text, block_size, batch_size):
        path = tmp_path / "input.txt"
        path.write_bytes(text.encode())
        if text.strip():
            check(path, block_size, batch_size)
        else:
            with pytest.raises(DataError):
                read(str(path))

    same()


REFUSED = {
    "empty": (b"", "at least one line"),
    "blank": (b" \n\t\r\n\x0b\n", "at least one line"),
    "only a byte-order mark": (b"\xef\xbb\xbf\n", "at least one line"),
    "latin-1": (b"emma\nzo\xeb\n", "byte 0xeb at offset 7"),
    "utf-16": ("emma\n".encode("utf-16"), "byte 0xff at offset 0"),
    "a surrogate": (b"a\xed\xa0\x80", "byte 0xed at offset 1"),
    "cut inside a character": (b"zo\xc3", "byte 0xc3 at offset 2"),
}


@pytest.mark.parametrize("content, reason", REFUSED.values(), ids=REFUSED.keys())
def test_refused_content(write, content, reason):
    """A file without text, or that is not UTF-8, is refused with its name and what was found."""
    path = write(content)
    with pytest.raises(DataError, match=reason) as refused:
        read(str(path))
    assert str(path) in str(refused.value)


def test_refused_paths(tmp_path):
    """What is not a readable regular file is refused by name, and nothing waits for a pipe or a device."""
    (tmp_path / "file").write_text("emma")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    names = ["missing", "file/below", "loop", "fifo", "x" * 300, "nul\0inside"]
    for path in [*(str(tmp_path / name) for name in names), str(tmp_path), "/dev/null", "/dev/zero"]:
        with pytest.raises(DataError) as refused:
            read(path)
        assert path.replace("\0", r"\x00") in str(refused.value)


def test_more_than_can_be_counted(write, monkeypatch):
    """More characters, or more tokens in a run's batches, than int32 counts are refused."""
    path = write(b"abcd\n" * 10)
    monkeypatch.setattr(data, "MAX_COUNT", 50)
    assert load(path, block_size=2, batch_size=16).dataset.offsets[-1] == 50
    with pytest.raises(DataError, match="at most 50 tokens, found 52"):
        load(path, block_size=2, batch_size=17)
    monkeypatch.setattr(data, "MAX_COUNT", 49)
    with pytest.raises(DataError, match="at most 49 characters and ends, found 50"):
        load(path, block_size=2)


@pytest.mark.parametrize("n_batches", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_only_what_is_asked_for(batch_size, n_batches):
    """A dataset for some batches has these as one for all has them, and encodes no other documents."""
    documents, vocab = ["emma", "olivia", "ava", "mia", "noa", "li", "eve"], list("aeilmnov")
    tokens, config = Tokens(vocab, "line"), Config(block_size=5)
    whole, part = (Dataset(documents, tokens, config, batch_size, n) for n in (None, n_batches))
    for step in range(n_batches):
        (start, n), (other_start, other_n) = whole.batch(step), part.batch(step)
        assert n == other_n <= part.max_columns
        for name, array in whole.arrays.items():
            found = part.arrays[name][other_start : other_start + other_n]
            assert array[start : start + n].tobytes() == found.tobytes() and len(found) == n
    if n_batches * batch_size <= len(documents):
        assert part.offsets[-1] == sum(min(len(d) + 1, 5) for d in documents[: n_batches * batch_size])
    assert part.n_truncated == whole.n_truncated == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_refused_permission(write):
    """A file that may not be read is refused by name."""
    path = write(b"emma")
    path.chmod(0)
    with pytest.raises(DataError, match="ermission"):
        read(str(path))
