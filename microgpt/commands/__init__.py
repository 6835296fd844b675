"""The commands of the command line: each module has the flags of one, or of two, beside what they do."""

from . import evaluate, export, info, plot, report, sample, sweep, trace, train
from .parser import Parser, new_parser


def make_parser() -> Parser:
    """The parser of all commands, in the order in which the help shows them."""
    parser, commands = new_parser()
    for command in (train, sample, evaluate, sweep, export, trace, info, plot, report):
        command.add(commands)
    return parser
