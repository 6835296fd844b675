"""microgpt from Python: train a model or load one, then sample from it, score texts, and measure it.

>>> import microgpt
>>> model = microgpt.train("input.txt", num_steps=1000, out="runs/first")           # doctest: +SKIP
>>> model = microgpt.load("runs/first")                                             # doctest: +SKIP
>>> model.sample(3, temperature=0.7, prompt="ka")                                   # doctest: +SKIP
>>> model.score("kamon").loss                                                       # doctest: +SKIP
"""

import math
import os
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from .base import files
from .base.config import RUNNING, Config, Given, Sampling, accepts, read_recipe, resumed
from .base.errors import ConfigError, DataError, named, optional
from .base.progress import Reporter, progress_bar
from .base.signals import interrupt_at_the_end
from .base.terminal import shown
from .base.threads import check
from .core.activations import Activations, activations
from .core.checkpoint import Checkpoint
from .core.documents import Documents, at_hand
from .core.evaluate import Evaluator, bits_per_character, mean
from .core.params import Parameters
from .core.sample import place, samples
from .core.trainer import Trainer
from .runs import loop
from .runs.history import History
from .runs.metrics import Metrics

if TYPE_CHECKING:
    from .export.pytorch import GPT
    from .runs.ranks import Ranks
    from .runs.run import Run

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Training(Config):
    """What train() may be given: a run's settings, and its files.  Of this class only the signature is used."""

    input: Path = Config.input  # type: ignore[assignment]  # more than a Config keeps
    _: KW_ONLY
    recipe: str | None = None
    out: Path | None = None
    resume: Path | None = None
    metrics: Path | None = None
    threads: int | None = None
    progress: bool = False


@accepts(Training)
def train(given: Given) -> "Model":
    """Train a model on a text file; returns it.

    The settings are those of the command line, and `recipe` names a set of them.  With `out`, a directory, the run can
    be resumed with `resume`, which then says all that is not given; `metrics` is a file for each step's loss; `threads`
    is how many work, by default as many as there are cores and the work can feed, and changes no bit; `progress` shows
    a bar.  Raises ConfigError, DataError, CheckpointError, NotFiniteError or OSError; after Ctrl-C, when the run is
    saved, KeyboardInterrupt.

    SETTINGS
    """
    given = dict(given)
    recipe, threads, progress = (given.pop(name, None) for name in ("recipe", "threads", "progress"))
    if "input" in given:
        given["input"] = text_of(given["input"], "input")
    paths = ((name, given.pop(name, None)) for name in ("out", "resume", "metrics"))
    out, resume, metrics_path = (None if path is None else text_of(path, name) for name, path in paths)
    settings = ({} if recipe is None else read_recipe(recipe)) | given
    history = History()
    begun = training(settings, out, resume, metrics_path, threads=threads)
    with begun as (trainer, run, metrics), interrupt_at_the_end() as stop:
        config, first = trainer.config, trainer.step_count
        bar = progress_bar(config.num_steps, first, notebook=True) if progress else None
        reporter = Reporter(config, first, bar, "none") if progress else None
        try:
            loop.train(trainer, run, metrics, reporter, stop, history)
        finally:
            if reporter is not None:
                reporter.close()
    return Model(trainer.checkpoint(), threads, history)


@contextmanager
def training(
    settings: Given,
    out: str | None = None,
    resume: str | None = None,
    metrics: str | None = None,
    settings_file: str | None = None,
    threads: int | None = None,
    ranks: "Ranks | None" = None,
) -> Iterator[tuple[Trainer, "Run | None", Metrics | None]]:
    """(trainer, run, metrics), ready for loop.train(); the latter two are None unless asked for, and but for rank 0."""
    if out is not None and resume is not None:
        raise ConfigError(
            f"{named('out')}: expected none with {named('resume')}, which says where the run is, found {out!r}"
        )
    directory = out if resume is None else resume
    writes = ranks is None or ranks.rank == 0
    with ExitStack() as stack:
        run = saved = writer = path = None
        if directory is not None and writes:
            from .runs.run import Run

            run = stack.enter_context(closing(Run(directory)))
            if resume is not None:
                saved = run.resume()
        if ranks is not None:
            saved = ranks.share(saved)
        config = Config(**settings) if saved is None else resumed(saved.config, settings)
        if "input" not in settings and saved is None:
            path = at_hand(config.input)
        elif "input" not in settings and directory is not None:
            from .runs.run import input_of

            path = input_of(directory, config.input)
        trainer = Trainer(config, saved, saves=run is not None, input=path, threads=threads, ranks=ranks)
        if run is not None and saved is None:
            run.create()
        if metrics is not None and writes:
            read = {"input": trainer.input} | ({"config": settings_file} if settings_file is not None else {})
            folder = None if run is None else run.folder
            writer = stack.enter_context(closing(Metrics.beside(metrics, read, folder)))
        if run is not None:
            run.start(trainer.checkpoint(), trainer.input)
        yield trainer, run, writer


def gpt(what: str) -> "type[GPT]":
    """The class of PyTorch modules.  Raises ExtraError, which says what needs it."""
    optional("torch", "torch", what)
    from .export.pytorch import GPT

    return GPT


def text_of(path: object, name: str) -> str:
    """The path as text.  Raises TypeError, which names the argument."""
    path = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(path, str):
        raise TypeError(f"{name}: expected a path, found {shown(path)}")
    return path


def load(path: Path, threads: int | None = None) -> "Model":
    """The Model of a run's directory, a checkpoint file or a .safetensors file of export, used by so many threads.

    Raises CheckpointError.
    """
    from .runs import run

    name = text_of(path, "path")
    model = Model(run.load(name), threads)
    model._directory = os.path.abspath(name)
    return model


class Score(NamedTuple):
    text: str
    loss: float  # the mean of losses
    losses: list[float]  # -log probability of each character, and of the end, where the context has room for it

    @property
    def bits(self) -> list[float]:
        """The losses in bits."""
        return [loss / math.log(2) for loss in self.losses]


class Evaluation(NamedTuple):
    n_documents: int
    n_truncated: int  # how many of them are longer than the context, so that only their beginning counts
    n_lost: int  # characters that do not
    longest: int  # a context that would hold every document
    n_characters: int
    loss: float
    loss_is_mean_of: str  # "documents", the mean losses of which are meant, or "characters" of running text
    bits_per_character: float
    bits_are_mean_of: str  # "characters and ends" of all documents, or "characters"


class Model:
    """A trained model: `config`, `vocab` (characters by id), `params` (arrays by name, a mapping), and
    `history`, its losses."""

    def __init__(self, saved: Checkpoint, threads: int | None = None, history: History | None = None) -> None:
        """The model of a Checkpoint, such as Trainer.checkpoint(); load() reads one from a file."""
        if not isinstance(saved, Checkpoint):
            raise TypeError(f"saved: expected a Checkpoint, found {type(saved).__name__}")
        self.params = Parameters(saved.config, saved.vocab)
        self.params.copy_from(saved.params)
        self.config, self.vocab = saved.config, saved.vocab
        self.threads = None if threads is None else check(threads)  # or None: as many as there are cores to use
        self._directory: str | None = None  # of the run whose metrics have the history
        if history is not None:
            self.history = history
        # read-only are the bytes of a file; others may be a trainer's, which goes on
        arrays = {name: a.copy() if a.flags.writeable else a for name, a in saved.arrays.items()}
        self._saved = replace(saved, params=self.params.views, arrays=arrays)

    def __repr__(self) -> str:
        return f"<Model of {self.params.flat.size} parameters and {len(self.vocab)} characters>"

    @cached_property
    def history(self) -> History:
        """The losses of each step, and the held-out losses: of train(), or from the metrics of a run's directory."""
        if self._directory is None:
            return History()
        from .runs import run

        return run.history(self._directory, self._saved.step)

    @property
    def data_sha256(self) -> str:
        """Of the documents that it was trained on."""
        return self._saved.data_sha256

    def to_torch(self) -> "GPT":
        """The model as a PyTorch module, whose state_dict() is the .safetensors file.  Raises ExtraError."""
        return gpt("to_torch()")(self)

    @classmethod
    def from_torch(cls, module: "GPT", threads: int | None = None) -> "Model":
        """The Model of a module that to_torch() gave, with the weights, and in the precision, that it has by now.

        Raises ConfigError for another precision than float64 or float32, other shapes, or numbers that are not finite.
        """
        if not isinstance(module, gpt("from_torch()")):
            found = f"{type(module).__name__}; of a compiled one give the module that was compiled"
            raise TypeError(f"module: expected what to_torch() gave, found {found}")
        return cls(module.checkpoint(), threads)

    def save(self, path: Path) -> None:
        """Write a checkpoint file, PATH.npz, which load() and the commands take.  Raises ConfigError, OSError."""
        name = text_of(path, "path")
        if not name.endswith(".npz"):
            raise ConfigError(
                f"save: expected a name that ends in .npz, found {name!r}; microgpt export writes other kinds"
            )
        from .runs import checkpoint

        files.write(name, checkpoint.to_bytes(self._saved))

    @accepts(Sampling)
    def sample(self, given: Given) -> list[str]:
        """A list of invented texts.

        SETTINGS
        """
        return [text for texts, _ in self.batches(Sampling(**given)) for text in texts]

    @accepts(Sampling)
    def sample_probs(self, given: Given) -> list[tuple[str, list[float]]]:
        """The same texts, each with the probability of each of its characters, and of the end if it has one."""
        batches = self.batches(Sampling(**given), probs=True)
        return [pair for texts, probs in batches for pair in zip(texts, probs or [])]

    def batches(self, sampling: Sampling, probs: bool = False) -> Iterator[tuple[list[str], list[list[float]] | None]]:
        """The same, batch by batch as they are drawn: (texts, their probabilities or None)."""
        room = self.config.split != RUNNING and not sampling.length
        self._check_text(named("prompt"), sampling.prompt, self.config.block_size - 1 if room else None)
        return samples(self.params, sampling, probs, self.threads)

    @overload
    def score(self, text: str) -> Score: ...
    @overload
    def score(self, text: list[str]) -> list[Score]: ...
    def score(self, text: str | list[str]) -> Score | list[Score]:
        """The Score of a text, or of each in a list.

        Raises ConfigError for unknown characters, or for a document that the context does not hold.
        """
        texts = list(text) if isinstance(text, (list, tuple)) else [text]
        running = self.config.split == RUNNING
        for each in texts:
            self._check_text("text", each, None if running else self.config.block_size)
            if running and not each:
                raise ConfigError("text: expected at least one character, found none")
        if not texts:
            return []
        losses = Evaluator(self.params, texts, self.threads).losses()
        counts = [len(each) if running else min(len(each) + 1, self.config.block_size) for each in texts]
        ends = [*accumulate(counts)]
        found = [losses[start:end] for start, end in zip([0, *ends], ends)]
        means = [mean(of_each, None if running else [len(of_each)]) for of_each in found]
        scores = [Score(each, loss, of_each.tolist()) for each, loss, of_each in zip(texts, means, found)]
        return scores if isinstance(text, (list, tuple)) else scores[0]

    def evaluate(self, documents: list[str]) -> Evaluation:
        """The Evaluation of a list of texts; of a document longer than the context the beginning counts."""
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
        losses, d = evaluator.losses(), evaluator.dataset
        running = self.config.split == RUNNING
        return Evaluation(
            n_documents=len(documents),
            n_truncated=d.n_truncated,
            n_lost=d.n_lost,
            longest=d.longest,
            n_characters=d.n_characters,
            loss=evaluator.mean(losses),
            loss_is_mean_of="characters" if running else "documents",
            bits_per_character=bits_per_character(losses),
            bits_are_mean_of="characters" if running else "characters and ends",
        )

    def inspect(self, text: str) -> Activations:
        """Every intermediate of the model on a text, by the names of model.py: arrays of rows x tokens.

        The tokens are the start and the text's characters, as far as something is to be predicted after them: what
        score() measures.  Raises ConfigError for unknown characters, or for a text that the context does not hold.
        """
        self._check_text("text", text, self.config.block_size)
        tokens = self.params.tokens
        if tokens.end is None and not text:
            raise ConfigError("text: expected at least one character, found none")
        ids = [tokens.start, *tokens.ids(text), *([] if tokens.end is None else [tokens.end])]
        return activations(self.params, ids[: self.config.block_size + 1])

    def attention(self, text: str) -> list[Any]:
        """For each layer, how much each token of a text took from which: n_head x tokens x tokens, rows that sum to 1.

        The tokens and the errors are those of inspect().
        """
        found = self.inspect(text)
        return [found[f"layer{layer}.attn.probs"] for layer in range(self.config.n_layer)]

    def next(self, prefix: str = "") -> dict[str | None, float]:
        """The probability of each character after a prefix, and of the end, which is None: as sample() draws them at
        temperature 1, with the prefix as its prompt.

        Raises ConfigError for unknown characters, or when the context has no room for what follows.
        """
        tokens, block_size = self.params.tokens, self.config.block_size
        if tokens.end is None:
            self._check_text("prefix", prefix, None)
            ids = tokens.ids(prefix) or [tokens.start]
            ids = ids[-1 - place(len(ids) - 1, block_size)[0] :]  # what the context has kept of them
        else:
            self._check_text("prefix", prefix, block_size - 1)
            ids = [tokens.start, *tokens.ids(prefix)]
        probs = activations(self.params, [*ids, 0])["probs"][:, -1].tolist()
        chars: list[str | None] = [*self.vocab, *([] if tokens.end is None else [None])]
        return dict(zip(chars, probs))

    def held_out(self, input: Path | None = None) -> list[str]:
        """The texts that were held out when the model was trained, from `input` or where the settings' input is.

        Raises DataError when the file is another by now; ConfigError when nothing was held out.
        """
        if not self.config.val_fraction:
            raise ConfigError(f"{named('held_out')}: expected a run with {named('val_fraction')}, found one without")
        return self.documents(input).held_out

    def documents(self, input: Path | None = None) -> Documents:
        """The Documents that the model was trained on, and those held out, from `input` or the settings' input.

        Raises DataError when the file is another by now.
        """
        path = at_hand(self.config.input) if input is None else text_of(input, "input")
        documents = Documents(self.config, path, random.Random(self.config.seed))
        documents.must_be(self.data_sha256)
        return documents

    def _check_text(self, name: str, text: str, most: int | None) -> None:
        if type(text) is not str:
            raise ConfigError(f"{name}: expected text, found {shown(text)}")
        known = set(self.vocab)
        if not known.issuperset(text):
            raise ConfigError(f"{name}: {unknown(text, known, self.vocab)}")
        if most is not None and len(text) > most:
            raise ConfigError(f"{name}: expected at most {most} characters ({named('block_size')}), found {len(text)}")


def unknown(text: str, known: set[str], vocab: list[str]) -> str:
    """What to say of the first character that is not known."""
    from unicodedata import combining

    i = next(i for i, char in enumerate(text) if char not in known)
    shown = "".join(vocab) if len(vocab) <= 100 else "".join(vocab[:100]) + "..."
    found = ascii(text[i]) if combining(text[i]) else repr(text[i])  # which would join the quotation mark
    return f"expected characters of the vocabulary {shown!r}, found {found} at position {i + 1} of {text!r:.100}"
