"""The commands of the command line, a file for each: its flags, and what it does with them."""

from . import evaluate, export, info, plot, report, sample, score, sweep, trace, train
from .parser import Parser, new_parser


def make_parser() -> Parser:
    """The parser of all commands, in the order in which the help shows them."""
    parser, commands = new_parser()
    for command in (train, sample, evaluate, score, sweep, export, trace, info, plot, report):
        command.add(commands)
    return parser
