"""The kernels as PyTorch functions on CPU tensors, each backward pass being the one in C.

    >>> import torch
    >>> from microgpt.torch import matmul, softmax
    >>> w = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    >>> p = softmax(matmul(w, torch.tensor([[1.0], [2.0]], dtype=torch.float64)))
    >>> p[0].sum().backward()
    >>> w.grad
    tensor([[ 0.2500,  0.5000],
            [-0.2500, -0.5000]], dtype=torch.float64)

Shapes, formulas and errors are those of microgpt.kernels: a matrix is features x tokens.  Results are column-major, as
is x.t() of a contiguous x, and column-major tensors are read in place; others are copied.  Each function can be
differentiated once: create_graph=True is a RuntimeError.  Needs PyTorch, an optional extra ([torch]).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from . import kernels


def _array(x: Tensor) -> Any:
    """The tensor as an array; what cannot be one as it is, which kernels refuses, naming it."""
    try:
        return x.detach().numpy()
    except (AttributeError, TypeError, RuntimeError):  # no tensor; bfloat16; not on the CPU
        return x


def _tensors(*arrays: Any) -> Any:
    return tuple(None if a is None else torch.from_numpy(a) for a in arrays)


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that cannot be differentiated itself, and says so instead of giving gradients without it.

    PyTorch's own once_differentiable lets some graphs through.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # within a backward pass: only for create_graph=True
            raise RuntimeError(
                "microgpt.torch: each function can be differentiated once; create_graph=True asks for more"
            )
        return backward(ctx, *gradients)

    return checked


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
        q, k, v = map(_array, ctx.saved_tensors)  # the cache has them too, but here a change since is an error
        cache = ctx.cache._replace(q=q, k=k, v=v)
        return *_tensors(*kernels.attention_backward(_array(dout), cache)), None, None


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Any, weights: Any) -> Tensor:
        weights = None if weights is None else np.array(_array(weights))
        ctx.targets, ctx.weights = np.array(_array(targets)), weights
        loss, _, probs = kernels.cross_entropy_forward(_array(logits), ctx.targets, weights)
        ctx.save_for_backward(torch.from_numpy(probs))
        return torch.tensor(loss, dtype=logits.dtype)

    @staticmethod
    @_once
    def backward(ctx: Any, dloss: Tensor) -> Any:
        (probs,) = ctx.saved_tensors
        dlogits = kernels.cross_entropy_backward(_array(probs), ctx.targets, ctx.weights)
        return torch.from_numpy(dlogits) * dloss, None, None


def matmul(w: Tensor, x: Tensor) -> Tensor:
    """w x."""
    return _MatMul.apply(w, x)  # type: ignore[no-any-return, no-untyped-call]


def softmax(x: Tensor) -> Tensor:
    """Softmax down each column."""
    return _Softmax.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def rmsnorm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x**2) + eps) down each column."""
    return _RMSNorm.apply(x, eps)  # type: ignore[no-any-return, no-untyped-call]


def relu(x: Tensor) -> Tensor:
    """max(0, x)."""
    return _ReLU.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b, of one shape."""
    return _Add.apply(a, b)  # type: ignore[no-any-return, no-untyped-call]


def embedding(wte: Tensor, wpe: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """wte[:, tokens] + wpe[:, positions]."""
    return _Embedding.apply(wte, wpe, tokens, positions)  # type: ignore[no-any-return, no-untyped-call]


def attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, n_head: int) -> Tensor:
    """Causal multi-head attention within each document, offsets saying where one begins and the last ends."""
    return _Attention.apply(q, k, v, offsets, n_head)  # type: ignore[no-any-return, no-untyped-call]


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean over columns of -log softmax(logits)[target], or their sum with these weights (not differentiated)."""
    return _CrossEntropy.apply(logits, targets, weights)  # type: ignore[no-any-return, no-untyped-call]
