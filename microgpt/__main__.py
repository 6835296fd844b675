"""The command line: python -m microgpt COMMAND."""

import argparse
import signal
import sys
from dataclasses import fields

from .config import Config, ConfigError, flag, parse

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FINITE = 0, 1, 2, 3


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message):
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def make_parser():
    parser = Parser(prog="microgpt", description="Train a small GPT on a file of names, and invent new ones.",
                    allow_abbrev=False)  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="train a model and sample from it", allow_abbrev=False)
    for f in fields(Config):
        text = f.metadata["help"].replace("%", "%%") + f" (default {f.default})"
        train.add_argument(flag(f.name), metavar=f.type.__name__.upper(), help=text)
    train.add_argument("--metrics", metavar="FILE", help="write each step's loss and learning rate as a line of JSON")
    train.set_defaults(run=run_train)

    info = commands.add_parser("info", help="version, paths, compiler, instruction set, threads", allow_abbrev=False)
    info.set_defaults(run=run_info)
    return parser


def run_train(arguments):
    from .report import Reporter, notice, open_metrics, printable
    from .sample import Sampler
    from .train import Trainer

    given = {f.name: getattr(arguments, f.name) for f in fields(Config) if getattr(arguments, f.name) is not None}
    kinds = {f.name: (f.type, f.metadata["range"], f.metadata["choices"]) for f in fields(Config)}
    config = Config(**{name: parse(name, text, *kinds[name]) for name, text in given.items()})
    trainer = Trainer(config)
    metrics = open_metrics(arguments.metrics, config) if arguments.metrics is not None else None

    if trainer.had_bom:
        notice(f"{config.input}: dropped a byte-order mark")
    if trainer.dataset.n_truncated:
        notice(f"{config.input}: {trainer.dataset.n_truncated} lines are longer than --block-size {config.block_size}; "
               "only their beginnings are used")  # fmt: skip
    print(f"num docs: {len(trainer.documents)}")
    print(f"vocab size: {len(trainer.vocab) + 1}")
    print(f"num params: {trainer.params.flat.size}", flush=True)

    reporter = Reporter(config, metrics)
    try:
        for step in range(1, config.num_steps + 1):
            rate = trainer.adam.learning_rate()
            reporter.step(step, trainer.step(), rate)
    finally:
        reporter.close()
        if metrics is not None:
            metrics.close()

    if config.num_samples:
        print("\n--- inference (new, hallucinated names) ---")
        sampler = Sampler(config, trainer.params, trainer.vocab)
        for i in range(1, config.num_samples + 1):
            print(f"sample {i:2d}: {printable(sampler.sample(trainer.rng, config.temperature), sys.stdout)}")


def run_info(arguments):
    import platform
    from pathlib import Path

    import cffi
    import numpy

    from . import __version__, kernels

    compiler = kernels.ffi.string(kernels.lib.compiler()).decode()
    print(f"microgpt     {__version__}")
    print(f"package      {Path(__file__).parent}")
    print(f"python       {platform.python_version()} ({sys.executable})")
    print(f"numpy, cffi  {numpy.__version__}, {cffi.__version__}")
    print(f"compiler     {compiler}")
    print(f"kernels      {kernels.ISA} (MICROGPT_ISA forces another)")
    print("threads      1")


def main(argv=None):
    """Run a command; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        arguments = make_parser().parse_args(argv)
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        sys.stdout = None
        return EXIT_DONE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        text = f"{error.strerror}: {error.filename!r}" if isinstance(error, OSError) and error.filename else str(error)
        print(f"microgpt: {text or type(error).__name__}", file=sys.stderr)
        return code
    return EXIT_DONE


def exit_code(error):
    """The exit code of an error that a user can cause, None for a bug."""
    from .data import DataError
    from .train import NotFiniteError

    if isinstance(error, ConfigError):
        return EXIT_USAGE
    if isinstance(error, NotFiniteError):
        return EXIT_NOT_FINITE
    return EXIT_FAILED if isinstance(error, (DataError, OSError, MemoryError, ImportError)) else None


if __name__ == "__main__":
    sys.exit(main())
