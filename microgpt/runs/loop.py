"""The training loop: steps, and between them what is due: lines, evaluation, samples, metrics and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING

from ..base.config import RUNNING_TEXT, Config, Sampling
from ..base.errors import named
from ..base.terminal import notice
from ..core.sample import samples
from .history import History
from .metrics import Metrics

if TYPE_CHECKING:
    from ..base.progress import Reporter
    from ..core.trainer import Trainer
    from .run import Run

CHUNK_SECONDS = 0.05  # how long to run steps and do nothing else
SAVE_SECONDS = 60  # how often to save a run that has no --checkpoint-every
N_SAMPLES, LENGTH = 3, 60  # to show while training, and how much of running text
FAR = 2.0  # times a uniform guess's loss


def train(
    trainer: Trainer,
    run: Run | None = None,
    metrics: Metrics | None = None,
    reporter: Reporter | None = None,
    stop: Sized = (),
    history: History | None = None,
) -> None:
    """Train until the last step, until early stopping, or until `stop`, whatever has a length, is no longer empty.

    Whichever it is, the run, if there is one, is saved then, and OSError raised when it cannot be.  When it cannot be
    saved before, or the metrics not be written, there is a notice, and training goes on.
    """
    try:
        run_steps(trainer, run, metrics, reporter, stop, History() if history is None else history)
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
    stop: Sized,
    history: History,
) -> None:
    config = trainer.config
    chunk, saved = 1, time.monotonic()
    history.first_step = trainer.step_count + 1
    while not trainer.done and not stop:
        first, started = trainer.step_count + 1, time.monotonic()
        losses: list[float] = []
        val_loss = None
        try:
            trainer.steps(min(first - 1 + chunk, next_event(config, first)), losses, stop)
            step = trainer.step_count
            if losses and trainer.documents.held_out and (due(config.eval_every, step) or step == config.num_steps):
                val_loss = trainer.evaluate()
                history.val_losses.append((step, val_loss))
        finally:  # whatever went wrong, the steps before it are told
            write_metrics(trainer, run, metrics, first, losses, val_loss)
        if not losses:
            return
        history.losses.extend(losses)
        if run is not None and val_loss is not None and trainer.n_worse == 0:
            or_say(run.save_best, trainer)
        if first == 1:
            warn(losses[0], trainer.tokens.size)
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
            or_say(run.save, trainer)


def or_say(save: Callable[[Trainer], None], trainer: Trainer) -> None:
    """Save, or say that it could not be done."""
    try:
        save(trainer)
    except OSError as error:
        notice(f"{error}; training goes on")


def warn(loss: float, vocab_size: int) -> None:
    """Say of a first loss that is far above that of a uniform guess what helps: such a run seldom learns."""
    guess = math.log(vocab_size)
    if loss > FAR * guess:
        notice(
            f"step 1: expected a loss near that of a uniform guess, {guess:.2f}, found {loss:.2f}; "
            f"a smaller {named('init_std')}, such as 0.02, helps"
        )


def due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def a_few_samples(trainer: Trainer) -> list[str]:
    """Drawn with a generator of their own: looking does not change the run."""
    config = trainer.config
    length = LENGTH if config.split == RUNNING_TEXT else 0
    sampling = Sampling(num_samples=N_SAMPLES, temperature=config.temperature, seed=config.seed, length=length)
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
