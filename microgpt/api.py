"""microgpt from Python: train a model or load one, then sample from it, score texts, and measure it.

>>> import microgpt
>>> model = microgpt.train("input.txt", num_steps=1000, out="runs/first")           # doctest: +SKIP
>>> model = microgpt.load("runs/first")                                             # doctest: +SKIP
>>> model.sample(3, temperature=0.7, prompt="ka")                                   # doctest: +SKIP
>>> model.score("kamon").loss                                                       # doctest: +SKIP
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, NamedTuple

from . import loop
from .config import Config, Given, Sampling, accepts, resumed
from .errors import ConfigError, DataError, named
from .evaluate import Evaluator, bits_per_character, mean_loss
from .metrics import Metrics
from .params import Parameters
from .sample import samples
from .signals import interrupt_at_the_end
from .terminal import shown
from .threads import check
from .trainer import Trainer

if TYPE_CHECKING:
    from .run import Run

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Training(Config):
    """What train() may be given: a run's settings, and its files.  Of this class only the signature is used."""

    input: Path = Config.input  # type: ignore[assignment]  # more than a Config keeps
    _: KW_ONLY
    out: Path | None = None
    resume: Path | None = None
    metrics: Path | None = None
    threads: int | None = None


@accepts(Training)
def train(given: Given) -> "Model":
    """Train a model on a text file; returns it.

    The settings are those of the command line.  With `out`, a directory, the run can be resumed with `resume`, which
    then says all that is not given; `metrics` is a file for each step's loss; `threads` is how many work, by default as
    many as there are cores and the work can feed, and changes no bit.  Raises ConfigError, DataError, CheckpointError,
    NotFiniteError or OSError; after Ctrl-C, when the run is saved, KeyboardInterrupt.
    """
    settings = dict(given)
    threads = settings.pop("threads", None)
    if "input" in settings:
        settings["input"] = text_of(settings["input"], "input")
    paths = ((name, settings.pop(name, None)) for name in ("out", "resume", "metrics"))
    out, resume, metrics_path = (None if path is None else text_of(path, name) for name, path in paths)
    begun = training(settings, out, resume, metrics_path, threads=threads)
    with begun as (trainer, run, metrics), interrupt_at_the_end() as stop:
        loop.train(trainer, run, metrics, stop=stop)
    return Model(trainer.params, threads)


@contextmanager
def training(
    settings: Given,
    out: str | None = None,
    resume: str | None = None,
    metrics: str | None = None,
    settings_file: str | None = None,
    threads: int | None = None,
) -> Iterator[tuple[Trainer, "Run | None", Metrics | None]]:
    """(trainer, run, metrics), ready for loop.train(); the latter two are None unless asked for."""
    if out is not None and resume is not None:
        raise ConfigError(
            f"{named('out')}: expected none with {named('resume')}, which says where the run is, found {out!r}"
        )
    directory = out if resume is None else resume
    with ExitStack() as stack:
        run = saved = writer = path = None
        if directory is not None:
            from .run import Run, input_of

            run = stack.enter_context(closing(Run(directory)))
            if resume is not None:
                saved = run.resume()
        config = Config(**settings) if saved is None else resumed(saved.config, settings)
        if directory is not None and saved is not None and "input" not in settings:
            path = input_of(directory, config.input)
        trainer = Trainer(config, saved, saves=run is not None, input=path, threads=threads)
        if run is not None and saved is None:
            run.create()
        if metrics is not None:
            read = {"input": trainer.input} | ({"config": settings_file} if settings_file is not None else {})
            folder = None if run is None else run.folder
            writer = stack.enter_context(closing(Metrics.beside(metrics, read, folder)))
        if run is not None:
            run.start(trainer)
        yield trainer, run, writer


def text_of(path: object, name: str) -> str:
    """The path as text.  Raises TypeError, which names the argument."""
    path = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(path, str):
        raise TypeError(f"{name}: expected a path, found {shown(path)}")
    return path


def load(path: Path, threads: int | None = None) -> "Model":
    """The Model of a run's directory or a checkpoint file, used by so many threads.  Raises CheckpointError."""
    from . import run

    saved = run.load(text_of(path, "path"))
    params = Parameters(saved.config, saved.vocab)
    params.copy_from(saved.params)
    return Model(params, threads)


class Score(NamedTuple):
    text: str
    loss: float  # the mean of losses
    losses: list[float]  # -log probability of each character, and of the end, where the context has room for it


class Evaluation(NamedTuple):
    n_documents: int
    n_truncated: int  # how many of them are longer than the context, so that their beginning counts
    loss: float  # the mean over the documents of their mean losses
    bits_per_character: float


class Model:
    """A trained model: `config`, `vocab` (characters by id) and `params` (arrays by name)."""

    def __init__(self, params: Parameters, threads: int | None = None) -> None:
        self.params, self.config, self.vocab = params, params.config, params.vocab
        self.threads = None if threads is None else check(threads)  # or None: as many as there are cores to use

    def __repr__(self) -> str:
        return f"<Model of {self.params.flat.size} parameters and {len(self.vocab)} characters>"

    @accepts(Sampling)
    def sample(self, given: Given) -> list[str]:
        """A list of invented texts."""
        return [text for texts, _ in self.batches(Sampling(**given)) for text in texts]

    @accepts(Sampling)
    def sample_probs(self, given: Given) -> list[tuple[str, list[float]]]:
        """The same texts, each with the probability of each of its characters, and of the end if it has one."""
        batches = self.batches(Sampling(**given), probs=True)
        return [pair for texts, probs in batches for pair in zip(texts, probs or [])]

    def batches(self, sampling: Sampling, probs: bool = False) -> Iterator[tuple[list[str], list[list[float]] | None]]:
        """The same, batch by batch as they are drawn: (texts, their probabilities or None)."""
        self._check_text(named("prompt"), sampling.prompt, self.config.block_size - 1)
        return samples(self.params, sampling, probs, self.threads)

    def score(self, text: str) -> Score:
        """The Score of a text.  Raises ConfigError for unknown characters, or more than the context holds."""
        self._check_text("text", text, self.config.block_size)
        losses = Evaluator(self.params, [text], self.threads).losses()
        return Score(text, mean_loss(losses, [0, len(losses)]), losses.tolist())

    def evaluate(self, documents: list[str]) -> Evaluation:
        """The Evaluation of a list of texts; of one longer than the context the beginning counts."""
        if isinstance(documents, str) or not isinstance(documents, Iterable):
            raise TypeError(f"documents: expected a list of texts, found {shown(documents)}")
        documents = list(documents)
        if wrong := [document for document in documents if type(document) is not str]:
            raise TypeError(f"documents: expected a list of texts, found {shown(wrong[0])} in it")
        if not documents:
            raise DataError("documents: expected at least one text, found none")
        known = set(self.vocab)
        for document in documents:
            if not known.issuperset(document):
                raise DataError(f"documents: {unknown(document, known, self.vocab)}")
        evaluator = Evaluator(self.params, documents, self.threads)
        losses = evaluator.losses()
        d = evaluator.dataset
        return Evaluation(len(documents), d.n_truncated, mean_loss(losses, d.offsets), bits_per_character(losses))

    def _check_text(self, name: str, text: str, most: int) -> None:
        if type(text) is not str:
            raise ConfigError(f"{name}: expected text, found {shown(text)}")
        known = set(self.vocab)
        if not known.issuperset(text):
            raise ConfigError(f"{name}: {unknown(text, known, self.vocab)}")
        if len(text) > most:
            raise ConfigError(f"{name}: expected at most {most} characters ({named('block_size')}), found {len(text)}")


def unknown(text: str, known: set[str], vocab: list[str]) -> str:
    """What to say of the first character that is not known."""
    i = next(i for i, char in enumerate(text) if char not in known)
    shown = "".join(vocab) if len(vocab) <= 100 else "".join(vocab[:100]) + "..."
    return f"expected characters of the vocabulary {shown!r}, found {text[i]!r} at position {i + 1} of {text!r:.100}"
