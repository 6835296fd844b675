"""Training: documents to batches, batches to losses and gradients, gradients to better parameters."""

import math
import os
import random

import numpy as np

from . import data, model
from .adam import Adam
from .config import ConfigError
from .kernels import ffi
from .params import Parameters, table
from .program import Program


class NotFiniteError(ArithmeticError):
    """The loss became infinite or NaN; `step` (from 1) says when."""

    def __init__(self, step, loss):
        super().__init__(f"step {step}: expected a finite loss, found {loss}; a smaller --learning-rate may help")
        self.step = step


class Trainer:
    """Everything that a run holds: data, parameters, gradients, Adam and the program of one step.

    Drawn from one generator in the reference's order: the shuffle, then the weights; sampling may go on from `rng`.
    Raises DataError for a file that cannot be trained on, ConfigError for a model that does not fit into memory.
    """

    def __init__(self, config):
        self.config = config
        self.rng = random.Random(config.seed)
        self.documents, self.had_bom = data.read_documents(config.input)
        self.vocab = data.vocabulary(self.documents)
        self.rng.shuffle(self.documents)
        self.dataset = data.Dataset(
            self.documents, self.vocab, config.block_size, config.batch_size, config.dtype
        )
        self._check_memory()
        vocab_size = len(self.vocab) + 1  # the characters and BOS
        self.params = Parameters(config, vocab_size)
        self.params.draw(self.rng, config.init_std)
        self.grads = Parameters(config, vocab_size)
        self.adam = Adam(self.params.flat, self.grads.flat, config)

        self.program = k = Program(config.dtype, self.dataset.max_columns)
        model.loss(k, model.forward(k, self.params, config, k.attention_forward))
        k.zero(self.grads.flat)
        model.backward(k, self.params, self.grads, config)
        d = self.dataset
        self._run = k.compile(d.token, d.position, d.target, d.weight)
        self._loss = ffi.cast("float *" if config.dtype == "float32" else "double *", k.values["loss"].ctypes.data)
        self.n_columns = 0  # of the last step

    @property
    def step_count(self):
        return self.adam.step_count

    def step(self):
        """One training step: the loss of its batch, before the update.  Raises NotFiniteError."""
        start, self.n_columns = self.dataset.batch(self.adam.step_count)
        self._run(start, self.n_columns)
        loss = self._loss[0]
        if not math.isfinite(loss):
            raise NotFiniteError(self.adam.step_count + 1, loss)
        self.adam.step()
        return loss

    def value(self, name):
        """An intermediate of the last step as a view: rows x columns, one column per token (see model.py for names)."""
        array = self.program.values[name]
        flat = array.reshape(-1, order="F")
        return flat[: len(array) * self.n_columns].reshape(len(array), self.n_columns, order="F")

    def attention(self, layer):
        """The last step's attention weights of a layer: for each document an array n_head x tokens x tokens."""
        c, n = self.config, self.n_columns
        probs = self.value(f"layer{layer}.attn.probs").reshape(-1, order="F").reshape(c.n_head, c.block_size, n)
        starts = (self._positions() == 0).nonzero()[0].tolist() + [n]
        return [unroll_lags(probs[:, :, i:j]) for i, j in zip(starts, starts[1:])]

    def _positions(self):
        start, n = self.dataset.batch(self.adam.step_count - 1)
        return self.dataset.position[start : start + n]

    def _check_memory(self):
        c, vocab_size = self.config, len(self.vocab) + 1
        n_params = sum(rows * columns for _, rows, columns in table(c, vocab_size))
        per_column = c.n_layer * (17 * c.n_embd + c.n_head * c.block_size) + 20 * c.n_embd + c.block_size + 3 * vocab_size
        itemsize = 4 if c.dtype == "float32" else 8
        needed = (4 * n_params + per_column * self.dataset.max_columns) * itemsize
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > available or n_params > data.MAX_TOKENS:
            raise ConfigError(
                f"--n-embd {c.n_embd}, --n-layer {c.n_layer}, --batch-size {c.batch_size}: expected a model that fits "
                f"{available / 1e9:.1f} GB of memory, found one of {n_params} parameters that needs {needed / 1e9:.1f} GB"
            )


def unroll_lags(probs):
    """n_head x lags x n weights by lag  ->  n_head x n x n, row t what token t gives to token s <= t."""
    n_head, _, n = probs.shape
    t, s = np.tril_indices(n)
    weights = np.zeros((n_head, n, n), probs.dtype)
    weights[:, t, s] = probs[:, t - s, t]
    return weights
