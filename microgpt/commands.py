"""The commands of the command line: their flags, and what each does with microgpt.api."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from .base import threads
from .base.config import (
    LINE,
    Config,
    Sampling,
    Settings,
    Sweep,
    Tracing,
    flag,
    kind,
    parsed,
    read_recipe,
    read_toml,
    recipes,
    suggestion,
)
from .base.errors import ConfigError, DataError
from .base.package import __version__
from .base.progress import on_terminal
from .base.signals import stop_on_signals
from .base.terminal import escaped, notice, printable

if TYPE_CHECKING:
    from .api import Evaluation
    from .core.data import Dataset
    from .core.trainer import Trainer
    from .runs.ranks import Ranks
    from .runs.run import Run

THREADS_HELP = "how many work (default MICROGPT_THREADS, or as many as there are cores and the work can feed)"
TRIAL_THREADS_HELP = "how many work on a trial (default 1, or with process:N the cores shared out)"
EXECUTOR_HELP = (
    "what trials run on: process:N (the default, with N the cores), thread:N, dask:ADDRESS, mpi, or MODULE:CALLABLE, "
    "which returns a concurrent.futures.Executor"
)
SETTINGS_HELP = (
    "of the trials: a value, a,b,c or, of numbers, low..high[:log]; --val-fraction is 0.1 unless it is given"
)

Command = Callable[[argparse.Namespace], int | None]

# ---- the parser ----


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, which leads to the help of the command it is about."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
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


def make_parser() -> Parser:
    parser = Parser(prog="microgpt", description="Train a small GPT on a file of names, and invent new ones.",
                    allow_abbrev=False)  # fmt: skip
    parser.add_argument("--version", action="version", version=f"microgpt {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(function: Command, name: str, help: str, path_help: str = "") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        command.set_defaults(function=function, parser=command)
        if path_help:
            command.add_argument("path", metavar="RUN", help=path_help)
        if name in ("train", "sample", "eval", "score", "sweep"):
            command.add_argument(
                "--threads", metavar="INT", help=TRIAL_THREADS_HELP if name == "sweep" else THREADS_HELP
            )
        return command

    trained = "a run's directory, a checkpoint file, or a .safetensors file of export"
    command = add(train, "train", "train a model and sample from it")
    add_run_settings(command)
    command.add_argument("--metrics", metavar="FILE", help="write each step's loss and learning rate as a line of JSON")
    command.add_argument("--out", metavar="DIR", help="directory for the run: checkpoints, metrics and settings")
    command.add_argument("--resume", metavar="DIR", help="go on with the run in this directory; needs no other flag")
    command.add_argument("--mpi", action="store_true", help="share out the shards to the processes of mpiexec")

    command = add(sample, "sample", "invent documents with a trained model", trained)
    add_settings(command, Sampling)
    command.add_argument("--probs", action="store_true", help="show the model's probability of each character")
    command.add_argument("--json", action="store_true", help="print each sample as a line of JSON")

    command = add(evaluate, "eval", "measure a trained model on a file: mean loss and bits per character", trained)
    command.add_argument("--input", metavar="FILE", help="text file (default: the run's own)")
    command.add_argument("--held-out", action="store_true", help="only what was held out of training")
    command.add_argument("--json", action="store_true", help="print the result as JSON")

    command = add(score, "score", "how much each character of some texts surprises a trained model", trained)
    command.add_argument("texts", metavar="TEXT", nargs="+", help="a document")
    command.add_argument("--json", action="store_true", help="print each text's scores as a line of JSON")

    command = add(sweep, "sweep", "train with many settings and compare their last held-out losses")
    command.add_argument("out", metavar="DIR", nargs="?", help="directory for the sweep, and each trial's run in it")
    add_settings(command, Sweep)
    command.add_argument("--executor", metavar="NAME", default="process", help=EXECUTOR_HELP)
    command.add_argument("--resume", metavar="DIR", help="go on with the sweep in this directory; needs no other flag")
    command.add_argument("--json", action="store_true", help="print each trial as a line of JSON, the best first")
    add_run_settings(command.add_argument_group("settings", SETTINGS_HELP))

    command = add(export, "export", "write a trained model as a file for elsewhere", trained)
    kinds = "FILE.html (a page), .safetensors (weights), .onnx (a graph) or .py (a program)"
    command.add_argument(
        "-o", "--output", metavar="FILE", required=True, help=f"the file, a kind by its ending: {kinds}"
    )

    command = add(trace, "trace", "write down all that the first steps of a run compute, for those who port it")
    add_settings(command, Tracing)
    add_run_settings(command)
    command.add_argument("-o", "--output", metavar="FILE", required=True, help="the file: FILE.safetensors")

    add(info, "info", "version, paths, compiler, instruction set, threads")

    command = add(plot, "plot", "draw the losses of runs, or of a sweep (needs matplotlib)")
    command.add_argument("paths", metavar="RUN", nargs="+", help="a run's directory or metrics file; or one sweep's")
    command.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture: FILE.png or FILE.svg")
    command.add_argument("--log-x", action="store_true", help="steps on a logarithmic scale")
    command.add_argument("--no-raw", action="store_true", help="only the smoothed losses")

    command = add(report, "report", "show what a run learned, on one page to open in a browser")
    command.add_argument("paths", metavar="RUN", nargs="+", help=f"{trained}; of all but the first only the losses")
    command.add_argument("-o", "--output", metavar="FILE", help="the page: FILE.html")
    command.add_argument("--texts", metavar="TEXT,...", help="texts to look at (default: some of the run's own)")
    command.add_argument("--json", action="store_true", help="print the page's numbers as JSON")
    return parser


def add_run_settings(command: argparse._ActionsContainer) -> None:
    add_settings(command, Config)
    command.add_argument("--recipe", metavar="NAME", help=f"settings to begin with: {', '.join(recipes())}")
    command.add_argument("--config", metavar="FILE", help="TOML file of these settings, such as a run's config.toml")


def add_settings(command: argparse._ActionsContainer, settings: type[Settings]) -> None:
    for f in fields(settings):
        default = f" (default {f.default})" if f.default != "" else ""
        text = f.metadata["help"].replace("%", "%%") + default
        metavar = "{" + ",".join(f.metadata["choices"]) + "}" if f.metadata["choices"] else kind(f).__name__.upper()
        command.add_argument(flag(f.name), metavar=metavar, help=text)


# ---- the commands: each takes what the parser found, and returns its exit code, or None when all went well ----


def train(arguments: argparse.Namespace) -> int | None:
    from . import api
    from .runs import loop

    settings = run_settings(arguments)
    out, resume = arguments.out, arguments.resume
    files = out, resume, arguments.metrics, arguments.config
    n_threads, ranks = n_threads_of(arguments), ranks_of(arguments)
    if n_threads is None and ranks is not None and ranks.n_here > 1:
        n_threads = 1  # the others have the other cores
    with api.training(settings, *files, n_threads, ranks) as (trainer, run, metrics):
        config = trainer.config
        try:
            say_what_happens(trainer, run)
            with closing(on_terminal(config, trainer.step_count)) as reporter, stop_on_signals() as signals:
                stop = signals if ranks is None else ranks.stop(signals)
                loop.train(trainer, run, metrics, reporter, stop)
        except BrokenPipeError:
            notice(stopped("since nobody reads stdout any longer", trainer, run))
            raise
        if stop:
            notice(stopped(f"by {stop[0].name}", trainer, run))
            return 128 + stop[0]
        if trainer.step_count < config.num_steps:
            notice(
                f"stopped early: no better held-out loss in {config.patience} measurements; --patience 0 with --resume "
                f"goes on"
            )
        if trainer.n_worse:
            notice(where_the_best_is(trainer, run))
    if config.num_samples and (ranks is None or ranks.rank == 0):
        say_samples(trainer)
    return None


def base_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What --recipe and --config say of a run's settings."""
    settings = read_recipe(arguments.recipe) if arguments.recipe is not None else {}
    return settings | (read_toml(arguments.config) if arguments.config is not None else {})


def run_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is given of a run's settings: flags over file over recipe."""
    return base_settings(arguments) | parsed(Config, vars(arguments))


def n_threads_of(arguments: argparse.Namespace) -> int | None:
    """What --threads says, if it was given."""
    return None if arguments.threads is None else threads.parse(arguments.threads)


def ranks_of(arguments: argparse.Namespace) -> Ranks | None:
    """The processes of the MPI job that --mpi says this is one of."""
    if not arguments.mpi:
        return None
    from .runs.ranks import Ranks

    ranks = Ranks()
    ranks.silence()
    return ranks


def stopped(why: str, trainer: Trainer, run: Run | None) -> str:
    saved = f"microgpt train --resume {run.path} goes on" if run is not None else "nothing is saved without --out"
    return f"stopped {why} after step {trainer.step_count}; {saved}"


def where_the_best_is(trainer: Trainer, run: Run | None) -> str:
    """What to say of a held-out loss that was better before the end, as it is of a model that learns by heart."""
    from .runs.run import BEST

    weights = f"{run.file(BEST)} has those weights" if run is not None else "with --out they would have been kept"
    n = trainer.n_worse
    ago = f"{n} measurement{'s' * (n > 1)} before the last"
    return f"the held-out loss was lowest, {trainer.best_val_loss:.4f}, {ago}; {weights}"


def say_what_happens(trainer: Trainer, run: Run | None) -> None:
    config = trainer.config
    documents = trainer.documents
    if documents.had_bom:
        notice(f"{trainer.input}: dropped a byte-order mark")
    say_what_is_cut(trainer.input, config, trainer.dataset)
    if run is not None and run.num_steps_before is not None:
        notice(f"{run.path}: goes on after step {trainer.step_count} of {run.num_steps_before}")
        if config.num_steps > run.num_steps_before:
            notice(f"--num-steps {config.num_steps}: from here on the learning rate is that of the longer run")
    print(f"num {'chars' if documents.running else 'docs'}: {documents.count}")
    if documents.n_held_out:
        print(f"num held out: {documents.n_held_out}")
    print(f"vocab size: {trainer.tokens.size}")
    print(f"num params: {trainer.params.flat.size}", flush=True)


def say_samples(trainer: Trainer) -> None:
    from .core.sample import Sampler

    config, sampler = trainer.config, Sampler(trainer.params)
    print(f"\n--- inference (new, hallucinated {INVENTED[config.split]}) ---")
    for i in range(1, config.num_samples + 1):
        print(a_sample(i, sampler.sample(trainer.rng, config.temperature), config))


INVENTED = {"line": "names", "blank-line": "paragraphs", "none": "text"}


def a_sample(i: int, text: str, config: Config, escape: Callable[[str], str] = printable) -> str:
    """A sample with its number: on a line, or on lines of its own."""
    if config.split == LINE:
        return f"sample {i:2d}: {escape(text)}"
    return "\n".join([f"sample {i:2d}:", *map(escape, text.split("\n")), ""])


def say_what_is_cut(path: str, config: Config, d: Dataset | Evaluation) -> None:
    """Say how many documents are longer than the context, and which part of the characters is lost."""
    if d.n_truncated:
        what = "line" if config.split == LINE else "paragraph"
        notice(
            f"{path}: {d.n_truncated} {what}{'s' * (d.n_truncated > 1)} longer than --block-size {config.block_size}: "
            f"{d.n_lost / d.n_characters:.1%} of the characters are not used; --block-size {d.longest} keeps them all, "
            f"and --split none takes the file as one running text"
        )


def sample(arguments: argparse.Namespace) -> None:
    from . import api

    sampling = Sampling(**parsed(Sampling, vars(arguments)))
    model = api.load(arguments.path, n_threads_of(arguments))
    escape = escaped if sys.stdout.isatty() else str
    first = 1
    for texts, probs in model.batches(sampling, arguments.probs):
        numbered = enumerate(texts, first)
        if arguments.json and probs:
            lines = [to_json({"sample": i, "text": text, "probs": p}) for (i, text), p in zip(numbered, probs)]
        elif arguments.json:
            lines = [to_json({"sample": i, "text": text}) for i, text in numbered]
        else:
            lines = [a_sample(i, text, model.config, escape) for i, text in numbered]
            if probs:
                lines = [f"{line}  {characters(text, p, '.4f')}" for line, text, p in zip(lines, texts, probs)]
        print("\n".join(lines))
        first += len(texts)


def evaluate(arguments: argparse.Namespace) -> None:
    from . import api
    from .core import documents
    from .runs import run

    model = api.load(arguments.path, n_threads_of(arguments))
    path = arguments.input if arguments.input is not None else run.input_of(arguments.path, model.config.input)
    texts = model.held_out(path) if arguments.held_out else documents.read(path, model.config.split)[0]
    try:
        result = model.evaluate(texts)
    except DataError as error:
        raise DataError(f"{path}: {str(error).removeprefix('documents: ')}") from None
    say_what_is_cut(path, model.config, result)
    if arguments.json:
        print(to_json({"input": path, **result._asdict()}))
    else:
        print(f"input: {printable(path)}{' (what was held out)' * arguments.held_out}")
        print(f"num docs: {result.n_documents}")
        print(f"loss: {result.loss:.4f} (mean over the {result.loss_is_mean_of})")
        print(f"bits per character: {result.bits_per_character:.4f} (mean over the {result.bits_are_mean_of})")


def score(arguments: argparse.Namespace) -> None:
    from . import api

    model = api.load(arguments.path, n_threads_of(arguments))
    for found in model.score(arguments.texts):
        if arguments.json:
            print(to_json({**found._asdict(), "bits": found.bits}))
        else:
            print(f"{printable(found.text)}: loss {found.loss:.4f}, bits  {characters(found.text, found.bits, '.2f')}")


def characters(text: str, numbers: list[float], form: str) -> str:
    """'a 0.12  b 0.34  <end> 0.56': each character, and the end if it has one, with its number."""
    return "  ".join(f"{printable(char)} {number:{form}}" for char, number in zip([*text, "<end>"], numbers))


def to_json(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def sweep(arguments: argparse.Namespace) -> int | None:
    from .sweeps import space, sweeper

    texts = vars(arguments)
    given = base_settings(arguments)
    given |= {name: space.written(f, texts[name]) for name, f in space.SETTINGS.items() if texts[name] is not None}
    out, resume, own = arguments.out, arguments.resume, parsed(Sweep, texts)
    with stop_on_signals() as stop:
        progress = sys.stderr.isatty()
        done = sweeper.run(out, resume, own, given, arguments.executor, n_threads_of(arguments), stop, progress)
    trials = done.best_first()
    lines = [to_json(vars(t)) for t in trials] if arguments.json else map(printable, sweeper.table(done))
    print("\n".join(lines), flush=True)
    if stop:
        n, where = done.plan.config.trials, done.folder.path
        notice(f"stopped by {stop[0].name} after {len(trials)} of {n} trials; microgpt sweep --resume {where} goes on")
        return 128 + stop[0]
    if all(t.status != "done" for t in trials):
        notice(f"none of {len(trials)} trials came to its end")
        return 1
    return None


def export(arguments: argparse.Namespace) -> None:
    from . import api
    from .export.formats import export, name_of

    export(api.load(arguments.path), name_of(arguments.path), arguments.output)
    print(f"wrote {printable(arguments.output)}")


def trace(arguments: argparse.Namespace) -> None:
    from .core.documents import at_hand
    from .export import trace
    from .export.formats import write

    if not arguments.output.lower().endswith(".safetensors"):
        raise ConfigError(f"--output: expected a name that ends in .safetensors, found {arguments.output!r}")
    steps = Tracing(**parsed(Tracing, vars(arguments))).steps
    settings = run_settings(arguments)
    path = None if "input" in settings else at_hand(Config.input)
    write(arguments.output, trace.to_bytes(Config(**settings), steps, path))
    print(f"wrote {printable(arguments.output)}")


def info(arguments: argparse.Namespace) -> None:
    import platform
    from importlib.metadata import version
    from pathlib import Path

    import numpy

    from .base.package import __version__
    from .kernels import compiled

    print(f"microgpt     {__version__}")
    print(f"package      {Path(__file__).parent}")
    print(f"python       {platform.python_version()} ({sys.executable})")
    print(f"numpy, cffi  {numpy.__version__}, {version('cffi')}")
    print(f"compiler     {compiled.compiler()}")
    print(f"kernels      {compiled.ISA} (MICROGPT_ISA forces another)")
    print(f"threads      {threads.default()} (--threads or MICROGPT_THREADS says how many)")


def plot(arguments: argparse.Namespace) -> None:
    from .report import plot
    from .sweeps import plot as sweep_plot

    if any(map(sweep_plot.is_sweep, arguments.paths)):
        sweep_plot.plot(arguments.paths, arguments.output)
    else:
        plot.plot(arguments.paths, arguments.output, arguments.log_x, not arguments.no_raw)
    print(f"wrote {printable(arguments.output)}")


def report(arguments: argparse.Namespace) -> None:
    from .report import report

    texts = None if arguments.texts is None else arguments.texts.split(",")
    data = report.report(arguments.paths, arguments.output, texts, required=not arguments.json)
    if arguments.json:
        print(to_json(data))
    else:
        print(f"wrote {printable(arguments.output)}")
