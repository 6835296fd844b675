"""The commands of the command line: their flags, and what each does with microgpt.api."""

import argparse
import sys
from dataclasses import fields

from .config import Config, Sampling, flag, parsed, read_toml
from .errors import DataError
from .progress import Reporter
from .signals import stop_on_signals
from .terminal import escaped, notice, printable

# ---- the parser ----


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {escaped(message)} (see {self.prog} --help)\n")


def make_parser():
    parser = Parser(prog="microgpt", description="Train a small GPT on a file of names, and invent new ones.",
                    allow_abbrev=False)  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(run, name, help, run_help=None):
        command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        command.set_defaults(run=run)
        if run_help:
            command.add_argument("path", metavar="RUN", help=run_help)
        return command

    trained = "a run's directory, or a checkpoint file"
    train = add(run_train, "train", "train a model and sample from it")
    add_settings(train, Config)
    train.add_argument("--metrics", metavar="FILE", help="write each step's loss and learning rate as a line of JSON")
    train.add_argument("--config", metavar="FILE", help="TOML file of these settings, such as a run's config.toml")
    train.add_argument("--out", metavar="DIR", help="directory for the run: checkpoints, metrics and settings")
    train.add_argument("--resume", metavar="DIR", help="go on with the run in this directory; needs no other flag")

    sample = add(run_sample, "sample", "invent documents with a trained model", trained)
    add_settings(sample, Sampling)
    sample.add_argument("--probs", action="store_true", help="show the model's probability of each character")
    sample.add_argument("--json", action="store_true", help="print each sample as a line of JSON")

    evaluate = add(run_eval, "eval", "measure a trained model on a file: mean loss and bits per character", trained)
    evaluate.add_argument("--input", metavar="FILE", help="text file, one document a line (default: the run's own)")
    evaluate.add_argument("--json", action="store_true", help="print the result as JSON")

    score = add(run_score, "score", "how much each character of some texts surprises a trained model", trained)
    score.add_argument("texts", metavar="TEXT", nargs="+", help="a document")
    score.add_argument("--json", action="store_true", help="print each text's scores as a line of JSON")

    add(run_info, "info", "version, paths, compiler, instruction set, threads")

    plot = add(run_plot, "plot", "draw the losses of runs (needs matplotlib)")
    plot.add_argument("paths", metavar="RUN", nargs="+", help="a run's directory, or a metrics file")
    plot.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture: FILE.png or FILE.svg")
    return parser


def add_settings(command, settings):
    for f in fields(settings):
        default = f" (default {f.default})" if f.default != "" else ""
        text = f.metadata["help"].replace("%", "%%") + default
        command.add_argument(flag(f.name), metavar=f.type.__name__.upper(), help=text)


# ---- the commands: each returns its exit code, or None when all went well ----


def run_train(arguments):
    from . import api, loop

    settings = read_toml(arguments.config) if arguments.config is not None else {}
    settings |= parsed(Config, vars(arguments))
    with api.training(settings, arguments.out, arguments.resume, arguments.metrics) as (trainer, run, metrics):
        config = trainer.config
        say_what_happens(trainer, run)
        reporter = Reporter(config, trainer.step_count)
        try:
            with stop_on_signals() as stop:
                loop.train(trainer, run, metrics, reporter, stop)
        finally:
            reporter.close()
        if stop:
            saved = f"; microgpt train --resume {run.path} goes on" if run is not None else ""
            notice(f"stopped by {stop[0].name} after step {trainer.step_count}{saved}")
            return 128 + stop[0]
        if trainer.step_count < config.num_steps:
            notice(f"stopped early: no better held-out loss in {config.patience} measurements")

    if config.num_samples:
        from .sample import Sampler

        print("\n--- inference (new, hallucinated names) ---")
        sampler = Sampler(trainer.params)
        for i in range(1, config.num_samples + 1):
            print(f"sample {i:2d}: {printable(sampler.sample(trainer.rng, config.temperature))}")


def say_what_happens(trainer, run):
    config = trainer.config
    if trainer.had_bom:
        notice(f"{config.input}: dropped a byte-order mark")
    say_what_is_cut(config.input, trainer.dataset.n_truncated, config.block_size)
    if run is not None and run.num_steps_before is not None:
        notice(f"{run.path}: goes on after step {trainer.step_count} of {run.num_steps_before}")
        if config.num_steps > run.num_steps_before:
            notice(f"--num-steps {config.num_steps}: from here on the learning rate is that of the longer run")
    print(f"num docs: {len(trainer.documents)}")
    if trainer.n_held_out:
        print(f"num held out: {trainer.n_held_out}")
    print(f"vocab size: {len(trainer.vocab) + 1}")
    print(f"num params: {trainer.params.flat.size}", flush=True)


def say_what_is_cut(path, n, block_size):
    if n:
        notice(f"{path}: {n} line{'s' * (n > 1)} longer than --block-size {block_size}: the rest is not used")


def run_sample(arguments):
    from . import api

    sampling = Sampling(**parsed(Sampling, vars(arguments)))
    model = api.load(arguments.path)
    escape = escaped if sys.stdout.isatty() else str
    first = 1
    for texts, probs in model.batches(sampling, arguments.probs):
        numbered = enumerate(texts, first)
        if arguments.json and probs:
            lines = [to_json({"sample": i, "text": text, "probs": p}) for (i, text), p in zip(numbered, probs)]
        elif arguments.json:
            lines = [to_json({"sample": i, "text": text}) for i, text in numbered]
        else:
            lines = [f"sample {i:2d}: {escape(text)}" for i, text in numbered]
            if probs:
                lines = [f"{line}  {characters(*shown, '.4f')}" for line, *shown in zip(lines, texts, probs)]
        print("\n".join(lines))
        first += len(texts)


def run_eval(arguments):
    from . import api, data

    model = api.load(arguments.path)
    path = arguments.input if arguments.input is not None else model.config.input
    documents, _ = data.read_documents(path)
    try:
        result = model.evaluate(documents)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    say_what_is_cut(path, result.n_truncated, model.config.block_size)
    if arguments.json:
        print(to_json({"input": path, **result._asdict()}))
    else:
        print(f"input: {printable(path)}")
        print(f"num docs: {result.n_documents}")
        print(f"loss: {result.loss:.4f}")
        print(f"bits per character: {result.bits_per_character:.4f}")


def run_score(arguments):
    from math import log

    from . import api

    model = api.load(arguments.path)
    for score in [model.score(text) for text in arguments.texts]:
        bits = [loss / log(2) for loss in score.losses]
        if arguments.json:
            print(to_json({**score._asdict(), "bits": bits}))
        else:
            print(f"{printable(score.text)}: loss {score.loss:.4f}, bits  {characters(score.text, bits, '.2f')}")


def characters(text, numbers, form):
    """'a 0.12  b 0.34  <end> 0.56': each character, and the end if it has one, with its number."""
    return "  ".join(f"{printable(char)} {number:{form}}" for char, number in zip([*text, "<end>"], numbers))


def to_json(value):
    import json

    return json.dumps(value, ensure_ascii=False)


def run_info(arguments):
    import platform
    from pathlib import Path

    import cffi
    import numpy

    from . import __version__, c

    print(f"microgpt     {__version__}")
    print(f"package      {Path(__file__).parent}")
    print(f"python       {platform.python_version()} ({sys.executable})")
    print(f"numpy, cffi  {numpy.__version__}, {cffi.__version__}")
    print(f"compiler     {c.compiler()}")
    print(f"kernels      {c.ISA} (MICROGPT_ISA forces another)")
    print("threads      1")


def run_plot(arguments):
    from .plot import plot

    plot(arguments.paths, arguments.output)
    print(f"wrote {printable(arguments.output)}")
