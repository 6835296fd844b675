""".safetensors files: the weight matrices by name, row-major, as PyTorch stores them.

The metadata has one entry, `microgpt`: JSON with the settings, the vocabulary and hashes.  The safetensors package
(extra [export]) writes the files.  Reading does not use it, because it would map the file or copy it twice.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np

from ..base import memory
from ..base.errors import CheckpointError, optional
from ..base.terminal import shown
from ..core.params import Parameters, by_rows, row_shapes
from ..core.state import Checkpoint
from ..core.tokens import Tokens
from . import checkpoint
from .checkpoint import MAX_JSON, MAX_JSON_PARTS, State, check_arrays, digest, parse_state, read_whole

FORMAT = 1
KEYS = ["format", "config", "vocab", "data_sha256", "sha256"]
DTYPES = {"float64": "F64", "float32": "F32"}
CHANGED = "; to change weights, use Model.params and Model.export()"
MAX_PARTS = 60_000  # brackets and commas of a header, which take memory when parsed: 1,000 layers have 54,000


def pack(arrays: Mapping[str, Any], metadata: State) -> bytes:
    """Return the bytes of a file; equal contiguous arrays and metadata give equal bytes.  Raises ExtraError."""
    save = optional("safetensors.numpy", "export", "a .safetensors file").save
    # ASCII, because a path may not be valid UTF-8; one entry, because several would be written in an arbitrary order
    data: bytes = save(dict(arrays), {"microgpt": json.dumps(metadata)})
    return data


def to_bytes(params: Parameters, data_sha256: str) -> bytes:
    """Return the bytes of a model's file, which load() reads."""
    state = {"format": FORMAT, "config": params.config.as_dict(), "vocab": "".join(params.vocab)}
    state |= {"data_sha256": data_sha256}
    rows = {name: np.ascontiguousarray(matrix) for name, matrix in by_rows(params).items()}
    state["sha256"] = digest(state, (matrix.T for matrix in rows.values()))
    data = pack(rows, state)
    if (found := int.from_bytes(data[:8], "little")) > MAX_JSON:
        raise CheckpointError(f"expected settings, a vocabulary and names of at most {MAX_JSON} bytes, found {found}")
    return data


def load(path: str) -> Checkpoint:
    """Return a checkpoint at step 0 with the weights in a file, as read-only views.  Raises CheckpointError."""
    with checkpoint.opened(path) as file:
        return read(file)


def read(file: BinaryIO) -> Checkpoint:
    size = os.fstat(file.fileno()).st_size
    head = read_whole(file, min(size, 8 + MAX_JSON))
    start = 8 + int.from_bytes(head[:8], "little")  # where the arrays start
    if not 8 < start <= len(head):
        raise CheckpointError(f"expected a header that ends within {len(head)} bytes, found one of {start} bytes")
    header = parse(head[8:start].decode("ascii"), MAX_PARTS)
    metadata = header.pop("__metadata__", None)
    if type(metadata) is not dict or type(metadata.get("microgpt")) is not str:
        raise CheckpointError("expected weights with microgpt's metadata, found none")
    state = parse(metadata["microgpt"], MAX_JSON_PARTS)
    config, vocab, scalars = parse_state(state, KEYS)

    # check the size against the settings before reading the rest
    shapes = row_shapes(config, Tokens(vocab, config.split).size)
    begins, n_bytes = layout(header, shapes, config.dtype)
    if size != start + n_bytes:
        raise CheckpointError(f"expected {n_bytes} bytes of parameters, found {size - start}")
    memory.require(2 * size, "the weights")  # including the copies of the weights
    file.seek(0)
    data = read_whole(file, size, head)
    dtype = np.dtype(config.dtype).newbyteorder("<")
    rows = {
        name: np.frombuffer(data, dtype, math.prod(shape), start + begins[name]).reshape(shape)
        for name, shape in shapes.items()
    }
    check_arrays({name: matrix.T for name, matrix in rows.items()}, state, CHANGED)
    return Checkpoint.beginning(config, vocab, **scalars, params=by_rows(rows))


def parse(text: str, max_parts: int) -> State:
    """Parse a JSON object of limited size without duplicate names."""
    if len(text) > MAX_JSON or sum(map(text.count, "[{,")) > max_parts:
        raise CheckpointError(
            f"expected JSON of at most {MAX_JSON} bytes and {max_parts} brackets and commas, found more"
        )
    state = json.loads(text, object_pairs_hook=each_once)
    if type(state) is not dict:
        raise CheckpointError(f"expected a JSON object, found {shown(state)}")
    return state


def each_once(pairs: Iterable[tuple[str, Any]]) -> State:
    state: State = {}
    for name, value in pairs:
        if name in state:
            raise CheckpointError(f"expected one entry named {shown(name)}, found two")
        state[name] = value
    return state


def layout(header: State, shapes: Mapping[str, tuple[int, int]], dtype: str) -> tuple[dict[str, int], int]:
    """Return where each matrix begins and where the last one ends; they must follow one another without gaps."""
    if header.keys() != shapes.keys():
        name = min(header.keys() ^ shapes.keys())
        found = "an extra one" if name in header else "none"
        raise CheckpointError(f"expected the matrices that the settings require, found {found} named {shown(name)}")
    begins, end = {}, 0
    for name, found in header.items():
        begin, end = end, end + math.prod(shapes[name]) * np.dtype(dtype).itemsize
        expected = {"dtype": DTYPES[dtype], "shape": [*shapes[name]], "data_offsets": [begin, end]}
        for what, wanted in expected.items():
            other = found.get(what) if type(found) is dict else found
            if other != wanted:
                raise CheckpointError(f"expected {name} with {what} {wanted}, found {shown(other)}")
        if len(found) != len(expected):
            raise CheckpointError(f"expected {name} with only {', '.join(expected)}, found {shown(found)}")
        begins[name] = begin
    return begins, end
