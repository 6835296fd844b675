"""Open and close a trainer, its run's directory and its metrics file together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from ..base.config import RUNNING_TEXT, Config, resumed
from ..base.errors import ConfigError, DataError, named
from ..base.settings import Given
from ..base.terminal import shown
from ..core.state import Checkpoint
from ..core.trainer import Trainer
from .inputs import given_input, input_of_run
from .metrics import Metrics

if TYPE_CHECKING:
    from .ranks import Ranks
    from .run import Run

SHAPE = "n_layer", "n_embd", "n_head", "block_size"


@contextmanager
def training(
    settings: Given,
    out: str | None = None,
    resume: str | None = None,
    metrics: str | None = None,
    settings_file: str | None = None,
    threads: int | None = None,
    ranks: Ranks | None = None,
    init_from: str | None = None,
    fresh: bool = False,
    texts: Sequence[str] | None = None,
) -> Iterator[tuple[Trainer, Run | None, Metrics | None]]:
    """Yield (trainer, run, metrics) for loop.train().  `texts` take the place of the input file.

    `run` is None without `out` and `resume`, and `metrics` without `metrics`; both are None on every rank but rank 0.
    A new run starts from the weights of the run `init_from`, and if `fresh`, replaces the run in the directory `out`.
    """
    if out is not None and resume is not None:
        raise ConfigError(
            f"cannot be given with {named('resume')}, which already names the run's directory; found {out!r}", "out"
        )
    if init_from is not None and resume is not None:
        raise ConfigError(f"cannot be given with {named('resume')}, found {init_from!r}", "init_from")
    if fresh and out is None:
        raise ConfigError(f"expected {named('out')}, the directory in which to start over, found none", "fresh")
    directory = out if resume is None else resume
    writes = ranks is None or ranks.rank == 0
    with ExitStack() as stack:
        run = saved = source = writer = None
        if directory is not None and writes:
            from .run import Run

            run = stack.enter_context(closing(Run(directory)))
            if resume is not None:
                saved = run.resume()
        if init_from is not None and writes:
            from .run import load

            source = load(init_from)
        if ranks is not None:
            saved, source = ranks.share((saved, source))
        if source is not None:
            settings = same_model(source.config, settings)
        config = Config(**settings) if saved is None else resumed(saved.config, settings, saved.step)
        path: str | Sequence[str]
        if texts is not None:
            path = texts
        elif saved is None or directory is None or "input" in settings:
            path = given_input(settings)
        else:
            path = input_of_run(directory, config.input)
        copies = run is not None or config.val_fraction > 0  # to save, or to keep the best weights
        trainer = Trainer(config, saved, saves=copies, input=path, threads=threads, ranks=ranks)
        if source is not None:
            copy_weights(source, trainer)
        if run is not None and saved is None:
            run.create(fresh)
        if metrics is not None and writes:
            read = {"input": trainer.input} | ({"config": settings_file} if settings_file is not None else {})
            folder = None if run is None else run.folder
            writer = stack.enter_context(closing(Metrics.beside(metrics, read, folder)))
        if run is not None:
            run.start(trainer.checkpoint(), trainer.input)
        yield trainer, run, writer


def same_model(source: Config, settings: Given) -> Given:
    """The settings of a run that starts from the weights of `source`: by default, of the same model.

    Raises ConfigError for a setting that asks for another model.
    """
    for name in SHAPE:
        wanted, found = getattr(source, name), settings.get(name, getattr(source, name))
        if found != wanted:
            raise ConfigError(f"expected {wanted}, as in the run of {named('init_from')}, found {found!r}", name)
    split = settings.get("split", source.split)
    if (split == RUNNING_TEXT) != (source.split == RUNNING_TEXT):
        raise ConfigError(f"expected {source.split}, as in the run of {named('init_from')}, found {split!r}", "split")
    return {name: getattr(source, name) for name in (*SHAPE, "split", "dtype")} | settings


def copy_weights(source: Checkpoint, trainer: Trainer) -> None:
    """Start the trainer from these weights.  Raises DataError if its text has another vocabulary."""
    ours, theirs = set(trainer.vocab), set(source.vocab)
    if ours != theirs:
        lists = [("without", theirs - ours), ("with", ours - theirs)]
        found = " and ".join(f"{word} {shown(''.join(sorted(chars)))}" for word, chars in lists if chars)
        raise DataError(f"expected a text with the vocabulary of the run, found {trainer.input!r} {found}", "init_from")
    trainer.params.copy_from(source.params)
