"""microgpt plot: plot the losses of runs or of a sweep."""

import argparse
from typing import Any

from .parser import add_command
from .printing import print_written


def add(commands: Any) -> None:
    command = add_command(commands, plot, "plot", "plot the losses of runs or of a sweep (needs matplotlib)")
    command.add_argument(
        "paths", metavar="RUN", nargs="+", help="a run's directory or metrics file, or one sweep's directory"
    )
    command.add_argument("-o", "--output", metavar="FILE", required=True, help="picture to write: FILE.png or FILE.svg")
    command.add_argument("--log-x", action="store_true", help="show steps on a logarithmic scale")
    command.add_argument("--no-raw", action="store_true", help="show only the smoothed losses")


def plot(arguments: argparse.Namespace) -> None:
    from ..sweeps.plot import plot_runs_or_sweep

    plot_runs_or_sweep(arguments.paths, arguments.output, arguments.log_x, not arguments.no_raw)
    print_written(arguments.output)
