"""The trainer: documents to batches, batches to losses and gradients, gradients to better parameters."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sized
from typing import Any

import numpy as np

from .. import kernels
from ..base import memory
from ..base.config import Config
from ..base.errors import ConfigError, NotFiniteError, SamplingError, named
from ..base.settings import suggestion
from ..base.threads import number
from . import evaluate, model
from .checkpoint import Checkpoint
from .data import MAX_COUNT, Dataset
from .documents import Documents
from .evaluate import Measure
from .optimizer import Adam, Optimizer, clip
from .params import Parameters, arrays, count
from .program import Program, Replay
from .schedule import schedule
from .shards import Ranks, Tree, cut
from .tokens import Tokens

SIZES = "n_embd", "n_layer", "block_size", "batch_size"  # the settings that make a model large


class Trainer:
    """A training run in memory: its data, parameters, gradients and optimizer, and the program of one step.

    Everything random comes from one generator, `rng`, in the reference's order: the shuffle, then the weights.
    With a `checkpoint` the run continues where that was; the documents must be the same.
    `optimizer` is called with (params, grads, config), two flat arrays and the settings, and returns an Optimizer.
    `threads` is how many to use: by default as many as there are cores and the work can feed.
    `ranks` are the processes of an MPI job that share out the shards of each step.
    `saves` reserves memory for writing checkpoints.  `input` is the path of the text, if the settings' path is not.
    For users: `params` and `grads` (matrices by name), `optimizer`, `step_count`, `learning_rate(step)`, `documents`,
    `vocab`, `config`, `rng`.
    Raises DataError for a file that cannot be trained on, ConfigError for a model that does not fit into memory,
    CheckpointError for a checkpoint of another optimizer.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: Checkpoint | None = None,
        *,
        optimizer: Callable[[Any, Any, Config], Optimizer] = Adam,
        saves: bool = False,
        input: str | None = None,
        threads: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if not isinstance(config, Config):
            raise TypeError(f"config: expected a Config, found {type(config).__name__}")
        self.config, self.threads, self._ranks = config, threads, ranks
        self.rng = random.Random(config.seed)
        self._read(config.input if input is None else input, checkpoint)
        self._share_out()
        self._check_memory(saves)
        self.params, self.grads = Parameters(config, self.vocab), Parameters(config, self.vocab)
        self.optimizer = optimizer(self.params.flat, self.grads.flat, config)
        self.optimizer.n_threads = self.n_threads
        self.learning_rate = schedule(config)  # of the step after so many
        self.step_count = 0  # the steps that are done
        self._ready = False  # whether `grads` waits for update()
        self.best_val_loss: float | None = None
        self.n_worse = 0
        if checkpoint is None:
            self.params.draw(self.rng, config.init_std)
        else:
            self._restore(checkpoint)
        self._prepare()
        self._start = self.n_columns = 0  # of the last step, or of its last shard
        self._evaluator: evaluate.Evaluator | None = None

    def _read(self, input: str, checkpoint: Checkpoint | None) -> None:
        """The documents, and what follows from them alone."""
        config = self.config
        self.input, self.documents = input, Documents(config, input, self.rng)
        if checkpoint is not None:
            self.documents.must_be(checkpoint.data_sha256)
        if self._ranks is not None:
            self.documents.must_be(self._ranks.share(self.documents.sha256))
        self.vocab = self.documents.vocab
        self.tokens = Tokens(self.vocab, config.split)
        self.program = record(config, self.tokens.size)
        batches = config.batch_size, config.num_steps, self.documents.key
        self.dataset = Dataset(self.documents.training, self.tokens, config, *batches)

    def _share_out(self) -> None:
        """What of each batch this process computes, how many columns at once, and by how many threads."""
        config, offsets = self.config, self.dataset.offsets
        shards = cut(config.batch_size, config.shards)
        self.shards = shards if self._ranks is None else self._ranks.part(shards)
        self.max_columns = self.dataset.widest(max(n for _, n in self.shards))
        mean_length = offsets[-1] / (len(offsets) - 1)
        n_multiplies = count(config, self.tokens.size) * mean_length * config.batch_size / config.shards
        self.n_threads = number(self.threads, n_multiplies)

    def _prepare(self) -> None:
        """Memory for the program, and the functions that run it."""
        config, optimizer = self.config, self.optimizer
        gradients = {gradient_of(name): name for name in self.params}
        views = {gradient_of(name): view for name, view in self.grads.views.items()}
        given = {**self.params.views, **views, **self.dataset.arrays}
        self.replay = Replay(self.program, config.dtype, self.max_columns, given, self.n_threads, gradients=gradients)
        self._tree = Tree(len(self.shards), self.grads.flat) if config.shards > 1 else None
        self._adam: Adam | None = None  # whose update C does together with the gradients
        if self._tree is None and isinstance(optimizer, Adam) and type(optimizer).step is Adam.step:
            losses, weights = self.replay.values["losses"], self.dataset.arrays["weights"]
            self._adam, self._fused = optimizer, optimizer.fused(self.replay.over, losses, weights)

    def __repr__(self) -> str:
        steps = f"step {self.step_count} of {self.config.num_steps}"
        return f"<Trainer at {steps}: {self.params.flat.size:,} parameters>"

    def step(self) -> float:
        """One training step, gradients() and update(): the loss of its batch, before the update.

        Raises NotFiniteError, and then has updated nothing; ValueError after the last step.
        """
        adam, done = self._adam, self.step_count
        if adam is None:
            loss = self.gradients()
            self.update()
            return loss
        if done >= self.config.num_steps:
            raise self._past_the_end()
        self._ready = False
        self._start, self.n_columns = self.dataset.batch(done)
        loss = self._fused(self._start, self.n_columns, *adam.numbers(self.learning_rate(done)))
        if not math.isfinite(loss):
            raise NotFiniteError(done + 1, loss)
        try:
            adam.advance()
        except FloatingPointError:
            raise self._too_long() from None
        self.step_count = done + 1
        return loss

    def gradients(self) -> float:
        """Fill `grads` with the gradient of the next batch's loss; returns the loss.

        Raises NotFiniteError when the loss is not finite; ValueError after the last step.
        """
        if self.step_count >= self.config.num_steps:
            raise self._past_the_end()
        self._ready = False
        if self._tree is None:
            self._start, self.n_columns = self.dataset.batch(self.step_count)
            self.replay.over(self._start, self.n_columns)
            loss = float(self.replay.values["loss"][0, 0])
        else:
            loss = self._sum_of_shards(self._tree)
        if not math.isfinite(loss):
            raise NotFiniteError(self.step_count + 1, loss)
        self._ready = True
        return loss

    def update(self) -> None:
        """Change the parameters by `grads`: clipping, weight decay and the optimizer's step.  This counts as a step.

        Raises ValueError without gradients() before it; NotFiniteError, and then has updated nothing, when the norm of
        the gradient is to be clipped and not finite.
        """
        if not self._ready:
            raise ValueError("update: expected gradients() before it, found none since the last update")
        config, rate = self.config, self.learning_rate(self.step_count)
        self._ready = False
        try:
            if not isinstance(self.optimizer, Adam):  # which does both by itself
                if config.grad_clip:
                    clip(self.grads.flat, config.grad_clip)
                if config.weight_decay:
                    self.params.flat[:] *= 1 - rate * config.weight_decay
            self.optimizer.step(rate)
        except FloatingPointError:
            raise self._too_long() from None
        self.step_count += 1

    def _past_the_end(self) -> ValueError:
        return ValueError(f"expected no more than num_steps {self.config.num_steps}, which have been done")

    def _too_long(self) -> NotFiniteError:
        return NotFiniteError(self.step_count + 1, "one that is not", "a gradient of finite length")

    def _sum_of_shards(self, tree: Tree) -> float:
        """The loss of the batch, whose gradient is in grads then."""
        losses, weights = self.replay.values["losses"], self.dataset.arrays["weights"]
        loss = 0.0
        for i, shard in enumerate(self.shards):
            start, n = self._start, self.n_columns = self.dataset.part(self.step_count, *shard)
            self.replay.over(start, n)
            products = losses[0, :n].astype(np.float64) * weights[start : start + n]
            loss = tree.add(i, float(np.add.accumulate(products)[-1]))
        return loss if self._ranks is None else self._ranks.total(self.grads.flat, loss)

    def steps(self, until: int, losses: list[float], stop: Sized) -> None:
        """Train to step `until`, or until `stop` is no longer empty; append each loss to `losses`."""
        step, append = self.step, losses.append
        while self.step_count < until and not stop:
            append(step())

    def evaluate(self) -> float:
        """The mean loss over all tokens of the held-out documents, in nats; changes nothing.

        Raises ConfigError when no documents are held out, NotFiniteError when the loss is not finite.
        """
        return self.measure().loss

    def measure(self) -> Measure:
        """evaluate(), and the mean over documents of their mean losses."""
        if not self.documents.held_out:
            raise ConfigError(f"{named('val_fraction')}: expected a part to be held out, found none")
        if self._evaluator is None:
            self._evaluator = evaluate.Evaluator(self.params, self.documents.held_out, self.threads)
        try:
            return self._evaluator.measure()
        except SamplingError:
            raise NotFiniteError(self.step_count, "another in the held-out part") from None

    def record(self, val_loss: float) -> bool:
        """Count a held-out loss for early stopping; True when it is the lowest so far."""
        best = self.best_val_loss is None or val_loss < self.best_val_loss
        self.best_val_loss, self.n_worse = (val_loss, 0) if best else (self.best_val_loss, self.n_worse + 1)
        return best

    @property
    def done(self) -> bool:
        """True after the last step, or when early stopping has lost patience."""
        c = self.config
        return self.step_count >= c.num_steps or (c.patience > 0 and self.n_worse >= c.patience)

    def checkpoint(self) -> Checkpoint:
        """The run as it is now, in arrays that the next step will change.  Raises NotFiniteError."""
        optimizer = self.optimizer
        for name, array in {"weights": self.params.flat, **optimizer.arrays}.items():
            if not math.isfinite(array.min()) or not math.isfinite(array.max()):
                raise NotFiniteError(self.step_count, f"others in {name}", "finite numbers")
        return Checkpoint(
            config=self.config,
            vocab=self.vocab,
            data_sha256=self.documents.sha256,
            step=self.step_count,
            scalars={name: float(value) for name, value in optimizer.scalars.items()},
            best_val_loss=self.best_val_loss,
            n_worse=self.n_worse,
            rng_state=self.rng.getstate(),
            params=self.params.views,
            arrays=optimizer.arrays,
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.params.copy_from(checkpoint.params)
        self.rng.setstate(checkpoint.rng_state)
        self.step_count = checkpoint.step
        self.best_val_loss, self.n_worse = checkpoint.best_val_loss, checkpoint.n_worse
        if checkpoint.step or checkpoint.arrays or checkpoint.scalars:  # or it is weights alone
            self.optimizer.restore(checkpoint.arrays, checkpoint.scalars)

    def value(self, name: str) -> Any:
        """An intermediate of the last step as a view: rows x columns, one column per token (see model.py for names)."""
        if self.n_columns == 0:
            raise ValueError("expected a step before, found none")
        names = [name for name in self.replay.values if name not in self.program.own_layout]
        if name not in names:
            raise ValueError(f"name: expected one of {', '.join(names)}, found {name!r}{suggestion(str(name), names)}")
        value, columns = self.replay.values[name], self.program.arrays[name].columns
        return value[:, : self.n_columns] if columns is None else value

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
            needed += Dataset(self.documents.held_out, self.tokens, c, whole=True).n_bytes
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
