"""Hostile .safetensors files: whatever one holds, it loads to exactly the model, or is refused as CheckpointError."""

import json
import os
import random
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from helpers import is_accepted, memory_of_loading, mutate, often, tiny_trainer

from microgpt.base.config import Config
from microgpt.base.errors import CheckpointError, UnreadableError
from microgpt.core.params import Parameters, by_rows
from microgpt.runs import checkpoint, safetensors

pytest.importorskip("safetensors", reason="needs safetensors: pip install .[export]")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny_trainer(tmp_path_factory.mktemp("run"), 4, dtype="float32")


@pytest.fixture(scope="module")
def good(trainer):
    """The bytes of a fine file."""
    return safetensors.to_bytes(trainer.params, trainer.documents.sha256)


@pytest.fixture(scope="module")
def values(trainer):
    return everything(trainer)


def everything(saved):
    """All that the file is about, as values that == compares exactly."""
    arrays = {name: (a.dtype.str, a.shape, a.tobytes("F")) for name, a in saved.params.items()}
    return saved.config, saved.vocab, arrays


def parts(good):
    """(header, state, the arrays' bytes) of a file."""
    start = 8 + struct.unpack_from("<Q", good)[0]
    header = json.loads(good[8:start])
    return header, json.loads(header["__metadata__"]["microgpt"]), good[start:]


def pack(header, data):
    text = header if type(header) is bytes else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def sealed(state, header, data):
    """A file whose hash is right, so that only what it says can be wrong."""
    with suppress(KeyError, TypeError, ValueError):
        arrays = (data[slice(*header[name]["data_offsets"])] for name in ORDER)
        state = state | {"sha256": checkpoint.digest(state, (np.frombuffer(a, np.uint8) for a in arrays))}
    return pack(header | {"__metadata__": {"microgpt": json.dumps(state)}}, data)


ORDER = ["wte", "wpe", "lm_head", *(f"layer0.{name}" for name in (
    "attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2",
))]  # fmt: skip
DELETE = object()


# ---- by hand: each makes bytes from those of a fine file ----


def put(place, changes):
    for key, value in changes.items():
        if value is DELETE:
            del place[key]
        else:
            place[key] = value


def with_state(**changes):
    def change(good):
        header, state, data = parts(good)
        put(state, changes)
        return sealed(state, header, data)

    return change


def with_config(**changes):
    def change(good):
        header, state, data = parts(good)
        put(state["config"], changes)
        return sealed(state, header, data)

    return change


def with_entry(name, **changes):
    """What the header says of a matrix changed."""

    def change(good):
        header, state, data = parts(good)
        put(header[name], changes)
        return sealed(state, header, data)

    return change


def with_header(change):
    """The header changed: a function of it returns another, or its text."""

    def changed(good):
        header, _, data = parts(good)
        return pack(change(header), data)

    return changed


def with_text(find, replacement):
    """The header's text changed."""

    def changed(good):
        n = struct.unpack_from("<Q", good)[0]
        text = good[8 : 8 + n]
        assert find in text
        return pack(text.replace(find, replacement, 1), good[8 + n :])

    return changed


def with_inner_text(change):
    """The text of the metadata changed."""
    return with_header(
        lambda header: header | {"__metadata__": {"microgpt": change(header["__metadata__"]["microgpt"])}}
    )


def with_length(change):
    return lambda good: struct.pack("<Q", change(struct.unpack_from("<Q", good)[0])) + good[8:]


def weight(index, value):
    def change(good):
        header, state, data = parts(good)
        numbers = np.frombuffer(data, np.float32).copy()
        numbers[index] = value
        return sealed(state, header, numbers.tobytes())

    return change


def moved(find, shift):
    """Every matrix from one on some bytes later, or earlier, than it lies."""

    def change(good):
        header, state, data = parts(good)
        late = False
        for name in header:
            late |= name == find
            if late:
                header[name]["data_offsets"] = [at + shift for at in header[name]["data_offsets"]]
        return sealed(state, header, bytes(max(0, shift)) + data)

    return change


def swapped(good):
    """Two matrices of one shape that say of each other where they are."""
    header, state, data = parts(good)
    a, b = header["layer0.attn_wk"], header["layer0.attn_wq"]
    a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]
    return sealed(state, header, data)


def double(good):
    """Real numbers of twice the width that are said to be what the settings want."""
    header, state, data = parts(good)
    return sealed(state, header, np.frombuffer(data, np.float32).astype(np.float64).tobytes())


def many(n):
    return with_header(lambda header: header | {f"more{i}": header["wte"] for i in range(n)})


def header_of(text):
    return lambda good: pack(text, parts(good)[2])


SHA = '"sha256": "'
KINDS = {
    # the file
    "empty": lambda good: b"",
    "one byte": lambda good: good[:1],
    "7 bytes": lambda good: good[:7],
    "a length": lambda good: good[:8],
    "a length and a byte": lambda good: good[:9],
    "half a header": lambda good: good[:200],
    "a header": lambda good: good[: 8 + struct.unpack_from("<Q", good)[0]],
    "all but the last byte": lambda good: good[:-1],
    "one byte more": lambda good: good + b"\0",
    "a megabyte more": lambda good: good + bytes(2**20),
    "one byte before": lambda good: b"\0" + good,
    "zeros": lambda good: bytes(len(good)),
    "zeros at the end": lambda good: good[:-100] + bytes(100),
    "twice": lambda good: good + good,
    "text": lambda good: b"emma\nolivia\n" * 1000,
    "a checkpoint": lambda good: b"PK\3\4" + good,
    "another weight, old hash": lambda good: good[:-1] + bytes([good[-1] ^ 1]),
    # the length
    "length 0": with_length(lambda n: 0),
    "length 1": with_length(lambda n: 1),
    "length 2": with_length(lambda n: 2),
    "length one less": with_length(lambda n: n - 8),
    "length one more": with_length(lambda n: n + 1),
    "length of the file": with_length(lambda n: 10**4),
    "length 2^31": with_length(lambda n: 2**31),
    "length 2^63": with_length(lambda n: 2**63),
    "length 2^64 - 1": with_length(lambda n: 2**64 - 1),
    "length of the other order": lambda good: good[7::-1] + good[8:],
    # the header's text
    "no JSON": header_of(b"hello"),
    "JSON list": header_of(b"[1, 2]"),
    "JSON number": header_of(b"1"),
    "JSON text": header_of(b'"a"'),
    "JSON null": header_of(b"null"),
    "empty object": header_of(b"{}"),
    "two objects": header_of(b"{}{}"),
    "deep": header_of(b"[" * 100_000),
    "deep objects": header_of(b'{"a":' * 100_000),
    "wide": header_of(b"[" + b"[]," * 340_000),
    "many empty objects": header_of(b"{\"a\":[" + b"{}," * 340_000 + b"{}]}"),
    "spaces alone": header_of(b" " * 2**19),
    "long": header_of(b" " * 2**21),
    "5,000 digits": header_of(b'{"a":' + b"1" * 5000 + b"}"),
    "BOM": with_header(lambda header: b"\xef\xbb\xbf" + json.dumps(header).encode()),
    "UTF-16": with_header(lambda header: json.dumps(header).encode("utf-16")),
    "not ASCII": with_text(b'"wte"', b'"wt\xc3\xa9"'),
    "not UTF-8": with_text(b'"wte"', b'"wt\xff"'),
    "a NUL": with_text(b'"wte"', b'"wt\0"'),
    "matrix twice": with_text(b'"wte":{', b'"wpe":{'),
    "key twice in a matrix": with_text(b'"dtype":"F32"', b'"dtype":"F64","dtype":"F32"'),
    "metadata twice": with_text(b'{"__metadata__":', b'{"__metadata__":{},"__metadata__":'),
    # the metadata
    "no metadata": with_header(lambda header: {name: header[name] for name in ORDER}),
    "empty metadata": with_header(lambda header: header | {"__metadata__": {}}),
    "metadata a list": with_header(lambda header: header | {"__metadata__": ["microgpt"]}),
    "metadata null": with_header(lambda header: header | {"__metadata__": None}),
    "metadata of another": with_header(lambda header: header | {"__metadata__": {"format": "pt"}}),
    "state no text": with_header(lambda header: header | {"__metadata__": {"microgpt": {}}}),
    "state no JSON": with_inner_text(lambda text: "hello"),
    "state empty": with_inner_text(lambda text: ""),
    "state a list": with_inner_text(lambda text: "[1]"),
    "state null": with_inner_text(lambda text: "null"),
    "half a state": with_inner_text(lambda text: text[:-1]),
    "state deep": with_inner_text(lambda text: "[" * 4000),
    "state wide": with_inner_text(lambda text: "[" + "[]," * 20_000),
    "key twice": with_inner_text(lambda text: text[:-1] + ', "vocab": "ab"}'),
    "setting twice": with_inner_text(lambda text: text.replace('"seed": 42', '"seed": 42, "seed": 42')),
    "NaN": with_inner_text(lambda text: text.replace('"learning_rate": 0.01', '"learning_rate": NaN')),
    "Infinity": with_inner_text(lambda text: text.replace('"grad_clip": 0.0', '"grad_clip": Infinity')),
    "1e999": with_inner_text(lambda text: text.replace('"eps": 1e-08', '"eps": 1e999')),
    "400 digits": with_inner_text(lambda text: text.replace('"seed": 42', '"seed": ' + "4" * 400)),
    "5,000 digits in the state": with_inner_text(lambda text: text.replace('"seed": 42', '"seed": ' + "4" * 5000)),
    "another seed, old hash": with_inner_text(lambda text: text.replace('"seed": 42', '"seed": 43')),
    "own hash too long": with_inner_text(lambda text: text.replace(SHA, SHA + "0" * 2000)),
    "own hash missing": with_inner_text(lambda text: text.replace(SHA, '"sha": "')),
    "own hash in capitals": with_inner_text(lambda text: text[:-66] + text[-66:].upper()),
    "later format": with_state(format=2),
    "no format": with_state(format=DELETE),
    "format as text": with_state(format="1"),
    "format as bool": with_state(format=True),
    "keys in another order": lambda good: sealed(dict(reversed(parts(good)[1].items())), *parts(good)[::2]),
    "key unknown": with_state(more=1),
    "a step": with_state(step=4),
    "config missing": with_state(config=DELETE),
    "config a list": with_state(config=[1]),
    "hash of the data missing": with_state(data_sha256=DELETE),
    "hash of the data too short": with_state(data_sha256="ab"),
    "hash of the data a number": with_state(data_sha256=1),
    # the settings and the vocabulary
    "setting missing": with_config(n_embd=DELETE),
    "setting unknown": with_config(more=1),
    "setting as text": with_config(n_embd="4"),
    "setting as bool": with_config(n_layer=True),
    "setting as real": with_config(n_embd=4.0),
    "setting null": with_config(seed=None),
    "setting a list": with_config(block_size=[4]),
    "no heads": with_config(n_head=0),
    "heads that do not divide": with_config(n_head=3),
    "block of 0": with_config(block_size=0),
    "negative width": with_config(n_embd=-4),
    "width 2^62": with_config(n_embd=2**62, n_head=1),
    "large width": with_config(n_embd=2**16),
    "another width": with_config(n_embd=8),
    "another block": with_config(block_size=5),
    "no layer": with_config(n_layer=0),
    "one more layer": with_config(n_layer=2),
    "1,000 layers": with_config(n_layer=1000),
    "a billion layers": with_config(n_layer=10**9),
    "other precision": with_config(dtype="float64"),
    "no precision": with_config(dtype="bfloat16"),
    "another split": with_config(split="none"),
    "empty vocabulary": with_state(vocab=""),
    "vocabulary with a character twice": with_state(vocab="abcdefgg"),
    "vocabulary not sorted": with_state(vocab="bacdefgh"),
    "vocabulary too short": with_state(vocab="abcdefg"),
    "vocabulary too long": with_state(vocab="abcdefghi"),
    "vocabulary with a line end": with_state(vocab="\nabcdefg"),
    "vocabulary with half a character": with_state(vocab="abcdefg\ud800"),
    "vocabulary a list": with_state(vocab=list("abcdefgh")),
    # the matrices
    "matrix missing": with_header(lambda header: {name: header[name] for name in header if name != "wpe"}),
    "matrix too many": many(1),
    "matrix of no numbers too many": with_header(
        lambda header: header | {"more": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    ),
    "50,000 matrices": many(50_000),
    "other name": with_text(b'"wte"', b'"wtf"'),
    "name with a prefix": with_text(b'"wte"', b'"transformer.wte"'),
    "matrix null": with_header(lambda header: header | {"wte": None}),
    "matrix a list": with_header(lambda header: header | {"wte": [9, 4]}),
    "matrix empty": with_header(lambda header: header | {"wte": {}}),
    "key missing in a matrix": with_entry("wte", dtype=DELETE),
    "key too many in a matrix": with_entry("wte", more=1),
    "F64": with_entry("wte", dtype="F64"),
    "I32": with_entry("wte", dtype="I32"),
    "BF16": with_entry("wte", dtype="BF16"),
    "no dtype": with_entry("wte", dtype="float32"),
    "dtype null": with_entry("wte", dtype=None),
    "all in F64": double,
    "turned": with_entry("wte", shape=[4, 9]),
    "flat": with_entry("wte", shape=[36]),
    "three dimensions": with_entry("wte", shape=[9, 4, 1]),
    "shape too small": with_entry("wte", shape=[8, 4]),
    "shape negative": with_entry("wte", shape=[-9, -4]),
    "shape huge": with_entry("wte", shape=[2**62, 4]),
    "shape as text": with_entry("wte", shape="9, 4"),
    "shape of texts": with_entry("wte", shape=["9", "4"]),
    "shape null": with_entry("wte", shape=None),
    "offsets too short": with_entry("wte", data_offsets=[0, 1]),
    "offsets the other way": with_entry("wte", data_offsets=[144, 0]),
    "offsets negative": with_entry("layer0.attn_wk", data_offsets=[-64, 0]),
    "offsets beyond": with_entry("wte", data_offsets=[10**6, 10**6 + 144]),
    "offsets huge": with_entry("wte", data_offsets=[2**63, 2**63 + 144]),
    "one offset": with_entry("wte", data_offsets=[0]),
    "three offsets": with_entry("wte", data_offsets=[0, 144, 144]),
    "offsets null": with_entry("wte", data_offsets=None),
    "offsets real": with_entry("wte", data_offsets=[0.5, 144.5]),
    "two in one place": with_entry("layer0.attn_wk", data_offsets=[64, 128]),
    "two that overlap": with_entry("layer0.attn_wk", data_offsets=[60, 124]),
    "two swapped": swapped,
    "a gap before": moved("layer0.attn_wk", 4),
    "a gap inside": moved("wpe", 64),
    "NaN weight": weight(5, np.nan),
    "infinite weight": weight(-1, np.inf),
    "negative infinity": weight(0, -np.inf),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_by_hand(good, tmp_path, kind):
    """Each of these is refused, in one line that names the file."""
    bad = kind(good)
    assert bad != good
    path = tmp_path / "m.safetensors"
    path.write_bytes(bad)
    with pytest.raises(CheckpointError) as refused:
        safetensors.load(str(path))
    assert str(path) in str(refused.value) and len(str(refused.value)) < 1000


@pytest.mark.parametrize("kind", ["text", "a checkpoint", "length 0", "length of the file", "length 2^63"])
def test_no_header(good, tmp_path, kind):
    """Of what has no header, and so is a file of another kind, that is what is said."""
    (tmp_path / "m").write_bytes(KINDS[kind](good))
    with pytest.raises(CheckpointError, match="expected a header that ends within"):
        safetensors.load(str(tmp_path / "m"))


def test_the_seal_itself(good, tmp_path, values):
    """Without a change the helpers above make a fine file: what they refuse is refused for the change."""
    header, state, data = parts(good)
    assert list(by_rows(dict.fromkeys(ORDER, np.zeros((1, 1))))) == ORDER
    for same in (sealed(state, header, data), pack(header, data), with_text(b"wte", b"wte")(good)):
        (tmp_path / "m").write_bytes(same)
        assert everything(safetensors.load(str(tmp_path / "m"))) == values


def written_to(path):
    """A FIFO whose other end somebody has open."""
    os.mkfifo(path)
    os.open(path, os.O_RDWR)


NO_FILES = {
    "missing": lambda path: None,
    "directory": lambda path: path.mkdir(),
    "FIFO": os.mkfifo,
    "FIFO with a writer": written_to,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "10 GB of nothing": lambda path: os.truncate(os.open(path, os.O_RDWR | os.O_CREAT), 10 * 10**9),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES.keys())
def test_not_a_file(tmp_path, make):
    """What is no file of such a size is refused at once, without waiting for it or reading it."""
    make(tmp_path / "m")
    with pytest.raises(CheckpointError):
        safetensors.load(str(tmp_path / "m"))


def test_a_file_that_changes_while_it_is_read(good, values, tmp_path, monkeypatch):
    """A file that shrinks, grows or changes between the look at its head and the rest has the old values or none."""
    path = tmp_path / "m"
    for change in (good[:-100], good[:100] + b"x" + good[101:], good + b"more"):
        path.write_bytes(good)

        def changing(state, keys, change=change, original=checkpoint.parse_state):
            path.write_bytes(change)
            return original(state, keys)

        monkeypatch.setattr(safetensors, "parse_state", changing)
        with suppress(UnreadableError):  # and not that it is damaged
            assert everything(safetensors.load(str(path))) == values
        monkeypatch.undo()


# ---- by chance ----


def values_in(path):
    return everything(safetensors.load(str(path)))


@pytest.mark.slow
def test_every_length(good, values, tmp_path):
    """No beginning of a file is accepted."""
    path = tmp_path / "m"
    path.write_bytes(good)
    for size in range(len(good) - 1, -1, -often(31, 1)):
        os.truncate(path, size)
        with pytest.raises(CheckpointError):
            safetensors.load(str(path))


@pytest.mark.slow
def test_mutations(good, values, tmp_path):
    """Damaged anywhere, in any of eight ways, it gives the right values or is refused."""
    rng = random.Random(5)
    n = often(500, 20_000)
    accepted = sum(is_accepted(values_in, tmp_path / "m", mutate(rng, good), values) for _ in range(n))
    assert accepted < n / 50  # spaces that become others


@pytest.mark.slow
def test_sealed_mutations(good, tmp_path):
    """With the hash made right again what is accepted is what it says: odd values in the settings and the header."""
    rng = random.Random(6)
    odd = [None, True, -1, 0, 1, 0.5, 2**31, 2**63, 1e300, "", "a", [], {}, [[]], "\ud800", -0.0]
    for _ in range(often(300, 10_000)):
        header, state, data = parts(good)
        place = rng.choice([state, state["config"], state["config"], header, header[rng.choice(ORDER)]])
        key = rng.choice(list(place))
        if rng.random() < 0.1:
            del place[key]
        else:
            place[key] = rng.choice(odd)
        numbers = bytearray(data)
        numbers[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "m").write_bytes(sealed(state, header, bytes(numbers)))
        try:
            found = safetensors.load(str(tmp_path / "m"))
        except CheckpointError:
            continue
        assert found.config == Config(**state["config"]) and "".join(found.vocab) == state["vocab"]
        for name, rows in by_rows(found.params).items():
            assert rows.tobytes("C") == bytes(numbers[slice(*header[name]["data_offsets"])])


# ---- memory ----


@pytest.mark.parametrize(
    "what", ["fine", "many layers", "deep", "wide", "many empty objects", "50,000 matrices", "long"]
)
def test_memory(tmp_path, good, what):
    """Loading takes at most twice the file's size and 16 MB, whether it is accepted or refused."""
    small, path = tmp_path / "small.safetensors", tmp_path / "m.safetensors"
    small.write_bytes(good)
    if what in ("fine", "many layers"):
        sizes = {"n_embd": 512, "n_head": 8} if what == "fine" else {"n_layer": 1000}
        saved = tiny_trainer(tmp_path, **sizes)
        params = Parameters(saved.config, saved.vocab)
        params.copy_from(saved.params)
        path.write_bytes(safetensors.to_bytes(params, saved.documents.sha256))
        del saved, params
    else:
        Path(path).write_bytes(KINDS[what](good))
    outcome, grown = memory_of_loading(small, path)
    assert outcome == ("loaded" if what in ("fine", "many layers") else "refused")
    assert grown <= 2 * path.stat().st_size + 16 * 2**20
