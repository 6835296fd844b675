"""Uncompressed .npz files: write what numpy.savez writes, and read only files in exactly that form.

Reading uses no pickle, eval or memory map.  It raises DataError, or one of ERRORS, for any other file.
"""

import io
import math
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..base.errors import DataError

ERRORS = (struct.error, zipfile.error)
MAX_OVERHEAD = 1024  # bytes of a member beyond its data: two zip headers, its name twice, one .npy header
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
START = b"PK\3\4"
ZIP64_SIZES = struct.Struct("<2H2Q")
NPY_START = struct.Struct("<6s2BH")

Member = tuple[str, DTypeLike, tuple[int, ...] | None]  # name, dtype, shape; None is one dimension of any length


def pack(arrays: Mapping[str, Any]) -> bytes:
    """Return the file's bytes.  Equal arrays give equal bytes, because the file holds no time stamps."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()  # makes no copy; getbuffer() in a reference cycle crashes Python 3.12.1


def unpack(
    data: bytes, members: Iterable[Member], more: tuple[DTypeLike, tuple[int, ...]] | None = None, most: int = 0
) -> dict[str, NDArray[Any]]:
    """Return the arrays by name, as views of `data`, which must hold these members in this order and nothing else.

    Up to `most` further members may follow, with any names and the dtype and shape `more`.
    """
    arrays: dict[str, NDArray[Any]] = {}
    offsets, offset = [], 0
    for name, dtype, shape in chain(members, repeat(("", *more), most) if more else ()):
        if not name:
            if not data.startswith(START, offset):
                break
            name = name_at(data, offset)
        if name in arrays:
            raise DataError(f"expected one array named {name}, found two")
        offsets.append((f"{name}.npy", offset))
        arrays[name], offset = member(data, offset, name, dtype, shape)
    check_directory(data, offsets, offset)
    return arrays


def name_at(data: bytes, offset: int) -> str:
    """The name in the header at `offset`; member() checks the rest of the header."""
    start, n_name = offset + LOCAL_HEADER.size, LOCAL_HEADER.unpack_from(data, offset)[-2]
    return data[start : start + n_name].decode("ascii").removesuffix(".npy")


def member(
    data: bytes, offset: int, name: str, dtype: DTypeLike, shape: tuple[int, ...] | None = None
) -> tuple[NDArray[Any], int]:
    """Return the array `name`, which must begin at `offset`, and the offset after it."""
    name = f"{name}.npy"
    start, end = zip_member(data, offset, name)
    magic, major, minor, n_header = NPY_START.unpack_from(data, start)
    if (magic, major, minor) != (b"\x93NUMPY", 1, 0) or n_header > 500:
        raise DataError(f"expected {name} in version 1.0 of the .npy format, found another version")
    start += NPY_START.size + n_header
    header = data[start - n_header : start].decode("latin-1")
    dtype = np.dtype(dtype).newbyteorder("<")
    if shape is None:
        length = re.fullmatch(r".*\(([1-9][0-9]{0,7}),\), } *\n", header)
        shape = (int(length[1]) if length else 0,)
    fortran = sum(n > 1 for n in shape) > 1
    expected = f"{{'descr': {dtype.str!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    if header.rstrip(" \n") != expected:
        raise DataError(f"expected {name} to be {expected}, found {header.strip()[:200]}")
    count = math.prod(shape)
    if end - start != count * dtype.itemsize or end > len(data):
        raise DataError(f"expected {count * dtype.itemsize} bytes of {name}, found {min(end, len(data)) - start}")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F"), end


def zip_member(data: bytes, offset: int, name: str) -> tuple[int, int]:
    """Return the start and end of the content of the member `name`, whose header must be at `offset`."""
    start = offset + LOCAL_HEADER.size
    sign, _, flags, method, _, _, _, size32, size, n_name, n_extra = LOCAL_HEADER.unpack_from(data, offset)
    if (sign, flags, method, data[start : start + n_name]) != (START, 0, 0, name.encode()):
        raise DataError(f"expected the uncompressed member {name} at byte {offset}, found something else")
    start += n_name
    extra, n_sizes, size, stored = ZIP64_SIZES.unpack_from(data, start)
    if (size32, n_extra, extra, n_sizes) != (0xFFFFFFFF, ZIP64_SIZES.size, 1, 16) or size != stored:
        raise DataError(f"expected the sizes of {name} in the form that NumPy writes, found another form")
    start += n_extra
    return start, start + size


def check_directory(data: bytes, offsets: list[tuple[str, int]], start: int) -> None:
    """Check that the zip directory, from `start` to the end of the file, lists exactly these members."""
    end = data[-22:]
    if end[:4] != b"PK\5\6" or end[-2:] != b"\0\0" or len(data) - start > (len(offsets) + 1) * MAX_OVERHEAD:
        raise DataError("expected the file to end with its zip directory, found something else")
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
        raise DataError("expected a zip directory that agrees with the members, found a different one")
