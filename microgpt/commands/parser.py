"""The parser of the command line, with one-line errors and the flags that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NoReturn

from ..base import threads
from ..base.config import Config
from ..base.config_file import read_toml, recipes, with_recipe
from ..base.package import __version__
from ..base.settings import Settings, flag, kind, parsed, suggestion
from ..base.terminal import escaped

TRAINED_HELP = "a run's directory, a checkpoint file, or a .safetensors file written by microgpt export"
THREADS_HELP = "number of threads (default: MICROGPT_THREADS, or as many cores as the work can keep busy)"

Function = Callable[[argparse.Namespace], int | None]  # runs a command; returns its exit code, or None for success


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line that refers to the command's help."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        if args[:1] == ["help"]:  # `microgpt help COMMAND` is `microgpt COMMAND --help`
            args = [*args[1:], "--help"]
        arguments, unknown = self.parse_known_args(args, namespace)
        if getattr(arguments, "texts", None) == [] and not any(word.startswith("-") for word in unknown):
            arguments.texts, unknown = unknown, []  # at the first flag, argparse ends even an empty list of words
        if unknown:
            parser = arguments.parser
            name = unknown[0].partition("=")[0]
            near = suggestion(name, parser._option_string_actions) if name.startswith("-") else ""
            parser.error(f"expected a flag of this command, found {unknown[0]!r}{near}")
        return arguments

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = suggestion(value, action.choices)
            raise argparse.ArgumentError(action, f"expected one of {', '.join(action.choices)}, found {value!r}{near}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {escaped(message)} (see {self.prog} --help)\n")


def new_parser() -> tuple[Parser, Any]:
    """A parser without commands, and the object to which add_command() adds them."""
    parser = Parser(prog="microgpt", description="Train a small GPT on a text file, and generate new text.",
                    allow_abbrev=False)  # fmt: skip
    parser.add_argument("--version", action="version", version=f"microgpt {__version__}")
    return parser, parser.add_subparsers(dest="command", metavar="COMMAND", required=True)


def add_command(commands: Any, function: Function, name: str, help: str, trained: bool = False) -> Parser:
    """A new command; with `trained` its first argument is a trained model."""
    command: Parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    command.set_defaults(function=function, parser=command)
    if trained:
        command.add_argument("path", metavar="RUN", help=TRAINED_HELP)
        add_last(command)
    return command


def add_threads(command: Parser, help: str = THREADS_HELP) -> None:
    command.add_argument("--threads", metavar="INT", help=help)


def add_last(command: Parser) -> None:
    text = "use the final weights of a run's directory, not those with the lowest held-out loss"
    command.add_argument("--last", action="store_true", help=text)


def add_json(command: Parser, help: str) -> None:
    command.add_argument("--json", action="store_true", help=help)


def add_settings(command: argparse._ActionsContainer, settings: type[Settings]) -> None:
    """Add a flag for each setting of the table."""
    for f in fields(settings):
        default = f" (default {f.default})" if f.default != "" else ""
        text = f.metadata["help"].replace("%", "%%") + default
        metavar = "{" + ",".join(f.metadata["choices"]) + "}" if f.metadata["choices"] else kind(f).__name__.upper()
        command.add_argument(flag(f.name), metavar=metavar, help=text)


def add_run_settings(command: argparse._ActionsContainer) -> None:
    """Add the flags of a run's settings, --recipe and --config."""
    add_settings(command, Config)
    command.add_argument("--recipe", metavar="NAME", help=f"recipe to start from: {', '.join(recipes())}")
    command.add_argument("--config", metavar="FILE", help="TOML file of settings, such as a run's config.toml")


def all_settings(arguments: argparse.Namespace, flags: dict[str, Any]) -> dict[str, Any]:
    """The given settings: flags take precedence over --config, and --config over --recipe."""
    given = read_toml(arguments.config) if arguments.config is not None else {}
    return with_recipe(arguments.recipe, given | flags)


def run_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The given settings of a run."""
    return all_settings(arguments, parsed(Config, vars(arguments)))


def n_threads(arguments: argparse.Namespace) -> int | None:
    """The value of --threads, or None."""
    return None if arguments.threads is None else threads.parse(arguments.threads)
