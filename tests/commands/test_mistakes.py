"""Common mistakes in Python and their messages: one line each, which names the argument."""

import re

import numpy as np
import pytest
from helpers import TINY

import microgpt

MISTAKES = r"""
microgpt.train('nope.txt')
    DataError: nope.txt: cannot be read: No such file or directory
microgpt.train('anna\nzoe')
    DataError: anna\nzoe: cannot be read: No such file or directory
microgpt.train(None)
    TypeError: input: expected a path or a list of texts, found None
microgpt.train({'anna', 'zoe'})
    TypeError: input: expected a path or a list of texts, found {.*}
microgpt.train(['anna', 5])
    TypeError: input: expected a list of texts, found 5 at index 1
microgpt.train([])
    DataError: input: expected at least one text, found none
microgpt.train(['anna', 'zoe\nbo'])
    DataError: input: expected each text to be one line (split 'line'), found 'zoe\nbo' at index 1
microgpt.train(['anna', ' '])
    DataError: input: expected each text to be one line (split 'line'), found ' ' at index 1
microgpt.train(['anna', '\ud800'])
    DataError: input: expected characters that UTF-8 can encode, found '\ud800' at index 1
microgpt.train('empty.txt')
    DataError: empty.txt: expected at least one line of text, found none
microgpt.train('.')
    DataError: .: cannot be read: expected a file, found a directory
microgpt.train('names.txt', 100)
    TypeError: train: positional arguments: expected at most 1, found 2; name the others
microgpt.train('names.txt', steps=5)
    TypeError: train: unknown setting 'steps'; did you mean 'num_steps'?
microgpt.train('names.txt', nsteps=5)
    TypeError: train: unknown setting 'nsteps'; did you mean 'num_steps'?
microgpt.train('names.txt', epochs=5)
    TypeError: train: unknown setting 'epochs'; did you mean 'num_steps'?
microgpt.train('names.txt', dropout=0.1)
    TypeError: train: unknown setting 'dropout'; there is no dropout
microgpt.train('names.txt', lr=0.1)
    TypeError: train: unknown setting 'lr'; did you mean 'learning_rate'?
microgpt.train('names.txt', num_steps='5')
    ConfigError: num_steps: expected a whole number, found '5'
microgpt.train('names.txt', num_steps=0)
    ConfigError: num_steps: expected a whole number at least 1 and at most 1000000000, found 0
microgpt.train('names.txt', num_steps=10.0)
    ConfigError: num_steps: expected a whole number, found 10.0
microgpt.train('names.txt', seed=10**5000)
    ConfigError: seed: expected a whole number .*, found a whole number of thousands of digits
microgpt.train('names.txt', n_embd=10, n_head=4)
    ConfigError: n_head: expected a divisor of n_embd 10, found 4
microgpt.train('names.txt', learning_rate=-1)
    ConfigError: learning_rate: expected a number above 0 and at most 1000, found -1
microgpt.train('names.txt', learning_rate=float('nan'))
    ConfigError: learning_rate: expected a number above 0 and at most 1000, found nan
microgpt.train('names.txt', dtype='float16')
    ConfigError: dtype: expected one of float64, float32, found 'float16'
microgpt.train('names.txt', dtype=np.float32)
    ConfigError: dtype: expected one of float64, float32, found <class 'numpy.float32'>
microgpt.train('names.txt', patience=3)
    ConfigError: patience: expected 0, or val_fraction above 0, found 3
microgpt.train('one.txt', val_fraction=0.5)
    ConfigError: val_fraction: expected to leave documents to train on, found 1 of 1 held out
microgpt.train('names.txt', n_embd=65536, n_layer=1000)
    ConfigError: n_embd 65536, n_layer 1000, block_size 16, batch_size 1: expected at most .* parameters, found .*
microgpt.train('names.txt', out=5)
    TypeError: out: expected a path, found 5
microgpt.train('names.txt', out='run')
    ConfigError: out: expected a directory without a run, found checkpoint.npz in 'run'; to continue it: resume='run'
microgpt.train('names.txt', out='names.txt')
    OSError: out: expected a directory that can be written, found 'names.txt': Not a directory
microgpt.train('names.txt', out='new', resume='run')
    ConfigError: out: cannot be given with resume, which already names the run's directory; found 'new'
microgpt.train(resume='nope')
    CheckpointError: resume: expected the directory of a run, found 'nope'
microgpt.train(resume='run', n_embd=8)
    ConfigError: n_embd: expected 4, as in the run to resume, found 8
microgpt.train(resume='run', input='one.txt')
    DataError: one.txt: expected the documents that the run started with .*; set input to the file that has them
microgpt.train('names.txt', metrics='names.txt')
    ConfigError: metrics: expected a file other than input, found 'names.txt'
microgpt.train('names.txt', metrics=True)
    TypeError: metrics: expected a path, found True
microgpt.train('names.txt', learning_rate=1000, beta1=0.9, beta2=0, init_std=1, num_steps=500)
    NotFiniteError: step [0-9]+: expected .*, found .*; a smaller learning_rate may help
microgpt.load(None)
    TypeError: path: expected a path, found None
microgpt.load('nope')
    MissingError: nope: cannot be read: No such file or directory
microgpt.load('names.txt')
    CheckpointError: names.txt: expected a checkpoint, found another kind of file
microgpt.load('.')
    MissingError: .: expected a run's directory, found one without checkpoint.npz; did you mean './run'?
model.sample('anna')
    ConfigError: num_samples: expected a whole number, found 'anna'
model.sample(3, 0.5)
    TypeError: sample: positional arguments: expected at most 1, found 2; name the others
model.sample(temp=0.5)
    TypeError: sample: unknown setting 'temp'; did you mean 'temperature'?
model.sample_probs(3, num_samples=3)
    TypeError: sample_probs: multiple values for argument 'num_samples'
model.sample(top_p=0)
    ConfigError: top_p: expected a number above 0 and at most 1, found 0
model.sample(prompt=5)
    ConfigError: prompt: expected text, found 5
model.sample(prompt='ANNA')
    ConfigError: prompt: expected characters of the vocabulary 'aenoz', found 'A' at position 1 of 'ANNA'
model.sample(prompt='annaanna')
    ConfigError: prompt: expected at most 3 characters (context length 4), found 8
model.score({'anna'})
    ConfigError: text: expected text, found {'anna'}
model.score('a\u0308')
    ConfigError: text: expected characters of the vocabulary 'aenoz', found '\u0308' at position 2 of 'ä'
model.score('a b')
    ConfigError: text: expected characters of the vocabulary 'aenoz', found ' ' at position 2 of 'a b'
model.evaluate('anna')
    TypeError: documents: expected a list of texts, found 'anna'
model.evaluate([1])
    TypeError: documents: expected a list of texts, found 1 in it
model.evaluate([])
    DataError: documents: expected at least one text, found none
model.evaluate(['b'])
    DataError: documents: expected characters of the vocabulary 'aenoz', found 'b' at position 1 of 'b'
kernels.matmul_forward([[1.0]], [[2.0]])
    TypeError: w: expected a numpy.ndarray (or an object with __dlpack__ or __array__), found list
kernels.matmul_forward(np.ones((2, 3)), np.ones((2, 3)))
    ValueError: x: expected shape (3, 3), found (2, 3)
kernels.softmax_forward(np.ones(3))
    ValueError: x: expected 2 dimensions, found shape (3,)
"""
CASES = re.findall(r"^(\S.*)\n    (\w+): (.*)$", MISTAKES, re.MULTILINE)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    for name, text in {"names.txt": "anna\nzoe\n", "one.txt": "anna\n", "empty.txt": "\n"}.items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model = microgpt.train("names.txt", out="run", **TINY)
        yield {"microgpt": microgpt, "kernels": microgpt.kernels, "model": model, "np": np}


@pytest.mark.parametrize("code, kind, message", CASES, ids=[code for code, _, _ in CASES])
def test_what_is_said(here, code, kind, message):
    """The mistake raises this error with this message; .* matches what depends on the machine."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the next lines say which
        eval(code, here)
    assert caught.type.__name__ == kind
    pattern = re.escape(message).replace(r"\.\*", ".*").replace(r"\[0\-9\]\+", "[0-9]+")
    assert re.fullmatch(pattern, str(caught.value)), str(caught.value)
