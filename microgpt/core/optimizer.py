"""Optimizers: how gradients change parameters.

Adam (Kingma & Ba 2015), with bias correction and decoupled weight decay (Loshchilov & Hutter 2019), is one C kernel.
Other optimizers subclass Optimizer.  The trainer passes each step's learning rate, which comes from schedule.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..base.config import Config
from ..base.errors import CheckpointError
from ..kernels import compiled
from .program import aligned


class Optimizer:
    """The base class of optimizers: an update rule for one flat array of parameters.  Subclass it and define step().

    A Trainer creates it with optimizer(params, grads, config).  Its attributes:

    - `params`, `grads`: 1-D arrays of one length and dtype (float32 or float64).  step() reads both and changes
      `params` in place.
    - `config`: the run's Config
    - `arrays`, `scalars`: dicts with the optimizer's state by name.  Both start empty: __init__() fills them, step()
      changes them, and checkpoints store them.  A name is an ASCII identifier.  An array has the length and dtype of
      `params`; a scalar is a float.
    - `n_threads`: how many threads step() may use

    An example is gradient descent, for microgpt.Trainer(config, optimizer=GradientDescent):

        class GradientDescent(microgpt.Optimizer):
            def step(self, learning_rate):
                self.params -= learning_rate * self.grads
    """

    n_threads = 1

    def __init__(self, params: Any, grads: Any, config: Config) -> None:
        self.params, self.grads, self.config = params, grads, config
        self.arrays: dict[str, Any] = {}
        self.scalars: dict[str, float] = {}

    def step(self, learning_rate: float) -> None:
        """Change `params` in place by one step, from `grads`.

        - `learning_rate`: a float, this step's rate from the schedule

        The trainer has clipped `grads` and applied weight decay to `params` before.
        """
        raise NotImplementedError(f"{type(self).__name__}: expected a method step(learning_rate), found none")

    def restore(self, arrays: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """Copy the state of a checkpoint into `arrays` and `scalars`.

        Raises CheckpointError if the names in it are not this optimizer's.
        """
        if arrays.keys() != self.arrays.keys() or scalars.keys() != self.scalars.keys():
            raise CheckpointError(
                f"expected a checkpoint of {type(self).__name__}, with {names(self.arrays, self.scalars)}, "
                f"found one with {names(arrays, scalars)}"
            )
        for name, array in arrays.items():
            self.arrays[name][:] = array
        self.scalars.update(scalars)


class Adam(Optimizer):
    """Adam with decoupled weight decay and gradient clipping, all in one call of C."""

    def __init__(self, params: Any, grads: Any, config: Config) -> None:
        super().__init__(params, grads, config)
        self.arrays = {name: aligned(params.size, params.dtype) for name in ("m", "v")}
        # beta^t by multiplication, because pow may give other bits on other platforms
        self.scalars = {"beta1_t": 1.0, "beta2_t": 1.0}
        self._clip = config.grad_clip
        n_blocks = compiled.n_blocks(params.size) if self._clip else 0
        self._squares = np.zeros(n_blocks)  # the sum of the squared gradients in each block
        self._constants = config.beta1, config.beta2, config.eps, config.weight_decay
        self._alone: Callable[..., float] | None = None

    def fused(self, over: Any, losses: Any, weights: Any) -> Callable[..., float]:
        """A function of start, n and numbers() that runs `over`, then the update, and returns the loss."""
        arrays = self.params, self.arrays["m"], self.arrays["v"], self.grads
        return compiled.stepping(over, losses, weights, arrays, self._squares, self._clip)

    def numbers(self, rate: float) -> tuple[float, ...]:
        """What C needs for an update: learning rate, betas, eps, both bias corrections, the weight decay factor."""
        beta1, beta2, eps, weight_decay = self._constants
        beta1_t, beta2_t = self.scalars.values()
        return rate, beta1, beta2, eps, 1 - beta1_t * beta1, 1 - beta2_t * beta2, 1 - rate * weight_decay

    def advance(self) -> None:
        """Count an update by C.  Raises FloatingPointError if C skipped it: the gradient's norm is not finite."""
        if self._clip and not math.isfinite(self._squares.sum()):
            raise FloatingPointError
        scalars, (beta1, beta2, _, _) = self.scalars, self._constants
        scalars["beta1_t"] *= beta1
        scalars["beta2_t"] *= beta2

    def step(self, learning_rate: float) -> None:
        """One update.  Raises FloatingPointError, and changes nothing, if the gradient's norm is not finite."""
        if self._alone is None:
            nothing = np.zeros(1, self.params.dtype)
            over = compiled.recorded(self.params.dtype, [], n_threads=self.n_threads)
            self._alone = self.fused(over, nothing, nothing)
        self._alone(0, 0, *self.numbers(learning_rate))
        self.advance()

    def restore(self, arrays: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """Copy the state of a checkpoint.  Raises CheckpointError if Adam cannot have this state."""
        super().restore(arrays, scalars)
        if (arrays["v"] < 0).any():
            raise CheckpointError(
                "expected array v, Adam's mean squared gradients, without negative numbers, found some"
            )
        for name, power in scalars.items():
            if not 0 <= power <= 1:
                raise CheckpointError(f"expected {name} from 0 to 1, found {power}")


def clip(grads: Any, max_norm: float) -> None:
    """Scale the gradient to a 2-norm of at most `max_norm`, as Adam's kernel does.

    Raises FloatingPointError, and changes nothing, if the norm is not finite.
    """
    with np.errstate(over="ignore"):
        squares = float(np.square(grads, dtype=np.float64).sum())
    if not math.isfinite(squares):
        raise FloatingPointError
    factor = max_norm / (math.sqrt(squares) + 1e-6)
    if factor < 1:
        grads *= grads.dtype.type(factor)


def names(arrays: Mapping[str, Any], scalars: Mapping[str, Any]) -> str:
    """Both as text: "arrays m, v and scalars beta1_t, beta2_t"."""
    return f"arrays {', '.join(arrays) or 'none'} and scalars {', '.join(scalars) or 'none'}"
