"""microgpt sweep: train with many settings and compare the held-out losses."""

import argparse
import sys
from typing import Any

from ..base.config import Sweep
from ..base.settings import parsed
from ..base.signals import stop_on_signals
from ..base.terminal import notice, printable
from .parser import add_command, add_json, add_run_settings, add_settings, add_threads, all_settings, n_threads
from .printing import to_json

THREADS_HELP = "threads per trial (default: 1; with process:N, the cores divided by N)"
EXECUTOR_HELP = (
    "where trials run: process:N (the default; without :N, one per core), thread:N, dask:ADDRESS, mpi, or "
    "MODULE:CALLABLE, a callable that returns a concurrent.futures.Executor"
)
SETTINGS_HELP = (
    "Settings to try: one value, a list a,b,c or, for numbers, a range low..high[:log]. "
    "--val-fraction is 0.1 unless you give it."
)


def add(commands: Any) -> None:
    command = add_command(commands, sweep, "sweep", "train with many settings and compare the final held-out losses")
    add_threads(command, THREADS_HELP)
    command.add_argument("out", metavar="DIR", nargs="?", help="directory to save the sweep and its runs in")
    add_settings(command, Sweep)
    command.add_argument("--executor", metavar="NAME", default="process", help=EXECUTOR_HELP)
    command.add_argument("--resume", metavar="DIR", help="resume the sweep in this directory; needs no other flag")
    add_json(command, "print each trial as a line of JSON, best first")
    add_run_settings(command.add_argument_group("settings", SETTINGS_HELP))


def sweep(arguments: argparse.Namespace) -> int | None:
    from ..sweeps import space, sweeper

    texts = vars(arguments)
    values = {
        name: space.values_of_flag(f, texts[name]) for name, f in space.SETTINGS.items() if texts[name] is not None
    }
    given = all_settings(arguments, values)
    out, resume, own = arguments.out, arguments.resume, parsed(Sweep, texts)
    with stop_on_signals() as stop:
        progress = sys.stderr.isatty()
        done = sweeper.run(out, resume, own, given, arguments.executor, n_threads(arguments), stop, progress)
    trials = done.best_first()
    lines = [to_json(vars(t)) for t in trials] if arguments.json else map(printable, sweeper.table(done))
    print("\n".join(lines), flush=True)
    if stop:
        n, where = done.plan.config.trials, done.folder.path
        ended = f"stopped by {stop[0].name} after {len(trials)} of {n} trials"
        notice(f"{ended}; resume with: microgpt sweep --resume {where}")
        return 128 + stop[0]
    if all(t.status != "done" for t in trials):
        notice(f"0 of {len(trials)} trials finished")
        return 1
    return None
