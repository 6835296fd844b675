"""Hostile .safetensors files: any file loads to exactly the model or raises CheckpointError."""

import json
import random
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from helpers import often, tiny_trainer
from hostile import DELETE, FILES, Hostile, memory_of_loading, odd_change, settings, with_changes

from microgpt.base.config import Config
from microgpt.base.errors import CheckpointError
from microgpt.core.params import Parameters, by_rows
from microgpt.runs import checkpoint, safetensors

pytest.importorskip("safetensors", reason="needs safetensors: pip install .[export]")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny_trainer(tmp_path_factory.mktemp("run"), 4, dtype="float32")


@pytest.fixture(scope="module")
def good(trainer):
    """The bytes of a valid file."""
    return safetensors.to_bytes(trainer.params, trainer.documents.sha256)


@pytest.fixture(scope="module")
def values(trainer):
    return everything(trainer)


def everything(saved):
    """All that the file is about, as values that == compares exactly."""
    arrays = {name: (a.dtype.str, a.shape, a.tobytes("F")) for name, a in saved.params.items()}
    return saved.config, saved.vocab, arrays


def parts(good):
    """(state, header, the arrays' bytes) of a file."""
    start = 8 + struct.unpack_from("<Q", good)[0]
    header = json.loads(good[8:start])
    return json.loads(header["__metadata__"]["microgpt"]), header, good[start:]


def pack(header, data):
    text = header if type(header) is bytes else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def sealed(state, header, data):
    """A file with a valid hash, so that only its content can be wrong."""
    with suppress(KeyError, TypeError, ValueError):
        arrays = (data[slice(*header[name]["data_offsets"])] for name in ORDER)
        state = state | {"sha256": checkpoint.digest(state, (np.frombuffer(a, np.uint8) for a in arrays))}
    return pack(header | {"__metadata__": {"microgpt": json.dumps(state)}}, data)


ORDER = ["wte", "wpe", "lm_head", *(f"layer0.{name}" for name in (
    "attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2",
))]  # fmt: skip


# ---- by hand: each makes bytes from those of a valid file ----


with_state = with_changes(parts, sealed, lambda state, header, data: state)
with_config = with_changes(parts, sealed, lambda state, header, data: state["config"])


def with_entry(name, **changes):
    """What the header says of a matrix changed."""
    return with_changes(parts, sealed, lambda state, header, data: header[name])(**changes)


def with_header(change):
    """The header changed: a function of it returns another, or its text."""

    def changed(good):
        _, header, data = parts(good)
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
        state, header, data = parts(good)
        numbers = np.frombuffer(data, np.float32).copy()
        numbers[index] = value
        return sealed(state, header, numbers.tobytes())

    return change


def moved(find, shift):
    """Every matrix from one on some bytes later, or earlier, than it lies."""

    def change(good):
        state, header, data = parts(good)
        late = False
        for name in header:
            late |= name == find
            if late:
                header[name]["data_offsets"] = [at + shift for at in header[name]["data_offsets"]]
        return sealed(state, header, bytes(max(0, shift)) + data)

    return change


def swapped(good):
    """Two matrices of one shape that say of each other where they are."""
    state, header, data = parts(good)
    a, b = header["layer0.attn_wk"], header["layer0.attn_wq"]
    a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]
    return sealed(state, header, data)


def double(good):
    """Real numbers of twice the width that are said to be what the settings want."""
    state, header, data = parts(good)
    return sealed(state, header, np.frombuffer(data, np.float32).astype(np.float64).tobytes())


def many(n):
    return with_header(lambda header: header | {f"more{i}": header["wte"] for i in range(n)})


def header_of(text):
    return lambda good: pack(text, parts(good)[2])


SHA = '"sha256": "'
KINDS = FILES | settings(with_state, with_config) | {
    # the file
    "7 bytes": lambda good: good[:7],
    "a length": lambda good: good[:8],
    "a length and a byte": lambda good: good[:9],
    "half a header": lambda good: good[:200],
    "a header": lambda good: good[: 8 + struct.unpack_from("<Q", good)[0]],
    "zeros at the end": lambda good: good[:-100] + bytes(100),
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
    "keys in another order": lambda good: sealed(dict(reversed(parts(good)[0].items())), *parts(good)[1:]),
    "a step": with_state(step=4),
    "another split": with_config(split="none"),
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


class TestWeights(Hostile):
    module = safetensors
    saved = staticmethod(everything)
    between = often(31, 1)  # lengths that are tried
    mutations = often(500, 20_000)

    @pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
    def test_by_hand(self, good, tmp_path, kind):
        """Each of these is refused, in one line that names the file."""
        bad = kind(good)
        assert bad != good
        self.refuse(tmp_path / "m.safetensors", bad)


@pytest.mark.parametrize("kind", ["text", "a checkpoint", "length 0", "length of the file", "length 2^63"])
def test_no_header(good, tmp_path, kind):
    """For another kind of file, which has no header, the message says so."""
    (tmp_path / "m").write_bytes(KINDS[kind](good))
    with pytest.raises(CheckpointError, match="expected a header that ends within"):
        safetensors.load(str(tmp_path / "m"))


def test_the_seal_itself(good, tmp_path, values):
    """Without a change, the helpers above make a valid file, so that only the change causes the refusal."""
    state, header, data = parts(good)
    assert list(by_rows(dict.fromkeys(ORDER, np.zeros((1, 1))))) == ORDER
    for same in (sealed(state, header, data), pack(header, data), with_text(b"wte", b"wte")(good)):
        (tmp_path / "m").write_bytes(same)
        assert everything(safetensors.load(str(tmp_path / "m"))) == values


@pytest.mark.slow
def test_sealed_mutations(good, tmp_path):
    """With a valid hash, odd settings or headers are accepted only as the values that they state."""
    rng = random.Random(6)
    for _ in range(often(300, 10_000)):
        state, header, data = parts(good)
        odd_change(rng, rng.choice([state, state["config"], state["config"], header, header[rng.choice(ORDER)]]))
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
