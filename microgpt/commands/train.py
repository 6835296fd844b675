"""microgpt train: train a model and sample from it."""

from __future__ import annotations

import argparse
from contextlib import closing
from signal import Signals
from typing import TYPE_CHECKING, Any

from ..base.errors import ConfigError
from ..base.progress import on_terminal
from ..base.signals import stop_on_signals
from ..base.terminal import notice
from .parser import add_command, add_run_settings, add_threads, n_threads, run_settings
from .printing import numbered

if TYPE_CHECKING:
    from ..core.state import Checkpoint
    from ..core.trainer import Trainer
    from ..runs.metrics import Metrics
    from ..runs.ranks import Ranks
    from ..runs.run import Run

GENERATED = {"line": "names", "blank-line": "paragraphs", "none": "text"}


def add(commands: Any) -> None:
    command = add_command(commands, train, "train", "train a model and sample from it")
    add_threads(command)
    command.add_argument("file", metavar="FILE", nargs="?", help="text file to train on, same as --input")
    add_run_settings(command)
    command.add_argument("--metrics", metavar="FILE", help="write each step's loss and learning rate as a line of JSON")
    command.add_argument("--out", metavar="DIR", help="directory to save the run in: checkpoints, metrics and settings")
    command.add_argument("--fresh", action="store_true", help="start over in --out, and replace the run that it holds")
    command.add_argument("--resume", metavar="DIR", help="resume the run in this directory; needs no other flag")
    text = "start from the weights of this run or file, with the same model settings and vocabulary"
    command.add_argument("--init-from", metavar="RUN", help=text)
    command.add_argument("--mpi", action="store_true", help="divide the shards among the processes started by mpiexec")


def train(arguments: argparse.Namespace) -> int | None:
    from ..runs import loop
    from ..runs.training import training

    if arguments.file is not None:
        if arguments.input is not None:
            raise ConfigError(f"cannot be given with FILE {arguments.file!r}, found {arguments.input!r}", "input")
        arguments.input = arguments.file
    settings = run_settings(arguments)
    files = arguments.out, arguments.resume, arguments.metrics, arguments.config
    threads, ranks = n_threads(arguments), ranks_of(arguments)
    if threads is None and ranks is not None and ranks.n_here > 1:
        threads = 1  # the other processes use the other cores
    start = arguments.init_from, arguments.fresh
    with training(settings, *files, threads, ranks, *start) as (trainer, run, metrics):
        stop, best = run_steps(trainer, run, metrics, ranks)
        try:
            if not stop:
                notice_early_end(trainer)
                best = loop.best_before(trainer, run, best)
                if trainer.config.num_samples and (ranks is None or ranks.rank == 0):
                    print_samples(trainer, best)
        finally:  # if saving the run has failed, trying again comes after the samples
            if run is not None:
                with stop_on_signals() as signals:
                    run.finish(signals)
        if stop:
            notice(stopped(f"by {stop[0].name}", trainer, run))
            return 128 + stop[0]
    return None


def ranks_of(arguments: argparse.Namespace) -> Ranks | None:
    """The processes of this MPI job, or None without --mpi."""
    if not arguments.mpi:
        return None
    from ..runs.ranks import Ranks

    ranks = Ranks()
    ranks.silence()
    return ranks


def run_steps(
    trainer: Trainer, run: Run | None, metrics: Metrics | None, ranks: Ranks | None
) -> tuple[list[Signals], Checkpoint | None]:
    """Train to the end or to the first signal; returns the signals received, and what loop.train() returns."""
    from ..runs import loop

    try:
        print_start(trainer, run)
        with closing(on_terminal(trainer.config, trainer.step_count)) as reporter, stop_on_signals() as signals:
            stop = signals if ranks is None else ranks.stop(signals)
            best = loop.train(trainer, run, metrics, reporter, stop)
    except BrokenPipeError:
        notice(stopped("because stdout was closed", trainer, run))
        raise
    return stop, best


def print_start(trainer: Trainer, run: Run | None) -> None:
    """Print the sizes of the data and the model, and where a run resumes."""
    config = trainer.config
    documents = trainer.documents
    if run is not None and run.num_steps_before is not None:
        notice(f"{run.path}: resuming after step {trainer.step_count} of {run.num_steps_before}")
        if config.num_steps != run.num_steps_before:
            length = "longer" if config.num_steps > run.num_steps_before else "shorter"
            notice(f"--num-steps {config.num_steps}: the learning rate now follows the {length} schedule")
    print(f"num {'chars' if documents.running else 'docs'}: {documents.count}")
    if documents.n_held_out:
        print(f"num held out: {documents.n_held_out}")
    print(f"vocab size: {trainer.tokens.size}")
    print(f"num params: {trainer.params.flat.size}", flush=True)


def stopped(why: str, trainer: Trainer, run: Run | None) -> str:
    saved = f"resume with: microgpt train --resume {run.path}" if run is not None else "nothing is saved without --out"
    return f"stopped {why} after step {trainer.step_count}; {saved}"


def notice_early_end(trainer: Trainer) -> None:
    """Print a notice if training stopped early."""
    config = trainer.config
    if trainer.step_count < config.num_steps:
        notice(
            f"stopped early: no lower held-out loss in {config.patience} measurements; to continue, use --resume with "
            f"--patience 0"
        )


def print_samples(trainer: Trainer, best: Checkpoint | None) -> None:
    """Print samples of the best weights or, without them, of the trainer's."""
    from ..core.params import Parameters
    from ..core.sample import Sampler

    params = trainer.params
    if best is not None:
        params = Parameters(best.config, best.vocab)
        params.copy_from(best.params)
    config, sampler = trainer.config, Sampler(params)
    print(f"\n--- inference (new, hallucinated {GENERATED[config.split]}) ---")
    for i in range(1, config.num_samples + 1):
        print(numbered(i, sampler.sample(trainer.rng, config.temperature), config), flush=True)
