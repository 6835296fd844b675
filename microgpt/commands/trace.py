"""microgpt trace: write every number that the first steps of a run compute."""

import argparse
from typing import Any

from ..base.config import Config, Tracing
from ..base.errors import ConfigError
from ..base.settings import parsed
from .parser import add_command, add_run_settings, add_settings, run_settings
from .printing import print_written


def add(commands: Any) -> None:
    purpose = "write every number that a run's first steps compute, to check a port against"
    command = add_command(commands, trace, "trace", purpose)
    add_settings(command, Tracing)
    add_run_settings(command)
    command.add_argument("-o", "--output", metavar="FILE", required=True, help="file to write: FILE.safetensors")


def trace(arguments: argparse.Namespace) -> None:
    from ..export import trace
    from ..export.formats import write
    from ..runs.inputs import given_input

    if not arguments.output.lower().endswith(".safetensors"):
        raise ConfigError(f"expected a name that ends in .safetensors, found {arguments.output!r}", "output")
    steps = Tracing(**parsed(Tracing, vars(arguments))).steps
    settings = run_settings(arguments)
    config = Config(**settings)
    write(arguments.output, trace.to_bytes(config, steps, given_input(settings)))
    print_written(arguments.output)
