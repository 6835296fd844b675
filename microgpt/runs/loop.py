"""The training loop: steps, and between them evaluation, progress lines, samples, metrics and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sized
from dataclasses import replace
from typing import TYPE_CHECKING

from ..base.config import RUNNING_TEXT, Config, Sampling
from ..base.errors import given, named
from ..base.terminal import notice
from ..core.documents import SINGLE_DOCUMENTS
from ..core.evaluate import Measure
from ..core.sample import samples
from .history import History
from .metrics import Metrics

if TYPE_CHECKING:
    from ..base.progress import Reporter
    from ..core.state import Checkpoint
    from ..core.trainer import Trainer
    from .run import Run

CHUNK_SECONDS = 0.05  # steps run this long without anything between them
SAVE_SECONDS = 60  # time between saves without --checkpoint-every
N_SAMPLES, LENGTH = 3, 60  # samples to show during training, and their characters for running text
HIGH_LOSS = 2.0  # times the loss of a uniform guess: the first loss is then worth a notice


def train(
    trainer: Trainer,
    run: Run | None = None,
    metrics: Metrics | None = None,
    reporter: Reporter | None = None,
    stop: Sized = (),
    history: History | None = None,
) -> Checkpoint | None:
    """Train until the last step, until early stopping, or until `stop` (any sized container) is no longer empty.

    The run, if there is one, is saved at the end; if that fails, run.finish() tries again.  If an earlier save or
    writing the metrics fails, print a notice and continue.  Without a run, returns a copy of the best checkpoint, if a
    part of the text is held out.
    """
    try:
        best = run_steps(trainer, run, metrics, reporter, stop, History() if history is None else history)
    except (OSError, MemoryError):  # such as a closed stdout: save the steps so far, which are complete
        if run is not None:
            run.save(trainer.checkpoint())
        raise
    if run is not None:
        run.save_last(trainer.checkpoint())
    return best


def best_before(trainer: Trainer, run: Run | None, best: Checkpoint | None) -> Checkpoint | None:
    """The best checkpoint of a run that has ended, if it is not the last one.

    `best` is what train() returned.  A notice says which it is, and suggests a remedy.
    """
    if run is not None and trainer.best_val_loss is not None:
        best = run.best()
    if best is None or best.step == trainer.step_count:
        return None
    stop = given("num_steps", best.step) + (f", {given('patience', 5)}" if not trainer.config.patience else "")
    remedy = f"; it has been higher since: try {stop}, a larger {named('weight_decay')} or a smaller {named('n_embd')}"
    notice(
        f"using the weights of step {best.step}, where the held-out loss was lowest ({trainer.best_val_loss:.4f})"
        f"{remedy if trainer.n_worse else ''}"
    )
    return best


def run_steps(
    trainer: Trainer,
    run: Run | None,
    metrics: Metrics | None,
    reporter: Reporter | None,
    stop: Sized,
    history: History,
) -> Checkpoint | None:
    config, best = trainer.config, None
    chunk, saved, every = 1, time.monotonic(), eval_every(trainer)
    history.first_step = trainer.step_count + 1
    while not trainer.done and not stop:
        first, started = trainer.step_count + 1, time.monotonic()
        losses, held_out = run_chunk(trainer, run, metrics, stop, chunk, every)
        if not losses:
            break
        step = trainer.step_count
        history.losses.extend(losses)
        if held_out is not None:
            history.val_losses.append((step, held_out.loss))
            if trainer.record(compared(config, held_out)):
                if run is None:
                    best = copied(trainer.checkpoint())
                else:
                    save_or_notice(run.save_best, trainer)
        if first == 1:
            warn(losses[0], trainer.tokens.size)
        if reporter is not None:
            report(reporter, trainer, first, losses, held_out, every)
        now = time.monotonic()
        chunk = chunk * 2 if now - started < CHUNK_SECONDS else max(1, chunk // 2)
        by_time = not config.checkpoint_every and now > saved + SAVE_SECONDS
        if run is not None and not trainer.done and (by_time or due(config.checkpoint_every, step)):
            saved = now
            save_or_notice(run.save, trainer)
    return best


def run_chunk(
    trainer: Trainer, run: Run | None, metrics: Metrics | None, stop: Sized, chunk: int, every: int
) -> tuple[list[float], Measure | None]:
    """Train at most `chunk` steps, up to the next event, and return their losses and the held-out losses, if due.

    `every` is the number of steps between two held-out losses.

    After an error, the metrics of the steps before it are still written.
    """
    config, first = trainer.config, trainer.step_count + 1
    losses: list[float] = []
    held_out = None
    try:
        trainer.steps(min(first - 1 + chunk, next_event(config, every, first)), losses, stop)
        step = trainer.step_count
        if losses and trainer.documents.held_out and (due(every, step) or step == config.num_steps):
            held_out = trainer.measure()
    finally:
        write_metrics(trainer, run, metrics, first, losses, held_out)
    return losses, held_out


def compared(config: Config, held_out: Measure) -> float:
    """The held-out loss by which a run chooses its best weights; older runs began with the mean over documents."""
    if config.val_split == SINGLE_DOCUMENTS and held_out.document_loss is not None:
        return held_out.document_loss
    return held_out.loss


def report(
    reporter: Reporter, trainer: Trainer, first: int, losses: list[float], held_out: Measure | None, every: int
) -> None:
    """Show the steps from `first` on, the held-out loss, and samples if they are due."""
    config, step = trainer.config, trainer.step_count
    reporter.steps(first, losses)
    # many are measured if eval_every is 0: show only one for each line of the training loss
    logged = step // config.log_every > (step - every) // config.log_every or step == config.num_steps
    if held_out is not None and (config.eval_every or logged):
        reporter.held_out(step, held_out.loss)
    if due(config.sample_every, step):
        reporter.samples(step, draw_samples(trainer))


def save_or_notice(save: Callable[[Checkpoint], None], trainer: Trainer) -> None:
    """Save the run as it is now, or print a notice that this failed."""
    try:
        save(trainer.checkpoint())
    except OSError as error:
        notice(f"{error}; training continues")


def warn(loss: float, vocab_size: int) -> None:
    """Print a notice if the first loss is far above that of a uniform guess, because such a run rarely learns."""
    guess = math.log(vocab_size)
    if loss > HIGH_LOSS * guess:
        notice(
            f"step 1: expected a loss near that of a uniform guess, {guess:.2f}, found {loss:.2f}; "
            f"try a smaller {named('init_std')}, such as 0.02"
        )


def due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def draw_samples(trainer: Trainer) -> list[str]:
    """Draw samples with a separate random generator, so that showing them does not change the run."""
    config = trainer.config
    length = LENGTH if config.split == RUNNING_TEXT else 0
    sampling = Sampling(num_samples=N_SAMPLES, temperature=config.temperature, seed=config.seed, length=length)
    return [text for texts, _ in samples(trainer.params, sampling, threads=1) for text in texts]


def eval_every(trainer: Trainer) -> int:
    """The steps between two held-out losses.

    If the setting is 0: about one pass over the training documents, but from a 200th to a 20th of all steps; and at
    least as many as train on as much text as is held out, so that evaluation never takes most of the time.
    """
    config = trainer.config
    if config.eval_every:
        return config.eval_every
    n, dataset = config.num_steps, trainer.dataset
    one_pass = dataset.n_documents // config.batch_size
    as_much = sum(map(len, trainer.documents.held_out)) // dataset.max_columns
    return min(n, max(1, as_much, min(max(one_pass, -(-n // 200)), n // 20)))


def next_event(config: Config, eval_every: int, step: int) -> int:
    """The first step, `step` or later, after which something may be due."""
    every = [config.log_every, eval_every, config.checkpoint_every, config.sample_every]
    return min(config.num_steps, *(step + -step % n for n in every if n))


def copied(saved: Checkpoint) -> Checkpoint:
    """A copy that the next step does not change."""
    params, arrays = ({name: a.copy("F") for name, a in each.items()} for each in (saved.params, saved.arrays))
    return replace(saved, params=params, arrays=arrays)


def write_metrics(
    trainer: Trainer,
    run: Run | None,
    metrics: Metrics | None,
    first: int,
    losses: list[float],
    held_out: Measure | None = None,
) -> None:
    if not losses or (run is None and metrics is None):
        return
    rates = [trainer.learning_rate(step) for step in range(first - 1, first - 1 + len(losses))]
    if metrics is not None:
        metrics.add(first, losses, rates, held_out)
        metrics.flush()
    if run is not None:
        run.add_metrics(first, losses, rates, held_out)
