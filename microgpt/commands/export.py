"""microgpt export: write a trained model in another format."""

import argparse
from typing import Any

from .parser import add_command
from .printing import print_written


def add(commands: Any) -> None:
    command = add_command(commands, export, "export", "export a trained model to another format", trained=True)
    formats = ".html (web page), .safetensors (weights), .onnx (ONNX graph) or .py (Python program)"
    command.add_argument(
        "-o", "--output", metavar="FILE", required=True, help=f"file to write; its extension is {formats}"
    )


def export(arguments: argparse.Namespace) -> None:
    from .. import api
    from ..export.formats import export, name_of

    export(api.load(arguments.path, last=arguments.last), name_of(arguments.path), arguments.output)
    print_written(arguments.output)
