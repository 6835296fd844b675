"""Measure a training step, sampling and a whole run, against other programs: the tables of docs/speed.md.

    python benchmarks/speed.py [--rounds 7] [--json FILE] [--plot FILE] [--input FILE] [--threads N]
                               [--peer 'NAME=COMMAND'] [--large | --growth]

Each contender runs in its own process.  They take turns in rounds, and the figures are medians over the rounds.
The time of a step is the difference between two run lengths divided by the difference in steps: it includes all that a
step does (batch, forward, backward, Adam, Python) and nothing that a run does once.  Each contender is measured with
one thread on one core, and then with --threads threads (default: all cores).

  peak     operations per second of one core, from a loop of only fused multiply-adds, measured in the same rounds
  floor    6 (12 n_layer n_embd^2 + vocab_size n_embd) x tokens operations at that peak: no program can be faster
  PyTorch  the same model, batches and Adam, eager, padded to the longest document (skipped if not installed)
  NumPy    the same packed batch in NumPy: matrix products by BLAS, attention document by document
  Python   the scalar tape of this project's tests/reference.py, which does what Karpathy's microgpt.py does

--peer adds a program that you have built: 'realies=./microgpt'.  If the program takes the number of steps, write
'NAME=./program --steps {steps}' to measure its time per step too.  Programs are compared by processor time.

--growth instead prints the time of a step per token and layer, for more layers, documents or tokens per document.  If
that time stays the same, the cost of a step grows in proportion.

On a shared machine everything is slower: compare the ratios, not the microseconds.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
from datetime import date
from functools import partial
from pathlib import Path

from contender import LIBRARIES, in_turns, run, steps

os.environ.update(dict.fromkeys(LIBRARIES, "1"))

from peak import peak
from peers import numpy_step, python_step, torch_step
from picture import draw

from microgpt import kernels
from microgpt.base.config import Config
from microgpt.base.threads import number
from microgpt.core.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
SHAPES = [  # dtype, batch_size, n_embd, n_head
    ("float64", 1, 16, 4),
    ("float32", 1, 16, 4),
    ("float32", 16, 16, 4),
    ("float32", 16, 32, 4),
    ("float32", 16, 64, 4),
    ("float32", 16, 128, 8),
]
NEVER = 10**6  # num_steps, more than any round reaches


def our_step(config, n_threads):
    return Trainer(config, threads=n_threads).step


MAKES = {"microgpt": our_step, "PyTorch": torch_step, "NumPy": numpy_step}


def columns_a_step(trainer):
    """The average number of tokens in a batch."""
    d = trainer.dataset
    return d.offsets[d.n_documents] / d.n_documents * d.batch_size


def measure(config, rounds, makes, n_threads=1):
    """A row of the table: medians over the rounds for every contender, with one thread and with n_threads."""
    trainer = Trainer(config)
    tokens = columns_a_step(trainer)
    operations = 6 * (12 * config.n_layer * config.n_embd**2 + trainer.tokens.size * config.n_embd) * tokens
    contenders = {name: (make, config, 1) for name, make in makes.items()}
    if n_threads > 1:
        contenders |= {many(name): (make, config, n_threads) for name, make in makes.items() if make != python_step}
    us = steps(contenders, rounds, {"peak": partial(peak, config.dtype)})
    rate = us.pop("peak")  # operations per microsecond
    shape = {
        name: getattr(config, name) for name in ("dtype", "batch_size", "n_layer", "n_embd", "n_head", "block_size")
    }
    return {**shape, "tokens": tokens, "peak_gflops": rate / 1e3, "floor_us": operations / rate, "us": us,
            "share_of_peak": operations / rate / us["microgpt"]}  # fmt: skip


def many(name):
    """The name of a contender that uses all threads."""
    return f"{name}, all cores"


def shapes(arguments):
    for dtype, batch_size, n_embd, n_head in SHAPES:
        sizes = {"batch_size": batch_size, "n_embd": n_embd, "n_head": n_head}
        yield Config(arguments.input, dtype=dtype, num_steps=NEVER, **sizes)


def long_lines(arguments):
    """The path of a file with 45 names per line, about 330 characters."""
    names = Path(arguments.input).read_text(encoding="utf-8").split()
    path = Path(tempfile.mkdtemp()) / "lines.txt"
    path.write_text("\n".join(" ".join(names[i : i + 45]) for i in range(0, len(names), 45)), encoding="utf-8")
    return str(path)


def large(arguments):
    """6 layers, width 384, context length 256, 12 lines of names per step."""
    sizes = {"batch_size": 12, "n_layer": 6, "n_embd": 384, "n_head": 6, "block_size": 256, "init_std": 0.02}
    yield Config(long_lines(arguments), dtype="float32", num_steps=NEVER, **sizes)


def growth(arguments):
    """Models of width 64 with one growing size: layers (16 documents), documents, or their length (4 documents)."""
    common = {"dtype": "float32", "n_embd": 64, "num_steps": NEVER}
    for n_layer in (1, 2, 4, 8, 16):
        yield "layers", n_layer, Config(arguments.input, n_layer=n_layer, batch_size=16, **common)
    for batch_size in (1, 4, 16, 64, 256):
        yield "batch", batch_size, Config(arguments.input, batch_size=batch_size, **common)
    lines = long_lines(arguments)
    for block_size in (16, 32, 64, 128, 256):
        yield "block", block_size, Config(lines, block_size=block_size, batch_size=4, **common)


def print_growth(arguments):
    print("| dtype float32, n_embd 64 | | tokens | µs per step | µs per token and layer |\n|---|--:|--:|--:|--:|")
    for what, size, config in growth(arguments):
        row = measure(config, arguments.rounds, {"microgpt": our_step})
        tokens, us = row["tokens"], row["us"]["microgpt"]
        print(f"| {what} | {size} | {tokens:.0f} | {us:,.1f} | {us / tokens / config.n_layer:.2f} |", flush=True)


# ---- whole commands ----


def microgpt(*arguments):
    return [sys.executable, "-m", "microgpt", *map(str, arguments)]


def default_run(arguments):
    """{name: milliseconds of processor time} of Karpathy's run by each program, including start-up."""
    commands = {"import numpy": [sys.executable, "-c", "import numpy"]}
    for dtype in "float64", "float32":
        commands[f"microgpt, {dtype}"] = microgpt("train", "--input", arguments.input, "--dtype", dtype)
    commands |= {name: command(1000) for name, command, _ in arguments.peer}
    measures = {name: lambda command=command: run(command)[0] for name, command in commands.items()}
    return {name: 1e3 * seconds for name, seconds in in_turns(measures, 3 * arguments.rounds).items()}


def peers_steps(arguments):
    """{name: microseconds of processor time per step} of the peers that take a number of steps."""
    few, more = 1_000, 11_000

    def measure(command):
        return (run(command(more))[0] - run(command(few))[0]) / (more - few) * 1e6

    return in_turns({n: partial(measure, command) for n, command, told in arguments.peer if told}, arguments.rounds)


def sampling(arguments):
    """{"dtype, threads": million tokens per second} of `microgpt sample`, from two different numbers of samples."""
    folder = Path(tempfile.mkdtemp())

    def measure(run_of_model, threads):
        results = []
        for n in 20_000, 220_000:
            sample = microgpt("sample", run_of_model, "--num-samples", n, "--threads", threads)
            _, seconds, printed = run(sample)
            texts = [line.partition(b": ")[2] for line in printed.splitlines()]
            results.append((seconds, sum(map(len, texts)) + len(texts)))  # each text has an end token, too
        (few_seconds, few), (more_seconds, more) = results
        return (more - few) / (more_seconds - few_seconds) / 1e6

    measures = {}
    for dtype in "float64", "float32":
        run(microgpt("train", "--input", arguments.input, "--dtype", dtype, "--out", folder / dtype))
        for threads in sorted({1, arguments.threads}):
            measures[f"{dtype}, {threads}"] = partial(measure, folder / dtype, threads)
    return in_turns(measures, arguments.rounds)


# ---- tables ----


def times(us, ours):
    return f"{us:,.0f} ({us / ours:,.1f} ×)" if us else "–"


def table(rows, n_threads):
    """Rows of Markdown: microseconds per step, and the ratio to microgpt with the same number of threads."""
    peers = [name for name in ("PyTorch", "NumPy", "Python") if any(name in row["us"] for row in rows)]
    both = [(name, as_many) for name in peers for as_many in (False, True)]
    columns = [(name, all_cores) for name, all_cores in both if any(key(name, all_cores) in row["us"] for row in rows)]
    heads = ["dtype", "batch", "n_embd", "floor, µs", "**microgpt, µs**", "share of peak"]
    heads += [f"**{n_threads} threads**"] * (n_threads > 1)
    heads += [f"{name}, {n_threads} threads" if all_cores else f"{name}, µs" for name, all_cores in columns]
    yield f"| {' | '.join(heads)} |"
    yield "|---" + "|--:" * (len(heads) - 1) + "|"
    for row in rows:
        us = row["us"]
        cells = [
            row["dtype"],
            row["batch_size"],
            row["n_embd"],
            f"{row['floor_us']:,.1f}",
            f"**{us['microgpt']:,.1f}**",
        ]
        cells.append(f"{100 * row['share_of_peak']:.0f} %")
        if n_threads > 1:
            ours = us.get(many("microgpt"))
            cells.append(f"**{ours:,.1f}** ({us['microgpt'] / ours:.2f} ×)" if ours else "–")
        for name, all_cores in columns:
            cells.append(times(us.get(key(name, all_cores)), us.get(key("microgpt", all_cores))))
        yield f"| {' | '.join(map(str, cells))} |"


def key(name, all_cores):
    return many(name) if all_cores else name


def machine():
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {kernels.ISA}, {date.today()}"


def peer(text):
    """(name, function from the number of steps to the command, whether the command uses that number)."""
    name, _, command = text.partition("=")
    if not command:
        raise argparse.ArgumentTypeError(f"expected NAME=COMMAND, found {text!r}")
    return name, lambda n: shlex.split(command.replace("{steps}", str(n))), "{steps}" in command


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--input", default=str(ROOT / "input.txt"))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument(
        "--threads",
        type=int,
        default=number(None),
        help="number of threads, measured in addition to one thread (default: all cores)",
    )
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="NAME=COMMAND")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--large",
        action="store_true",
        help="measure a large model: 6 layers, width 384, context length 256, batch size 12 (minutes)",
    )
    instead.add_argument(
        "--growth", action="store_true", help="print the cost of more layers, documents and tokens instead"
    )
    arguments = parser.parse_args()
    if arguments.plot:
        import matplotlib  # noqa: F401 - fail now rather than after minutes of measuring
    print(f"{machine()}\n")
    if arguments.growth:
        return print_growth(arguments)
    rows = []
    for config in (large if arguments.large else shapes)(arguments):
        makes = MAKES | ({"Python": python_step} if config.batch_size == 1 else {})
        rows.append(measure(config, arguments.rounds, makes, arguments.threads if config.batch_size > 1 else 1))
        print(f"{config.dtype}, batch {config.batch_size}, n_embd {config.n_embd}: done", file=sys.stderr)
    print("peak, GFLOP/s:", {row["dtype"]: round(row["peak_gflops"]) for row in rows}, "\n")
    print("\n".join(table(rows, arguments.threads)))
    result = {"machine": machine(), "threads": arguments.threads, "rows": rows}
    if not arguments.large:
        result |= {"default_run_ms": default_run(arguments), "tokens": sampling(arguments)}
        result["peers_us"] = peers_steps(arguments)
        print("\n| the default run, including start-up | processor time, ms |\n|---|--:|")
        for name, ms in result["default_run_ms"].items():
            print(f"| {name} | {ms:.0f} |")
        print("\n| sampling: dtype, threads | million tokens per second |\n|---|--:|")
        for name, rate in result["tokens"].items():
            print(f"| {name} | {rate:.2f} |")
        for name, us in result["peers_us"].items():
            print(f"\n{name}: {us:.1f} µs of processor time per step")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")
    if arguments.plot:
        draw(rows, arguments.plot)
    return None


if __name__ == "__main__":
    main()
