"""The oracle: every kernel and the whole model in plain Python, on scalars and lists, with a tape.

It shares nothing with what it judges: no NumPy, no matrices, and no backward pass.  Only the forward pass is written
down; a derivative comes from the local slopes of +, *, power, exp and log that each Value recorded.  A matrix is a list
of rows, as in microgpt.py, and an activation is a list of columns, one list of numbers per token.
"""

import math
from itertools import count, pairwise


class Value:
    """A number that remembers what it was computed from, and its derivative by each of those."""

    __slots__ = ("data", "inputs", "slopes", "serial")
    serials = count()

    def __init__(self, data, inputs=(), slopes=()):
        self.data = data
        self.inputs = inputs
        self.slopes = slopes
        self.serial = next(Value.serials)  # an input's is smaller than its results'

    def __add__(self, other):
        other = as_value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        other = as_value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, power):
        return Value(self.data**power, (self,), (power * self.data ** (power - 1),))

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -as_value(other)

    def __truediv__(self, other):
        return self * as_value(other) ** -1

    __radd__ = __add__  # sum() starts from 0
    __rmul__ = __mul__

    def exp(self):
        e = math.exp(self.data)
        return Value(e, (self,), (e,))

    def log(self):
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def relu(self):
        on = self.data > 0
        return Value(self.data if on else 0.0, (self,), (1.0 if on else 0.0,))


def as_value(x):
    return x if isinstance(x, Value) else Value(float(x))


def as_values(x):
    """The same nested lists with a Value in place of each number."""
    return [as_values(e) for e in x] if isinstance(x, list) else as_value(x)


def numbers(x):
    """The same nested lists with a number in place of each Value."""
    return [numbers(e) for e in x] if isinstance(x, list) else x.data


def backward(output):
    """d output / d value for every value that output depends on, as a function of the value (0 if it does not)."""
    found, stack = {id(output): output}, [output]
    while stack:
        for value in stack.pop().inputs:
            if id(value) not in found:
                found[id(value)] = value
                stack.append(value)
    gradient = dict.fromkeys(found, 0.0)
    gradient[id(output)] = 1.0
    for value in sorted(found.values(), key=lambda value: value.serial, reverse=True):
        for source, slope in zip(value.inputs, value.slopes):
            gradient[id(source)] += slope * gradient[id(value)]
    return lambda value: gradient.get(id(value), 0.0)


def gradients_like(x, gradient):
    """The same nested lists with its gradient in place of each Value."""
    return [gradients_like(e, gradient) for e in x] if isinstance(x, list) else gradient(x)


# ---- the kernels; each works on Values ----


def dot(a, b):
    return sum((x * y for x, y in zip(a, b)), Value(0.0))


def linear(w, x):
    """One column of a matrix product: w is rows, x one column."""
    return [dot(row, x) for row in w]


def matmul(w, x):
    """w: rows, x: columns; the columns of w x."""
    return [linear(w, column) for column in x]


def softmax(x):
    """One column.  The largest element is only a shift, and its gradient cancels."""
    top = max(e.data for e in x)
    exps = [(e - top).exp() for e in x]
    total = sum(exps)
    return [e / total for e in exps]


def rmsnorm(x, eps=1e-5):
    """One column."""
    rstd = (dot(x, x) / len(x) + eps) ** -0.5
    return [e * rstd for e in x]


def relu(x):
    """One column."""
    return [e.relu() for e in x]


def add(a, b):
    """One column."""
    return [x + y for x, y in zip(a, b)]


def embedding(wte, wpe, tokens, positions):
    """wte, wpe: one row per token or position; the columns wte[token] + wpe[position]."""
    return [add(wte[token], wpe[position]) for token, position in zip(tokens, positions)]


def attention(q, k, v, n_head):
    """The columns of one document; each looks at itself and at those before it."""
    out = []
    for t in range(len(q)):
        head_dim, column = len(q[t]) // n_head, []
        for h in range(n_head):
            head = slice(h * head_dim, (h + 1) * head_dim)
            weights = softmax([dot(q[t][head], k[s][head]) * head_dim**-0.5 for s in range(t + 1)])
            column += [dot(weights, [v[s][i] for s in range(t + 1)]) for i in range(head.start, head.stop)]
        out.append(column)
    return out


def attention_packed(q, k, v, offsets, n_head):
    """The columns of several documents side by side; document i is offsets[i] up to offsets[i + 1]."""
    out = []
    for first, last in pairwise(offsets):
        out += attention(q[first:last], k[first:last], v[first:last], n_head)
    return out


def cross_entropy(logits, target):
    """One column: -log of the probability of the target, by the log-sum-exp form, which no tiny probability breaks."""
    top = max(e.data for e in logits)
    return sum((e - top).exp() for e in logits).log() - (logits[target] - top)


def forward_and_gradients(kernel, inputs, douts):
    """The outputs of kernel(*inputs), and for every input the gradient of sum(douts * outputs).

    inputs: nested lists of numbers; what kernel returns and douts: columns (lists of lists of the same lengths)."""
    values = [as_values(x) for x in inputs]
    outputs = kernel(*values)
    gradient = backward(sum((dot(out, dout) for out, dout in zip(outputs, as_values(douts))), Value(0.0)))
    return numbers(outputs), [gradients_like(x, gradient) for x in values]


# ---- the model ----


def logits_of(config, params, tokens):
    """The columns of logits for the tokens of one document, at positions 0, 1, ..."""
    x = [rmsnorm(e) for e in embedding(params["wte"], params["wpe"], tokens, range(len(tokens)))]
    for layer in range(config.n_layer):
        w = {name: params[f"layer{layer}.{name}"] for name in LAYER_PARAMETERS}
        normed = [rmsnorm(e) for e in x]
        q, k, v = (matmul(w[name], normed) for name in ("attn_wq", "attn_wk", "attn_wv"))
        mixed = matmul(w["attn_wo"], attention(q, k, v, config.n_head))
        x = [add(a, b) for a, b in zip(x, mixed)]
        hidden = [relu(e) for e in matmul(w["mlp_fc1"], [rmsnorm(e) for e in x])]
        x = [add(a, b) for a, b in zip(x, matmul(w["mlp_fc2"], hidden))]
    return matmul(params["lm_head"], x)


LAYER_PARAMETERS = ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2")


def document_loss(config, params, document):
    """The mean loss of one document, BOS at both its ends; what lies beyond block_size is cut off."""
    n = min(config.block_size, len(document) - 1)
    logits = logits_of(config, params, document[:n])
    return sum(cross_entropy(column, target) for column, target in zip(logits, document[1 : n + 1])) / n


def loss_and_gradients(config, params, documents):
    """The mean over documents of their losses, and its gradient by every parameter, as {name: rows}.

    config: n_layer, n_embd, n_head, block_size.  params: {name: rows of numbers}, named wte, wpe, lm_head,
    layer0.attn_wq and so on.  documents: lists of token ids, each [BOS] + ids + [BOS]."""
    params = {name: as_values(rows) for name, rows in params.items()}
    loss = sum(document_loss(config, params, document) for document in documents) / len(documents)
    gradient = backward(loss)
    return loss.data, {name: gradients_like(rows, gradient) for name, rows in params.items()}


def adam_step(params, m, v, grads, step, learning_rate, beta1=0.85, beta2=0.99, eps=1e-8):
    """Update params, m and v (each {name: rows}) in place.  step counts from 0; learning_rate is that step's own."""
    for name, rows in params.items():
        for i, row in enumerate(rows):
            for j, g in enumerate(grads[name][i]):
                m[name][i][j] = beta1 * m[name][i][j] + (1 - beta1) * g
                v[name][i][j] = beta2 * v[name][i][j] + (1 - beta2) * g**2
                m_hat = m[name][i][j] / (1 - beta1 ** (step + 1))
                v_hat = v[name][i][j] / (1 - beta2 ** (step + 1))
                row[j] -= learning_rate * m_hat / (v_hat**0.5 + eps)
