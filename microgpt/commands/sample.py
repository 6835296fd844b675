"""microgpt sample: generate documents with a trained model."""

import argparse
import sys
from typing import Any

from ..base.config import RUNNING_TEXT, Sampling
from ..base.settings import parsed
from ..base.terminal import escaped
from .parser import add_command, add_json, add_settings, add_threads, n_threads
from .printing import characters, numbered, to_json


def add(commands: Any) -> None:
    command = add_command(commands, sample, "sample", "generate documents with a trained model", trained=True)
    add_threads(command)
    add_settings(command, Sampling)
    command.add_argument("--probs", action="store_true", help="show the model's probability of each character")
    add_json(command, "print each sample as a line of JSON")


def sample(arguments: argparse.Namespace) -> None:
    from .. import api

    given = parsed(Sampling, vars(arguments))
    Sampling(**given)  # refuse wrong values before loading
    model = api.load(arguments.path, n_threads(arguments), arguments.last)
    running = model.config.split == RUNNING_TEXT
    sampling = Sampling(**({"num_samples": 1} if running else {}) | given)
    escape = escaped if sys.stdout.isatty() else str
    first = 1
    for texts, probs in model.batches(sampling, arguments.probs):
        pairs = enumerate(texts, first)
        if arguments.json and probs:
            lines = [to_json({"sample": i, "text": text, "probs": p}) for (i, text), p in zip(pairs, probs)]
        elif arguments.json:
            lines = [to_json({"sample": i, "text": text}) for i, text in pairs]
        else:
            if running and sampling.num_samples == 1:
                lines = ["\n".join(map(escape, text.split("\n"))) for text in texts]
            else:
                lines = [numbered(i, text, model.config, escape) for i, text in pairs]
            if probs:
                lines = [f"{line}  {characters(text, p, '.4f')}" for line, text, p in zip(lines, texts, probs)]
        print("\n".join(lines))
        first += len(texts)
