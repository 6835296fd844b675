"""The training loop: steps, and between them what is due: lines, evaluation, samples, metrics and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .config import Config, Sampling
from .metrics import Metrics
from .sample import samples
from .terminal import notice

if TYPE_CHECKING:
    from .progress import Reporter
    from .run import Run
    from .trainer import Trainer

CHUNK_SECONDS = 0.05  # how long to run steps and do nothing else
SAVE_SECONDS = 60  # how often to save a run that has no --checkpoint-every
N_SAMPLES = 3  # to show while training


def train(
    trainer: Trainer,
    run: Run | None = None,
    metrics: Metrics | None = None,
    reporter: Reporter | None = None,
    stop: Sequence[object] = (),
) -> None:
    """Train until the last step, until early stopping, or until `stop`, any sequence, is no longer empty.

    Whichever it is, the run, if there is one, is saved then, and OSError raised when it cannot be.  When it cannot be
    saved before, or the metrics not be written, there is a notice, and training goes on.
    """
    try:
        run_steps(trainer, run, metrics, reporter, stop)
    except (OSError, MemoryError):  # nobody reads stdout any longer, or its disk is full; the steps so far are whole
        if run is not None:
            run.save(trainer)
        raise
    if run is not None:
        run.save(trainer)


def run_steps(
    trainer: Trainer,
    run: Run | None,
    metrics: Metrics | None,
    reporter: Reporter | None,
    stop: Sequence[object],
) -> None:
    config = trainer.config
    chunk, saved = 1, time.monotonic()
    while not trainer.done and not stop:
        first, started = trainer.step_count + 1, time.monotonic()
        losses: list[float] = []
        val_loss = None
        try:
            trainer.steps(min(first - 1 + chunk, next_event(config, first)), losses, stop)
            step = trainer.step_count
            if losses and trainer.n_held_out and (due(config.eval_every, step) or step == config.num_steps):
                val_loss = trainer.evaluate()
        finally:  # whatever went wrong, the steps before it are told
            write_metrics(trainer, run, metrics, first, losses, val_loss)
        if not losses:
            return
        if reporter is not None:
            reporter.steps(first, losses)
            if val_loss is not None:
                reporter.held_out(step, val_loss)
            if due(config.sample_every, step):
                reporter.samples(step, a_few_samples(trainer))
        now = time.monotonic()
        chunk = chunk * 2 if now - started < CHUNK_SECONDS else max(1, chunk // 2)
        by_time = not config.checkpoint_every and now > saved + SAVE_SECONDS
        if run is not None and (by_time or due(config.checkpoint_every, step)):
            saved = now
            try:
                run.save(trainer)
            except OSError as error:
                notice(f"{error}; training goes on")


def due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def a_few_samples(trainer: Trainer) -> list[str]:
    """Drawn with a generator of their own: looking does not change the run."""
    config = trainer.config
    sampling = Sampling(num_samples=N_SAMPLES, temperature=config.temperature, seed=config.seed)
    return [text for texts, _ in samples(trainer.params, sampling, threads=1) for text in texts]


def next_event(config: Config, step: int) -> int:
    """The first step from `step` on after which something may be due."""
    every = [config.log_every, config.eval_every, config.checkpoint_every, config.sample_every]
    return min(config.num_steps, *(step + -step % n for n in every if n))


def write_metrics(
    trainer: Trainer,
    run: Run | None,
    metrics: Metrics | None,
    first: int,
    losses: list[float],
    val_loss: float | None = None,
) -> None:
    if not losses or (run is None and metrics is None):
        return
    rates = [trainer.adam.learning_rate(step) for step in range(first - 1, first - 1 + len(losses))]
    if metrics is not None:
        metrics.add(first, losses, rates, val_loss)
        metrics.flush()
    if run is not None:
        run.add_metrics(first, losses, rates, val_loss)
