"""The kernels as PyTorch functions on CPU tensors, with the backward passes in C.

    >>> import torch
    >>> from microgpt.torch import matmul, softmax
    >>> w = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    >>> p = softmax(matmul(w, torch.tensor([[1.0], [2.0]], dtype=torch.float64)))
    >>> p[0].sum().backward()
    >>> w.grad
    tensor([[ 0.2500,  0.5000],
            [-0.2500, -0.5000]], dtype=torch.float64)

A matrix is features x tokens, one column per token, float32 or float64; all tensors of a call have one dtype.  Results
are column-major, like x.t() of a contiguous x.  Column-major tensors are read in place; others are copied first.

TypeError reports a wrong type, dtype or device; ValueError reports a wrong shape or range.  Each names the argument.
Each function can be differentiated once: create_graph=True raises RuntimeError, and so does a call inside torch.func
(vmap, grad, jvp).  torch.compile() leaves these functions as they are and compiles what surrounds them.  PyTorch must
be installed (`pip install torch`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from . import kernels


def _array(x: Tensor) -> Any:
    """The tensor as an array.

    Anything that cannot be converted is returned as it is; the kernel then raises an error that names it.
    """
    if not isinstance(x, Tensor):
        return x
    x = x.detach()
    try:
        return x.resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError):  # bfloat16; not on the CPU
        return x


def _tensors(*arrays: Any) -> Any:
    return tuple(None if a is None else torch.from_numpy(a) for a in arrays)


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a backward pass raise an error if it is differentiated itself, because its gradient would be missing.

    PyTorch's own once_differentiable misses some graphs.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # in a backward pass, only with create_graph=True
            raise RuntimeError("create_graph: expected False, as microgpt.torch has first derivatives only, found True")
        return backward(ctx, *gradients)

    return checked


def _run(function: type[Function], *arguments: Any) -> Any:
    try:
        return function.apply(*arguments)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise
        raise RuntimeError(
            "torch.func: expected a call outside vmap(), grad() and the like, found one inside; "
            "use torch.autograd for gradients, and columns for batches"
        ) from None


_untraced: list[Callable[..., Any]] = []  # one item, added when first needed: _run, hidden from torch.compile()


def _apply(function: type[Function], *arguments: Any) -> Any:
    if not _untraced:
        if "torch._dynamo" not in sys.modules:  # nothing is being compiled, and importing it takes seconds
            return _run(function, *arguments)
        _untraced.append(torch.compiler.disable(_run))  # type: ignore[no-untyped-call]
    return _untraced[0](function, *arguments)


class _MatMul(Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(w, x)
        return torch.from_numpy(kernels.matmul_forward(_array(w), _array(x)))

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> Any:
        w, x = (_array(saved) for saved in ctx.saved_tensors)
        dw, dx = (np.empty_like(a, order="F") if needed else None for a, needed in zip((w, x), ctx.needs_input_grad))
        return _tensors(*kernels.matmul_backward(_array(dy), w, x, out=(dw, dx)))


class _Softmax(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        p = torch.from_numpy(kernels.softmax_forward(_array(x)))
        ctx.save_for_backward(p)
        return p

    @staticmethod
    @_once
    def backward(ctx: Any, dp: Tensor) -> Any:
        (p,) = ctx.saved_tensors
        return torch.from_numpy(kernels.softmax_backward(_array(dp), _array(p)))


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y, rstd = _tensors(*kernels.rmsnorm_forward(_array(x), eps))
        ctx.save_for_backward(y, rstd)
        return y  # type: ignore[no-any-return]

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> Any:
        y, rstd = ctx.saved_tensors
        return torch.from_numpy(kernels.rmsnorm_backward(_array(dy), _array(y), _array(rstd))), None


class _ReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.from_numpy(kernels.relu_forward(_array(x)))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        return torch.from_numpy(kernels.relu_backward(_array(dy), _array(y)))


class _Add(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return torch.from_numpy(kernels.add_forward(_array(a), _array(b)))

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> Any:
        return _tensors(*kernels.add_backward(_array(dy)))


class _Embedding(Function):
    @staticmethod
    def forward(ctx: Any, wte: Tensor, wpe: Tensor, tokens: Any, positions: Any) -> Tensor:
        x = kernels.embedding_forward(_array(wte), _array(wpe), _array(tokens), _array(positions))
        ctx.indices = np.array(_array(tokens)), np.array(_array(positions))
        ctx.sizes = {"vocab_size": wte.shape[1], "block_size": wpe.shape[1]}
        return torch.from_numpy(x)

    @staticmethod
    @_once
    def backward(ctx: Any, dx: Tensor) -> Any:
        return *_tensors(*kernels.embedding_backward(_array(dx), *ctx.indices, **ctx.sizes)), None, None


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, offsets: Any, n_head: int) -> Tensor:
        out, ctx.cache = kernels.attention_forward(_array(q), _array(k), _array(v), _array(offsets), n_head)
        ctx.save_for_backward(q, k, v)
        return torch.from_numpy(out)

    @staticmethod
    @_once
    def backward(ctx: Any, dout: Tensor) -> Any:
        q, k, v = map(_array, ctx.saved_tensors)  # unlike the cache, they report a change since forward()
        cache = ctx.cache._replace(q=q, k=k, v=v)
        return *_tensors(*kernels.attention_backward(_array(dout), cache)), None, None


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Any, weights: Any) -> Tensor:
        targets, weights = _array(targets), _array(weights)
        loss, losses, probs = kernels.cross_entropy_forward(_array(logits), targets, weights)
        ctx.targets, ctx.weights = np.array(targets), None if weights is None else np.array(weights)
        ctx.save_for_backward(*_tensors(losses, probs))
        return torch.tensor(loss, dtype=logits.dtype)

    @staticmethod
    @_once
    def backward(ctx: Any, dloss: Tensor) -> Any:
        losses, probs = ctx.saved_tensors
        dlogits = kernels.cross_entropy_backward(_array(probs), ctx.targets, ctx.weights)
        dweights = losses * dloss if ctx.needs_input_grad[2] else None
        return torch.from_numpy(dlogits) * dloss, None, dweights


def matmul(w: Tensor, x: Tensor) -> Tensor:
    """Matrix product y = w x, with gradients for w and x.

    - `w`: (m, k), and `x`: (k, n), float32 or float64

    Returns y: (m, n), a new tensor.  Raises TypeError for a wrong type, dtype or device, ValueError for a wrong shape.

    >>> matmul(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]))
    tensor([[11.]])
    """
    return _apply(_MatMul, w, x)  # type: ignore[no-any-return]


def softmax(x: Tensor) -> Tensor:
    """Softmax of each column: p[:, j] = exp(x[:, j]) / sum(exp(x[:, j])), with a gradient for x.

    - `x`: (m, n), float32 or float64

    Returns p: (m, n), a new tensor.  Raises TypeError for a wrong type, dtype or device, ValueError for a wrong shape.

    >>> softmax(torch.zeros(2, 1))
    tensor([[0.5000],
            [0.5000]])
    """
    return _apply(_Softmax, x)  # type: ignore[no-any-return]


def rmsnorm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Root mean square normalization of each column: y = x / sqrt(mean(x**2) + eps), with a gradient for x.

    - `x`: (m, n), float32 or float64
    - `eps`: a number from 0 to 3e38

    Returns y: (m, n), a new tensor.  Raises TypeError for a wrong type, dtype or device, ValueError for a wrong shape
    or eps.

    >>> rmsnorm(torch.tensor([[2.0], [2.0]]), eps=0.0)
    tensor([[1.],
            [1.]])
    """
    return _apply(_RMSNorm, x, eps)  # type: ignore[no-any-return]


def relu(x: Tensor) -> Tensor:
    """Rectified linear unit y = max(0, x), elementwise, with a gradient for x.

    - `x`: (m, n), float32 or float64

    Returns y: (m, n), a new tensor.  Raises TypeError for a wrong type, dtype or device, ValueError for a wrong shape.

    >>> relu(torch.tensor([[-1.0, 2.0]]))
    tensor([[0., 2.]])
    """
    return _apply(_ReLU, x)  # type: ignore[no-any-return]


def add(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise sum y = a + b of two matrices of one shape, with gradients for both.

    - `a`, `b`: (m, n), float32 or float64

    Returns y: (m, n), a new tensor.  Raises TypeError for a wrong type, dtype or device, ValueError for a wrong shape.

    >>> add(torch.tensor([[1.0]]), torch.tensor([[2.0]]))
    tensor([[3.]])
    """
    return _apply(_Add, a, b)  # type: ignore[no-any-return]


def embedding(wte: Tensor, wpe: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """Sum of token and position embeddings x = wte[:, tokens] + wpe[:, positions], with gradients for wte and wpe.

    - `wte`: (n_embd, vocab_size), and `wpe`: (n_embd, block_size), float32 or float64
    - `tokens`: (n_tokens,), integers in range(vocab_size), and `positions`: (n_tokens,), integers in range(block_size)

    Returns x: (n_embd, n_tokens), a new tensor.  Raises TypeError for a wrong type, dtype or device, ValueError for a
    wrong shape or an index out of range.

    >>> embedding(torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0]]), torch.tensor([1]), torch.tensor([0]))
    tensor([[12.]])
    """
    return _apply(_Embedding, wte, wpe, tokens, positions)  # type: ignore[no-any-return]


def attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, n_head: int) -> Tensor:
    """Causal multi-head attention within each document, with gradients for q, k and v.

    - `q`, `k`, `v`: (n_embd, n_tokens), float32 or float64; the columns of the documents side by side
    - `offsets`: (number of documents + 1,), integers.  Document i has the columns offsets[i] to offsets[i + 1] - 1; the
      first offset is 0 and the last is n_tokens.
    - `n_head`: the number of heads, a divisor of n_embd

    Returns out: (n_embd, n_tokens), a new tensor; `microgpt.kernels.attention_forward` has the formulas.  Raises
    TypeError for a wrong type, dtype or device, ValueError for a wrong shape, offset or n_head.

    >>> x = torch.tensor([[1.0, 2.0]])
    >>> attention(0 * x, x, x, offsets=torch.tensor([0, 2]), n_head=1)
    tensor([[1.0000, 1.5000]])
    """
    return _apply(_Attention, q, k, v, offsets, n_head)  # type: ignore[no-any-return]


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy loss in nats: the mean over columns of -log softmax(logits)[target].

    It has gradients for logits and weights.

    - `logits`: (m, n), float32 or float64
    - `targets`: (n,), integers in range(m)
    - `weights`: (n,), of the dtype of logits, to get the weighted sum over columns instead of the mean

    Returns the loss, a 0-D tensor of the dtype of logits.  Raises TypeError for a wrong type, dtype or device,
    ValueError for a wrong shape or a target out of range.

    >>> cross_entropy(torch.zeros(2, 1), torch.tensor([0]))
    tensor(0.6931)
    """
    return _apply(_CrossEntropy, logits, targets, weights)  # type: ignore[no-any-return]
