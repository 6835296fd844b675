"""No argument, however wrong, gets past the checks: a TypeError or a ValueError names it, and no output has changed."""

import itertools
import re
import sys
import warnings

import numpy as np
import pytest
from helpers import each
from kernel_cases import BACKWARD, NAMES, arguments, misaligned, outs, read_only

from microgpt import kernels
from microgpt.kernels import compiled as c
from microgpt.kernels import table
from microgpt.kernels.checks import indices

M, N = 6, 4
PACKED = tuple(name for name, row in table.KERNELS.items() if not row.strided)  # these take no leading dimension
MATRICES = [name for name in NAMES if all(o.limit is None for o in table.KERNELS[name].inputs)]
FLOAT64, FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)


class Subclass(np.ndarray):
    pass


class Raises:
    """An array of another library that cannot be had, as a tensor on a GPU."""

    def __dlpack__(self, **options):
        raise BufferError("not on this device")

    def __dlpack_device__(self):
        return (1, 0)


class RaisesArray:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("needs a gradient")


class ArrayOf:
    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a


class NoArray:
    def __array__(self, dtype=None, copy=None):
        return "text"


class Pretends:
    """Says that it is an ndarray, and is none."""

    __class__ = np.ndarray
    dtype, shape, ndim, size = FLOAT64, (M, N), 2, M * N


WRONG_TYPES = {
    "None": lambda a: None,
    "a list": lambda a: a.tolist(),
    "a number": lambda a: 1.5,
    "text": lambda a: "text",
    "bytes": lambda a: a.tobytes(),
    "a memoryview": memoryview,
    "a class": lambda a: np.ndarray,
    "an object": lambda a: ...,
    "a masked array": lambda a: np.ma.masked_array(a, a > 0),
    "a subclass": lambda a: a.view(Subclass),
    "a tensor that cannot be had": lambda a: Raises(),
    "an __array__ that is masked": lambda a: ArrayOf(np.ma.masked_array(a, a > 0)),
    "an __array__ that raises": lambda a: RaisesArray(),
    "an __array__ that is none": lambda a: NoArray(),
    "a pretender": lambda a: Pretends(),
    "object": lambda a: a.astype(object),
    "bool": lambda a: a.astype(bool),
    "complex": lambda a: a.astype(np.complex128),
    "half": lambda a: a.astype(np.float16),
    "long double": lambda a: a.astype(np.longdouble),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "text array": lambda a: a.astype(str),
    "structured": lambda a: np.zeros(a.shape, [("x", a.dtype)]),
    "datetime": lambda a: np.zeros(a.shape, "M8[s]"),
}
WRONG_FLOATS = WRONG_TYPES | {"int": lambda a: a.astype(np.int64), "int32": lambda a: a.astype(np.int32)}
WRONG_INTEGERS = {kind: wrong for kind, wrong in WRONG_TYPES.items() if kind != "big-endian"} | {
    "float64": lambda a: a.astype(FLOAT64),
    "float32": lambda a: a.astype(FLOAT32),
}
WRONG_SHAPES = {
    "no dimension": lambda a: np.array(1, a.dtype),
    "one dimension more": lambda a: a[..., None],
    "one dimension less": lambda a: a[..., 0] if a.ndim > 1 else np.array(0, a.dtype),
    "a column more": lambda a: np.concatenate([a, a[..., :1]], axis=-1),
    "a column less": lambda a: a[..., :-1],
    "a row more": lambda a: np.concatenate([a, a[:1]], axis=0),
    "a row less": lambda a: a[:-1],
    "no columns": lambda a: a[..., :0],
    "flat": lambda a: a.reshape(-1, order="F") if a.ndim > 1 else a[None],
}


def zero_strides(a):
    return np.lib.stride_tricks.as_strided(a, strides=(a.itemsize, 0)[: a.ndim] if a.ndim > 1 else (0,))


WRONG_LAYOUTS = {
    "strided": lambda a: np.zeros([2 * size for size in a.shape], a.dtype, "F")[
        tuple(slice(None, None, 2) for _ in a.shape)
    ],
    "backwards": lambda a: a[::-1],
    "columns backwards": lambda a: a[..., ::-1],
    "zero strides": zero_strides,
    "misaligned": misaligned,
    "read-only": read_only,
    "row-major": lambda a: a.copy("C") if a.ndim > 1 else a[::-1],
}


def float_arrays(case):
    return [key for key, value in case.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]


def refuse(name, case, out=None, error=(TypeError, ValueError), argument=None, **more):
    """The call raises, naming an argument (this one), and leaves every byte of its outputs."""
    given = [a for a in (out if isinstance(out, tuple) else (out,)) if type(a) is np.ndarray]
    before = [a.tobytes() for a in given]
    with pytest.raises(error) as caught:
        getattr(kernels, name)(**case, **more, **({} if out is None else {"out": out}))
    message = str(caught.value)
    assert type(caught.value) in (TypeError, ValueError)
    assert re.match(r"[a-z_.]+(\[\d\])?: expected .+, found .+", message, re.DOTALL), message
    of_cache = {f"cache.{field}" for field in kernels.AttentionCache._fields}
    known = {*getattr(kernels, name).__annotations__, *of_cache}
    assert message.split(":", maxsplit=1)[0].split("[", maxsplit=1)[0] in known
    if argument:
        assert message.startswith(argument), message
    assert [a.tobytes() for a in given] == before


FLOAT_ARGUMENTS = [(name, key) for name in NAMES for key in float_arrays(arguments(kernels, name, FLOAT64, M, N))]


@pytest.mark.parametrize("name, key", FLOAT_ARGUMENTS)
@each("kind", WRONG_FLOATS)
@each("dtype", [FLOAT64, FLOAT32])
def test_wrong_type_of_array(name, key, kind, dtype):
    """What is not a plain array of native float32 or float64 is a TypeError that names the argument."""
    case = arguments(kernels, name, dtype, M, N)
    out = outs(kernels, name, case)
    if key == "weights" and kind == "None":
        return  # the mean
    case[key] = WRONG_FLOATS[kind](case[key])
    refuse(name, case, out, error=TypeError, argument=f"{key}: ")


@pytest.mark.parametrize("name, key", FLOAT_ARGUMENTS)
@each("kind", WRONG_SHAPES)
def test_wrong_shape_of_array(name, key, kind):
    """A shape that does not fit the others, or the output, is a ValueError."""
    if key in ("wte", "wpe") and kind == "a column more":
        return  # which is no error
    case = arguments(kernels, name, FLOAT64, M, N)
    out = outs(kernels, name, case)
    if name.startswith("embedding_f"):
        case["tokens"][:], case["positions"][:] = 26, 15  # the last, so that a column less is one too few
    case[key] = WRONG_SHAPES[kind](case[key])
    refuse(name, case, out, error=ValueError)


WRONG_ALIKE = {
    "integers": lambda a: np.zeros(a.shape, np.int64, "F"),
    "half precision": lambda a: np.zeros(a.shape, np.float16, "F"),
    "a dimension more": lambda a: np.zeros((*a.shape, 1), a.dtype, "F"),
    "no dimension": lambda a: np.zeros((), a.dtype),
    "2**31 columns": lambda a: np.zeros((0, 2**31), a.dtype),
}


@pytest.mark.parametrize("name", MATRICES)
@each("kind", WRONG_ALIKE)
def test_all_wrong_alike(name, kind):
    """Arrays that fit together, outputs too, and own their memory are still refused when no kernel takes them."""
    case = arguments(kernels, name, FLOAT64, M, N)
    out = outs(kernels, name, case)
    case |= {key: WRONG_ALIKE[kind](case[key]) for key in float_arrays(case)}
    out = tuple(map(WRONG_ALIKE[kind], out)) if isinstance(out, tuple) else WRONG_ALIKE[kind](out)
    refuse(name, case, out)


@pytest.mark.parametrize("name, key", FLOAT_ARGUMENTS)
@each("dtypes", [(FLOAT64, FLOAT32), (FLOAT32, FLOAT64)])
def test_mixed_precisions(name, key, dtypes):
    """Nothing is cast: one array of the other precision, be it an input or the output, is a TypeError."""
    case = arguments(kernels, name, dtypes[0], M, N)
    out = outs(kernels, name, case)
    case[key] = case[key].astype(dtypes[1])
    refuse(name, case, out, error=TypeError)


# ---- outputs ----


OUTS = {name: outs(kernels, name, arguments(kernels, name, FLOAT64, M, N)) for name in NAMES}
SEVERAL = [name for name, out in OUTS.items() if isinstance(out, tuple)]
MEMBERS = [(name, i) for name, out in OUTS.items() for i in (range(len(out)) if name in SEVERAL else [None])]


def with_member(out, i, change):
    """out with its member i changed, or itself if it is one array."""
    if i is None:
        return change(out)
    return tuple(change(a) if j == i else a for j, a in enumerate(out))


def refuse_out(name, i, change, error, dtype=FLOAT64):
    case = arguments(kernels, name, dtype, M, N)
    out = with_member(outs(kernels, name, case), i, change)
    refuse(name, case, out, error=error, argument="out" if i is None else f"out[{i}]: ")
    if name in BACKWARD:
        refuse(name, case, out, error=error, argument="out", accumulate=True)


@pytest.mark.parametrize("name, i", MEMBERS)
@each("kind", [kind for kind in WRONG_FLOATS if kind != "None"])
def test_wrong_type_of_out(name, i, kind):
    """An output that is not a plain array of the inputs' dtype is a TypeError."""
    refuse_out(name, i, lambda a: WRONG_FLOATS[kind](np.nan_to_num(a)), TypeError)


@pytest.mark.parametrize("name, i", MEMBERS)
@each("dtype", [FLOAT64, FLOAT32])
def test_wrong_precision_of_out(name, i, dtype):
    """An output of the other precision is a TypeError."""
    other = FLOAT32 if dtype is FLOAT64 else FLOAT64
    refuse_out(name, i, lambda a: a.astype(other), TypeError, dtype)


@pytest.mark.parametrize("name, i", MEMBERS)
@each("kind", WRONG_SHAPES)
def test_wrong_shape_of_out(name, i, kind):
    """An output of any other shape is a ValueError."""
    refuse_out(name, i, WRONG_SHAPES[kind], ValueError)


@pytest.mark.parametrize("name, i", MEMBERS)
@each("kind", WRONG_LAYOUTS)
@each("dtype", [FLOAT64, FLOAT32])
def test_wrong_layout_of_out(name, i, kind, dtype):
    """An output that is not column-major, aligned and writeable is a ValueError."""
    refuse_out(name, i, WRONG_LAYOUTS[kind], ValueError, dtype)


@pytest.mark.parametrize(
    "name, i",
    [(name, i) for name, i in MEMBERS if name in PACKED and (OUTS[name] if i is None else OUTS[name][i]).ndim == 2],
)
def test_gaps_in_out(name, i):
    """Kernels without a leading dimension refuse an output with gaps between its columns."""

    def gaps(a):
        return np.zeros([size + 1 for size in a.shape], a.dtype, "F")[tuple(slice(size) for size in a.shape)]

    refuse_out(name, i, gaps, ValueError)


def overlapping(a, shape):
    """Two column-major arrays, like a and of the given shape, that have one element in common."""
    memory = np.zeros(a.size + int(np.prod(shape)) - 1, a.dtype)
    first, second = memory[: a.size].reshape(a.shape, order="F"), memory[a.size - 1 :].reshape(shape, order="F")
    first[...] = a
    return first, second


@pytest.mark.parametrize(
    "name, i, key", [(n, i, key) for n, i in MEMBERS for name, key in FLOAT_ARGUMENTS if n == name]
)
@each("dtype", [FLOAT64, FLOAT32])
def test_out_overlaps_an_input(name, i, key, dtype):
    """An output that shares its first element, or its last, or all, or a transposed view with an input is refused."""
    case = arguments(kernels, name, dtype, M, N)
    out = outs(kernels, name, case)
    member = out if i is None else out[i]
    for reverse in (False, True):
        if reverse:
            shared_out, shared_in = overlapping(member, case[key].shape)
            shared_in[...] = case[key]
        else:
            shared_in, shared_out = overlapping(case[key], member.shape)
        refuse(name, case | {key: shared_in}, with_member(out, i, lambda a, new=shared_out: new), error=ValueError)
    if case[key].shape == member.shape:
        refuse(name, case, with_member(out, i, lambda a: case[key]), error=ValueError)
        refuse(name, case | {key: case[key].view()}, with_member(out, i, lambda a: case[key]), error=ValueError)
    if case[key].ndim == 2:  # an input that would be copied still keeps its bytes
        memory = np.zeros(max(case[key].size, member.size), dtype)
        row_major = memory[: case[key].size].reshape(case[key].shape)
        shared_out = memory[: member.size].reshape(member.shape, order="F")
        refuse(name, case | {key: row_major}, with_member(out, i, lambda a: shared_out), error=ValueError)


INTEGERS = [("embedding_forward", "tokens"), ("embedding_forward", "positions"), ("embedding_backward", "tokens"),
            ("attention_forward", "offsets"), ("cross_entropy_forward", "targets"),
            ("cross_entropy_backward", "targets")]  # fmt: skip


@pytest.mark.parametrize("name, key", INTEGERS)
def test_out_overlaps_integers(name, key):
    """Integers are copied, and yet no output may be written over them."""
    case = arguments(kernels, name, FLOAT32, M, N)
    out = outs(kernels, name, case)
    for i, member in enumerate(out if isinstance(out, tuple) else [out]):
        inside = member.reshape(-1, order="F").view(np.int32)[: len(case[key])]
        if inside.size == len(case[key]):
            inside[...] = case[key]
            refuse(name, case | {key: inside}, out, ValueError, f"out[{i}]: " if isinstance(out, tuple) else "out: ")


@pytest.mark.parametrize("name", SEVERAL)
def test_outs_overlap_each_other(name):
    """Two outputs that share an element, or are the same array, are refused."""
    case = arguments(kernels, name, FLOAT64, M, N)
    out = outs(kernels, name, case)
    first, second = overlapping(out[0], out[1].shape)
    refuse(name, case, (first, second, *out[2:]), error=ValueError, argument="out")
    if out[0].shape == out[1].shape:
        refuse(name, case, (out[0], out[0], *out[2:]), error=ValueError, argument="out")
        refuse(name, case, (out[0], out[0].view(), *out[2:]), error=ValueError, argument="out")
    if len(out) > 2:
        refuse(name, case, (out[0], out[1], out[1]), error=ValueError, argument="out[2]")
        refuse(name, case, (out[0], out[1], out[0]), error=ValueError, argument="out[2]")


@pytest.mark.parametrize("name", SEVERAL)
def test_wrong_tuple_of_outs(name):
    """Where several outputs are due, anything but a tuple of so many is a TypeError."""
    case = arguments(kernels, name, FLOAT64, M, N)
    out = outs(kernels, name, case)
    for wrong in (list(out), out[0], out[:-1], (*out, out[0]), (), "ab", {0: out[0], 1: out[1]}, 5):
        refuse(name, case, wrong, error=TypeError, argument="out: ")
    if name not in ("matmul_backward", "add_backward", "embedding_backward"):
        refuse(name, case, (None, *out[1:]), error=TypeError, argument="out[0]: ")


@pytest.mark.parametrize("name", BACKWARD)
@pytest.mark.parametrize("wrong", [None, 0, 1, "yes", [], np.True_, np.ones(2)], ids=repr)
def test_accumulate_is_true_or_false(name, wrong):
    """Anything but True or False for accumulate is a TypeError, with and without out."""
    case = arguments(kernels, name, FLOAT64, M, N)
    refuse(name, case, outs(kernels, name, case), error=TypeError, argument="accumulate: ", accumulate=wrong)
    refuse(name, case, error=TypeError, argument="accumulate: ", accumulate=wrong)


# ---- integers ----

INDEX_ARGUMENTS = [
    (name, key)
    for name in NAMES
    for key, value in arguments(kernels, name, FLOAT64, M, N).items()
    if isinstance(value, np.ndarray) and value.dtype.kind == "i"
]


@pytest.mark.parametrize("name, key", INDEX_ARGUMENTS)
@each("kind", WRONG_INTEGERS)
def test_wrong_type_of_integers(name, key, kind):
    """What is not a plain array of integers (they may be big-endian: they are copied) is a TypeError."""
    case = arguments(kernels, name, FLOAT64, M, N)
    out = outs(kernels, name, case)
    case[key] = WRONG_INTEGERS[kind](case[key])
    refuse(name, case, out, error=TypeError, argument=f"{key}: ")


@pytest.mark.parametrize("name, key", INDEX_ARGUMENTS)
@each("kind", WRONG_SHAPES)
def test_wrong_shape_of_integers(name, key, kind):
    """Another number of indices than of tokens, or another number of dimensions, is a ValueError."""
    case = arguments(kernels, name, FLOAT64, M, N)
    out = outs(kernels, name, case)
    wrong = WRONG_SHAPES[kind](case[key])
    refuse(name, case | {key: wrong}, out, error=ValueError)


@pytest.mark.parametrize("name, key", INDEX_ARGUMENTS)
@each("place", range(N))
@each("wrong", [-1, -(2**31), -(2**63), 27, 2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_index_out_of_range(name, key, place, wrong):
    """A token, position, target or offset out of range, anywhere, is a ValueError; none wraps around."""
    case = arguments(kernels, name, FLOAT64, M, N)
    out = outs(kernels, name, case)
    integers = case[key].astype(np.uint64 if wrong > 2**62 else np.int64)
    integers[place] = wrong
    refuse(name, case | {key: integers}, out, error=ValueError, argument=f"{key}: ")


def test_an_index_that_changes_while_it_is_checked():
    """Whenever another thread changes an index, between any two lines of the check, it is refused or not seen."""
    outcomes, before = set(), sys.gettrace()
    for moment in range(12):
        a, lines = np.zeros(3, np.int64), itertools.count()

        def change(frame, event, argument):
            if frame.f_code is indices.__code__ and event == "line" and next(lines) == moment:
                a[0] = 99
            return change

        sys.settrace(change)
        try:
            outcomes.add(indices("tokens", a, 27).tobytes())
        except ValueError:
            outcomes.add("refused")
        finally:
            sys.settrace(before)
    assert outcomes == {"refused", bytes(3 * 4)}


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, ">i4"]
)
def test_any_integer_dtype(dtype):
    """Indices may have any integer dtype."""
    case = arguments(kernels, "embedding_forward", FLOAT64, M, N)
    expected = kernels.embedding_forward(**case)
    case |= {key: case[key].astype(dtype) for key in ("tokens", "positions")}
    assert np.array_equal(kernels.embedding_forward(**case), expected)


@pytest.mark.parametrize(
    "offsets",
    [[], [0], [4], [0, 3], [0, 5], [1, 4], [0, 3, 2, 4], [0, -1, 4], [4, 0], [0, 4, 3], [0, 4, 5], [0, 5, 4]],
    ids=str,
)
def test_wrong_offsets(offsets):
    """Offsets that do not start at 0, fall, or do not end at the number of tokens are a ValueError."""
    case = arguments(kernels, "attention_forward", FLOAT64, M, N)
    out = outs(kernels, "attention_forward", case)
    refuse("attention_forward", case | {"offsets": np.array(offsets, int)}, out, ValueError, "offsets: ")
    cache = kernels.attention_forward(**case)[1]._replace(offsets=np.array(offsets, int))
    refuse("attention_backward", {"dout": case["q"], "cache": cache}, error=ValueError)


# ---- scalars ----


@pytest.mark.parametrize(
    "wrong", [None, "1", b"1", [1e-5], 1j, np.array(1e-5), np.array([1e-5]), ..., np.complex64(1)], ids=repr
)
def test_wrong_type_of_eps(wrong):
    """eps is a number."""
    case = arguments(kernels, "rmsnorm_forward", FLOAT64, M, N)
    out = outs(kernels, "rmsnorm_forward", case)
    refuse("rmsnorm_forward", case | {"eps": wrong}, out, TypeError, "eps: ")


@pytest.mark.parametrize(
    "wrong", [-1, -1e-300, float("nan"), float("inf"), float("-inf"), 1e39, 10**400, np.float32("nan")], ids=repr
)
def test_eps_out_of_range(wrong):
    """eps is finite in either precision, and not negative."""
    case = arguments(kernels, "rmsnorm_forward", FLOAT32, M, N)
    out = outs(kernels, "rmsnorm_forward", case)
    refuse("rmsnorm_forward", case | {"eps": wrong}, out, ValueError, "eps: ")


COUNTS = [("attention_forward", "n_head"), ("embedding_backward", "vocab_size"), ("embedding_backward", "block_size")]


@pytest.mark.parametrize("name, key", COUNTS)
@pytest.mark.parametrize(
    "wrong", [None, "2", 2.0, 1.5, float("nan"), [2], np.array([2]), np.float64(2), 2j, ...], ids=repr
)
def test_wrong_type_of_count(name, key, wrong):
    """Counts are integers."""
    case = arguments(kernels, name, FLOAT64, M, N)
    refuse(name, case | {key: wrong}, outs(kernels, name, case), TypeError, f"{key}: ")


@pytest.mark.parametrize("name, key", COUNTS)
@pytest.mark.parametrize(
    "wrong", [-1, -(2**31), 2**30, 2**31 - 1, 2**31, 2**32 + 2, 2**63, 2**64 + 2, 10**30, np.int64(-1)], ids=repr
)
def test_count_out_of_range(name, key, wrong):
    """Counts are neither negative nor beyond what C can hold; none wraps around."""
    case = arguments(kernels, name, FLOAT64, M, N)
    refuse(name, case | {key: wrong}, outs(kernels, name, case), ValueError, f"{key}: ")


@pytest.mark.parametrize("wrong", [0, 4, 5, 7, 12])
def test_heads_that_do_not_divide(wrong):
    """n_head must divide n_embd, which is 6 here."""
    case = arguments(kernels, "attention_forward", FLOAT64, M, N)
    refuse("attention_forward", case | {"n_head": wrong}, error=ValueError, argument="n_head: ")


# ---- arrays of other libraries ----


class Meddler:
    """An array of another library that changes an argument when it is looked at."""

    def __init__(self, a, meddle):
        self.a, self.meddle = a, meddle

    def __array__(self, dtype=None, copy=None):
        self.meddle()
        return self.a


def test_an_argument_that_changes_another():
    """A dtype that changes while other arguments are checked is not what C goes by: nothing but `out` is written."""
    w, x = np.ones((1, 2), np.float32, "F"), np.ones((2, 1000), np.float32, "F")
    memory = np.zeros(2000, np.float32)

    def meddle():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            w.dtype = np.float64

    kernels.matmul_forward(w, x, out=Meddler(memory[:1000].reshape(1, 1000), meddle))
    assert w.dtype == np.float64
    assert (memory[:1000] == 2).all() and (memory[1000:] == 0).all()


def test_out_that_gives_a_copy():
    """An `out` of another library that can only be copied cannot take a result."""

    class Copies:
        def __array__(self, dtype=None, copy=None):
            if copy is False:
                raise ValueError("this is always a copy")
            return np.zeros((2, 2), order="F")

    assert kernels.relu_forward(Copies()).shape == (2, 2)
    with pytest.raises(TypeError, match=r"out: expected .*always a copy"):
        kernels.relu_forward(np.ones((2, 2)), out=Copies())


def test_out_that_gives_a_copy_all_the_same():
    """One that gives a copy though it was asked not to is found out: the result would be lost."""

    class Copies:
        def __init__(self):
            self.a = np.zeros((2, 2), order="F")

        def __array__(self, dtype=None, copy=None):
            return self.a.copy(order="F")

    class CopiesByDlpack(Copies):
        def __dlpack__(self, **options):
            return self.a.copy(order="F").__dlpack__()

        def __dlpack_device__(self):
            return self.a.__dlpack_device__()

    for out in Copies(), CopiesByDlpack():
        with pytest.raises(
            TypeError, match=r"out: expected an array to write to, found a Copies.* that only gives copies"
        ):
            kernels.relu_forward(np.ones((2, 2)), out=out)


# ---- the attention cache ----


@pytest.mark.parametrize("field", ["q", "k", "v", "probs"])
@each("kind", [*WRONG_FLOATS, *WRONG_SHAPES])
def test_forged_cache(field, kind):
    """A cache whose arrays were exchanged is checked like any other argument."""
    case = arguments(kernels, "attention_backward", FLOAT64, M, N)
    out = outs(kernels, "attention_backward", case)
    wrong = (WRONG_FLOATS | WRONG_SHAPES)[kind](getattr(case["cache"], field))
    refuse("attention_backward", {"dout": case["dout"], "cache": case["cache"]._replace(**{field: wrong})}, out)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_head": 4},
        {"n_head": 1},
        {"n_head": None},
        {"offsets": None},
        {"offsets": np.arange(N + 2)},
        {"block_size": 1},
        {"block_size": 100},
        {"block_size": None},
    ],
)
def test_forged_cache_scalars(changes):
    """A cache with another number of heads, or other documents, does not fit its own arrays."""
    case = arguments(kernels, "attention_backward", FLOAT64, M, N)
    refuse("attention_backward", {"dout": case["dout"], "cache": case["cache"]._replace(**changes)})


@pytest.mark.parametrize("wrong", [None, (), (1, 2, 3, 4), "cache", np.zeros((6, 4))], ids=str)
def test_not_a_cache(wrong):
    """What did not come from attention_forward is a TypeError."""
    case = arguments(kernels, "attention_backward", FLOAT64, M, N)
    refuse("attention_backward", case | {"cache": wrong}, error=TypeError, argument="cache: ")


def test_out_overlaps_the_cache():
    """A gradient may not be written over what it is computed from."""
    case = arguments(kernels, "attention_backward", FLOAT64, M, N)
    out = outs(kernels, "attention_backward", case)
    inside = case["cache"].probs.reshape(-1, order="F")[: M * N].reshape((M, N), order="F")
    for a in (inside, case["cache"].q, case["cache"].k, case["cache"].v):
        refuse("attention_backward", case, (out[0], a, out[2]), ValueError, "out[1]: ")
    offsets = out[1].reshape(-1, order="F").view(np.int64)[: len(case["cache"].offsets)]
    offsets[...] = case["cache"].offsets
    refuse(
        "attention_backward", {**case, "cache": case["cache"]._replace(offsets=offsets)}, out, ValueError, "out[1]: "
    )


@pytest.mark.parametrize(
    "wrong, error", [(-1, ValueError), (3, ValueError), (2**40, ValueError), (None, TypeError), (0.5, TypeError)]
)
def test_weights_of_no_document(wrong, error):
    """attention_weights names a document that is not there."""
    cache = arguments(kernels, "attention_backward", FLOAT64, M, N)["cache"]
    with pytest.raises(error, match=r"document: expected .*, found"):
        kernels.attention_weights(cache, wrong)


# ---- sizes ----


@pytest.mark.parametrize("shape", [(0, 2**30), (2**30, 0), (0, 2**31), (2**40, 0), (0, 2**59)], ids=str)
@pytest.mark.parametrize("name", ["softmax_forward", "rmsnorm_forward", "relu_forward", "add_backward"])
def test_empty_but_enormous(name, shape):
    """A size that C's int could not hold with room to spare is a ValueError, even where nothing is stored."""
    key = next(iter(arguments(kernels, name, FLOAT64, 1, 1)))
    refuse(name, {key: np.empty(shape)}, error=ValueError, argument=f"{key}: ")


@pytest.mark.parametrize("shape", [(2**31, 1), (1, 2**31), (2**33, 2**20)], ids=str)
@pytest.mark.parametrize("name", ["softmax_forward", "rmsnorm_forward", "relu_forward"])
def test_small_but_enormous(name, shape):
    """So it is for one number that strides of zero repeat without end."""
    refuse(name, {"x": np.broadcast_to(np.float64(1), shape)}, error=ValueError, argument="x: ")


def test_products_that_overflow():
    """Sizes in range whose product is not end in an exception, not in C."""
    w, x = np.empty((2**30 - 1, 0)), np.empty((0, 2**30 - 1))
    with pytest.raises((ValueError, MemoryError)):
        kernels.matmul_forward(w, x)
    with pytest.raises((ValueError, MemoryError)):
        kernels.relu_forward(np.broadcast_to(np.float64(1), (2**29, 2**29)))
    with pytest.raises((ValueError, MemoryError)):
        kernels.embedding_backward(
            np.empty((2**29, 0)), np.empty(0, int), np.empty(0, int), vocab_size=2**30 - 1, block_size=1
        )


def test_calls_that_cannot_be():
    """Too few arguments or too many for a kernel, and the address of what is no array, are errors, not crashes."""
    x = np.ones((2, 2), order="F")
    for wrong in ((), ("relu_forward",), ("relu_forward", None, False, 0.0), ("relu_forward", None, False, 0.0, x, x)):
        with pytest.raises((TypeError, ValueError)):
            c.call(*wrong)
    with pytest.raises(TypeError):
        c.address("text")


def test_an_interrupt_is_not_lost(monkeypatch):
    """Ctrl-C while the arguments are looked at is raised, not taken for an argument that needs a closer look."""
    monkeypatch.setattr(warnings, "showwarning", interrupt)
    out = np.broadcast_arrays(np.zeros(4), np.zeros((1, 4)))[0]  # of which a writeable view is a warning
    warnings.simplefilter("always")
    with pytest.raises(KeyboardInterrupt):
        kernels.relu_forward(np.zeros((1, 4), order="F"), out=out)


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


class Index:
    """An integer of another library."""

    def __index__(self):
        return 3


class Liar(int):
    """3 to whoever compares it, another number to whoever converts it."""

    def __int__(self):
        return 10**6


class LiarFloat(float):
    def __float__(self):
        return float("nan")


def test_numbers_are_what_they_are_checked_as():
    """A number is converted once, to what it is as an index or a float, and that is checked and used."""
    dx, tokens = np.ones((2, 1)), np.array([0])
    for size in (3, np.int64(3), Index(), Liar(3)):
        dwte, _ = kernels.embedding_backward(dx, tokens, tokens, vocab_size=size, block_size=size)
        assert dwte.shape == (2, 3)
    y, _ = kernels.rmsnorm_forward(dx, LiarFloat(0.0))
    assert (y == 1).all()
    for wrong in (10**5000, -(10**5000)):  # more digits than Python writes out
        with pytest.raises(ValueError, match=r"vocab_size: expected an integer .*, found a whole number of thousands"):
            kernels.embedding_backward(dx, tokens, tokens, vocab_size=wrong, block_size=1)
        with pytest.raises(TypeError, match=r"accumulate: expected True or False, found a whole number of thousands"):
            kernels.relu_backward(dx, dx, accumulate=wrong)
    for wrong in (float("nan"), -1.0, 10**400, float("inf"), 10**5000):
        with pytest.raises(ValueError, match="eps: expected a number from 0 to 3e38"):
            kernels.rmsnorm_forward(dx, wrong)


def test_memmap(tmp_path):
    """A memmap is an array like any other: as numbers, as indices, and as `out`."""
    tokens = np.memmap(tmp_path / "tokens", np.uint16, "w+", shape=(3,))
    wte = np.memmap(tmp_path / "wte", np.float64, "w+", shape=(2, 4), order="F")
    out = np.memmap(tmp_path / "out", np.float64, "w+", shape=(2, 3), order="F")
    tokens[:], wte[:] = [3, 0, 1], np.arange(8).reshape(2, 4)
    assert kernels.embedding_forward(wte, np.zeros((2, 1)), tokens, np.zeros(3, int), out=out) is out
    assert out.tolist() == wte[:, [3, 0, 1]].tolist() and (tmp_path / "out").stat().st_size == 48
    assert type(kernels.relu_forward(wte)) is np.ndarray
