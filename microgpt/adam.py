"""Adam (Kingma & Ba 2015), bias-corrected: the state and the schedule are here, the arithmetic is one kernel."""

from .kernels import ffi, lib
from .params import aligned


class Adam:
    """Adam over one flat buffer.  learning_rate falls linearly from its start to 0 over num_steps."""

    def __init__(self, flat, grad, config):
        self.m = aligned(flat.size, flat.dtype)
        self.v = aligned(flat.size, flat.dtype)
        self.config = config
        self.step_count = 0
        # beta^t by multiplication: the platform's pow need not give the same bits everywhere
        self.beta1_t = self.beta2_t = 1.0
        kind, self._adam = ("float *", lib.adam_f32) if flat.dtype == "float32" else ("double *", lib.adam_f64)
        self._arrays = flat, self.m, self.v, grad
        self._pointers = [ffi.cast(kind, array.ctypes.data) for array in self._arrays]

    def learning_rate(self, step_count=None):
        """The rate of the step after so many, or of the next one."""
        done = self.step_count if step_count is None else step_count
        return self.config.learning_rate * (1 - done / self.config.num_steps)

    def step(self):
        """Update the parameters from the gradients; returns the learning rate used."""
        c = self.config
        rate = self.learning_rate()
        self.step_count += 1
        self.beta1_t *= c.beta1
        self.beta2_t *= c.beta2
        self._adam(*self._pointers, rate, c.beta1, c.beta2, c.eps, 1 - self.beta1_t, 1 - self.beta2_t, len(self.m))
        return rate
