"""A program: kernel calls written down once, with their arrays, and then run on batch after batch by one C call.

Each method records one call of the kernel of its name.  A forward method makes the array it computes and returns it;
a backward method takes the gradients it adds to, and sets those that were just said to be zero.  An activation is
features x tokens, with room for max_tokens, of which a run over n_tokens uses the first n_tokens columns.
"""

import numpy as np

from .kernels import ffi, lib
from .params import aligned


class Program:
    def __init__(self, dtype, max_tokens):
        self.dtype = np.dtype(dtype)
        self.max_tokens = max_tokens
        self.columns = lib.attention_rows(max_tokens)  # that every array has: attention's need a few more
        self.values = {}  # every named array, for whoever wants to look
        self._calls = []
        self._keep = []
        self._zeros = {}  # arrays to be set to zero before their next use, by address

    # ---- arrays ----

    def array(self, name, rows):
        """The features x tokens array of this name, made if it is new."""
        if name not in self.values:
            flat = aligned(rows * self.columns, self.dtype)
            self.values[name] = flat.reshape(rows, self.columns, order="F")
        array = self.values[name]
        if len(array) != rows:
            raise ValueError(f"{name}: expected {len(array)} rows, as before, found {rows}")
        return array

    def zeros(self, name, rows):
        """The same, counted as zero from here on: what would next add to it sets it, or it is set to zero before."""
        array = self.array(name, rows)
        self._zero(array, [rows, 0])
        return array

    def zero(self, array):
        """The same for an array that is not one of tokens, such as a parameter's gradient."""
        self._zero(array, [0, array.size])

    def _zero(self, array, sizes):
        self._zeros[array.ctypes.data] = array, sizes

    # ---- kernels, forward ----

    def embedding_forward(self, name, wte, wpe):
        x = self.array(name, len(wte))
        self._record(lib.EMBEDDING_FORWARD, [x, wte, wpe], [len(wte)])
        return x

    def rmsnorm_forward(self, name, x, eps=1e-5):
        y, rstd = self.array(name, len(x)), self.array(name + ".rstd", 1)
        self._record(lib.RMSNORM_FORWARD, [y, rstd, x], [len(x)], eps)
        return y

    def matmul_forward(self, name, w, x):
        y = self.array(name, len(w))
        self._record(lib.MATMUL_FORWARD, [y, w, x], w.shape)
        return y

    def attention_forward(self, name, q, k, v, n_head, block_size):
        n_embd = len(q)
        out, probs = self.array(name, n_embd), self.array(name + ".probs", n_head * block_size)
        work = self.array("work", 7 * n_embd + block_size)  # what attention_backward needs, which is more
        self._record(lib.ATTENTION_FORWARD, [out, probs, work, q, k, v], [n_embd, n_head, block_size])
        return out

    def attention_cached(self, name, q, k, v, n_head, block_size):
        n_embd = len(q)
        out, probs = self.array(name, n_embd), self.array(name + ".probs", n_head * block_size)
        keys, values = (
            self.array(name + ".keys", n_embd * block_size),
            self.array(name + ".values", n_embd * block_size),
        )
        work = self.array("work", 2 * n_embd)
        self._record(lib.ATTENTION_CACHED, [out, probs, keys, values, work, q, k, v], [n_embd, n_head, block_size])
        return out

    def relu_forward(self, name, x):
        y = self.array(name, len(x))
        self._record(lib.RELU_FORWARD, [y, x], [len(x)])
        return y

    def add_forward(self, name, a, b):
        y = self.array(name, len(a))
        self._record(lib.ADD_FORWARD, [y, a, b], [len(a)])
        return y

    def cross_entropy_forward(self, name, logits):
        """probs; the weighted loss is values["loss"][0, 0], each column's own values["losses"]."""
        loss, losses, probs = self.array("loss", 1), self.array("losses", 1), self.array(name, len(logits))
        self._record(lib.CROSS_ENTROPY_FORWARD, [loss, losses, probs, logits], [len(logits)])
        return probs

    # ---- kernels, backward ----

    def cross_entropy_backward(self, dlogits, probs):
        self._record_backward(lib.CROSS_ENTROPY_BACKWARD, [dlogits], [probs], [len(probs)])

    def matmul_backward(self, dw, dx, dy, w, x):
        self._record_backward(lib.MATMUL_BACKWARD, [dw, dx], [dy, w, x], w.shape)

    def relu_backward(self, dx, dy, y):
        self._record_backward(lib.RELU_BACKWARD, [dx], [dy, y], [len(y)])

    def rmsnorm_backward(self, dx, dy, name):
        y, rstd = self.values[name], self.values[name + ".rstd"]
        self._record_backward(lib.RMSNORM_BACKWARD, [dx], [dy, y, rstd], [len(y)])

    def attention_backward(self, dq, dk, dv, dout, name, q, k, v, n_head, block_size):
        work, probs = self.values["work"], self.values[name + ".probs"]
        sizes = [len(dq), n_head, block_size]
        self._record_backward(lib.ATTENTION_BACKWARD, [dq, dk, dv], [work, dout, probs, q, k, v], sizes)

    def embedding_backward(self, dwte, dwpe, dx):
        self._record(lib.EMBEDDING_BACKWARD, [dwte, dwpe, dx], [len(dwte)])

    # ---- recording and running ----

    def _record_backward(self, kernel, gradients, others, sizes):
        set_ = 0
        for i, array in enumerate(gradients):
            if self._zeros.pop(array.ctypes.data, None):
                set_ |= 1 << i
        self._record(kernel, gradients + others, sizes, set_=set_)

    def _record(self, kernel, arrays, sizes, eps=0.0, set_=0):
        for array in arrays:
            if array.ctypes.data in self._zeros:
                zeroed, extent = self._zeros.pop(array.ctypes.data)
                self._record(lib.ZERO, [zeroed], extent)
        self._keep += arrays
        pointers = [ffi.cast("void *", array.ctypes.data) for array in arrays]
        sizes = [int(n) for n in sizes]
        self._calls.append({"kernel": kernel, "array": pointers, "size": sizes, "eps": eps, "set": set_})

    def compile(self, token, position, target=None, weight=None):
        """A function run(start, n_tokens) that runs the calls on those columns of the given int32 and weight arrays.

        The arrays are read when it runs, so they may be rewritten between runs.
        """

        def pointer(kind, array):
            return ffi.NULL if array is None else ffi.cast(kind, array.ctypes.data)

        batch = ffi.new("struct batch *")
        batch.token, batch.position = pointer("int32_t *", token), pointer("int32_t *", position)
        batch.target, batch.weight = pointer("int32_t *", target), pointer("void *", weight)
        calls, n_calls = ffi.new("struct call[]", self._calls), len(self._calls)
        run_kernels = lib.run_f32 if self.dtype == np.float32 else lib.run_f64

        def run(start, n_tokens):
            run_kernels(calls, n_calls, batch, start, n_tokens)

        # C holds bare pointers: the memory must live as long as the function
        run.keep = [*self._keep, token, position, target, weight]
        self.run_kernels, self.calls, self.batch = run_kernels, calls, batch  # for benchmarks/profile_step.py
        return run
