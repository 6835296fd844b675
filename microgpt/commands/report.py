"""microgpt report: write a web page that shows what a run learned."""

import argparse
from typing import Any

from .parser import TRAINED_HELP, add_command, add_json, add_last
from .printing import print_written, to_json


def add(commands: Any) -> None:
    command = add_command(commands, report, "report", "write a web page that shows what a run learned")
    command.add_argument(
        "paths", metavar="RUN", nargs="+", help=f"{TRAINED_HELP}; runs after the first show only losses"
    )
    command.add_argument("-o", "--output", metavar="FILE", help="page to write: FILE.html")
    command.add_argument("--texts", metavar="TEXT,...", help="texts to show (default: some of the run's own)")
    add_last(command)
    add_json(command, "print the page's numbers as JSON")


def report(arguments: argparse.Namespace) -> None:
    from ..report.report import report

    texts = None if arguments.texts is None else arguments.texts.split(",")
    data = report(arguments.paths, arguments.output, texts, not arguments.json, arguments.last)
    if arguments.json:
        print(to_json(data))
    else:
        print_written(arguments.output)
