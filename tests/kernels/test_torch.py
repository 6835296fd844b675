"""The kernels on PyTorch tensors: without copies, as autograd functions, and equal to PyTorch's own."""

import doctest

import numpy as np
import pytest

from microgpt import kernels
from microgpt.kernels import checks

torch = pytest.importorskip("torch")
F = torch.nn.functional
k = pytest.importorskip("microgpt.torch")

FLOATS = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tensor(*shape, dtype=torch.float64):
    return torch.randn(shape[::-1], dtype=dtype).t().requires_grad_()  # column-major


OFFSETS = torch.tensor([0, 3, 3, 7])
TOKENS, POSITIONS, TARGETS = (torch.tensor(x) for x in ([1, 2, 2, 0], [0, 1, 0, 1], [4, 0, 0, 2]))
CASES = {
    "matmul": lambda: (k.matmul, (tensor(3, 5), tensor(5, 4))),
    "softmax": lambda: (k.softmax, (tensor(5, 4),)),
    "rmsnorm": lambda: (k.rmsnorm, (tensor(5, 4),)),
    "relu": lambda: (k.relu, (tensor(5, 4),)),
    "add": lambda: (k.add, (tensor(5, 4), tensor(5, 4))),
    "embedding": lambda: (lambda a, b: k.embedding(a, b, TOKENS, POSITIONS), (tensor(5, 3), tensor(5, 2))),
    "attention": lambda: (lambda q, key, v: k.attention(q, key, v, OFFSETS, 2), tuple(tensor(6, 7) for _ in range(3))),
    "cross_entropy": lambda: (lambda x: k.cross_entropy(x, TARGETS), (tensor(5, 4),)),
    "cross_entropy of weights": lambda: (
        lambda x, weights: k.cross_entropy(x, TARGETS, weights.flatten()),
        (tensor(5, 4), tensor(4, 1)),
    ),
    "weighted cross_entropy": lambda: (
        lambda x: k.cross_entropy(x, TARGETS, torch.tensor([1.0, 0.5, -2.0, 0.0], dtype=x.dtype)),
        (tensor(5, 4),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name):
    """Every function passes torch.autograd.gradcheck, with column-major inputs and with row-major ones."""
    function, inputs = CASES[name]()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradcheck(function, tuple(x.detach().contiguous().requires_grad_() for x in inputs))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_like_pytorch(dtype):
    """Values and gradients are PyTorch's own, within its rounding."""
    close = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-12}}[dtype]
    w, x = tensor(6, 5, dtype=dtype), tensor(5, 7, dtype=dtype)
    q, key, v = (tensor(6, 7, dtype=dtype) for _ in range(3))
    targets = torch.randint(0, 6, (7,))
    offsets = torch.tensor([0, 7])

    def heads(a):
        return a.t().reshape(1, 7, 2, 3).transpose(1, 2)

    pairs = [
        (k.matmul(w, x), w @ x, (w, x)),
        (k.softmax(q), F.softmax(q, dim=0), (q,)),
        (k.rmsnorm(q), F.rms_norm(q.t(), (6,), eps=1e-5).t(), (q,)),
        (k.relu(q), F.relu(q), (q,)),
        (k.add(q, key), q + key, (q, key)),
        (k.cross_entropy(q, targets), F.cross_entropy(q.t(), targets), (q,)),
        (
            k.attention(q, key, v, offsets, 2),
            F.scaled_dot_product_attention(heads(q), heads(key), heads(v), is_causal=True)
            .transpose(1, 2)
            .reshape(7, 6)
            .t(),
            (q, key, v),
        ),
    ]
    for mine, theirs, inputs in pairs:
        torch.testing.assert_close(mine, theirs, **close)
        weight = torch.randn_like(theirs)
        for a, b in zip(*(torch.autograd.grad(y, inputs, weight) for y in (mine, theirs))):
            torch.testing.assert_close(a, b, **close)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_tensors_go_in_without_a_copy(dtype):
    """A column-major tensor is read where it is, and as `out` written where it is and returned."""
    x = tensor(5, 4, dtype=dtype).detach()
    out = torch.full((4, 5), torch.nan, dtype=dtype).t()
    assert checks.reals("x", x).ctypes.data == x.data_ptr()
    assert kernels.softmax_forward(x, out=out) is out
    assert np.array_equal(out.numpy(), kernels.softmax_forward(x.numpy()))
    block = torch.zeros(8, 9, dtype=dtype).t()[2:7, 1:5]  # with a leading dimension
    kernels.matmul_forward(torch.eye(5, dtype=dtype), x, out=block)
    assert torch.equal(block, x)


def test_integer_tensors_go_in():
    """Tokens, positions, offsets and targets may be tensors of integers."""
    wte, wpe = np.ones((2, 3)), np.ones((2, 2))
    x = kernels.embedding_forward(wte, wpe, TOKENS, POSITIONS.to(torch.int32))
    assert (x == 2).all()


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x.requires_grad_(),
        lambda x: x.to(torch.bfloat16),
        lambda x: x.to(torch.float16),
        lambda x: x.to_sparse(),
        lambda x: torch.empty_like(x, device="meta"),
        lambda x: x.to(torch.complex128),
        lambda x: x.to(torch.int64),
    ],
)
def test_tensors_that_cannot_go_in(bad):
    """A tensor that is recorded, elsewhere, sparse or of another type is a TypeError that names the argument."""
    with pytest.raises(TypeError, match=r"x: expected .*, found"):
        kernels.softmax_forward(bad(torch.zeros(3, 2, dtype=torch.float64)))


def test_which_tensor_cannot_go_in():
    """The message about a tensor that needs a gradient says what is wrong with it, not that it needs one."""
    x = torch.zeros(3, 2, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(TypeError, match=r"^x: expected .*, found Tensor \(torch.bfloat16 on cpu\): .*dtype"):
        k.softmax(x)
    with pytest.raises(TypeError, match=r"^x: expected float32 or float64, found float16$"):
        k.softmax(x.half())
    with pytest.raises(TypeError, match=r"^weights: expected .*, found Tensor \(torch.bfloat16 on cpu\): "):
        k.cross_entropy(x.double(), torch.tensor([0, 1]), torch.ones(2, dtype=torch.bfloat16))


def test_negated_tensors():
    """A tensor that PyTorch negates only when it is read has the right sign; as `out` it is refused, for its copy."""
    x = torch.tensor([[1 + 1j], [2 - 2j]]).conj().imag
    assert x.is_neg() and x.tolist() == [[-1], [2]]
    assert k.relu(x).tolist() == kernels.relu_forward(x).tolist() == [[0], [2]]
    y = tensor(2, 1, dtype=torch.float32)
    (g,) = torch.autograd.grad(k.add(y, y), y, x)
    assert g.tolist() == [[-2], [4]]
    with pytest.raises(TypeError, match=r"^out: expected an array to write to, found a Tensor that only gives copies$"):
        kernels.relu_forward(torch.ones(2, 1), out=x)


def test_compiled():
    """torch.compile() compiles what surrounds the functions, with the same values and gradients."""
    w, x = tensor(3, 5), tensor(5, 4)

    def loss(w, x):
        return (k.softmax(k.matmul(w, x) * 2)[0] ** 2).sum()

    (value, gradients), (other, others) = (
        (y, torch.autograd.grad(y, (w, x))) for y in (loss(w, x), torch.compile(loss, backend="eager")(w, x))
    )
    torch.testing.assert_close((value, *gradients), (other, *others))


@pytest.mark.parametrize("transform", [
    lambda x: torch.vmap(k.softmax)(x[None]),
    torch.func.grad(lambda x: k.softmax(x)[0].sum()),
], ids=["vmap", "grad"])  # fmt: skip
def test_not_in_functorch(transform):
    """Inside torch.func a call is refused in one line."""
    with pytest.raises(RuntimeError, match=r"^torch.func: expected a call outside vmap\(\), [^\n]*$"):
        transform(torch.ones(2, 2))


def penalty(x):
    (g,) = torch.autograd.grad(k.softmax(x)[0].sum(), x, create_graph=True)
    (k.softmax(x)[0].sum() + g.pow(2).sum()).backward()


def norm_of_gradient(x):
    z = x * x
    (g,) = torch.autograd.grad((k.softmax(z) * z).pow(2).sum(), x, create_graph=True)
    torch.autograd.grad(g.pow(2).sum(), x)


@pytest.mark.parametrize("twice", [penalty, norm_of_gradient])
def test_only_once(twice):
    """A second derivative is refused, not wrong, in whatever graph it is asked for."""
    with pytest.raises(RuntimeError, match="first derivatives only"):
        twice(tensor(3, 2))


def test_a_graph_is_freed():
    """A backward pass frees what it needed, so that a second one without retain_graph is PyTorch's own error."""
    for name, case in CASES.items():
        function, inputs = case()
        y = function(*inputs).sum()
        y.backward()
        if name not in ("add", "embedding"):  # which need no tensor
            with pytest.raises(RuntimeError, match="second time"):
                y.backward()


def test_saved_tensors_may_not_change():
    """A tensor that the backward pass needs and that was written to meanwhile is an error, as in PyTorch."""
    w, x, q = tensor(3, 2), tensor(2, 4), tensor(4, 3)
    for y, used in (k.matmul(w, x), x), (k.attention(q, q, q, torch.tensor([0, 3]), 2), q):
        with torch.no_grad():
            used.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_only_the_gradients_asked_for():
    """matmul computes no gradient for a tensor that requires none."""
    w, x = tensor(3, 2), tensor(2, 4).detach()
    k.matmul(w, x).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(w.grad, torch.ones(3, 4, dtype=x.dtype) @ x.t())


def test_docstrings():
    """The example in the module's docstring gives what it shows."""
    result = doctest.testmod(k)
    assert result.attempted > 3 and result.failed == 0
