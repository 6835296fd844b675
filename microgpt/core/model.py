"""The model: a GPT as a list of kernel calls, forward and then backward.

Every activation is features x tokens, one column per token, for all documents of a batch.  `ops` records the calls (see
program.py): outputs first, then inputs.  `p` maps names to the parameters' Arrays, `g` to those of their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..base.config import Config
from ..kernels import RMSNORM_EPS
from .program import Array, Program

# the inputs of a batch: one number for each column
TOKENS, POSITIONS, TARGETS, WEIGHTS = Array("tokens"), Array("positions"), Array("targets"), Array("weights")


def forward(ops: Program, p: Mapping[str, Array], config: Config, attention: Callable[..., Array]) -> Array:
    """The logits: vocab_size x tokens.  `attention` is ops.attention_forward, or ops.attention_cached to sample."""
    sizes = {"n_head": config.n_head, "block_size": config.block_size}
    x = ops.embedding_forward("embedding", p["wte"], p["wpe"], TOKENS, POSITIONS)  # n_embd x tokens, like most
    x = ops.rmsnorm_forward("x", x, eps=RMSNORM_EPS)
    for layer in range(config.n_layer):
        l = f"layer{layer}."
        # x = x + wo attention(rmsnorm(x))
        h = ops.rmsnorm_forward(l + "attn_norm", x, eps=RMSNORM_EPS)
        q = ops.matmul_forward(l + "q", p[l + "attn_wq"], h)
        k = ops.matmul_forward(l + "k", p[l + "attn_wk"], h)
        v = ops.matmul_forward(l + "v", p[l + "attn_wv"], h)
        h = attention(l + "attn", q, k, v, POSITIONS, **sizes)
        h = ops.matmul_forward(l + "attn_out", p[l + "attn_wo"], h)
        x = ops.add_forward(l + "x_attn", x, h)
        # x = x + fc2 relu(fc1 rmsnorm(x))
        h = ops.rmsnorm_forward(l + "mlp_norm", x, eps=RMSNORM_EPS)
        h = ops.matmul_forward(l + "mlp_hidden", p[l + "mlp_fc1"], h)  # 4 n_embd x tokens
        h = ops.relu_forward(l + "mlp_relu", h)
        h = ops.matmul_forward(l + "mlp_out", p[l + "mlp_fc2"], h)
        x = ops.add_forward(l + "x_mlp", x, h)
    logits: Array = ops.matmul_forward("logits", p["lm_head"], x)
    return logits  # vocab_size x tokens


def loss(ops: Program, logits: Array) -> None:
    """The weighted sum over columns of -log softmax(logits)[target]."""
    losses, _ = ops.cross_entropy_forward(("losses", "probs"), logits, TARGETS)
    ops.cross_entropy_sum("loss", losses, WEIGHTS)


def backward(ops: Program, p: Mapping[str, Array], g: Mapping[str, Array], config: Config, keep: bool = False) -> None:
    """The gradients of the loss in g: the forward pass line by line, from its end.

    The gradient of a value has the value's name with a d.  Within a layer, all layers share its array unless `keep` is
    True.  At x = x + branch, the gradient of the residual stream goes to both terms: it is the branch's dy, and the
    branch's own dx is added to a copy of it.
    """
    a = ops.arrays
    sizes = {"n_head": config.n_head, "block_size": config.block_size}
    last = f"layer{config.n_layer - 1}."
    dlogits = ops.cross_entropy_backward("dlogits", a["probs"], TARGETS, WEIGHTS)
    _, dx = ops.matmul_backward((g["lm_head"], last + "dx_mlp"), dlogits, p["lm_head"], a[last + "x_mlp"])
    for layer in reversed(range(config.n_layer)):
        l = f"layer{layer}."
        d = l + "d" if keep else "d"
        # x = x + fc2 relu(fc1 rmsnorm(x))
        relu, norm, rstd = a[l + "mlp_relu"], a[l + "mlp_norm"], a[l + "mlp_norm.rstd"]
        _, drelu = ops.matmul_backward((g[l + "mlp_fc2"], d + "mlp_relu"), dx, p[l + "mlp_fc2"], relu)
        dhidden = ops.relu_backward(d + "mlp_hidden", drelu, relu)
        _, dnorm = ops.matmul_backward((g[l + "mlp_fc1"], d + "mlp_norm"), dhidden, p[l + "mlp_fc1"], norm)
        dx, _ = ops.add_backward((l + "dx_attn", None), dx)
        ops.rmsnorm_backward(dx, dnorm, norm, rstd, accumulate=True)
        # x = x + wo attention(rmsnorm(x))
        attn, norm, rstd = a[l + "attn"], a[l + "attn_norm"], a[l + "attn_norm.rstd"]
        probs, q, k, v = a[l + "attn.probs"], a[l + "q"], a[l + "k"], a[l + "v"]
        _, dattn = ops.matmul_backward((g[l + "attn_wo"], d + "attn"), dx, p[l + "attn_wo"], attn)
        dq, dk, dv = ops.attention_backward((d + "q", d + "k", d + "v"), dattn, probs, q, k, v, POSITIONS, **sizes)
        _, dnorm = ops.matmul_backward((g[l + "attn_wv"], d + "attn_norm"), dv, p[l + "attn_wv"], norm)
        ops.matmul_backward((g[l + "attn_wk"], dnorm), dk, p[l + "attn_wk"], norm, accumulate=(False, True))
        ops.matmul_backward((g[l + "attn_wq"], dnorm), dq, p[l + "attn_wq"], norm, accumulate=(False, True))
        dx, _ = ops.add_backward((f"layer{layer - 1}.dx_mlp" if layer else "dx", None), dx)
        ops.rmsnorm_backward(dx, dnorm, norm, rstd, accumulate=True)
    dembedding = ops.rmsnorm_backward("dembedding", dx, a["x"], a["x.rstd"])
    ops.embedding_backward((g["wte"], g["wpe"]), dembedding, TOKENS, POSITIONS)
