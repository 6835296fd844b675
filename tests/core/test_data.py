"""Documents as columns, and running text as windows, against a few lines of Python: for documents the reference's."""

import itertools
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT

from microgpt.base.config import Config
from microgpt.base.errors import DataError
from microgpt.core import data
from microgpt.core.data import Dataset
from microgpt.core.documents import read, vocabulary
from microgpt.core.tokens import Tokens

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
    """A document has min(block_size, length + 1) columns at any block_size."""
    path = write(FILES["longer than the block"])
    check(path, block_size, 3)


def test_arrays(write):
    """The data set is flat int32 arrays, weights in the run's precision, and an offset per document and one more."""
    dataset = load(write(FILES["plain"]), block_size=6, batch_size=2, dtype="float32").dataset
    assert dataset.offsets.tolist() == [0, 5, 11, 15, 20]  # emma, olivia (cut), ava, and emma again to fill a batch
    assert dataset.max_columns == 11
    for array in (dataset.arrays[name] for name in ("tokens", "positions", "targets")):
        assert array.dtype == np.int32 and array.shape == (20,) and array.flags.c_contiguous
    assert dataset.arrays["weights"].dtype == np.float32
    assert batch(dataset, 0)[1].sum() == pytest.approx(1, rel=1e-6)


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


def test_more_than_can_be_counted(write, monkeypatch):
    """More characters, or more tokens in a run's batches, than int32 counts are refused."""
    path = write(b"abcd\n" * 10)
    monkeypatch.setattr(data, "MAX_COUNT", 50)
    assert load(path, block_size=2, batch_size=16).dataset.offsets[-1] == 50
    with pytest.raises(DataError, match="at most 50 tokens, found 52"):
        load(path, block_size=2, batch_size=17)
    monkeypatch.setattr(data, "MAX_COUNT", 49)
    with pytest.raises(DataError, match="at most 49 characters and ends of documents, found 50"):
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


# ---- running text ----

STARTS = 0x4E00  # texts of characters that are all different, so that each says where it is


def distinct(n):
    return "".join(map(chr, range(STARTS, STARTS + n)))


def windows(text, block_size, batch_size, key, n_epochs):
    """Every batch of these epochs: (token, position, target) of each column, and their weights."""
    vocab = sorted(set(text))
    ids = [vocab.index("\n") if "\n" in vocab else 0, *map(vocab.index, text)]
    size, n = min(block_size, len(text)), max(1, len(text) // block_size - 1)
    found = []
    for epoch in range(n_epochs):
        rng = random.Random(key + epoch)
        moved = rng.randint(0, len(text) - n * size)
        order = [rng.random() for _ in range(n)]
        for i in sorted(range(n), key=order.__getitem__):
            begin = moved + i * size
            found.append([(ids[begin + p], p, ids[begin + p + 1]) for p in range(size)])
    batches = [found[i : i + batch_size] for i in range(0, len(found) - batch_size + 1, batch_size)]
    weights = [1 / (batch_size * size)] * (batch_size * size)
    return [([column for window in batch for column in window], weights) for batch in batches]


def running(texts, block_size, batch_size=1, key=None, n_batches=None, dtype="float64"):
    config = Config(block_size=block_size, split="none", dtype=dtype)
    return Dataset(texts, Tokens(vocabulary(texts), "none"), config, batch_size, n_batches, key)


def batches(dataset, steps):
    return [(columns, weights.tolist()) for columns, weights in (batch(dataset, step) for step in steps)]


LENGTHS = [1, 2, 7, 8, 9, 15, 16, 17, 23, 24, 25, 100]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 40])
@pytest.mark.parametrize("block_size", [1, 8, 200])
@pytest.mark.parametrize("length", LENGTHS)
def test_windows(length, block_size, batch_size):
    """Every batch of three epochs, and of those that straddle them, has the windows of plain Python."""
    rng = random.Random(length)
    for text in distinct(length), "".join(rng.choices("ab\ncd", k=length)), "a" * length:
        dataset = running([text], block_size, batch_size, key=2**64 - 1, n_batches=1000)
        n_epochs = 3 * -(-batch_size // dataset.n_documents)
        expected = windows(text, block_size, batch_size, 2**64 - 1, n_epochs)
        assert len(expected) >= 3 and batches(dataset, range(len(expected))) == expected
        assert dataset.max_columns == len(expected[0][0])


@pytest.mark.parametrize("length", LENGTHS)
def test_windows_move(length):
    """From epoch to epoch windows begin wherever there is room, in another order; each character is a target at most
    once an epoch, and more of them than there are without two windows."""
    dataset = running([distinct(length)], 8, key=7)
    n, shifts, orders = dataset.n_documents, set(), set()
    for epoch in range(200):
        targets = [t for i in range(n) for _, _, t in batch(dataset, epoch * n + i)[0]]  # each says where it is
        assert len(set(targets)) == len(targets) > length - 16
        shifts.add(min(targets))
        orders.add(tuple(t - min(targets) for t in targets))
    assert shifts == set(range(length - len(targets) + 1))
    assert len(orders) == {1: 1, 2: 2}.get(n, 200)


@pytest.mark.parametrize("stretch", [1, 20, 64])
def test_any_stretch_and_any_order(monkeypatch, stretch):
    """However few columns are there at once, and in whichever order batches are asked for, they are the same."""
    text = "".join(random.Random(1).choices("ab\nc", k=203))
    made = [lambda: running([text], 8, 3, key=5), lambda: running([text, "abc", "a"], 8, 3)]
    for make in [*made, lambda: Dataset(text.split("\n"), Tokens(list("abc"), "line"), Config(block_size=4), 3)]:
        steps = list(range(60))
        expected = batches(make(), steps)
        with monkeypatch.context() as patch:
            patch.setattr(data, "STRETCH", stretch)
            assert batches(make(), steps) == expected
            for seed in range(3):
                random.Random(seed).shuffle(steps)
                assert batches(make(), steps) == [expected[step] for step in steps]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_far_epochs(dtype):
    """After a million epochs the windows still are those of plain Python, in the run's precision."""
    text, epoch = distinct(50), 10**6
    dataset = running([text], 8, 1, key=3, dtype=dtype)
    n = dataset.n_documents
    assert batches(dataset, range(epoch * n, (epoch + 2) * n)) == windows(text, 8, 1, 3 + epoch, 2)


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("block_size", [1, 2, 7, 8, 500])
def test_whole_texts(block_size, end):
    """With `whole`, each character of each text, and its end, is a counted target once, in order, after the one before
    it in its text; what is not counted is the newer half of the window before."""
    rng = random.Random(block_size)
    texts = ["".join(rng.choices("ab\nc", k=n)) for n in (1, 7, 8, 9, 100, 2)]
    vocab = ["\n", "a", "b", "c"]
    tokens = Tokens(vocab, "blank-line" if end else "none")
    dataset = Dataset(texts, tokens, Config(block_size=block_size, split="blank-line" if end else "none"), whole=True)
    counted, found, context = dataset.counted, [], []
    for i in range(dataset.n_documents):
        start, n = dataset.find(i, 1)
        columns = {name: array[start : start + n].tolist() for name, array in dataset.arrays.items()}
        assert columns["positions"] == list(range(n)) and n <= block_size
        which = counted[dataset.offsets[i] : dataset.offsets[i + 1]].tolist()
        assert which == sorted(which) and which.count(False) in (0, block_size // 2)
        pairs = list(zip(columns["tokens"], columns["targets"]))
        context = pairs[: which.count(False)]
        assert context == found[len(found) - len(context) :]
        found += pairs[which.count(False) :]
    expected = []
    for text in texts:
        ids = [tokens.start, *map(vocab.index, text), *[tokens.end] * end]
        expected += itertools.pairwise(ids)
    assert found == expected


PEAK = """
import sys
from microgpt.base.config import Config
from microgpt.core.trainer import Trainer

trainer = Trainer(Config(sys.argv[1], split="none", num_steps=3, val_fraction=float(sys.argv[2])))
trainer.steps(3, [], ())
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
@pytest.mark.parametrize("val_fraction", [0, 0.1])
@pytest.mark.parametrize("first", ["\n", "🙂"], ids=["ASCII", "an emoji"])
def test_memory(tmp_path, first, val_fraction):
    """To train on a long text takes at most 15 bytes for each of its own, even where Python has four for each."""

    def peak(n):
        path = tmp_path / "text.txt"
        path.write_text(first + "abcdefgh\n " * (n // 10), encoding="utf-8")
        command = [sys.executable, "-c", PEAK, path, str(val_fraction)]
        process = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        return 1024 * int(process.stdout)

    n = 20_000_000
    found = (peak(n) - peak(100)) / n
    print(f"{found:.1f} bytes a byte")
    assert 1 < found < 15
