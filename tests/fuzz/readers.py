"""What reads bytes from outside, each as a function of any bytes: it raises if what came of them is not what it should.

A function returns where its reader answered right, by a result or by the one error of a user's; any other error, and an
assertion, is a finding.  __main__.py lets a fuzzer look for the bytes; test_seeds.py tries those that are kept.
"""

import atexit
import contextlib
import copy
import io
import itertools
import json
import math
import random
import shutil
import tempfile
import tomllib
from dataclasses import fields
from pathlib import Path

import kernel_cases
import numpy as np
from helpers import everything, train
from test_checks import WRONG_FLOATS, WRONG_INTEGERS, WRONG_LAYOUTS, WRONG_SHAPES

from microgpt import kernels
from microgpt.__main__ import EXIT_DONE, execute
from microgpt.api import Model
from microgpt.base.config import SPLITS, Config, Sampling
from microgpt.base.config_file import read_toml, to_toml
from microgpt.base.errors import CheckpointError, ConfigError, DataError, PlotError, SamplingError, naming_flags
from microgpt.base.files import Folder
from microgpt.base.settings import flag, kind, parse, parsed
from microgpt.core.data import Dataset
from microgpt.core.documents import read, vocabulary
from microgpt.core.evaluate import Measure
from microgpt.core.optimizer import Adam
from microgpt.core.params import Parameters, by_rows, count, table
from microgpt.core.tokens import Tokens
from microgpt.report.plot import read_metrics
from microgpt.runs import checkpoint, safetensors
from microgpt.runs.metrics import Metrics

FOLDER = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, FOLDER)
FILE = FOLDER / "file"
RUNS = Folder(str(FOLDER))


class Choices:
    """Bytes as a series of choices.  Where they end, every choice is the first: so fewer bytes are a simpler case."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def more(self):
        return self.at < len(self.data)

    def take(self, n):
        taken = self.data[self.at : self.at + n]
        self.at += n
        return taken

    def rest(self):
        return self.take(len(self.data))

    def number(self, most):
        return int.from_bytes(self.take((most.bit_length() + 7) // 8), "little") % (most + 1)

    def of(self, options, *makers):
        """One of the options, or what a function makes of the choices that follow."""
        i = self.number(len(options) + len(makers) - 1)
        return options[i] if i < len(options) else makers[i - len(options)]()

    def text(self):
        """Characters, and surrogates as Python makes them of a command line that is not UTF-8."""
        return self.take(self.number(40)).decode("utf-8", "surrogateescape")


def write(content):
    FILE.write_bytes(content)
    return str(FILE)


def one_line(error, name=""):
    message = str(error)
    assert name in message and ("expected" in message or "cannot be read" in message), message


# ---- checkpoints ----


@contextlib.contextmanager
def trainer(documents, **settings):
    with tempfile.TemporaryDirectory() as folder:
        settings = {"n_embd": 2, "n_head": 1, "block_size": 3, "num_steps": 9} | settings
        yield train(Path(folder), documents, **settings)


def packed(text, arrays):
    file = io.BytesIO()
    np.savez(file, run=np.frombuffer(text, np.uint8), **arrays)
    return file.getvalue()


with trainer(["ab", "b"], dtype="float32") as t:
    t.steps(2, [], ())  # which leaves m and v that are not 0
    with np.load(io.BytesIO(checkpoint.to_bytes(t.checkpoint()))) as f:
        ARRAYS = {name: f[name] for name in f.files}
RUN = json.loads(ARRAYS.pop("run").tobytes())
RUN |= {"versions": {}, "config": RUN["config"] | {"input": "input.txt"}}  # the same everywhere
RUN["sha256"] = checkpoint.digest(RUN, ARRAYS.values())
GOOD = packed(checkpoint.encode(RUN), ARRAYS)

JSON = [
    None, False, True, 0, 1, 2, 3, -1, 2**31, 2**63, 0.0, -0.0, 0.5, 1.5, 1e308, "", "a", "\n", "\ud800", "float64",
    [], [3], {}, {"a": 1}, 10**30,
]  # fmt: skip


# Each makes (a file's bytes, the JSON and the arrays that they must be if they can be loaded).


def as_it_is(choices):
    return choices.rest(), RUN, ARRAYS


def patched(choices):
    """The good file with some bytes changed, which keeps offsets right while headers go wrong."""
    return patch(choices, GOOD), RUN, ARRAYS


def patch(choices, good):
    content = bytearray(good)
    while choices.more():
        at = choices.number(len(good) - 1)
        new = choices.take(choices.number(8))
        content[at : at + len(new)] = new
    return bytes(content)


def of_text(choices):
    return packed(choices.rest(), ARRAYS), RUN, ARRAYS


def sealed(choices):
    """The good checkpoint with some values changed, packed again, and its hash made right."""
    run, arrays = copy.deepcopy((RUN, ARRAYS))
    while choices.more():
        what = choices.number(5)
        if what < 2:
            place = run if what or type(run.get("config")) is not dict else run["config"]
            place[choices.of([*place, "another"])] = choices.of(JSON, choices.text, lambda: choices.number(2**16))
        elif what == 2 and type(state := run.get("rng_state")) is list and len(state) == 3 and state[1]:
            words = state[1]
            words[choices.of([-1, 0])] = choices.of([1, 0, 624, 625, *JSON], lambda: choices.number(2**32))
            del words[choices.of([len(words)], lambda: choices.number(len(words))) :]
            state[choices.of([0, 2])] = choices.of(JSON)
        elif what == 3:
            # the parameters that changed settings want, or else no other shape would ever be loaded
            with contextlib.suppress(ConfigError, TypeError):
                config, n = Config(**run["config"]), len(run["vocab"]) + 1
                if (size := count(config, n)) < 2000 and config.n_layer < 5:
                    arrays = {name: np.ones((r, c), config.dtype, "F") for name, r, c in table(config, n)}
                    arrays |= {"m": np.zeros(size, config.dtype), "v": np.zeros(size, config.dtype)}
        elif what == 4 and arrays:
            a = arrays[choices.of([*arrays])]
            if a.size and a.dtype.kind == "f":
                a[np.unravel_index(choices.number(a.size - 1), a.shape)] = choices.of(FLOATS)
        elif arrays:
            name = choices.of([*arrays])
            change = choices.of([lambda a: a.T, lambda a: a[:1], lambda a: a.astype("f8"), lambda a: a.ravel(), None])
            a = arrays.pop(name)
            if change:
                arrays[name] = change(a)
    with contextlib.suppress(TypeError, ValueError):
        run["sha256"] = checkpoint.digest(run, map(np.asfortranarray, arrays.values()))
        return packed(checkpoint.encode(run), arrays), run, arrays
    return b"", run, arrays


FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-40, 1e30, -1e30, math.inf, -math.inf, math.nan]


def read_checkpoint(data):
    """A file is a CheckpointError that names it, or it is what it says: saved again the same, and of use."""
    choices = Choices(data)
    # blind bytes would hardly get past the zip's headers, and never past the hash: so some are made to
    content, run, arrays = choices.of([as_it_is, sealed, patched, of_text])(choices)
    path = write(content)
    try:
        found = checkpoint.load(path)
    except CheckpointError as error:
        one_line(error, path)
        return
    assert (found.config, "".join(found.vocab)) == (Config(**run["config"]), run["vocab"])
    for name in checkpoint.SCALARS:
        assert json.dumps(getattr(found, name)) == json.dumps(run[name])
    for name, value in found.scalars.items():
        assert json.dumps(value) == json.dumps(run[name])
    for name, a in (found.params | found.arrays).items():
        assert same_numbers(a, arrays[name]) and np.isfinite(a).all()
    adam = Adam(np.zeros(a.size, a.dtype), np.zeros(a.size, a.dtype), found.config)
    with contextlib.suppress(CheckpointError):
        adam.restore(found.arrays, found.scalars)
        assert (adam.arrays["v"] >= 0).all() and all(0 <= power <= 1 for power in adam.scalars.values())
    assert everything(checkpoint.load(write(checkpoint.to_bytes(found)))) == everything(found)
    random.Random().setstate(found.rng_state)
    params = Parameters(found.config, found.vocab)
    params.copy_from(found.params)
    if found.config.block_size < 100:
        with contextlib.suppress(SamplingError):
            (text,) = Model(found).sample(1)
            assert set(text) <= set(found.vocab)


# ---- weights ----

WEIGHTS = {name: array for name, array in ARRAYS.items() if name not in ("m", "v")}
ROWS = {name: np.ascontiguousarray(rows) for name, rows in by_rows(WEIGHTS).items()}
STATE = {key: RUN[key] for key in ("format", "config", "vocab", "data_sha256")}
STATE["sha256"] = checkpoint.digest(STATE, (rows.T for rows in ROWS.values()))
HEADER, at = {"__metadata__": {"microgpt": json.dumps(STATE)}}, 0
for name, rows in ROWS.items():
    HEADER[name] = {"dtype": "F32", "shape": list(rows.shape), "data_offsets": [at, at := at + rows.nbytes]}


def weights_under(header):
    return len(header).to_bytes(8, "little") + header + b"".join(rows.tobytes() for rows in ROWS.values())


GOOD_WEIGHTS = weights_under(json.dumps(HEADER).encode())


def read_weights(data):
    """A .safetensors file is a CheckpointError that names it, or it has the weights that were written."""
    choices = Choices(data)
    content = choices.of([], choices.rest, lambda: patch(choices, GOOD_WEIGHTS), lambda: weights_under(choices.rest()))
    path = write(content)
    try:
        found = safetensors.load(path)
    except CheckpointError as error:
        one_line(error, path)
        return
    assert (found.config, "".join(found.vocab)) == (Config(**RUN["config"]), RUN["vocab"])
    assert list(found.params) == list(WEIGHTS)
    assert all(same_numbers(found.params[name], array) for name, array in WEIGHTS.items())
    assert everything(checkpoint.load(write(checkpoint.to_bytes(found)))) == everything(found)


# ---- settings ----

TOML = [
    "1", "0", "-1", "2", "16", "1e3", "0.5", "-0.0", "nan", "inf", "-inf", "1_000", "0x10", "true", "'a'", '"float32"',
    '""', '"\\u0000"', '"\\U0010ffff"', "'''\na'''", "1979-05-27", "07:32:00", "[1]", "{a=1}", str(2**63), "9" * 400,
    "9" * 5000, "0x" + "f" * 5000, '"\\u007f"',
]  # fmt: skip


def read_settings(data):
    """A file of settings, or a flag, is a ConfigError or a Config, and that comes back from a file and from flags."""
    choices = Choices(data)
    known = fields(Config)
    if choices.number(1):
        content = b""
        while choices.more():
            name, value = choices.of(known).name, choices.of(TOML, choices.text)
            content += f"{flag(name)[2:] if choices.number(1) else name} = {value}\n".encode(errors="replace")
    else:
        content = choices.rest()
    path = write(content)
    try:
        values = read_toml(path)
        config = Config(**values)
    except ConfigError as error:
        one_line(error)
    else:
        said = tomllib.loads(content.decode())
        assert [(key.replace("-", "_"), value) for key, value in said.items()] == [*values.items()]
        assert Config(**read_toml(write(to_toml(config).encode()))) == config
        texts = {name: value if type(value) is str else repr(value) for name, value in config.as_dict().items()}
        assert Config(**parsed(Config, texts)) == config
    f, text = choices.of(known), content.decode(errors="surrogateescape")
    try:
        value = parse(f, text)
    except ConfigError as error:
        one_line(error, flag(f.name))
    else:
        assert type(value) is kind(f) and value == kind(f)(text)


# ---- metrics ----


LINE = [
    b'{"step": ', b', "loss": ', b', "lr": ', b', "val_loss": ', b"}\n", b"\n", b"\r", b"[", b"]", b'"', b"true",
    b"null", b"Infinity", b"NaN", b"0.5", b"1e400", b"-1", b"1", b"7", b"12", b"9" * 400, b"9" * 5000, b"[" * 5000,
    b"\0", b"\xff", b"0" * 18,
]  # fmt: skip


def read_a_metrics_file(data):
    """A resumed run keeps a metrics file's first steps and writes on; what is drawn of it are numbers, or PlotError."""
    choices = Choices(data)
    n_steps, wrong = choices.number(20), choices.number(1)
    write(b"")
    metrics = Metrics.of_run(RUNS, FILE.name, 0)
    metrics.add(1, [choices.of(FLOATS) for _ in range(choices.number(5))], [0.1] * 5)
    metrics.close()
    good = FILE.read_bytes()
    if wrong:
        content = choices.rest()
    else:
        content = good[: choices.number(300)]
        while choices.more():
            content += choices.of(LINE, lambda: choices.take(choices.number(9)))
    path = write(content)
    plotted(path)
    kept = b""
    for line in content.split(b"\n")[:-1]:
        start, comma, _ = line.partition(b", ")
        step = start.removeprefix(b'{"step": ')
        if not comma or step == start or not line.endswith(b"}") or not 0 < len(step) < 19 or step.strip(b"0123456789"):
            break
        if int(step) > n_steps:
            break
        kept += line + b"\n"
    metrics = Metrics.of_run(RUNS, FILE.name, n_steps)
    metrics.add(n_steps + 1, [0.5], [0.1], Measure(0.25, None))
    metrics.close()
    added = f'{{"step": {n_steps + 1}, "loss": 0.5, "lr": 0.1, "val_loss": 0.25}}\n'.encode()
    assert FILE.read_bytes() == kept + added
    plotted(path)


def plotted(path):
    try:
        series = read_metrics(path)
    except PlotError as error:
        one_line(error, path)
        return
    for steps, losses in series.values():
        assert len(steps) == len(losses)
        assert all(type(step) is int and 0 <= step < 2**63 for step in steps)
        assert all(type(loss) is float for loss in losses)


# ---- input text ----


PIECES = [
    b"a", b"b", b"\n", b"\r", b"\r\n", b" ", b"\t", b"\0", b"\x0b", b"\x1c", b"\xff", b"\xc0\x80", b"\xed\xa0\x80",
    *(char.encode() for char in "\x85\xa0\u2028\u3000\ufeffé😀"),
]  # fmt: skip


def read_text(data):
    """Documents, vocabulary and every column of the arrays are what plain Python makes of the file, or a DataError."""
    choices = Choices(data)
    block_size, batch_size, dtype = choices.number(8) + 1, choices.number(6) + 1, choices.of(["float64", "float32"])
    content = choices.rest() if choices.number(1) else b"".join(choices.of(PIECES) for _ in range(choices.number(99)))
    split = SPLITS[len(content) % 3]
    path = write(content)
    try:
        text = content.decode().replace("\r\n", "\n").replace("\r", "\n")
        bom = text[:1] == "\ufeff"
        lines = [line for line in text[bom:].split("\n") if line.strip()]
        expected = {"line": [line.strip() for line in lines], "blank-line": lines, "none": [text[bom:]]}[split]
    except UnicodeDecodeError:
        expected = []
    try:
        documents, had_bom = read(path, split)
    except DataError as error:
        assert not any(expected)
        one_line(error, path)
        return
    assert ("\n".join(documents).split("\n") if split == "blank-line" else documents) == expected
    assert had_bom == bom
    vocab = vocabulary(documents)
    assert vocab == sorted(set("".join(documents)))
    tokens = Tokens(vocab, split)
    d = Dataset(documents, tokens, Config(split=split, block_size=block_size, dtype=dtype), batch_size)
    cut = []  # (token, position, target) of every document or window
    for document in documents:
        ids = [tokens.start, *map(vocab.index, document)] + ([] if tokens.end is None else [tokens.end])
        columns = list(itertools.pairwise(ids))
        windows = [columns[i : i + block_size] for i in range(0, len(columns), block_size)]
        cut += windows if tokens.end is None else windows[:1]
    for step in [*range(2 * len(cut)), 10**6]:
        wanted = []
        for i in range(batch_size):
            document = cut[(step * batch_size + i) % len(cut)]
            weight = np.dtype(dtype).type(1 / (len(document) * batch_size))
            wanted += [(a, t, b, weight) for t, (a, b) in enumerate(document)]
        start, n = d.batch(step)
        found = [d.arrays[name][start : start + n] for name in ("tokens", "positions", "targets", "weights")]
        assert [a.dtype for a in found] == [np.int32, np.int32, np.int32, dtype]
        assert list(zip(*found)) == wanted and n <= d.max_columns


# ---- prompts and other texts ----

CHARACTERS = "ab\0-é\u2028\u202e😀"
with trainer([CHARACTERS, *CHARACTERS], block_size=6) as t:
    FINE = Model(t.checkpoint())
    SAVED = FOLDER / "saved.npz"
    SAVED.write_bytes(checkpoint.to_bytes(t.checkpoint()))
with trainer([CHARACTERS, *CHARACTERS], block_size=6, dtype="float32", init_std=300.0) as t:
    t.params.flat[:] *= np.float32(1e30)  # whose logits overflow
    HUGE = Model(t.checkpoint())

NUMBERS = [
    0, 1, 2, 3, 7, -1, 2**31, 2**63, 10**30, 10**5000, 0.0, 0.5, 1.0, 1.5, 1e-310, 1e300, math.nan, math.inf, True,
    None, "1", b"1", [], 1j, np.int64(2), np.uint8(1), np.float32(0.5), np.float64(2), np.array(1), np.bool_(True),
]  # fmt: skip


def a_text(choices):
    if choices.number(1):
        return choices.text()
    return "".join(choices.of(CHARACTERS) for _ in range(choices.number(9)))


def say(data):
    """Any prompt, text or number is answered by texts and numbers that fit together, or by a user's error."""
    choices = Choices(data)
    model = choices.of([FINE, HUGE])
    act = choices.of([sampled, scored, evaluated, commanded])
    with contextlib.suppress(ConfigError, DataError, SamplingError):
        act(choices, model)


def sampled(choices, model):
    prompt = choices.of(NUMBERS) if choices.number(7) == 1 else a_text(choices)
    settings = {"num_samples": choices.number(5), "prompt": prompt}
    names = [f.name for f in fields(Sampling) if f.name not in settings]
    settings |= {choices.of(names): choices.of(NUMBERS) for _ in range(choices.number(3))}
    texts = model.sample(**settings)
    pairs = model.sample_probs(**settings)
    assert texts == [text for text, _ in pairs] and len(texts) == settings["num_samples"]
    length = int(settings.get("length", 0))
    most = len(prompt) + length if length else 6
    assert len(prompt) < 6 or length
    for text, probs in pairs:
        assert text.startswith(prompt) and set(text) <= set(CHARACTERS) and len(text) <= most
        assert len(probs) == min(len(text) + 1, most) and all(0 <= p <= 1 for p in probs)
        losses = model.score(text[:6]).losses
        both = min(len(losses), len(probs))
        assert np.allclose(np.exp(-np.array(losses[:both])), probs[:both], atol=1e-5)


def scored(choices, model):
    text = choices.of(NUMBERS) if choices.number(7) == 1 else a_text(choices)
    score = model.score(text)
    if text == []:  # as many scores as texts
        assert score == []
        return
    assert score.text == text and len(text) <= 6 and len(score.losses) == min(len(text) + 1, 6)
    assert math.isclose(score.loss, sum(score.losses) / len(score.losses), rel_tol=1e-6)
    assert model.evaluate([text]).loss == score.loss


def evaluated(choices, model):
    texts = [a_text(choices) for _ in range(choices.number(5))]
    if choices.number(15) == 1:
        try:
            model.evaluate([*texts, choices.of([["a"], *NUMBERS])])
        except TypeError as error:
            one_line(error, "documents")
    found = model.evaluate(texts)
    assert found.n_documents == len(texts)
    each = [model.evaluate([text]).document_loss for text in texts]
    assert math.isclose(found.document_loss, sum(each) / len(each), rel_tol=1e-6)


def commanded(choices, model):
    """The same on the command line: an exit code, and one line of what went wrong."""
    command = choices.of(["sample", "score", "eval"])
    texts = [a_text(choices) for _ in range(choices.number(3))]
    last = {"sample": ["--num-samples", "2"], "score": [], "eval": ["--input", write(choices.rest())]}[command]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), naming_flags():
        try:
            code = execute([command, str(SAVED), *texts, *last])
        except SystemExit as error:  # argparse's
            code = error.code
    said = err.getvalue()
    assert code in range(4), code
    lines = [line for line in said.splitlines() if "untrained" not in line]
    assert code == EXIT_DONE or (len(lines) == 1 and said.startswith("microgpt")), said


# ---- arguments of the kernels ----

ARENA = 4096  # bytes, of which arrays are cut


class Foreign:
    """Another library's array."""

    def __init__(self, a):
        self.a = a


class ByArray(Foreign):
    def __array__(self, dtype=None, copy=None):
        return self.a


class ByDlpack(Foreign):
    def __init__(self, a):
        super().__init__(np.asarray(a))  # which tells of an array's memory, and not of a mask

    def __dlpack__(self, **options):
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


RIGHT = [  # the same numbers in other ways
    kernel_cases.misaligned, kernel_cases.read_only, ByArray, ByDlpack, lambda a: a.copy("C"),
    lambda a: a[::-1].copy()[::-1], lambda a: a[..., ::-1].copy()[..., ::-1], lambda a: np.repeat(a, 2, 0)[::2],
]  # fmt: skip
DTYPES = ["f2", "f4", "f8", ">f4", ">f8", "i1", "i4", "i8", ">i4", "u8", "c16", "?", "O", "U1", "V4", "m8[s]"]


def cut(choices, arena, like):
    """An array of this shape and dtype somewhere in the arena, with any strides, or None where it would not fit."""
    if like.dtype.hasobject:
        return None
    n = like.itemsize
    offset = choices.number(1023) * n if choices.number(3) else choices.number(ARENA)
    rows = like.shape[0] if like.ndim else 1
    form = choices.number(3)
    strides = [(n, (rows + choices.number(3)) * n), (n, rows * n), (like.shape[-1] * n if like.ndim else n, n)][
        form % 3
    ]
    if form == 3:
        strides = [choices.number(16) * n // 2 - 4 * n for _ in range(like.ndim)]
    with contextlib.suppress(ValueError):
        return np.ndarray(like.shape, like.dtype, arena, offset, tuple(strides)[: like.ndim])


def changed(choices, a, arena):
    """(an argument like a, whether it says the same)."""
    form = choices.number(6)
    if not issubclass(type(a), np.ndarray):
        same = form < 3 and type(a) is int and a < 100
        return (choices.of([a, np.int64(a)]), True) if same else (choices.of(NUMBERS), False)
    if form == 0 or a.ndim == 0:
        return a, True
    if form == 1:
        return choices.of(RIGHT)(a), True
    if form == 2 and (view := cut(choices, arena, a)) is not None:
        view[...] = a
        return view, False
    if form == 3:
        return np.zeros([choices.number(9) for _ in range(choices.number(3))], choices.of([a.dtype, *DTYPES])), False
    if form == 4:
        return choices.of([*NUMBERS, a.tolist(), None]), False
    wrong = choices.of([WRONG_FLOATS if a.dtype.kind == "f" else WRONG_INTEGERS, WRONG_SHAPES, WRONG_LAYOUTS])
    try:
        return wrong[choices.of([*wrong])](a.copy("F")), False
    except (ValueError, IndexError, TypeError):  # no such change of this one
        return a, True


def arrays_in(a):
    """The NumPy arrays among an argument and what it holds."""
    if isinstance(a, (tuple, list)):
        return [array for member in a for array in arrays_in(member)]
    a = a.a if isinstance(a, Foreign) else a
    return [a] if issubclass(type(a), np.ndarray) else []


def plain(a):
    """A copy of an argument, every array in it column-major and by itself."""
    if isinstance(a, tuple):
        return a._make(map(plain, a)) if hasattr(a, "_make") else tuple(map(plain, a))
    arrays = arrays_in(a)
    return np.array(arrays[0], order="F") if arrays and not isinstance(a, list) else a


@np.errstate(all="ignore")
def check_arguments(data):
    """A call is refused by an error that names the argument, with no byte changed, or gives what plain arrays give.

    And then only the elements of `out` have changed, of all the memory around them.
    """
    choices = Choices(data)
    name = choices.of([*kernel_cases.NAMES, "attention_weights"])
    dtype, m, n = choices.of(["f8", "f4"]), choices.number(11) + 1, choices.number(9)
    arena = np.random.default_rng(n).standard_normal(ARENA // 8).view(np.uint8)
    case, outs, right = kernel_cases.arguments(kernels, name.replace("weights", "backward"), dtype, m, n), None, True
    if name == "attention_weights":
        del case["dout"]
        case["document"] = 0
    else:
        outs = kernel_cases.outs(kernels, name, case)
    for _ in range(choices.number(3)):
        key = choices.of([*case])
        if isinstance(case[key], kernels.AttentionCache) and choices.number(7):
            field = choices.of(kernels.AttentionCache._fields)
            new, same = changed(choices, getattr(case[key], field), arena)
            case[key] = case[key]._replace(**{field: new})
        else:
            case[key], same = changed(choices, case[key], arena)
        right &= same
    if name == "rmsnorm_forward" and choices.number(1):
        case["eps"], right = choices.of(NUMBERS), False
    if outs is not None and choices.number(3):
        given = list(outs) if isinstance(outs, tuple) else [outs]
        for i, a in enumerate(given):
            if form := choices.number(3):
                given[i] = [cut(choices, arena, a), changed(choices, a, arena)[0], None][form - 1]
                right = False
        case["out"] = tuple(given) if isinstance(outs, tuple) else given[0]
    if name in kernel_cases.BACKWARD and choices.number(1):
        case["accumulate"] = choices.of([True, *NUMBERS])
        right &= case["accumulate"] is True
    of_plain, before = {key: plain(value) for key, value in case.items()}, arena.copy()
    outputs = arrays_in(case.get("out"))
    outputs_before = [a.tobytes() for a in outputs]
    try:
        result, refused = getattr(kernels, name)(**case), ""
    except (TypeError, ValueError) as error:
        refused = f"{type(error)} {error}"
    if refused:
        assert ": expected " in refused and ", found " in refused, refused
        assert not right, refused
        assert arena.tobytes() == before.tobytes() and [a.tobytes() for a in outputs] == outputs_before
        return
    expected = getattr(kernels, name)(**of_plain)
    assert all(type(a) is np.ndarray for a in arrays_in(list(case.values())))
    wanted = [*arrays_in(expected), *arrays_in(of_plain.get("out"))]
    assert all(same_numbers(a, b) for a, b in zip([*arrays_in(result), *outputs], wanted, strict=True))
    assert all(a.flags.aligned and a.flags.writeable for a in outputs)
    for i, a in enumerate(outputs):
        others = [*arrays_in([value for key, value in case.items() if key != "out"]), *outputs[:i]]
        assert not any(np.shares_memory(a, b) for b in others)
        if np.may_share_memory(a, arena):  # take over what may have changed
            offset = a.__array_interface__["data"][0] - arena.__array_interface__["data"][0]
            np.ndarray(a.shape, a.dtype, before, offset, a.strides)[...] = a
    assert arena.tobytes() == before.tobytes()


def same_numbers(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=True)


READERS = {
    "checkpoint": read_checkpoint,
    "weights": read_weights,
    "settings": read_settings,
    "metrics": read_a_metrics_file,
    "text": read_text,
    "prompts": say,
    "arguments": check_arguments,
}
