"""microgpt export: write a trained model as a file of another kind."""

import argparse
from typing import Any

from .parser import add_command
from .printing import print_written


def add(commands: Any) -> None:
    command = add_command(commands, export, "export", "write a trained model as a file for elsewhere", trained=True)
    kinds = "FILE.html (a page), .safetensors (weights), .onnx (a graph) or .py (a program)"
    command.add_argument(
        "-o", "--output", metavar="FILE", required=True, help=f"the file, a kind by its ending: {kinds}"
    )


def export(arguments: argparse.Namespace) -> None:
    from .. import api
    from ..export.formats import export, name_of

    export(api.load(arguments.path), name_of(arguments.path), arguments.output)
    print_written(arguments.output)
