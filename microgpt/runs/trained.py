"""A trained model: sample from it, score texts, evaluate it, and inspect its intermediates."""

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
from ..base.files import AnyPath, path_or_texts
from ..base.settings import Given
from ..base.signature import accepts
from ..base.terminal import shown
from ..base.threads import check
from ..core.documents import Documents
from ..core.evaluate import Evaluator, mean
from ..core.intermediates import Activations, activations
from ..core.params import Parameters
from ..core.sample import place, samples
from ..core.state import Checkpoint
from .history import History
from .inputs import resolve_input


class Score(NamedTuple):
    """The losses of one text, in nats, as Model.score() returns them.

    `losses` holds -log(probability) of each character and, if it fits into the context, of the end; `loss` is their
    mean.
    """

    text: str
    loss: float
    losses: list[float]

    @property
    def bits(self) -> list[float]:
        """`losses` in bits instead of nats: a list of floats."""
        return [loss / math.log(2) for loss in self.losses]

    def __repr__(self) -> str:
        return f"<Score of {shown(self.text)}: loss {self.loss:.4f}, {len(self.losses)} losses>"


class Evaluation(NamedTuple):
    """The loss of a list of texts, as Model.evaluate() returns it."""

    n_documents: int
    n_characters: int
    loss: float  # the mean over all tokens, in nats
    loss_is_mean_of: str  # "characters and ends" of all documents, or "characters" of running text
    bits_per_character: float  # the same in bits
    document_loss: float | None  # as in training, in nats: the mean of per-document means; None for running text


class Trained:
    """The base of microgpt.Model: everything that needs only the core, neither exports nor reports."""

    def __init__(
        self,
        saved: Checkpoint,
        threads: int | None = None,
        history: History | None = None,
        directory: str | None = None,
        texts: list[str] | None = None,
    ) -> None:
        """Make a model from a Checkpoint in memory; load() reads a model from a file.

        - `saved`: what Trainer.checkpoint() or microgpt.checkpoint.load(path) returned; its arrays are copied
        - `threads`: number of threads; by default, as many as there are cores and the work can keep busy
        - `history`: the losses of its training, as Model.history has them
        - `directory`: the run's directory; without `history`, the losses are read from its metrics file
        - `texts`: the texts that it was trained on, if not those of a file

        Raises TypeError if `saved` is not a Checkpoint, and ConfigError for a wrong number of threads.

        >>> model = microgpt.Model(trainer.checkpoint())   # doctest: +SKIP
        """
        if not isinstance(saved, Checkpoint):
            raise TypeError(f"saved: expected a Checkpoint, found {type(saved).__name__}")
        self.params = Parameters(saved.config, saved.vocab)
        self.params.copy_from(saved.params)
        self.config, self.vocab = saved.config, saved.vocab
        self.threads = None if threads is None else check(threads)
        self._directory, self._texts = directory, texts
        if history is not None:
            self.history = history
        # arrays read from a file are read-only; copy a trainer's, because its next step changes them
        arrays = {name: a.copy() if a.flags.writeable else a for name, a in saved.arrays.items()}
        self._saved = replace(saved, params=self.params.views, arrays=arrays)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.num_params} parameters and {len(self.vocab)} characters>"

    @property
    def num_params(self) -> int:
        """The number of parameters, an int."""
        return int(self.params.flat.size)

    @property
    def step(self) -> int:
        """The number of training steps that made these weights, an int."""
        return self._saved.step

    @cached_property
    def history(self) -> History:
        """The losses of the training: from train(), or from the metrics file of the run's directory; else empty.

        `history.losses` has one float for each step, starting at `history.first_step`; `history.val_losses` is a list
        of (step, held-out loss).
        """
        if self._directory is None:
            return History()
        from . import run

        return run.history(self._directory, self._saved.step)

    @property
    def data_sha256(self) -> str:
        """The SHA-256, in hex, of the documents that the model was trained on, in their shuffled order."""
        return self._saved.data_sha256

    @accepts(Sampling)
    def sample(self, given: Given) -> list[str]:
        """Draw new texts from the model and return them as a list of str, `num_samples` long.

        The settings and their defaults; all but `num_samples` are given by name:

        SETTINGS

        Raises ConfigError for a wrong value, or for a prompt with unknown characters or too long for the context, and
        SamplingError if the model's output is not finite.

        >>> model.sample(3, temperature=0.7, prompt="ka")   # doctest: +SKIP
        ['kalato', 'karay', 'kangut']
        """
        return [text for texts, _ in self.batches(Sampling(**given)) for text in texts]

    @accepts(Sampling)
    def sample_probs(self, given: Given) -> list[tuple[str, list[float]]]:
        """Draw the texts of sample(), and return a list of (text, probabilities).

        The probabilities are a list of floats: one for each character of the text, and one for its end unless it was
        cut off at the context or at `length`.

        The settings and their defaults; all but `num_samples` are given by name:

        SETTINGS

        Raises ConfigError for a wrong value, or for a prompt with unknown characters or too long for the context, and
        SamplingError if the model's output is not finite.

        >>> text, probabilities = model.sample_probs(1)[0]   # doctest: +SKIP
        """
        batches = self.batches(Sampling(**given), probs=True)
        return [pair for texts, probs in batches for pair in zip(texts, probs or [])]

    def batches(self, sampling: Sampling, probs: bool = False) -> Iterator[tuple[list[str], list[list[float]] | None]]:
        """Draw the texts of sample(), and yield them in batches as soon as they are drawn: (texts, probabilities).

        - `sampling`: the settings
        - `probs`: True yields a list of floats for each text, as in sample_probs(); otherwise None takes their place

        Raises ConfigError for a prompt with unknown characters or too long for the context, and SamplingError if the
        model's output is not finite.
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
        """Measure how well the model predicts a text, and return a Score; for a list of texts, a list of them.

        A Score has the attributes `text`; `losses`, a list of floats: -log(probability) of each character and, if it
        fits into the context, of the end; `loss`, their mean; and `bits`, the losses in bits.

        Raises ConfigError for unknown characters, or for a document longer than the context.

        >>> round(model.score("kamon").loss, 4)   # doctest: +SKIP
        2.0115
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
        """Measure the loss of a list of texts and return an Evaluation.

        Its `loss` is the mean over all tokens, that is, characters and the documents' ends, in nats; running text has
        no ends.  Its `document_loss` is what training minimizes: the mean of per-document means, over the tokens that
        fit into the context.  For `loss` every character counts: beyond the context length, the older half of the
        context is dropped, as in sampling.

        Raises TypeError for anything but a list of str, DataError for an empty list or unknown characters, and
        SamplingError if the loss is not finite.

        >>> model.evaluate(["kamon", "anna"]).loss   # doctest: +SKIP
        """
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
        """Run the model on a text and return every intermediate value: a dict of NumPy arrays of `config.dtype`.

        The names are those in microgpt/core/model.py: "layer0.q" (n_embd x tokens), "logits" and "probs" (vocabulary x
        tokens), "losses" (1 x tokens), and so on.  The first token is BOS, or a newline for running text; the others
        are the text's characters.  A final character after which nothing is predicted is left out.

        Raises ConfigError for unknown characters, or for a text longer than the context.

        >>> model.inspect("kamon")["layer0.q"].shape   # doctest: +SKIP
        (16, 6)
        """
        self._check_text("text", text, self.config.block_size)
        tokens = self.params.tokens
        if tokens.end is None and not text:
            raise ConfigError("expected at least one character, found none", subject="text")
        ids = [tokens.start, *tokens.ids(text), *([] if tokens.end is None else [tokens.end])]
        return activations(self.params, ids[: self.config.block_size + 1])

    def attention(self, text: str) -> list[Any]:
        """Return how much each token of a text attends to itself and to each earlier token.

        The result is a list with one NumPy array for each layer, n_head x tokens x tokens: element [head, i, j] is how
        much token i attends to token j, and each row sums to 1.  The tokens are those of inspect(): first BOS, or a
        newline for running text, then the text's characters.

        Raises ConfigError for unknown characters, or for a text longer than the context.

        >>> model.attention("kamon")[0].shape   # doctest: +SKIP
        (4, 6, 6)
        """
        found = self.inspect(text)
        return [found[f"layer{layer}.attn.probs"] for layer in range(self.config.n_layer)]

    def next(self, prefix: str = "") -> dict[str | None, float]:
        """Return the probability of each next character after a prefix, a dict that sums to 1.

        The key None stands for the end of the document; running text has no end.  sample() draws from these
        probabilities at temperature 1, with the prefix as its prompt.

        Raises ConfigError for unknown characters, or for a prefix that leaves no room in the context.

        >>> model.next("ka")["n"]   # doctest: +SKIP
        """
        tokens, block_size = self.params.tokens, self.config.block_size
        if tokens.end is None:
            self._check_text("prefix", prefix, None)
            ids = tokens.ids(prefix) or [tokens.start]
            ids = ids[-1 - place(len(ids) - 1, block_size)[0] :]  # those that are still in the context
        else:
            self._check_text("prefix", prefix, block_size - 1)
            ids = [tokens.start, *tokens.ids(prefix)]
        probs = activations(self.params, [*ids, 0])["probs"][:, -1].tolist()
        chars: list[str | None] = [*self.vocab, *([] if tokens.end is None else [None])]
        return dict(zip(chars, probs))

    def held_out(self, input: AnyPath | list[str] | None = None) -> list[str]:
        """Read the training file and return the held-out texts, a list of str.

        - `input`: path of the file, or the list of texts; by default, the input of the settings

        Raises ConfigError if the model was trained without a held-out set, and DataError if the file cannot be read or
        has changed since.

        >>> model.evaluate(model.held_out()).loss   # doctest: +SKIP
        """
        if not self.config.val_fraction:
            how = f"train with {named('val_fraction')} to have one"
            raise ConfigError(f"expected a run with a held-out set, found one without; {how}", argument="held_out")
        return self.documents(input).held_out

    def documents(self, input: AnyPath | list[str] | None = None) -> Documents:
        """Read the training file and return its Documents: `training` and `held_out`, two lists of str.

        - `input`: path of the file, or the list of texts; by default, the input of the settings

        Raises DataError if the file cannot be read or has changed since.

        >>> len(model.documents().training)   # doctest: +SKIP
        """
        source = self._texts if input is None else path_or_texts(input)
        if source is None:
            source = resolve_input(self.config.input)
        documents = Documents(self.config, source, random.Random(self.config.seed))
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
                f"expected at most {most} characters (context length {self.config.block_size}), found {len(text)}",
                subject=name,
            )


def unknown(text: str, known: set[str], vocab: list[str]) -> str:
    """The message about the first character of `text` that is not in the vocabulary."""
    from unicodedata import combining

    i = next(i for i, char in enumerate(text) if char not in known)
    shown = "".join(vocab) if len(vocab) <= 100 else "".join(vocab[:100]) + "..."
    found = ascii(text[i]) if combining(text[i]) else repr(text[i])  # else it joins the quotation mark
    return f"expected characters of the vocabulary {shown!r}, found {found} at position {i + 1} of {text!r:.100}"
