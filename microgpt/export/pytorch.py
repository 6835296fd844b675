"""The model as a PyTorch module, for further training or use in other programs.  Needs the optional extra [torch].

Its state_dict() has the names and shapes of the .safetensors file: outputs x inputs, with one row per token or
position for embeddings.  Model.from_torch converts a module back into a Model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name in PyTorch code

from ..base.errors import ConfigError
from ..core.params import by_rows, row_shapes
from ..core.state import Checkpoint
from ..core.tokens import Tokens
from ..kernels import RMSNORM_EPS

if TYPE_CHECKING:
    from ..runs.trained import Trained


class Layer(nn.Module):
    """A transformer layer: x = x + wo attention(rmsnorm(x)), then x = x + fc2 relu(fc1 rmsnorm(x))."""

    def __init__(self, n_head: int, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.n_head = n_head
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight))

    def forward(self, x: Tensor) -> Tensor:
        w = dict(self.named_parameters())
        h = rmsnorm(x)
        q, k, v = (self.heads(F.linear(h, w[name])) for name in ("attn_wq", "attn_wk", "attn_wv"))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(h.transpose(1, 2).flatten(2), w["attn_wo"])
        h = F.relu(F.linear(rmsnorm(x), w["mlp_fc1"]))
        return x + F.linear(h, w["mlp_fc2"])

    def heads(self, x: Tensor) -> Tensor:
        """Split batch x time x n_embd into heads: batch x head x time x head_dim."""
        return x.view(*x.shape[:2], self.n_head, -1).transpose(1, 2)


class GPT(nn.Module):
    """A microgpt model as a torch.nn.Module: `logits = gpt(tokens)`.

    `tokens` is an integer tensor [batch, time] of ids, with `time` at most block_size; `logits` is a tensor [batch,
    time, vocab_size] in the model's precision.  The id of a character is its index in `vocab`; the next id is BOS,
    except in a model of running text, which has none.  `config` holds the model's settings.

    >>> gpt = model.to_torch()                                    # doctest: +SKIP
    >>> logits = gpt(torch.tensor([[len(gpt.vocab)]]))            # doctest: +SKIP
    """

    def __init__(self, model: Trained) -> None:
        super().__init__()
        self.config, self.vocab, self.data_sha256 = model.config, list(model.vocab), model.data_sha256
        weights = {name: torch.from_numpy(rows.copy()) for name, rows in by_rows(model.params).items()}
        self.wte, self.wpe, self.lm_head = (nn.Parameter(weights[name]) for name in ("wte", "wpe", "lm_head"))
        for layer in range(self.config.n_layer):
            prefix = f"layer{layer}."
            own = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
            self.add_module(f"layer{layer}", Layer(self.config.n_head, own))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, time, vocab_size] for ids [batch, time].  Raises ValueError if time exceeds block_size."""
        if tokens.ndim != 2 or tokens.shape[1] > self.config.block_size:
            raise ValueError(
                f"tokens: expected shape [batch, time] with time at most {self.config.block_size}, "
                f"found {list(tokens.shape)}"
            )
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = rmsnorm(F.embedding(tokens, self.wte) + F.embedding(positions, self.wpe))
        for layer in self.children():
            x = layer(x)
        return F.linear(x, self.lm_head)

    def checkpoint(self) -> Checkpoint:
        """A checkpoint at step 0 with the present weights.  Raises ConfigError for a wrong dtype, shape or value."""
        weights, vocab, dtype = self.state_dict(), self.vocab, str(self.wte.dtype).removeprefix("torch.")
        if dtype not in ("float64", "float32"):
            raise ConfigError(f"module: expected float64 or float32, found {dtype}: call .float() or .double() first")
        config = replace(self.config, dtype=dtype)
        for name, shape in row_shapes(config, Tokens(vocab, config.split).size).items():
            found = weights[name]
            if found.shape != shape or found.dtype != self.wte.dtype or not found.isfinite().all():
                raise ConfigError(
                    f"module: expected {name} to be {shape} finite numbers in {config.dtype}, "
                    f"found {tuple(found.shape)} in {found.dtype}{', some not finite' * (not found.isfinite().all())}"
                )
        arrays = by_rows({name: weight.cpu().numpy() for name, weight in weights.items()})
        return Checkpoint.beginning(config, vocab, self.data_sha256, arrays)


def rmsnorm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + RMSNORM_EPS)
