""".npz files: packed arrays are read back as numpy.load reads them, and only in the expected form."""

import io
import struct

import numpy as np
import pytest

from microgpt.base.errors import DataError
from microgpt.runs import npz

ARRAYS = {
    "text": np.frombuffer(b"any bytes", np.uint8),
    "matrix": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "column": np.asfortranarray(np.arange(4.0, dtype=np.float32).reshape(4, 1)),
    "vector": np.arange(5, dtype=np.int32),
}
MEMBERS = [(name, array.dtype, array.shape) for name, array in ARRAYS.items()]


def test_round_trip():
    """Every array comes back with its dtype, shape, layout and values, as it does from numpy.load."""
    data = bytes(npz.pack(ARRAYS))
    found = npz.unpack(data, [("text", np.uint8, None), *MEMBERS[1:]])
    assert list(found) == list(ARRAYS)
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        for name, array in ARRAYS.items():
            for other in found[name], loaded[name]:
                assert (other.dtype, other.shape, other.flags.f_contiguous) == (array.dtype, array.shape, True)
                np.testing.assert_array_equal(other, array)
            assert not found[name].flags.writeable


@pytest.mark.parametrize("members", [
    MEMBERS[:-1], MEMBERS[1:], MEMBERS[::-1], [*MEMBERS, MEMBERS[0]], [("other", *MEMBERS[0][1:]), *MEMBERS[1:]],
    [("text", np.int8, (9,)), *MEMBERS[1:]], [("text", np.uint8, (8,)), *MEMBERS[1:]],
    [MEMBERS[0], ("matrix", np.float64, (3, 2)), *MEMBERS[2:]],
], ids=["one less", "not the first", "another order", "one more", "name", "dtype", "length", "shape"])  # fmt: skip
def test_other_members(members):
    """A file with other members, or in another order, dtype or shape, is refused."""
    with pytest.raises((DataError, *npz.ERRORS)):
        npz.unpack(bytes(npz.pack(ARRAYS)), members)


def test_one_member():
    """The first member is read without the rest of the file, with the offset of the next."""
    data = bytes(npz.pack(ARRAYS))
    text, end = npz.member(data[:300], 0, "text", np.uint8)
    assert bytes(text) == b"any bytes" and data[end : end + 4] == b"PK\3\4"
    with pytest.raises(DataError, match=r"expected 9 bytes of text.npy, found 8"):
        npz.member(data[: end - 1], 0, "text", np.uint8)


@pytest.mark.parametrize("moved", [0, 3])
def test_bytes_that_belong_to_nothing(moved):
    """Bytes between the members and the directory are refused, even if the directory's offset is adjusted."""
    data = bytes(npz.pack(ARRAYS))
    at = data.find(b"PK\1\2")
    assert data[-6:-2] == struct.pack("<L", at)
    with pytest.raises(DataError, match="zip directory"):
        npz.unpack(data[:at] + b"gap" + data[at:-6] + struct.pack("<L", at + moved) + data[-2:], MEMBERS)


def test_a_directory_too_long():
    """A zip directory much longer than the members need is refused before it is read."""
    data = bytes(npz.pack(ARRAYS))
    at, n = data.find(b"PK\1\2"), 10_000
    directory = (b"PK\1\2" + bytes(42)) * n
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, n, n, len(directory), at, 0)
    with pytest.raises(DataError, match="expected the file to end with its zip directory"):
        npz.unpack(data[:at] + directory + end, MEMBERS)
