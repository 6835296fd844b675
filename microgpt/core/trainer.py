"""The trainer: turns documents into batches, batches into losses and gradients, and updates the parameters."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence, Sized
from dataclasses import replace
from typing import Any

import numpy as np

from .. import kernels
from ..base import memory
from ..base.config import Config
from ..base.errors import ConfigError, NotFiniteError, SamplingError, named
from ..base.files import path_or_texts
from ..base.settings import suggestion
from ..base.threads import number
from . import evaluate, model
from .data import MAX_COUNT, Dataset
from .documents import Documents
from .evaluate import Measure
from .optimizer import Adam, Optimizer, clip
from .params import Parameters, arrays, count
from .program import Program, Replay
from .schedule import schedule
from .shards import Ranks, Tree, cut
from .state import Checkpoint
from .tokens import Tokens

SIZES = "n_embd", "n_layer", "block_size", "batch_size"  # the settings that determine a model's memory


class Trainer:
    """A training run in memory, for your own training loop: data, parameters, gradients and optimizer.

    - `config`: the settings, a Config; `config.input` names the text file
    - `checkpoint`: a Checkpoint from which to resume; its documents must be the same.  None starts a new run.
    - `optimizer`: called with (params, grads, config), two 1-D arrays and the settings; returns an Optimizer.  The
      default is Adam.
    - `saves`: True counts the memory for writing checkpoints when it checks the available memory
    - `input`: the path of the text file, if it is no longer `config.input`; or a list of texts, as for train()
    - `threads`: how many threads to use, from 1 to 256; None uses one per core as far as they speed up a step
    - `ranks`: the MPI processes that divide the shards of each step; for `microgpt train`

    Attributes for users:

    - `params`, `grads`: mappings from names such as "layer0.attn_wq" to matrices, in the dtype of `config`.  `grads`
      holds the gradient of the last call of gradients() or step().
    - `optimizer`, `config`, `documents`, `vocab` (a list of characters), `rng` (a random.Random)
    - `step_count`: the number of completed steps
    - `learning_rate(n)`: the learning rate of the step after n steps

    All random numbers come from `rng`, in the reference's order: the shuffle, then the initial weights.

    Raises TypeError if `config` is not a Config, DataError for a file that cannot be trained on, ConfigError for a
    model that does not fit into memory or differs from the checkpoint's, CheckpointError for a checkpoint of another
    optimizer.

    For example:

        trainer = Trainer(Config(input="input.txt", num_steps=500, val_fraction=0.1))
        while not trainer.done:
            loss = trainer.step()
        print(trainer.evaluate())
    """

    def __init__(
        self,
        config: Config,
        checkpoint: Checkpoint | None = None,
        *,
        optimizer: Callable[[Any, Any, Config], Optimizer] = Adam,
        saves: bool = False,
        input: str | Sequence[str] | None = None,
        threads: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if not isinstance(config, Config):
            raise TypeError(f"config: expected a Config, found {type(config).__name__}")
        self.config, self.threads, self._ranks = config, threads, ranks
        self.rng = random.Random(config.seed)
        self._read(config.input if input is None else path_or_texts(input), checkpoint)
        self._divide_work()
        self._check_memory(saves)
        self.params, self.grads = Parameters(config, self.vocab), Parameters(config, self.vocab)
        self.optimizer = optimizer(self.params.flat, self.grads.flat, config)
        self.optimizer.n_threads = self.n_threads
        self.learning_rate = schedule(config)  # of the step after n steps
        self.step_count = 0  # completed steps
        self._ready = False  # whether gradients() has filled `grads` since the last update
        self.best_val_loss: float | None = None
        self.n_worse = 0
        if checkpoint is None:
            self.params.draw(self.rng, config.init_std)
        else:
            self._restore(checkpoint)
        self._prepare()
        self._start = self.n_columns = 0  # the columns of the last step, or of its last shard
        self._evaluator: evaluate.Evaluator | None = None
        self.documents.notice_unusual(config.block_size)

    def _read(self, input: str | Sequence[str], checkpoint: Checkpoint | None) -> None:
        """Read the documents, and set what depends on them alone."""
        self.documents = Documents(self.config, input, self.rng)
        self.input = self.documents.path
        if not isinstance(input, str):
            self.config = replace(self.config, input=self.input)
        config = self.config
        if checkpoint is not None:
            self.documents.must_be(checkpoint.data_sha256)
        if self._ranks is not None:
            self.documents.must_be(self._ranks.share(self.documents.sha256))
        self.vocab = self.documents.vocab
        self.tokens = Tokens(self.vocab, config.split)
        self.program = record(config, self.tokens.size)
        batches = config.batch_size, config.num_steps, self.documents.key
        self.dataset = Dataset(self.documents.training, self.tokens, config, *batches)

    def _divide_work(self) -> None:
        """Set the shards of each batch that this process computes, the largest number of columns, and the threads."""
        config, offsets = self.config, self.dataset.offsets
        shards = cut(config.batch_size, config.shards)
        self.shards = shards if self._ranks is None else self._ranks.part(shards)
        self.max_columns = self.dataset.widest(max(n for _, n in self.shards))
        mean_length = offsets[-1] / (len(offsets) - 1)
        n_multiplies = count(config, self.tokens.size) * mean_length * config.batch_size / config.shards
        self.n_threads = number(self.threads, n_multiplies)

    def _prepare(self) -> None:
        """Allocate the program's memory, and create the functions that run it."""
        config, optimizer = self.config, self.optimizer
        gradients = {gradient_of(name): name for name in self.params}
        views = {gradient_of(name): view for name, view in self.grads.views.items()}
        given = {**self.params.views, **views, **self.dataset.arrays}
        self.replay = Replay(self.program, config.dtype, self.max_columns, given, self.n_threads, gradients=gradients)
        self._tree = Tree(len(self.shards), self.grads.flat) if config.shards > 1 else None
        self._adam: Adam | None = None  # if C does the update in the same call as the gradients
        if self._tree is None and isinstance(optimizer, Adam) and type(optimizer).step is Adam.step:
            losses, weights = self.replay.values["losses"], self.dataset.arrays["weights"]
            self._adam, self._fused = optimizer, optimizer.fused(self.replay.over, losses, weights)

    def __repr__(self) -> str:
        steps = f"step {self.step_count} of {self.config.num_steps}"
        return f"<Trainer at {steps}: {self.params.flat.size:,} parameters>"

    def step(self) -> float:
        """Do one training step, gradients() and update(), and return the loss of its batch before the update, a float.

        Raises NotFiniteError, without updating anything, if the loss or the gradient's norm is not finite; ValueError
        if all steps are done.
        """
        adam, done = self._adam, self.step_count
        if adam is None:
            loss = self.gradients()
            self.update()
            return loss
        if done >= self.config.num_steps:
            raise self._all_done()
        self._ready = False
        self._start, self.n_columns = self.dataset.batch(done)
        loss = self._fused(self._start, self.n_columns, *adam.numbers(self.learning_rate(done)))
        if not math.isfinite(loss):
            raise NotFiniteError(done + 1, loss)
        try:
            adam.advance()
        except FloatingPointError:
            raise self._not_finite() from None
        self.step_count = done + 1
        return loss

    def gradients(self) -> float:
        """Fill `grads` with the gradient of the next batch's loss, and return the loss, a float.

        Call update() next.  Raises NotFiniteError if the loss is not finite, ValueError if all steps are done.
        """
        if self.step_count >= self.config.num_steps:
            raise self._all_done()
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
        """Update the parameters from `grads`: gradient clipping, weight decay and the optimizer's step.  This completes
        a step.

        Raises ValueError if gradients() was not called since the last update.  Raises NotFiniteError, without updating
        anything, if the gradient is to be clipped and its norm is not finite.
        """
        if not self._ready:
            raise ValueError("update: expected gradients() since the last update, found none: call gradients() first")
        config, rate = self.config, self.learning_rate(self.step_count)
        self._ready = False
        try:
            if not isinstance(self.optimizer, Adam):  # Adam does both itself
                if config.grad_clip:
                    clip(self.grads.flat, config.grad_clip)
                if config.weight_decay:
                    self.params.flat[:] *= 1 - rate * config.weight_decay
            self.optimizer.step(rate)
        except FloatingPointError:
            raise self._not_finite() from None
        self.step_count += 1

    def _all_done(self) -> ValueError:
        return ValueError(f"num_steps: all {self.config.num_steps} steps are done: set a larger number to train longer")

    def _not_finite(self) -> NotFiniteError:
        return NotFiniteError(self.step_count + 1, "infinity or NaN", "a finite gradient norm")

    def _sum_of_shards(self, tree: Tree) -> float:
        """The loss of the batch; its gradient is then in `grads`."""
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
        """The mean loss over all tokens of the held-out documents, a float in nats.  Changes nothing.

        Raises ConfigError if no documents are held out (val_fraction 0), NotFiniteError if the loss is not finite.
        """
        return self.measure().loss

    def measure(self) -> Measure:
        """evaluate(), and the mean over documents of their mean losses.  Raises what evaluate() does."""
        if not self.documents.held_out:
            raise ConfigError(f"{named('val_fraction')}: expected a value above 0 to evaluate with, found 0")
        if self._evaluator is None:
            self._evaluator = evaluate.Evaluator(self.params, self.documents.held_out, self.threads)
        try:
            return self._evaluator.measure()
        except SamplingError:
            raise NotFiniteError(self.step_count, "infinity or NaN on the held-out documents") from None

    def record(self, val_loss: float) -> bool:
        """Count an evaluation of the held-out loss for early stopping; returns True if it is the lowest so far."""
        best = self.best_val_loss is None or val_loss < self.best_val_loss
        self.best_val_loss, self.n_worse = (val_loss, 0) if best else (self.best_val_loss, self.n_worse + 1)
        return best

    @property
    def done(self) -> bool:
        """True after the last step, or when early stopping has run out of patience."""
        c = self.config
        return self.step_count >= c.num_steps or (c.patience > 0 and self.n_worse >= c.patience)

    def checkpoint(self) -> Checkpoint:
        """The current state of the run as a Checkpoint, for microgpt.Model(checkpoint).

        Its arrays are not copies: the next step changes them.  Raises NotFiniteError if a number in them is not finite.
        """
        optimizer = self.optimizer
        for name, array in {"weights": self.params.flat, **optimizer.arrays}.items():
            if not math.isfinite(array.min()) or not math.isfinite(array.max()):
                raise NotFiniteError(self.step_count, "infinity or NaN", f"finite numbers in {name}")
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
        for name in "n_embd", "n_layer", "n_head", "block_size":
            if (found := getattr(self.config, name)) != (saved := getattr(checkpoint.config, name)):
                raise ConfigError(f"expected {saved}, as in the checkpoint, found {found}", argument=name)
        self.params.copy_from(checkpoint.params)
        self.rng.setstate(checkpoint.rng_state)
        self.step_count = checkpoint.step
        self.best_val_loss, self.n_worse = checkpoint.best_val_loss, checkpoint.n_worse
        if checkpoint.step or checkpoint.arrays or checkpoint.scalars:  # else it has only weights
            self.optimizer.restore(checkpoint.arrays, checkpoint.scalars)

    def value(self, name: str) -> Any:
        """An intermediate of the last step, by its name in model.py: a view, rows x columns, with one column per token.

        - `name`: such as "logits", "losses" or "layer0.q"

        The next step overwrites it.  Raises ValueError for an unknown name, or before the first step.
        """
        if self.n_columns == 0:
            raise ValueError("no step has been made yet: call step() first")
        names = [name for name in self.replay.values if name not in self.program.own_layout]
        if name not in names:
            raise ValueError(f"name: expected one of {', '.join(names)}, found {name!r}{suggestion(str(name), names)}")
        value, columns = self.replay.values[name], self.program.arrays[name].columns
        return value[:, : self.n_columns] if columns is None else value

    def attention(self, layer: int) -> list[Any]:
        """The attention weights of the last step in a layer: for each document, an array n_head x tokens x tokens.

        - `layer`: the layer's index, from 0

        Raises ValueError for a layer that does not exist, or before the first step.
        """
        if self.n_columns == 0:
            raise ValueError("no step has been made yet: call step() first")
        if layer not in range(self.config.n_layer):
            raise ValueError(f"layer: expected an integer in range({self.config.n_layer}), found {layer!r}")
        positions = self.dataset.arrays["positions"][self._start : self._start + self.n_columns]
        offsets = np.append(np.flatnonzero(positions == 0), self.n_columns)
        q, k, v = (self.value(f"layer{layer}.{name}") for name in "qkv")
        _, cache = kernels.attention_forward(q, k, v, offsets, self.config.n_head)
        return [kernels.attention_weights(cache, i) for i in range(len(offsets) - 1)]

    def _check_memory(self, saves: bool) -> None:
        """Raise ConfigError unless parameters, gradients, Adam, checkpoint, activations and data fit into memory."""
        c, d = self.config, self.dataset
        n_params = count(c, self.tokens.size)
        n_levels = len(self.shards).bit_length() - 1  # of the tree that sums gradients
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
            raise ConfigError(f"{shape}: {n_params} parameters and {self.max_columns} tokens at once: expected {found}")


def record(config: Config, vocab_size: int, keep: bool = False) -> Program:
    """The program of a step; with `keep`, each layer's gradients of activations keep arrays of their own."""
    parameters = arrays(config, vocab_size)
    gradients = {name: array._replace(name=gradient_of(name)) for name, array in parameters.items()}
    ops = Program()
    model.loss(ops, model.forward(ops, parameters, config, ops.attention_forward))
    model.backward(ops, parameters, gradients, config, keep)
    return ops


def gradient_of(name: str) -> str:
    """The name of a parameter's gradient in a program."""
    return "grad." + name
