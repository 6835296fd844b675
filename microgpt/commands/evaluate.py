"""microgpt eval and score: a trained model's mean loss on a file, and its loss on each character of some texts."""

import argparse
import sys
from typing import Any

from ..base.errors import DataError, renamed
from ..base.terminal import printable
from .parser import add_command, add_json, add_threads, n_threads
from .printing import characters, to_json


def add(commands: Any) -> None:
    purpose = "measure a trained model's mean loss and bits per character on a file"
    command = add_command(commands, evaluate, "eval", purpose, trained=True)
    add_threads(command)
    command.add_argument("--input", metavar="FILE", help="text file to measure on (default: the run's own)")
    command.add_argument("--held-out", action="store_true", help="measure only on the documents held out of training")
    add_json(command, "print the result as JSON")

    purpose = "show how much each character of some texts surprises a trained model, in bits"
    command = add_command(commands, score, "score", purpose, trained=True)
    add_threads(command)
    command.add_argument("texts", metavar="TEXT", nargs="*", help="text to score, as one document")
    command.add_argument("--input", metavar="FILE", help="file of texts to score; - is standard input")
    add_json(command, "print each text's scores as a line of JSON")


def evaluate(arguments: argparse.Namespace) -> None:
    from .. import api
    from ..core import documents
    from ..runs.inputs import input_of_run

    model = api.load(arguments.path, n_threads(arguments), arguments.last)
    path = arguments.input if arguments.input is not None else input_of_run(arguments.path, model.config.input)
    texts = model.held_out(path) if arguments.held_out else documents.read(path, model.config.split)[0]
    with renamed("documents", subject=path):
        result = model.evaluate(texts)
    if arguments.json:
        print(to_json({"input": path, **result._asdict()}))
    else:
        print(f"input: {printable(path)}{' (held-out documents)' * arguments.held_out}")
        print(f"num docs: {result.n_documents}")
        print(f"loss: {result.loss:.4f} (mean over the {result.loss_is_mean_of}, in nats)")
        print(f"bits per character: {result.bits_per_character:.4f} (the same in bits)")
        if result.document_loss is not None:
            print(f"document loss: {result.document_loss:.4f} (mean of per-document means, as in training, in nats)")


def score(arguments: argparse.Namespace) -> None:
    from .. import api

    path, texts = arguments.input, arguments.texts
    if texts == ["-"] and path is None:
        path, texts = "-", []
    if bool(texts) == (path is not None):
        arguments.parser.error(f"expected either TEXT or --input FILE, found {'both' if texts else 'neither'}")
    model = api.load(arguments.path, n_threads(arguments), arguments.last)
    if path is not None:
        texts = read_texts(path, model.config.split)
    for found in model.score(texts):
        if arguments.json:
            print(to_json({**found._asdict(), "bits": found.bits}))
        else:
            print(f"{printable(found.text)}: loss {found.loss:.4f}, bits  {characters(found.text, found.bits, '.2f')}")


def read_texts(path: str, split: str) -> list[str]:
    """The documents of a file, or of standard input for "-"."""
    from ..core import documents

    if path != "-":
        return documents.read(path, split)[0]
    if sys.stdin is None:
        raise DataError("expected standard input, found it closed")
    with renamed("", subject="standard input"):
        return documents.from_bytes(sys.stdin.buffer.read(), split)[0]
