"""microgpt score: how much each character of some texts surprises a trained model."""

import argparse
from typing import Any

from ..base.terminal import printable
from .parser import add_command, add_json, add_threads, n_threads
from .printing import characters, to_json


def add(commands: Any) -> None:
    purpose = "how much each character of some texts surprises a trained model"
    command = add_command(commands, score, "score", purpose, trained=True)
    add_threads(command)
    command.add_argument("texts", metavar="TEXT", nargs="+", help="a document")
    add_json(command, "print each text's scores as a line of JSON")


def score(arguments: argparse.Namespace) -> None:
    from .. import api

    model = api.load(arguments.path, n_threads(arguments))
    for found in model.score(arguments.texts):
        if arguments.json:
            print(to_json({**found._asdict(), "bits": found.bits}))
        else:
            print(f"{printable(found.text)}: loss {found.loss:.4f}, bits  {characters(found.text, found.bits, '.2f')}")
