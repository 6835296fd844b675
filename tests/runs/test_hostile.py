"""Hostile checkpoints: any file loads to exactly the saved values or raises CheckpointError."""

import io
import json
import os
import pickle
import random
import struct
import warnings
import zipfile

import numpy as np
import pytest
from helpers import everything, often, tiny_trainer
from hostile import DELETE, FILES, Hostile, memory_of_loading, odd_change, settings, with_changes

from microgpt.base.errors import CheckpointError
from microgpt.core.trainer import Trainer
from microgpt.runs import checkpoint


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return tiny_trainer(tmp_path_factory.mktemp("run"), 4, dtype="float32")


@pytest.fixture(scope="module")
def good(trainer):
    """The bytes of a valid checkpoint."""
    return bytes(checkpoint.to_bytes(trainer.checkpoint()))


@pytest.fixture(scope="module")
def values(good, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "c"
    path.write_bytes(good)
    return everything(checkpoint.load(str(path)))


def parts(good):
    """(JSON, arrays) of a checkpoint."""
    with np.load(io.BytesIO(good)) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(arrays.pop("run").tobytes()), arrays


def pack(text, arrays):
    file = io.BytesIO()
    np.savez(file, run=np.frombuffer(text, np.uint8), **arrays)
    return file.getvalue()


def sealed(run, arrays):
    """A checkpoint with a valid hash, so that only its content can be wrong."""
    run = run | {"sha256": checkpoint.digest(run, map(np.asfortranarray, arrays.values()))}
    return pack(checkpoint.encode(run), arrays)


# ---- by hand: each makes bytes from those of a valid checkpoint ----


with_run = with_changes(parts, sealed, lambda run, arrays: run)
with_config = with_changes(parts, sealed, lambda run, arrays: run["config"])


def with_text(change):
    """The JSON text changed, with the old hash in it."""

    def changed(good):
        run, arrays = parts(good)
        return pack(change(checkpoint.encode(run)), arrays)

    return changed


def with_arrays(change):
    def changed(good):
        run, arrays = parts(good)
        arrays = change(arrays)
        return sealed(run, arrays)

    return changed


def put(name, index, value):
    def change(arrays):
        arrays[name] = arrays[name].copy("F")
        arrays[name].reshape(-1, order="F")[index] = value
        return arrays

    return with_arrays(change)


def shaped(name, change):
    return with_arrays(lambda arrays: arrays | {name: change(arrays[name])})


def rng_state(**changes):
    def change(good):
        run, arrays = parts(good)
        state = run["rng_state"]
        for key, value in changes.items():
            place, index = {"version": (state, 0), "gauss": (state, 2)}.get(key) or (state[1], int(key[4:] or -1))
            place[index] = value
        return sealed(run, arrays)

    return change


def backwards(good, key=None):
    """The JSON's keys, or those of the settings in it, in the opposite order."""
    run, arrays = parts(good)
    if key is None:
        return sealed(dict(reversed(run.items())), arrays)
    return sealed(run | {key: dict(reversed(run[key].items()))}, arrays)


def renamed(good, name, new):
    """One of the optimizer's arrays under another name."""
    run, arrays = parts(good)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a member that is there twice
        file = io.BytesIO()
        run["sha256"] = checkpoint.digest(run, map(np.asfortranarray, arrays.values()))
        with zipfile.ZipFile(file, "w") as archive:
            members = {"run": np.frombuffer(checkpoint.encode(run), np.uint8), **arrays}
            for each, array in members.items():
                with archive.open((new if each == name else each) + ".npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array))
    return file.getvalue()


def with_scalars(good, scalars, after="step"):
    """The JSON with other scalars of the optimizer, or with scalars at another place."""
    run, arrays = parts(good)
    kept = {key: value for key, value in run.items() if not key.startswith("beta")}
    keys = list(kept)
    i = keys.index(after) + 1
    return sealed({key: (kept | scalars)[key] for key in [*keys[:i], *scalars, *keys[i:]]}, arrays)


def rewritten(change):
    """The same members in an archive written in another way."""

    def changed(good):
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(file, "w") as new:
            change(old, new)
        return file.getvalue()

    return changed


def copy(old, new, **options):
    for info in old.infolist():
        new.writestr(zipfile.ZipInfo(info.filename), old.read(info), **options)


def patched(find, replacement, last=False):
    def change(good):
        at = good.rfind(find) if last else good.find(find)
        assert at >= 0
        return good[:at] + replacement + good[at + len(replacement) :]

    return change


def duplicated(old, new):
    copy(old, new)
    new.writestr(zipfile.ZipInfo("run.npy"), old.read("run.npy"))


def commented(old, new):
    copy(old, new)
    new.comment = b"hello"


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


def pickled(good):
    run, arrays = parts(good)
    file = io.BytesIO()
    arrays["wte"] = np.array([Evil()], object)
    np.savez(file, run=np.frombuffer(checkpoint.encode(run), np.uint8), **arrays)
    return file.getvalue()


def bomb(good):
    """A JSON text of 20 MB that takes 20 kB as it is stored."""
    _, arrays = parts(good)
    file = io.BytesIO()
    np.savez_compressed(file, run=np.full(20_000_000, ord(" "), np.uint8), **arrays)
    return file.getvalue()


def long_header(old, new):
    """As NumPy writes it, but for more spaces in the header of the first array."""
    for info in old.infolist():
        data = old.read(info)
        if info.filename == "run.npy":
            n = int.from_bytes(data[8:10], "little")
            data = data[:8] + struct.pack("<H", n + 600) + data[10 : 9 + n] + b" " * 600 + data[9 + n :]
        with new.open(zipfile.ZipInfo(info.filename), "w", force_zip64=True) as member:
            member.write(data)


def huge_header(good):
    """An array header that claims 2^40 numbers."""
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1))
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header | {"shape": (2**40,)})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("run.npy", file.getvalue())
    return out.getvalue()


KINDS = FILES | settings(with_run, with_config) | {
    # the container
    "half a zip header": lambda good: good[:20],
    "one zip header": lambda good: good[:30],
    "no directory": lambda good: good[: good.find(b"PK\1\2")],
    "half a directory": lambda good: good[: good.find(b"PK\1\2") + 100],
    "zeros at the end": lambda good: good[:-500] + bytes(500),
    "zeros inside": lambda good: good[:9000] + bytes(512) + good[9512:],
    "pickle": lambda good: pickle.dumps(parts(good)),
    "bare npy": lambda good: good[good.find(b"\x93NUMPY") :],
    "other zip": rewritten(lambda old, new: new.writestr("readme.txt", "hello")),
    "empty zip": rewritten(lambda old, new: None),
    "compressed": rewritten(lambda old, new: copy(old, new, compress_type=zipfile.ZIP_DEFLATED)),
    "bomb": bomb,
    "huge header": huge_header,
    "long header": rewritten(long_header),
    "other version of an array's header": patched(b"\x93NUMPY\1\0", b"\x93NUMPY\1\1"),
    "flags in a zip header": patched(b"PK\3\4\x2d\0\0\0", b"PK\3\4\x2d\0\x08\0"),
    "another size in a zip header": lambda good: good[:49] + bytes([good[49] ^ 1]) + good[50:],
    "other zip headers": rewritten(copy),
    "member twice": rewritten(duplicated),
    "comment": rewritten(commented),
    "comment that is not there": lambda good: good[:-2] + b"\5\0",
    "encrypted": patched(b"PK\1\2", b"PK\1\2\x14\3\x14\0\1"),
    "other name in the directory": patched(b"wte.npy", b"wtf.npy", last=True),
    "other name in the header": patched(b"wte.npy", b"wtf.npy"),
    "members in another order": with_arrays(lambda arrays: dict(reversed(arrays.items()))),
    "member too many": with_arrays(lambda arrays: arrays | {"more": np.zeros(3, np.float32)}),
    "array too many": with_arrays(lambda arrays: arrays | {f"a{i}": arrays["m"] for i in range(15)}),
    "array named as a matrix": lambda good: renamed(good, "m", "wte"),
    "array whose name is no identifier": lambda good: renamed(good, "m", "1"),
    "array without a name": lambda good: renamed(good, "m", ""),
    "array whose name is long": lambda good: renamed(good, "m", "m" * 65),
    "array whose name is not ASCII": lambda good: renamed(good, "m", "\u00e9"),
    "member missing": with_arrays(lambda arrays: {name: a for name, a in arrays.items() if name != "lm_head"}),
    "no run": lambda good: good[good.find(b"PK\3\4", 4) :],
    "object array": pickled,
    # the arrays
    "row-major": shaped("wte", np.ascontiguousarray),
    "transposed": shaped("wte", lambda a: np.asfortranarray(a.T)),
    "flat": shaped("wte", lambda a: a.ravel()),
    "too short": shaped("v", lambda a: a[:-1]),
    "too long": shaped("v", lambda a: np.append(a, a[:1])),
    "no numbers": shaped("m", lambda a: a[:0]),
    "float64": shaped("wte", lambda a: a.astype(np.float64)),
    "big-endian": shaped("wte", lambda a: a.astype(">f4")),
    "int32": shaped("wte", lambda a: a.view(np.int32)),
    "structured": shaped("m", lambda a: a.view([("x", np.float32)])),
    "bytes": shaped("m", lambda a: a.view("S4")),
    "NaN weight": put("wte", 5, np.nan),
    "infinite weight": put("lm_head", 0, np.inf),
    "NaN in m": put("m", 0, np.nan),
    "infinite v": put("v", 0, np.inf),
    "another weight, old hash": lambda good: good[:-2500] + bytes([good[-2500] ^ 1]) + good[-2499:],
    # the JSON
    "no JSON": with_text(lambda text: b"hello"),
    "half JSON": with_text(lambda text: text[:-1]),
    "JSON list": with_text(lambda text: b"[1, 2]"),
    "JSON number": with_text(lambda text: b"1"),
    "JSON null": with_text(lambda text: b"null"),
    "space": with_text(lambda text: text + b" "),
    "BOM": with_text(lambda text: b"\xef\xbb\xbf" + text),
    "UTF-16": with_text(lambda text: text.decode().encode("utf-16")),
    "not UTF-8": with_text(lambda text: text.replace(b"names", b"nam\xffs")),
    "key twice": with_text(lambda text: text[:-1] + b', "step": 4}'),
    "NaN": with_text(lambda text: text.replace(b'"beta1_t": ', b'"beta1_t": NaN, "x": ')),
    "1e999": with_text(lambda text: text.replace(b'"step": 4', b'"step": 1e999')),
    "5,000 digits": with_text(lambda text: text.replace(b'"step": 4', b'"step": ' + b"4" * 5000)),
    "400 digits": with_text(lambda text: text.replace(b'"learning_rate": 0.01', b'"learning_rate": 1' + b"0" * 400)),
    "deep": with_text(lambda text: b"[" * 100_000),
    "wide": with_text(lambda text: b"[" + b"[],[]," * 100_000),
    "long": with_text(lambda text: b" " * 2**21),
    "escaped": with_text(lambda text: text.replace(b'"vocab": "a', b'"vocab": "\\u0061')),
    "keys in another order": backwards,
    "settings in another order": lambda good: backwards(good, "config"),
    "own hash too long": with_text(lambda text: text.replace(b'"sha256": "', b'"sha256": "' + b"0" * 2000)),
    "key missing": with_run(n_worse=DELETE),
    "no input": with_config(input=""),
    "negative step": with_run(step=-1),
    "step past the end": with_run(step=9),
    "step as real": with_run(step=4.0),
    "step as bool": with_run(step=True),
    "scalar too many": lambda good: with_scalars(good, {f"s{i}": 0.5 for i in range(17)}),
    "scalar whose name is no identifier": lambda good: with_scalars(good, {"a b": 0.5}),
    "scalar without a name": lambda good: with_scalars(good, {"": 0.5}),
    "scalar that is whole": lambda good: with_scalars(good, {"count": 3}),
    "scalar null": lambda good: with_scalars(good, {"count": None}),
    "scalar a list": lambda good: with_scalars(good, {"count": [0.5]}),
    "scalar where the settings belong": lambda good: with_scalars(good, {"more": 0.5}, after="vocab"),
    "beta as text": with_run(beta2_t="0"),
    "best loss negative": with_run(best_val_loss=-1.0),
    "best loss as text": with_run(best_val_loss="1"),
    "more worse than steps": with_run(n_worse=5),
    "generator of another kind": rng_state(version=2),
    "generator null": with_run(rng_state=None),
    "generator too short": with_run(rng_state=[3, [1] * 624, None]),
    "generator's word too large": rng_state(word0=2**32),
    "generator's word negative": rng_state(word5=-1),
    "generator's word real": rng_state(word5=1.0),
    "generator's word a list": rng_state(word5=[]),
    "generator's index": rng_state(word=625),
    "generator's index 0": rng_state(word=0),
    "generator's index negative": rng_state(word=-1),
    "generator's gauss": rng_state(gauss=1e300),
    "generator's gauss as text": rng_state(gauss="0"),
}  # fmt: skip


class TestCheckpoint(Hostile):
    module = checkpoint
    saved = staticmethod(everything)
    between = often(29, 1)  # lengths that are tried
    mutations = often(3000, 200_000)

    @pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
    def test_by_hand(self, good, tmp_path, kind):
        """Each of these is refused, in one line that names the file."""
        bad = kind(good)
        assert bad != good
        self.refuse(tmp_path / "checkpoint.npz", bad)

    @pytest.mark.slow
    def test_every_bit_outside_of_the_arrays(self, good, values, tmp_path):
        """Flipping any bit of the zip headers, array headers or settings gives the saved values or an error."""
        run_end = good.find(b"PK\3\4", 4)
        places = [i for i in range(len(good)) if good[i : i + 2] == b"PK"]
        near = {i for p in places for i in range(p, min(p + 190, len(good)))} | set(range(0, run_end, often(40, 3)))
        for i in sorted(near)[:: often(4, 1)]:
            for bit in range(8) if often(0, 1) else [i % 8]:
                data = bytearray(good)
                data[i] ^= 1 << bit
                self.is_accepted(tmp_path / "c", bytes(data), values)


WRONG_STATES = {
    "no m": with_arrays(lambda arrays: {name: a for name, a in arrays.items() if name != "m"}),
    "no arrays": with_arrays(lambda arrays: {name: a for name, a in arrays.items() if name not in ("m", "v")}),
    "v before m": with_arrays(lambda arrays: arrays | {"v": arrays["v"], "more": arrays["m"]}),
    "another name": lambda good: renamed(good, "m", "velocity"),
    "no scalars": lambda good: with_scalars(good, {}),
    "other scalars": lambda good: with_scalars(good, {"beta1_t": 0.5, "beta3_t": 0.5}),
    "negative v": put("v", -1, -1e-30),
    "beta above 1": with_run(beta1_t=1.5),
    "second beta above 1": with_run(beta2_t=1.5),
    "beta below 0": with_run(beta1_t=-1e-9),
    "second beta below 0": with_run(beta2_t=-0.5),
}


@pytest.mark.parametrize("kind", WRONG_STATES.values(), ids=WRONG_STATES.keys())
def test_states_of_another_optimizer(good, trainer, tmp_path, kind):
    """A state that is impossible for Adam loads, because another optimizer may have saved it; Adam refuses it."""
    (tmp_path / "c").write_bytes(kind(good))
    saved = checkpoint.load(str(tmp_path / "c"))
    with pytest.raises(CheckpointError, match="expected"):
        Trainer(saved.config, saved, input=trainer.input)


def test_the_seal_itself(good, tmp_path, values):
    """Without a change, the helpers above make a valid checkpoint, so that only the change causes the refusal."""
    run, arrays = parts(good)
    scalars = {name: run[name] for name in ("beta1_t", "beta2_t")}
    for content in sealed(run, arrays), renamed(good, "m", "m"), with_scalars(good, scalars):
        (tmp_path / "c").write_bytes(content)
        assert everything(checkpoint.load(str(tmp_path / "c"))) == values


def test_a_good_head_and_10_gigabytes(good, tmp_path):
    """A file whose size does not match its settings is refused before it is read."""
    path = tmp_path / "c"
    path.write_bytes(good)
    os.truncate(path, 10 * 10**9)
    with pytest.raises(CheckpointError, match="10000000000 bytes"):
        checkpoint.load(str(path))


def test_a_path_with_a_nul():
    """A bad path raises CheckpointError too."""
    with pytest.raises(CheckpointError):
        checkpoint.load("a\0b")


@pytest.mark.slow
def test_sealed_mutations(good, tmp_path):
    """With a valid hash, a damaged file loads to the values that it holds or raises CheckpointError."""
    rng = random.Random(6)
    run, arrays = parts(good)
    for _ in range(often(300, 10_000)):
        changed = json.loads(json.dumps(run))
        odd_change(rng, rng.choice([changed, changed["config"], changed["config"]]))
        some = dict(arrays)
        name = rng.choice(list(some))
        some[name] = some[name].copy("F")
        some[name].reshape(-1, order="F").view(np.uint8)[rng.randrange(some[name].nbytes)] = rng.randrange(256)
        (tmp_path / "c").write_bytes(sealed(changed, some))
        try:
            found = checkpoint.load(str(tmp_path / "c"))
        except CheckpointError:
            continue
        assert {name: a.tobytes() for name, a in found.params.items()} == {
            name: some[name].tobytes() for name in found.params
        }


# ---- memory ----


@pytest.mark.parametrize("what", ["fine", "bomb", "deep", "wide", "long text", "many members", "10 GB"])
def test_memory(tmp_path, good, what):
    """Loading takes at most twice the file's size and 16 MB, whether it is accepted or refused."""
    small, path = tmp_path / "small", tmp_path / "c"
    small.write_bytes(good)
    if what == "fine":
        path.write_bytes(checkpoint.to_bytes(tiny_trainer(tmp_path, 1, n_embd=512, n_head=8).checkpoint()))
    elif what == "long text":
        path.write_bytes(with_config(input="x" * 1_000_000 + "🙂")(good))
    elif what == "many members":
        arrays_end, directory = good.find(b"PK\1\2"), (b"PK\1\2" + bytes(42)) * 20_000
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 20_000, 20_000, len(directory), arrays_end, 0)
        path.write_bytes(good[:arrays_end] + directory + end)
    elif what == "10 GB":
        path.write_bytes(good)
        os.truncate(path, 10 * 10**9)
    else:
        path.write_bytes(KINDS[what](good))
    outcome, grown = memory_of_loading(small, path)
    assert outcome == ("loaded" if what in ("fine", "long text") else "refused")
    assert grown <= 2 * min(path.stat().st_size, 10**9) + 16 * 2**20
