"""The commands of the command line: a module defines the flags of one or two commands, and what they do."""

from . import evaluate, export, info, plot, report, sample, sweep, trace, train
from .parser import Parser, new_parser


def make_parser() -> Parser:
    """The parser of all commands, added in the order of the help."""
    parser, commands = new_parser()
    for command in (train, sample, evaluate, sweep, export, trace, info, plot, report):
        command.add(commands)
    return parser
