"""microgpt from Python: train a model or load one, then sample from it, score texts, and measure it.

>>> import microgpt
>>> model = microgpt.train(input="input.txt", num_steps=1000, out="runs/first")     # doctest: +SKIP
>>> model = microgpt.load("runs/first")                                             # doctest: +SKIP
>>> model.sample(3, temperature=0.7, prompt="ka")                                   # doctest: +SKIP
>>> model.score("kamon").loss                                                       # doctest: +SKIP
"""

import os
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

from . import loop
from .config import Config, Sampling, resumed
from .errors import ConfigError, DataError
from .evaluate import Evaluator, bits_per_character, mean_loss
from .metrics import Metrics
from .params import Parameters
from .sample import Sampler, columns_for
from .signals import interrupt_at_the_end
from .trainer import Trainer


def train(out=None, resume=None, metrics=None, **settings):
    """Train a model; returns it.

    `settings` are those of the command line (num_steps=2000, n_embd=32, ...).  With `out`, a directory, the run can be
    resumed with `resume`; `metrics` is a file for each step's loss.  Raises ConfigError, DataError, CheckpointError,
    NotFiniteError or OSError; after Ctrl-C, when the run is saved, KeyboardInterrupt.
    """
    if isinstance(settings.get("input"), os.PathLike):
        settings["input"] = os.fspath(settings["input"])
    with training(settings, out, resume, metrics) as (trainer, run, metrics), interrupt_at_the_end() as stop:
        loop.train(trainer, run, metrics, stop=stop)
    return Model(trainer.params)


@contextmanager
def training(settings, out=None, resume=None, metrics=None):
    """(trainer, run, metrics), ready for loop.train(); the latter two are None unless asked for."""
    if out is not None and resume is not None:
        raise ConfigError(f"--out: expected none with --resume, which says where the run is, found {out!r}")
    with ExitStack() as stack:
        run = saved = None
        if out is not None or resume is not None:
            from .run import Run

            run = stack.enter_context(closing(Run(out if resume is None else resume)))
        if resume is not None:
            saved = run.resume()
            settings = resumed(saved.config, settings).as_dict()
        trainer = Trainer(Config(**settings), saved)
        if out is not None:
            run.create()
        if metrics is not None:
            metrics = stack.enter_context(closing(Metrics.beside(metrics, trainer.config.input, out or resume)))
        if run is not None:
            run.start(trainer)
        yield trainer, run, metrics


def load(path):
    """The Model of a run's directory or a checkpoint file.  Raises CheckpointError."""
    from . import run

    saved = run.load(path)
    params = Parameters(saved.config, saved.vocab)
    params.copy_from(saved.params)
    return Model(params)


class Score(NamedTuple):
    text: str
    loss: float  # the mean of losses
    losses: list  # -log probability of each character, and of the end, where the context has room for it


class Evaluation(NamedTuple):
    n_documents: int
    n_truncated: int  # how many of them are longer than the context, so that their beginning counts
    loss: float  # the mean over the documents of their mean losses
    bits_per_character: float


class Model:
    """A trained model: `config`, `vocab` (characters by id) and `params` (arrays by name)."""

    def __init__(self, params):
        self.params, self.config, self.vocab = params, params.config, params.vocab

    def __repr__(self):
        return f"<Model of {self.params.flat.size} parameters and {len(self.vocab)} characters>"

    def sample(self, num_samples=20, temperature=0.5, top_k=0, top_p=1.0, prompt="", seed=42, probs=False):
        """A list of invented texts; with probs=True of (text, probabilities of its characters and end)."""
        sampling = Sampling(num_samples, temperature, top_k, top_p, prompt, seed)
        batches = self.batches(sampling, probs)
        if probs:
            return [pair for batch in batches for pair in zip(*batch)]
        return [text for texts, _ in batches for text in texts]

    def batches(self, sampling, probs=False):
        """The same, batch by batch as they are drawn: (texts, their probabilities or None)."""
        self._check_text("--prompt", sampling.prompt, self.config.block_size - 1)
        sampler = Sampler(self.params, columns_for(self.config, sampling.num_samples))
        return sampler.samples(sampling, probs)

    def score(self, text):
        """The Score of a text.  Raises ConfigError for unknown characters, or more than the context holds."""
        self._check_text("TEXT", text, self.config.block_size)
        losses = Evaluator(self.params, [text]).losses()
        return Score(text, mean_loss(losses, [0, len(losses)]), losses.tolist())

    def evaluate(self, documents):
        """The Evaluation of a list of texts; of one longer than the context the beginning counts."""
        if not documents:
            raise DataError("expected at least one document, found none")
        known = set(self.vocab)
        for document in documents:
            if not known.issuperset(document):
                raise DataError(unknown(document, known, self.vocab))
        evaluator = Evaluator(self.params, documents)
        losses = evaluator.losses()
        d = evaluator.dataset
        return Evaluation(len(documents), d.n_truncated, mean_loss(losses, d.offsets), bits_per_character(losses))

    def _check_text(self, name, text, most):
        if type(text) is not str:
            raise ConfigError(f"{name}: expected text, found {text!r}")
        known = set(self.vocab)
        if not known.issuperset(text):
            raise ConfigError(f"{name}: {unknown(text, known, self.vocab)}")
        if len(text) > most:
            raise ConfigError(f"{name}: expected at most {most} characters (--block-size), found {len(text)}")


def unknown(text, known, vocab):
    """What to say of the first character that is not known."""
    i = next(i for i, char in enumerate(text) if char not in known)
    shown = "".join(vocab) if len(vocab) <= 100 else "".join(vocab[:100]) + "..."
    return f"expected characters of the vocabulary {shown!r}, found {text[i]!r} at position {i + 1} of {text!r:.100}"
