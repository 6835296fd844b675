"""Open and close a trainer, its run's directory and its metrics file together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from ..base.config import Config, resumed
from ..base.errors import ConfigError, named
from ..base.settings import Given
from ..core.trainer import Trainer
from .inputs import given_input, input_of_run
from .metrics import Metrics

if TYPE_CHECKING:
    from .ranks import Ranks
    from .run import Run


@contextmanager
def training(
    settings: Given,
    out: str | None = None,
    resume: str | None = None,
    metrics: str | None = None,
    settings_file: str | None = None,
    threads: int | None = None,
    ranks: Ranks | None = None,
    texts: Sequence[str] | None = None,
) -> Iterator[tuple[Trainer, Run | None, Metrics | None]]:
    """Yield (trainer, run, metrics) for loop.train().  `texts` take the place of the input file.

    `run` is None without `out` and `resume`, and `metrics` without `metrics`; both are None on every rank but rank 0.
    """
    if out is not None and resume is not None:
        raise ConfigError(
            f"cannot be given with {named('resume')}, which already names the run's directory; found {out!r}", "out"
        )
    directory = out if resume is None else resume
    writes = ranks is None or ranks.rank == 0
    with ExitStack() as stack:
        run = saved = writer = None
        if directory is not None and writes:
            from .run import Run

            run = stack.enter_context(closing(Run(directory)))
            if resume is not None:
                saved = run.resume()
        if ranks is not None:
            saved = ranks.share(saved)
        config = Config(**settings) if saved is None else resumed(saved.config, settings)
        path: str | Sequence[str]
        if texts is not None:
            path = texts
        elif saved is None or directory is None or "input" in settings:
            path = given_input(settings)
        else:
            path = input_of_run(directory, config.input)
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
