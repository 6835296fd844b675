"""Checkpoints: a run at one step, as the bytes of one file, and the file that is never half written.

The file is what numpy.savez writes, uncompressed: `run`, a JSON text as bytes, then the parameters by their names,
column-major, then Adam's `m` and `v`, flat.  numpy.load reads it; load() below reads nothing but it, and does so
without pickle, eval or a memory map.  Equal runs give equal bytes.
"""

import hashlib
import io
import json
import math
import os
import re
import stat
import struct
import zipfile
from contextlib import suppress
from dataclasses import dataclass, fields

import numpy as np

from . import __version__
from .config import Config
from .errors import CheckpointError, ConfigError
from .params import table

FORMAT = 1
MAX_JSON = 2**20  # bytes; all of Unicode as a vocabulary takes half
MAX_JSON_PARTS = 5000  # brackets and commas: parsed JSON may take 20 times its length in memory, but its texts do not
MAX_MEMBER_OVERHEAD = 1024  # what a member may take beyond its data: two zip headers, its name twice, one .npy header


@dataclass
class Checkpoint:
    """All that a run needs to go on exactly, but for its documents, of which it knows the hash."""

    config: Config
    vocab: list
    data_sha256: str
    step: int
    beta1_t: float  # Adam's beta1^step
    beta2_t: float
    best_val_loss: float | None
    n_worse: int  # measurements of the held-out part since the best
    rng_state: tuple  # of random.Random
    params: dict  # name: rows x columns
    m: np.ndarray
    v: np.ndarray

    def to_bytes(self):
        versions = {"microgpt": __version__, "numpy": np.__version__}
        run = {"format": FORMAT, "versions": versions, "config": self.config.as_dict(), "vocab": "".join(self.vocab)}
        run |= {name: getattr(self, name) for name in SCALARS}
        run["sha256"] = digest(run, [*self.params.values(), self.m, self.v])
        text = encode(run)
        if len(text) > MAX_JSON:
            raise CheckpointError(f"expected settings and a vocabulary of at most {MAX_JSON} bytes, found {len(text)}")
        file = io.BytesIO()
        np.savez(file, run=np.frombuffer(text, np.uint8), **self.params, m=self.m, v=self.v)
        return file.getbuffer()


SCALARS = ["data_sha256", "step", "beta1_t", "beta2_t", "best_val_loss", "n_worse", "rng_state"]


def encode(run):
    # a path may hold bytes that are not UTF-8, which Python keeps as surrogates
    return json.dumps(run, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")


def digest(run, arrays):
    """SHA-256 of the JSON without the hash itself, and of the arrays, column by column."""
    sha = hashlib.sha256(encode({key: value for key, value in run.items() if key != "sha256"}))
    for array in arrays:
        sha.update(memoryview(array.T).cast("B"))
    return sha.hexdigest()


# ---- writing ----


def write(path, data, previous=None):
    """Make `data` the content of the file at `path`: a crash at any moment leaves the old file or the new one.

    The old one stays as `previous`.  Raises OSError, and then `path` is what it was.
    """
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.tmp")
    try:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        with open(temporary, "rb") as file:
            if not same_content(file, data):
                raise OSError(f"{path}: expected to read back what was written, found something else")
        if previous is not None and os.path.exists(path):
            keep(path, previous)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory)


def write_all(fd, data):
    """os.write, which may write less than it is given, until all is written."""
    data = memoryview(data)
    while data:
        data = data[os.write(fd, data) :]


def same_content(file, data, chunk=2**20):
    return all(file.read(chunk) == data[i : i + chunk] for i in range(0, len(data), chunk)) and not file.read(1)


def keep(path, previous):
    """Give the file at `path` the second name `previous`, so that there is never none at `path`."""
    with suppress(FileNotFoundError):
        os.unlink(previous)
    try:
        os.link(path, previous)
    except OSError:  # a file system without links
        os.replace(path, previous)


def sync_directory(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- reading ----


def load(path):
    """The Checkpoint in a file; its arrays are read-only views of the file's bytes, which are read into memory once.

    Raises CheckpointError unless every size, name, dtype and hash is what the configuration in it demands.
    """
    try:
        with open(path, "rb", opener=open_at_once) as file:
            return read(file)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, ArithmeticError, MemoryError, RuntimeError, zipfile.error, struct.error) as error:
        raise CheckpointError(f"{path}: expected a checkpoint, found a damaged file: {error}") from None


def open_at_once(path, flags):
    """os.open that does not wait for the other end of a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read(file):
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("expected a checkpoint, found something else (a directory or a device)")
    head = file.read(MAX_JSON + MAX_MEMBER_OVERHEAD)
    run, _ = member(head, 0, "run", np.uint8)
    run = parse_json(bytes(run))
    config, vocab = parse_run(run)

    # the size that the configuration demands, before the rest is read
    shapes = table(config, len(vocab) + 1)
    n_params = sum(rows * columns for _, rows, columns in shapes)
    n_bytes = 3 * n_params * np.dtype(config.dtype).itemsize
    most = n_bytes + MAX_JSON + (len(shapes) + 3) * MAX_MEMBER_OVERHEAD
    if not n_bytes < status.st_size <= most:
        raise CheckpointError(f"expected {n_bytes} bytes of parameters and little else, found {status.st_size} bytes")
    file.seek(0)
    data = file.read(status.st_size)
    if len(data) != status.st_size or not data.startswith(head):
        raise CheckpointError("expected a file that stays as it is, found it changing")

    arrays, offsets, offset = {}, [("run.npy", 0)], member(data, 0, "run", np.uint8)[1]
    for name, *shape in [*shapes, ("m", n_params), ("v", n_params)]:
        offsets.append((f"{name}.npy", offset))
        arrays[name], offset = member(data, offset, name, config.dtype, tuple(shape))
    check_directory(data, offsets, offset)
    found = digest(run, arrays.values())
    if found != run["sha256"]:
        raise CheckpointError(f"expected content of SHA-256 {run['sha256']}, found {found}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"expected finite numbers in {name}, found others")
    if (arrays["v"] < 0).any():
        raise CheckpointError("expected no negative numbers in v, found some")
    m, v = arrays.pop("m"), arrays.pop("v")
    return Checkpoint(config, vocab, **{name: run[name] for name in SCALARS}, params=arrays, m=m, v=v)


LOCAL_HEADER = struct.Struct("<4s5H3L2H")
ZIP64_SIZES = struct.Struct("<2H2Q")
NPY_START = struct.Struct("<6s2BH")


def member(data, offset, name, dtype, shape=None):
    """The array of this name, which must begin at `offset`, and the offset of what follows.

    Without a shape it has one dimension of any length.
    """
    name = f"{name}.npy"
    encoded = name.encode()
    start = offset + LOCAL_HEADER.size
    sign, _, flags, method, _, _, _, size32, size, n_name, n_extra = LOCAL_HEADER.unpack_from(data, offset)
    if (sign, flags, method, data[start : start + n_name]) != (b"PK\3\4", 0, 0, encoded):
        raise CheckpointError(f"expected the uncompressed member {name} at byte {offset}, found something else")
    start += n_name
    extra, n_sizes, size, stored = ZIP64_SIZES.unpack_from(data, start)
    if (size32, n_extra, extra, n_sizes) != (0xFFFFFFFF, ZIP64_SIZES.size, 1, 16) or size != stored:
        raise CheckpointError(f"expected the sizes of {name} as NumPy writes them, found others")
    start += n_extra
    end = start + size
    magic, major, minor, n_header = NPY_START.unpack_from(data, start)
    if (magic, major, minor) != (b"\x93NUMPY", 1, 0) or n_header > 500:
        raise CheckpointError(f"expected a .npy file of version 1.0 as {name}, found another")
    start += NPY_START.size + n_header
    header = bytes(data[start - n_header : start]).decode("latin-1")
    dtype = np.dtype(dtype).newbyteorder("<")
    if shape is None:
        length = re.fullmatch(r".*\(([1-9][0-9]{0,7}),\), } *\n", header)
        shape = (int(length[1]) if length else 0,)
    fortran = sum(n > 1 for n in shape) > 1
    expected = f"{{'descr': {dtype.str!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    if header.rstrip(" \n") != expected:
        raise CheckpointError(f"expected {name} to be {expected}, found {header.strip()[:200]}")
    count = math.prod(shape)
    if end - start != count * dtype.itemsize or end > len(data):
        raise CheckpointError(f"expected {count * dtype.itemsize} bytes of {name}, found {min(end, len(data)) - start}")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F"), end


def check_directory(data, offsets, start):
    """The zip directory, from `start` to the end of the file, must list these members and nothing else."""
    end = data[-22:]
    if end[:4] != b"PK\5\6" or end[-2:] != b"\0\0" or len(data) - start > (len(offsets) + 1) * MAX_MEMBER_OVERHEAD:
        raise CheckpointError("expected the file to end with its zip directory, found something else")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        listed = [(i.filename, i.header_offset, i.file_size, i.compress_size) for i in archive.infolist()]
        plain = all(i.compress_type == 0 and i.flag_bits == 0 for i in archive.infolist())
    ends = [offset for _, offset in offsets[1:]] + [start]
    expected = [
        (name, offset, size, size)
        for (name, offset), end in zip(offsets, ends)
        for size in [end - offset - LOCAL_HEADER.size - len(name.encode()) - ZIP64_SIZES.size]
    ]
    if listed != expected or not plain or archive.start_dir != start:
        raise CheckpointError("expected the zip directory to list the members as they are, found something else")


def parse_json(text):
    """The run's JSON, which must be written exactly as encode() writes it: so no NaN, no key twice, no spaces."""
    if len(text) > MAX_JSON or sum(text.count(part) for part in b"[{,") > MAX_JSON_PARTS:
        raise CheckpointError("expected a short JSON text, found a long one")
    run = json.loads(text.decode("utf-8", "surrogatepass"))
    if type(run) is not dict or encode(run) != text:
        raise CheckpointError("expected JSON as this program writes it, found other JSON")
    return run


def parse_run(run):
    """(config, vocab) of the run's JSON, of which every value is checked; the generator's state becomes a tuple."""
    if run.get("format") != FORMAT:
        raise CheckpointError(f"expected format {FORMAT}, found {run.get('format')!r}: another version's checkpoint")
    keys = ["format", "versions", "config", "vocab", *SCALARS, "sha256"]
    config = run.get("config")
    if list(run) != keys or type(config) is not dict or list(config) != [f.name for f in fields(Config)]:
        raise CheckpointError(f"expected the keys {', '.join(keys)} and all settings, found others")
    try:
        config = Config(**config)
    except ConfigError as error:
        raise CheckpointError(f"its settings: {error}") from None

    vocab = run["vocab"]
    require(type(vocab) is str and vocab.encode() and "\n" not in vocab, "vocab", "characters", vocab)
    require(list(vocab) == sorted(set(vocab)), "vocab", "sorted distinct characters", vocab)
    whole = lambda x, low, high: type(x) is int and low <= x <= high
    finite = lambda x, low, high: type(x) is float and low <= x <= high
    words, gauss = parse_rng_state(run)
    require(all(whole(w, 0, 2**32 - 1) for w in words[:-1]), "rng_state", "32-bit words", "others")
    require(whole(words[-1], 1, 624), "rng_state", "an index from 1 to 624", words[-1])
    require(gauss is None or finite(gauss, -100, 100), "rng_state", "null or a small number", gauss)
    run["rng_state"] = (3, tuple(words), gauss)
    require(whole(run["step"], 0, config.num_steps), "step", f"0 to {config.num_steps}", run["step"])
    require(whole(run["n_worse"], 0, run["step"]), "n_worse", f"0 to {run['step']}", run["n_worse"])
    for name in ("beta1_t", "beta2_t"):
        require(finite(run[name], 0, 1), name, "0 to 1", run[name])
    best = run["best_val_loss"]
    require(best is None or finite(best, 0, math.inf), "best_val_loss", "null or a loss", best)
    for name in ("data_sha256", "sha256"):
        require(type(run[name]) is str and re.fullmatch("[0-9a-f]{64}", run[name]), name, "64 hex digits", run[name])
    return config, list(vocab)


def parse_rng_state(run):
    state = run["rng_state"]
    require(type(state) is list and len(state) == 3 and state[0] == 3, "rng_state", "[3, words, gauss]", "another")
    _, words, gauss = state
    require(type(words) is list and len(words) == 625, "rng_state", "625 words", "another number")
    return words, gauss


def require(fine, name, expected, found):
    if not fine:
        raise CheckpointError(f"expected {name} to be {expected}, found {found!r:.60}")
