"""The trainer: documents to batches, batches to losses and gradients, gradients to better parameters."""

import math
import os
import random
from functools import cached_property

import numpy as np

from . import data, kernels, model
from .adam import Adam
from .errors import ConfigError, DataError, NotFiniteError
from .kernels import ffi
from .params import Parameters, table
from .program import Program


class Trainer:
    """Everything that a run holds: data, parameters, gradients, Adam and the program of one step.

    Drawn from one generator in the reference's order: the shuffle, then the weights; sampling may go on from `rng`.
    With a checkpoint it is where the run was then; the shuffle is done again, and the documents must be the same.
    Raises DataError for a file that cannot be trained on, ConfigError for a model that does not fit into memory.
    """

    def __init__(self, config, checkpoint=None):
        self.config = config
        self.rng = random.Random(config.seed)
        self.documents, self.had_bom = data.read_documents(config.input)
        self.vocab = data.vocabulary(self.documents)
        self.rng.shuffle(self.documents)
        if checkpoint is not None and self.data_sha256 != checkpoint.data_sha256:
            raise DataError(
                f"{config.input}: expected the documents with which the run began (SHA-256 {checkpoint.data_sha256}), "
                f"found others ({self.data_sha256}); --input says where they are now"
            )
        self.n_held_out = n_held_out(len(self.documents), config.val_fraction)
        n_train = len(self.documents) - self.n_held_out
        self.dataset = data.Dataset(
            self.documents[:n_train], self.vocab, config.block_size, config.batch_size, config.dtype, self._check_memory
        )
        self.params, self.grads = Parameters(config, self.vocab), Parameters(config, self.vocab)
        self.adam = Adam(self.params.flat, self.grads.flat, config)
        self.best_val_loss, self.n_worse = None, 0
        if checkpoint is None:
            self.params.draw(self.rng, config.init_std)
        else:
            self._restore(checkpoint)

        self.program = k = Program(config.dtype, self.dataset.max_columns)
        model.loss(k, model.forward(k, self.params, config, k.attention_forward))
        model.backward(k, self.params, self.grads, config)
        d = self.dataset
        self._run = k.compile(d.token, d.position, d.target, d.weight)
        self._loss = ffi.cast("float *" if config.dtype == "float32" else "double *", k.values["loss"].ctypes.data)
        self._start = self.n_columns = 0  # of the last step
        self._evaluator = None

    @property
    def step_count(self):
        return self.adam.step_count

    def step(self):
        """One training step: the loss of its batch, before the update.  Raises NotFiniteError; ValueError past the end."""
        if self.adam.step_count >= self.config.num_steps:
            raise ValueError(f"expected no more than num_steps {self.config.num_steps}, which have been done")
        self._start, self.n_columns = self.dataset.batch(self.adam.step_count)
        self._run(self._start, self.n_columns)
        loss = self._loss[0]
        if not math.isfinite(loss):
            raise NotFiniteError(self.adam.step_count + 1, loss)
        self.adam.step()
        return loss

    def steps(self, until, losses, stop):
        """Steps to step `until`, each loss appended to `losses`, or as far as `stop` stays empty."""
        step, append, adam = self.step, losses.append, self.adam
        while adam.step_count < until and not stop:
            append(step())

    def evaluate(self):
        """The loss of the held-out documents, which early stopping counts."""
        if self._evaluator is None:
            from .evaluate import Evaluator

            held_out = self.documents[len(self.documents) - self.n_held_out :]
            self._evaluator = Evaluator(self.params, held_out)
        loss = self._evaluator.loss()
        if not math.isfinite(loss):
            raise NotFiniteError(self.step_count, loss)
        better = self.best_val_loss is None or loss < self.best_val_loss
        self.best_val_loss, self.n_worse = (loss, 0) if better else (self.best_val_loss, self.n_worse + 1)
        return loss

    @property
    def done(self):
        """True after the last step, or when early stopping has lost patience."""
        c = self.config
        return self.step_count >= c.num_steps or c.patience > 0 and self.n_worse >= c.patience

    @cached_property
    def data_sha256(self):
        """Of the shuffled documents, so that another shuffle would be noticed too."""
        from hashlib import sha256

        return sha256("\n".join(self.documents).encode()).hexdigest()

    def checkpoint(self):
        """The run as it is now, in arrays that the next step will change."""
        from .checkpoint import Checkpoint

        adam = self.adam
        for name, array in (("weights", self.params.flat), ("m", adam.m), ("v", adam.v)):
            if not np.isfinite(array).all():
                raise NotFiniteError(self.step_count, f"others in {name}", "finite numbers")
        return Checkpoint(
            config=self.config,
            vocab=self.vocab,
            data_sha256=self.data_sha256,
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

    def _restore(self, checkpoint):
        self.params.copy_from(checkpoint.params)
        self.rng.setstate(checkpoint.rng_state)
        self.best_val_loss, self.n_worse = checkpoint.best_val_loss, checkpoint.n_worse
        adam = self.adam
        adam.m[:], adam.v[:] = checkpoint.m, checkpoint.v
        adam.step_count, adam.beta1_t, adam.beta2_t = checkpoint.step, checkpoint.beta1_t, checkpoint.beta2_t

    def value(self, name):
        """An intermediate of the last step as a view: rows x columns, one column per token (see model.py for names)."""
        if self.n_columns == 0:
            raise ValueError("expected a step before, found none")
        if name.endswith(".probs") or name == "work":
            raise ValueError(f"{name}: expected an array of one column per token; see Trainer.attention")
        return self.program.values[name][:, : self.n_columns]

    def attention(self, layer):
        """The last step's attention weights of a layer: for each document an array n_head x tokens x tokens."""
        if self.n_columns == 0:
            raise ValueError("expected a step before, found none")
        positions = self.dataset.position[self._start : self._start + self.n_columns]
        offsets = np.append(np.flatnonzero(positions == 0), self.n_columns)
        q, k, v = (self.value(f"layer{layer}.{name}") for name in "qkv")
        _, cache = kernels.attention_forward(q, k, v, offsets, self.config.n_head)
        return [kernels.attention_weights(cache, i) for i in range(len(offsets) - 1)]

    def _check_memory(self, max_columns, n_columns):
        """ConfigError unless model, gradients, Adam, activations and data fit into this machine."""
        c, vocab_size = self.config, len(self.vocab) + 1
        n_params = sum(rows * columns for _, rows, columns in table(c, vocab_size))
        per_column = numbers_per_column(c, vocab_size)
        itemsize = 4 if c.dtype == "float32" else 8
        needed = (4 * n_params + per_column * kernels.lib.attention_rows(max_columns)) * itemsize + 40 * n_columns
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > available or n_params > data.MAX_COUNT:
            raise ConfigError(
                f"--n-embd {c.n_embd}, --n-layer {c.n_layer}, --block-size {c.block_size}, --batch-size {c.batch_size}: "
                f"expected a model that fits {available / 1e9:.1f} GB of memory, found one of {n_params} parameters and "
                f"{max_columns} tokens a step that needs {needed / 1e9:.1f} GB"
            )


def numbers_per_column(config, vocab_size):
    """How many numbers the program of a step keeps for each column of its batch: see model.py."""
    c = config
    of_layers = c.n_layer * (18 * c.n_embd + c.n_head * c.block_size + 2)
    return of_layers + 24 * c.n_embd + c.block_size + 3 * vocab_size + 3


def n_held_out(n_documents, fraction):
    """How many of the documents to hold out; ConfigError when that leaves none to train on."""
    if fraction == 0:
        return 0
    n = max(1, int(n_documents * fraction))
    if n >= n_documents:
        raise ConfigError(
            f"--val-fraction: expected to hold out less than all of the documents, found {n} of {n_documents}"
        )
    return n
