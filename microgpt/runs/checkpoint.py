"""Checkpoint files: a Checkpoint as the bytes of one file.

The file is what numpy.savez writes, uncompressed: `run`, which is the state as JSON; then the parameters by name,
column-major; then the optimizer's arrays, flat (Adam's are `m` and `v`).  numpy.load reads such a file; load() below
reads only such files.  Equal runs give equal bytes.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..base import memory
from ..base.config import LINE, Config
from ..base.errors import CheckpointError, ConfigError, DataError, MissingError, UnreadableError
from ..base.files import open_file
from ..base.package import __version__
from ..base.terminal import reason, shown
from ..core.params import count, table
from ..core.state import Checkpoint
from ..core.tokens import Tokens
from . import npz

FORMAT = 1
MAX_JSON = 2**20  # bytes; all of Unicode as a vocabulary takes half
MAX_STATE = 16  # arrays of an optimizer, and also scalars
MAX_JSON_PARTS = 5000  # brackets and commas, because parsed lists and objects take 20 times their length in memory

State = dict[str, Any]  # the JSON's values by name


# ---- checks of each scalar: (name, JSON value, the state it belongs to) -> Python value ----


def require(fine: object, name: str, expected: str, found: object) -> None:
    if not fine:
        raise CheckpointError(f"expected {name} to be {expected}, found {found!r:.60}")


def is_whole(x: object, low: int, high: int) -> bool:
    return type(x) is int and low <= x <= high


def is_real(x: object, low: float, high: float) -> bool:
    return type(x) is float and low <= x <= high


def parse_hash(name: str, value: Any, state: State) -> object:
    require(type(value) is str and re.fullmatch("[0-9a-f]{64}", value), name, "64 hex digits", value)
    return value


def parse_step(name: str, value: Any, state: State) -> object:
    num_steps = state["config"]["num_steps"]
    require(is_whole(value, 0, num_steps), name, f"0 to {num_steps}", value)
    return value


def parse_step_count(name: str, value: Any, state: State) -> object:
    require(is_whole(value, 0, state["step"]), name, f"0 to {state['step']}", value)
    return value


def parse_loss(name: str, value: Any, state: State) -> object:
    require(value is None or is_real(value, 0, math.inf), name, "null or a loss", value)
    return value


def parse_rng_state(name: str, value: Any, state: State) -> object:
    require(type(value) is list and len(value) == 3 and value[0] == 3, name, "[3, words, gauss]", "another form")
    _, words, gauss = value
    require(type(words) is list and len(words) == 625, name, "625 words", "another count")
    require(all(is_whole(word, 0, 2**32 - 1) for word in words[:-1]), name, "32-bit words", "other values")
    require(is_whole(words[-1], 1, 624), name, "an index from 1 to 624", words[-1])
    require(gauss is None or is_real(gauss, -100, 100), name, "null or a small number", gauss)
    return 3, tuple(words), gauss


SCALARS = {
    "data_sha256": parse_hash,
    "step": parse_step,
    "best_val_loss": parse_loss,
    "n_worse": parse_step_count,
    "rng_state": parse_rng_state,
}
# the keys before and after the optimizer's scalars
HEAD = ["format", "versions", "config", "vocab", "data_sha256", "step"]
TAIL = ["best_val_loss", "n_worse", "rng_state", "sha256"]


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the content of a checkpoint file.  Raises CheckpointError for a checkpoint that load() would reject."""
    c = checkpoint
    check_names(c.scalars, [*HEAD, *TAIL])
    check_names(c.arrays, ["run", *c.params])
    expected = (sum(array.size for array in c.params.values()),), c.config.dtype
    for name, array in c.arrays.items():
        found = array.shape, array.dtype.name
        require(found == expected, name, f"an array of shape and dtype {expected}", found)
    versions = {"microgpt": __version__, "numpy": np.__version__}
    state = {"format": FORMAT, "versions": versions, "config": c.config.as_dict(), "vocab": "".join(c.vocab)}
    state |= {"data_sha256": c.data_sha256, "step": c.step, **c.scalars}
    state |= {name: getattr(c, name) for name in TAIL[:-1]}
    arrays = {name: np.asfortranarray(array) for name, array in (c.params | c.arrays).items()}
    state["sha256"] = digest(state, arrays.values())
    text = encode(state)
    if len(text) > MAX_JSON:
        raise CheckpointError(f"expected settings and a vocabulary of at most {MAX_JSON} bytes, found {len(text)}")
    return npz.pack({"run": np.frombuffer(text, np.uint8), **arrays})


def check_names(names: Iterable[str], taken: Iterable[str]) -> None:
    """Raise CheckpointError unless an optimizer may use these names for its arrays or scalars."""
    names, taken = list(names), set(taken)
    require(len(names) <= MAX_STATE, "the optimizer's state", f"at most {MAX_STATE} arrays and scalars", len(names))
    for name in names:
        fine = re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,63}", name) and name not in taken
        require(fine, "a name of the optimizer's state", "an identifier that is not taken", name)


def encode(state: State) -> bytes:
    # a path may hold bytes that are not UTF-8, which Python keeps as surrogates
    return json.dumps(state, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")


def digest(state: State, arrays: Iterable[NDArray[Any]]) -> str:
    """SHA-256 of the JSON without the hash itself, and of the arrays, column by column."""
    sha = hashlib.sha256(encode({key: value for key, value in state.items() if key != "sha256"}))
    for array in arrays:
        sha.update(array.T.data.cast("B"))
    return sha.hexdigest()


# ---- reading ----


def load(path: str, opener: Callable[[str, int], int] = open_file) -> Checkpoint:
    """Read a checkpoint file, such as runs/first/checkpoint.npz, and return a Checkpoint.

    - `path`: name of the file
    - `opener`: opens the file, as for open()

    The arrays are read-only views of the file's bytes.  Loading runs no code from the file.  Raises CheckpointError if
    the file cannot be read, or if a size, name, dtype or hash does not agree with the settings in it.

    >>> microgpt.checkpoint.load("runs/first/checkpoint.npz").step   # doctest: +SKIP
    1000
    """
    with opened(path, opener) as file:
        return read(file)


@contextmanager
def opened(path: str, opener: Callable[[str, int], int] = open_file) -> Iterator[BinaryIO]:
    """Open a file for reading, and raise every error as a CheckpointError that names the file."""
    try:
        with open(path, "rb", opener=opener) as file:
            yield file
    except UnreadableError as error:
        raise UnreadableError(f"{path}: {error}") from None
    except DataError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except FileNotFoundError as error:
        raise MissingError(f"{path}: cannot be read: {reason(error)}") from None
    except (OSError, MemoryError) as error:
        raise UnreadableError(f"{path}: cannot be read: {reason(error)}") from None
    except RecursionError:  # perhaps only because the caller is deeply nested
        raise UnreadableError(f"{path}: cannot be read: Python's recursion limit was reached") from None
    except (ValueError, ArithmeticError, RuntimeError, *npz.ERRORS) as error:
        raise CheckpointError(f"{path}: expected a checkpoint, found a damaged file: {error}") from None


def read(file: BinaryIO) -> Checkpoint:
    size = os.fstat(file.fileno()).st_size
    head = read_whole(file, min(size, MAX_JSON + npz.MAX_OVERHEAD))
    if not head.startswith(npz.START):
        raise CheckpointError("expected a checkpoint, found another kind of file")
    text, _ = npz.member(head, 0, "run", np.uint8)
    state = parse_json(bytes(text))
    names = list(state)[len(HEAD) : -len(TAIL)]  # of the optimizer's scalars
    config, vocab, found = parse_state(state, [*HEAD, *names, *TAIL])
    check_names(names, ())
    for name in names:
        require(is_real(state[name], -math.inf, math.inf), name, "a float", state[name])

    # check the size against the settings before reading the rest
    vocab_size = Tokens(vocab, config.split).size
    matrices, n_params = table(config, vocab_size), count(config, vocab_size)
    n_bytes = n_params * np.dtype(config.dtype).itemsize
    n_arrays = min((size - 1) // n_bytes - 1, MAX_STATE)  # at most, of the optimizer
    most = (1 + n_arrays) * n_bytes + MAX_JSON + (1 + len(matrices) + n_arrays) * npz.MAX_OVERHEAD
    if n_arrays < 0 or size > most:
        raise CheckpointError(
            f"expected {n_bytes} bytes for the parameters and for each array of the optimizer, and little else; "
            f"found a file of {size} bytes"
        )
    memory.require(1.5 * size, "a checkpoint")  # 1.5: the file, and the weights copied from it
    file.seek(0)
    data = read_whole(file, size, head)

    members: list[npz.Member] = [("run", np.uint8, None)]
    members += [(name, config.dtype, (rows, columns)) for name, rows, columns in matrices]
    arrays = npz.unpack(data, members, (config.dtype, (n_params,)), n_arrays)
    del arrays["run"]
    check_arrays(arrays, state)
    params = {name: arrays.pop(name) for name, _, _ in matrices}
    check_names(arrays, ())
    scalars = {name: state[name] for name in names}
    return Checkpoint(config, vocab, **found, params=params, scalars=scalars, arrays=arrays)


def read_whole(file: BinaryIO, size: int, start: bytes = b"") -> bytes:
    """Read `size` bytes that begin with `start`; otherwise another program is writing the file, which is no damage."""
    data = file.read(size)
    if len(data) != size or not data.startswith(start):
        raise UnreadableError("the file changed while it was being read; try again when no program writes it")
    return data


def check_arrays(arrays: dict[str, NDArray[Any]], state: State, advice: str = "") -> None:
    found = digest(state, arrays.values())
    if found != state["sha256"]:
        raise CheckpointError(f"expected contents with SHA-256 {state['sha256']}, found {found}{advice}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"expected finite numbers in {name}, found infinity or NaN")


def parse_json(text: bytes) -> State:
    """Parse JSON that must be exactly what encode() writes: no NaN, no duplicate keys, no extra spaces."""
    if len(text) > MAX_JSON or sum(text.count(part) for part in b"[{,") > MAX_JSON_PARTS:
        raise CheckpointError(
            f"expected JSON of at most {MAX_JSON} bytes and {MAX_JSON_PARTS} brackets and commas, found more"
        )
    state = json.loads(text.decode("utf-8", "surrogatepass"))
    if type(state) is not dict or encode(state) != text:
        raise CheckpointError("expected JSON exactly as microgpt writes it, found other JSON")
    return state


def older_values(settings: State) -> State:
    """What settings that a checkpoint does not have were before they existed, where that is not the default."""
    before = {f.name: f.metadata["before"] for f in fields(Config) if f.metadata["before"] is not None}
    needs = {f.name: f.metadata["needs"] for f in fields(Config)}
    return {name: value for name, value in before.items() if name not in settings and settings.get(needs[name])}


def parse_state(state: State, keys: list[str]) -> tuple[Config, list[str], dict[str, Any]]:
    """Check the values of all keys and return the settings, the vocabulary and the scalars."""
    version = state.get("format")
    if type(version) is int and version > FORMAT:
        raise UnreadableError(f"expected format {FORMAT}, found {version}: a later version of microgpt wrote it")
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(f"expected format {FORMAT}, found {shown(version)}")
    settings = state.get("config")
    if list(state) != keys or type(settings) is not dict:
        raise CheckpointError(f"expected the keys {', '.join(keys)}, found other keys")
    # a setting added after the checkpoint was saved gets the value that computes the same as before
    known = [f.name for f in fields(Config)]
    if other := [name for name in settings if name not in known]:
        raise UnreadableError(f"expected settings that this version of microgpt knows, found {shown(other[0])}")
    if list(settings) != [name for name in known if name in settings]:
        raise CheckpointError("expected the settings in their usual order, found another order")
    try:
        config = Config(**older_values(settings), **settings)
    except ConfigError as error:
        raise CheckpointError(f"settings: {error}") from None
    vocab = state["vocab"]
    require(type(vocab) is str and vocab.encode(), "vocab", "characters", vocab)
    require(config.split != LINE or "\n" not in vocab, "vocab", "characters without a newline", vocab)
    require(list(vocab) == sorted(set(vocab)), "vocab", "sorted distinct characters", vocab)
    parse_hash("sha256", state["sha256"], state)
    whole = state | {"config": config.as_dict()}
    return config, list(vocab), {name: SCALARS[name](name, state[name], whole) for name in keys if name in SCALARS}
