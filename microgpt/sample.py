"""Sampling: one token after another, from BOS until BOS comes again or the context is full."""

import numpy as np

from . import kernels, model
from .program import Program


class Sampler:
    """The model with a cache of keys and values, for up to `columns` documents that grow side by side."""

    def __init__(self, config, params, vocab, columns=1):
        self.config = config
        self.vocab = vocab
        self.bos = len(vocab)
        k = Program(config.dtype, columns)
        self._logits = model.forward(k, params, config, k.attention_cached)
        self._token, self._position = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        self._run = k.compile(self._token, self._position)

    def logits(self, tokens, position):
        """vocab_size x len(tokens): what follows these tokens, all of them at this position.

        The earlier positions must have been run before, with the same number of columns.
        """
        n = len(tokens)
        self._token[:n] = tokens
        self._position[:n] = position
        self._run(0, n)
        return self._logits[:, :n]

    def sample(self, rng, temperature):
        """One new document, drawn with a random.Random as the reference draws."""
        token, text = self.bos, []
        for position in range(self.config.block_size):
            logits = self.logits([token], position)
            token = draw(rng, logits, temperature)
            if token == self.bos:
                break
            text.append(self.vocab[token])
        return "".join(text)


def draw(rng, logits, temperature):
    """A token id drawn from softmax(logits / temperature) of a vocab_size x 1 array; at temperature 0 the likeliest."""
    if temperature == 0:
        return int(logits.argmax())
    probs = kernels.softmax_forward(logits / temperature)
    return rng.choices(range(len(probs)), weights=probs[:, 0].tolist())[0]
