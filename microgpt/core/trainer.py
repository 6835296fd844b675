"""The trainer: documents to batches, batches to losses and gradients, gradients to better parameters."""

from __future__ import annotations

import math
import random
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from ..base import memory
from ..base.config import Config
from ..base.errors import ConfigError, NotFiniteError, SamplingError, named
from ..base.settings import suggestion
from ..base.threads import number
from ..kernels import compiled
from . import model
from .data import MAX_COUNT, Dataset
from .documents import Documents
from .optimizer import Adam
from .params import Parameters, arrays, count
from .program import Program, Replay
from .shards import Tree, cut
from .tokens import Tokens

if TYPE_CHECKING:
    from ..runs.checkpoint import Checkpoint
    from ..runs.ranks import Ranks
    from .evaluate import Evaluator

SIZES = "n_embd", "n_layer", "block_size", "batch_size"  # the settings that make a model large


class Trainer:
    """Everything that a run holds: data, parameters, gradients, Adam and the program of one step.

    Drawn from one generator in the reference's order: the shuffle, then the weights; sampling may go on from `rng`.
    With a checkpoint it is where the run was then; the shuffle is done again, and the documents must be the same.
    `threads` is how many to use: unless given, as many as there are cores and the work can feed.
    `ranks` are the processes of an MPI job that share out the shards of each step.
    `saves` says that there will be checkpoints, for which memory is needed too; `input` where the settings' input is.
    Of use to others: `params` and `grads` (matrices by name), `adam`, `documents`, `vocab`, `config`, `rng`.
    A step trains and no more: what train() does every so many steps, such as to evaluate, is left to the caller.
    Raises DataError for a file that cannot be trained on, ConfigError for a model that does not fit into memory.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: Checkpoint | None = None,
        saves: bool = False,
        input: str | None = None,
        threads: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if not isinstance(config, Config):
            raise TypeError(f"config: expected a Config, found {type(config).__name__}")
        self.config, self._ranks = config, ranks
        self.rng = random.Random(config.seed)
        self.input = config.input if input is None else input
        self.documents = Documents(config, self.input, self.rng)
        if checkpoint is not None:
            self.documents.must_be(checkpoint.data_sha256)
        if ranks is not None:
            self.documents.must_be(ranks.share(self.documents.sha256))
        self.vocab = self.documents.vocab
        self.tokens = Tokens(self.vocab, config.split)
        self.program = record(config, self.tokens.size)
        batches = config.batch_size, config.num_steps, self.documents.key
        self.dataset = d = Dataset(self.documents.training, self.tokens, config, *batches)
        shards = cut(config.batch_size, config.shards)
        self.shards = shards if ranks is None else ranks.part(shards)
        self.max_columns = d.widest(max(n for _, n in self.shards))
        mean_length = d.offsets[-1] / (len(d.offsets) - 1)
        n_multiplies = count(config, self.tokens.size) * mean_length * config.batch_size / config.shards
        self.threads, self.n_threads = threads, number(threads, n_multiplies)
        self._check_memory(saves)
        self.params, self.grads = Parameters(config, self.vocab), Parameters(config, self.vocab)
        self.adam = Adam(self.params.flat, self.grads.flat, config)
        self.best_val_loss: float | None = None
        self.n_worse = 0
        if checkpoint is None:
            self.params.draw(self.rng, config.init_std)
        else:
            self._restore(checkpoint)

        gradients = {gradient_of(name): view for name, view in self.grads.views.items()}
        given = {**self.params.views, **gradients, **self.dataset.arrays}
        self.replay = Replay(self.program, config.dtype, self.max_columns, given, self.n_threads)
        losses, weights = self.replay.values["losses"], self.dataset.arrays["weights"]
        alone = config.shards == 1  # then the update goes hand in hand with the gradients; else it comes by itself
        over = self.replay.over if alone else compiled.recorded(config.dtype, [], n_threads=self.n_threads)
        self._advance = compiled.stepping(over, losses, weights, self.adam.arrays, self.adam.squares, self.adam.clip)
        self._tree = None if alone else Tree(len(self.shards), self.grads.flat)
        self._start = self.n_columns = 0  # of the last step, or of its last shard
        self._evaluator: Evaluator | None = None

    @property
    def step_count(self) -> int:
        return self.adam.step_count

    def step(self) -> float:
        """One training step: its batch's loss, before the update.  Raises NotFiniteError; ValueError past the end."""
        if self.adam.step_count >= self.config.num_steps:
            raise ValueError(f"expected no more than num_steps {self.config.num_steps}, which have been done")
        if self._tree is None:
            self._start, self.n_columns = self.dataset.batch(self.adam.step_count)
            loss = self._advance(self._start, self.n_columns, *self.adam.numbers())
        else:
            loss = self._sum_of_shards(self._tree)
            if math.isfinite(loss):
                self._advance(0, 0, *self.adam.numbers())
        if not math.isfinite(loss):
            raise NotFiniteError(self.adam.step_count + 1, loss)
        if self.adam.clip and not math.isfinite(self.adam.squares.sum()):
            raise NotFiniteError(self.adam.step_count + 1, "one that is not", "a gradient of finite length")
        self.adam.count()
        return loss

    def _sum_of_shards(self, tree: Tree) -> float:
        """The loss of the batch, whose gradient is in grads then."""
        losses, weights = self.replay.values["losses"], self.dataset.arrays["weights"]
        loss = 0.0
        for i, shard in enumerate(self.shards):
            start, n = self._start, self.n_columns = self.dataset.part(self.adam.step_count, *shard)
            self.replay.over(start, n)
            products = losses[0, :n].astype(np.float64) * weights[start : start + n]
            loss = tree.add(i, float(np.add.accumulate(products)[-1]))
        return loss if self._ranks is None else self._ranks.total(self.grads.flat, loss)

    def steps(self, until: int, losses: list[float], stop: Sized) -> None:
        """Steps to step `until`, each loss appended to `losses`, or as far as `stop` stays empty."""
        step, append, adam = self.step, losses.append, self.adam
        while adam.step_count < until and not stop:
            append(step())

    def evaluate(self) -> float:
        """The loss of the held-out documents, which early stopping counts.  ConfigError when there are none."""
        if not self.documents.held_out:
            raise ConfigError(f"{named('val_fraction')}: expected a part to be held out, found none")
        if self._evaluator is None:
            from .evaluate import Evaluator

            self._evaluator = Evaluator(self.params, self.documents.held_out, self.threads)
        try:
            loss = self._evaluator.loss()
        except SamplingError:
            raise NotFiniteError(self.step_count, "another in the held-out part") from None
        better = self.best_val_loss is None or loss < self.best_val_loss
        self.best_val_loss, self.n_worse = (loss, 0) if better else (self.best_val_loss, self.n_worse + 1)
        return loss

    @property
    def done(self) -> bool:
        """True after the last step, or when early stopping has lost patience."""
        c = self.config
        return self.step_count >= c.num_steps or (c.patience > 0 and self.n_worse >= c.patience)

    def checkpoint(self) -> Checkpoint:
        """The run as it is now, in arrays that the next step will change."""
        from ..runs.checkpoint import Checkpoint

        adam = self.adam
        for name, array in (("weights", self.params.flat), ("m", adam.m), ("v", adam.v)):
            if not np.isfinite(array).all():
                raise NotFiniteError(self.step_count, f"others in {name}", "finite numbers")
        return Checkpoint(
            config=self.config,
            vocab=self.vocab,
            data_sha256=self.documents.sha256,
            step=adam.step_count,
            beta1_t=adam.beta1_t,
            beta2_t=adam.beta2_t,
            best_val_loss=self.best_val_loss,
            n_worse=self.n_worse,
            rng_state=self.rng.getstate(),
            params=self.params.views,
            m=adam.m,
            v=adam.v,
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.params.copy_from(checkpoint.params)
        self.rng.setstate(checkpoint.rng_state)
        self.best_val_loss, self.n_worse = checkpoint.best_val_loss, checkpoint.n_worse
        adam = self.adam
        adam.m[:], adam.v[:] = checkpoint.m, checkpoint.v
        adam.step_count, adam.beta1_t, adam.beta2_t = checkpoint.step, checkpoint.beta1_t, checkpoint.beta2_t

    def value(self, name: str) -> Any:
        """An intermediate of the last step as a view: rows x columns, one column per token (see model.py for names)."""
        if self.n_columns == 0:
            raise ValueError("expected a step before, found none")
        names = [name for name in self.replay.values if not name.endswith(".attn.probs") and name != "work"]
        if name not in names:
            raise ValueError(f"name: expected one of {', '.join(names)}, found {name!r}{suggestion(str(name), names)}")
        return self.replay.values[name][:, : self.n_columns]

    def attention(self, layer: int) -> list[Any]:
        """The last step's attention weights of a layer: for each document an array n_head x tokens x tokens."""
        if self.n_columns == 0:
            raise ValueError("expected a step before, found none")
        if layer not in range(self.config.n_layer):
            raise ValueError(f"layer: expected one in range({self.config.n_layer}), found {layer!r}")
        positions = self.dataset.arrays["positions"][self._start : self._start + self.n_columns]
        offsets = np.append(np.flatnonzero(positions == 0), self.n_columns)
        q, k, v = (self.value(f"layer{layer}.{name}") for name in "qkv")
        _, cache = kernels.attention_forward(q, k, v, offsets, self.config.n_head)
        return [kernels.attention_weights(cache, i) for i in range(len(offsets) - 1)]

    def _check_memory(self, saves: bool) -> None:
        """ConfigError unless model, gradients, Adam, checkpoint, activations and data fit into what there is."""
        c, d = self.config, self.dataset
        n_params = count(c, self.tokens.size)
        n_levels = len(self.shards).bit_length() - 1  # of sums of gradients
        numbers = (7 if saves else 4) * n_params + n_levels * n_params
        numbers += self.program.count(self.max_columns, self.n_threads)
        needed = d.n_bytes
        if self.documents.held_out:
            from . import evaluate

            needed += Dataset(self.documents.held_out, self.tokens, c).n_bytes
            columns = max(c.block_size, evaluate.COLUMNS * number(self.threads))
            numbers += evaluate.record(c, self.tokens.size).count(columns)
        needed += numbers * np.dtype(c.dtype).itemsize
        shape = ", ".join(f"{named(name)} {getattr(c, name)}" for name in SIZES)
        if n_params > MAX_COUNT:
            raise ConfigError(f"{shape}: expected at most {MAX_COUNT} parameters, found {n_params}")
        if found := memory.shortage(needed):
            raise ConfigError(
                f"{shape}: {n_params} parameters and {self.max_columns} tokens at once: expected memory of {found}"
            )


def record(config: Config, vocab_size: int, keep: bool = False) -> Program:
    """The program of a step; `keep` says that nothing it makes is to be overwritten."""
    parameters = arrays(config, vocab_size)
    gradients = {name: array._replace(name=gradient_of(name)) for name, array in parameters.items()}
    ops = Program()
    model.loss(ops, model.forward(ops, parameters, config, ops.attention_forward))
    model.backward(ops, parameters, gradients, config, keep)
    return ops


def gradient_of(name: str) -> str:
    """What a program calls the gradient of the parameter of this name."""
    return "grad." + name
