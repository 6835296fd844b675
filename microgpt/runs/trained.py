"""A trained model: sample from it, score texts, measure it, and look into it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple, overload

from ..base.config import RUNNING_TEXT, Sampling
from ..base.errors import ConfigError, DataError, named, renamed
from ..base.files import AnyPath, path_text
from ..base.settings import Given
from ..base.signature import accepts
from ..base.terminal import shown
from ..base.threads import check
from ..core.activations import Activations, activations
from ..core.checkpoint import Checkpoint
from ..core.documents import Documents
from ..core.evaluate import Evaluator, mean
from ..core.params import Parameters
from ..core.sample import place, samples
from .history import History
from .inputs import resolve_input


class Score(NamedTuple):
    """What score() says of a text."""

    text: str
    loss: float  # the mean of losses
    losses: list[float]  # -log probability of each character, and of the end, where the context has room for it

    @property
    def bits(self) -> list[float]:
        """The losses in bits."""
        return [loss / math.log(2) for loss in self.losses]

    def __repr__(self) -> str:
        return f"<Score of {shown(self.text)}: loss {self.loss:.4f}, {len(self.losses)} losses>"


class Evaluation(NamedTuple):
    """What evaluate() measures."""

    n_documents: int
    n_characters: int
    loss: float  # the mean over all tokens, in nats
    loss_is_mean_of: str  # "characters and ends" of all documents, or "characters" of running text
    bits_per_character: float  # the same in bits
    document_loss: float | None  # the mean over documents of their mean losses, in nats; None for running text


class Trained:
    """A trained model: `config` (its settings), `vocab` (characters by id), `params` (arrays by name, a mapping) and
    `history` (the losses of its training, as far as they are known)."""

    def __init__(
        self,
        saved: Checkpoint,
        threads: int | None = None,
        history: History | None = None,
        directory: str | None = None,
    ) -> None:
        """The model of a Checkpoint, such as Trainer.checkpoint(); load() reads one from a file.

        `directory` is that of the run, whose metrics are the history unless it is given.
        """
        if not isinstance(saved, Checkpoint):
            raise TypeError(f"saved: expected a Checkpoint, found {type(saved).__name__}")
        self.params = Parameters(saved.config, saved.vocab)
        self.params.copy_from(saved.params)
        self.config, self.vocab = saved.config, saved.vocab
        self.threads = None if threads is None else check(threads)  # or None: as many as there are cores to use
        self._directory = directory
        if history is not None:
            self.history = history
        # arrays of a file are read-only; others may be a trainer's, which changes them
        arrays = {name: a.copy() if a.flags.writeable else a for name, a in saved.arrays.items()}
        self._saved = replace(saved, params=self.params.views, arrays=arrays)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.num_params} parameters and {len(self.vocab)} characters>"

    @property
    def num_params(self) -> int:
        """The number of parameters."""
        return int(self.params.flat.size)

    @property
    def step(self) -> int:
        """The training step after which these were the weights."""
        return self._saved.step

    @cached_property
    def history(self) -> History:
        """The losses of each step, and the held-out losses: of train(), or from the metrics of a run's directory."""
        if self._directory is None:
            return History()
        from . import run

        return run.history(self._directory, self._saved.step)

    @property
    def data_sha256(self) -> str:
        """The SHA-256, in hex, of the documents that the model was trained on, in their order."""
        return self._saved.data_sha256

    @accepts(Sampling)
    def sample(self, given: Given) -> list[str]:
        """Invent texts: a list of str, `num_samples` long.

        Raises ConfigError for a prompt that the model does not take, SamplingError for a model whose numbers overflow.

        SETTINGS
        """
        return [text for texts, _ in self.batches(Sampling(**given)) for text in texts]

    @accepts(Sampling)
    def sample_probs(self, given: Given) -> list[tuple[str, list[float]]]:
        """Invent texts as sample() does: a list of (text, probabilities).

        A text's probabilities are one float for each of its characters, and one for its end if it has one.

        SETTINGS
        """
        batches = self.batches(Sampling(**given), probs=True)
        return [pair for texts, probs in batches for pair in zip(texts, probs or [])]

    def batches(self, sampling: Sampling, probs: bool = False) -> Iterator[tuple[list[str], list[list[float]] | None]]:
        """Invent texts as sample() does, and yield them batch by batch, as they are drawn: (texts, probabilities).

        With `probs` the probabilities are a list of floats for each text, as sample_probs() has them; else None.
        """
        room = self.config.split != RUNNING_TEXT and not sampling.length
        with renamed("prompt", argument="prompt"):
            self._check_text("prompt", sampling.prompt, self.config.block_size - 1 if room else None)
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
        running = self.config.split == RUNNING_TEXT
        for each in texts:
            self._check_text("text", each, None)
            if running and not each:
                raise ConfigError("expected at least one character, found none", subject="text")
        if not texts:
            return []
        losses = Evaluator(self.params, texts, self.threads).losses()
        ends = [*accumulate(len(each) + (not running) for each in texts)]
        found = [losses[start:end] for start, end in zip([0, *ends], ends)]
        scores = [Score(each, mean(of_each), of_each.tolist()) for each, of_each in zip(texts, found)]
        return scores if isinstance(text, (list, tuple)) else scores[0]

    def evaluate(self, documents: list[str]) -> Evaluation:
        """The Evaluation of a list of texts, of which every character counts, also beyond the context length."""
        if isinstance(documents, str) or not isinstance(documents, Iterable):
            raise TypeError(f"documents: expected a list of texts, found {shown(documents)}")
        documents = list(documents)
        if wrong := [document for document in documents if type(document) is not str]:
            raise TypeError(f"documents: expected a list of texts, found {shown(wrong[0])} in it")
        if not documents:
            raise DataError("expected at least one text, found none", argument="documents")
        known = set(self.vocab)
        for document in documents:
            if not known.issuperset(document):
                raise DataError(unknown(document, known, self.vocab), argument="documents")
        with renamed("", argument="documents"):
            evaluator = Evaluator(self.params, documents, self.threads)
        measure = evaluator.measure()
        return Evaluation(
            n_documents=len(documents),
            n_characters=sum(map(len, documents)),
            loss=measure.loss,
            loss_is_mean_of="characters" if self.config.split == RUNNING_TEXT else "characters and ends",
            bits_per_character=measure.bits_per_character,
            document_loss=measure.document_loss,
        )

    def inspect(self, text: str) -> Activations:
        """Every intermediate of the model on a text, by the names of model.py: arrays of rows x tokens.

        The tokens are the start and the text's characters, as far as something is to be predicted after them: what
        score() measures.  Raises ConfigError for unknown characters, or for a text that the context does not hold.
        """
        self._check_text("text", text, self.config.block_size)
        tokens = self.params.tokens
        if tokens.end is None and not text:
            raise ConfigError("expected at least one character, found none", subject="text")
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

    def held_out(self, input: AnyPath | None = None) -> list[str]:
        """The texts that were held out when the model was trained, from `input` or where the settings' input is.

        Raises DataError when the file is another by now; ConfigError when nothing was held out.
        """
        if not self.config.val_fraction:
            raise ConfigError(f"expected a run with {named('val_fraction')}, found one without", argument="held_out")
        return self.documents(input).held_out

    def documents(self, input: AnyPath | None = None) -> Documents:
        """The Documents that the model was trained on, and those held out, from `input` or the settings' input.

        Raises DataError when the file is another by now.
        """
        path = resolve_input(self.config.input) if input is None else path_text(input, "input")
        documents = Documents(self.config, path, random.Random(self.config.seed))
        documents.must_be(self.data_sha256)
        return documents

    def _check_text(self, name: str, text: str, most: int | None) -> None:
        if type(text) is not str:
            raise ConfigError(f"expected text, found {shown(text)}", subject=name)
        known = set(self.vocab)
        if not known.issuperset(text):
            raise ConfigError(unknown(text, known, self.vocab), subject=name)
        if most is not None and len(text) > most:
            raise ConfigError(
                f"expected at most {most} characters ({named('block_size')}), found {len(text)}", subject=name
            )


def unknown(text: str, known: set[str], vocab: list[str]) -> str:
    """What to say of the first character that is not known."""
    from unicodedata import combining

    i = next(i for i, char in enumerate(text) if char not in known)
    shown = "".join(vocab) if len(vocab) <= 100 else "".join(vocab[:100]) + "..."
    found = ascii(text[i]) if combining(text[i]) else repr(text[i])  # which would join the quotation mark
    return f"expected characters of the vocabulary {shown!r}, found {found} at position {i + 1} of {text!r:.100}"
