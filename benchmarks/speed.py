"""The time of a training step, here and elsewhere, as a share of what the processor can do: the README's table.

    python benchmarks/speed.py [--rounds 7] [--json FILE] [--plot FILE] [--input FILE]
                               [--large | --growth | --threads N]

Everything is measured on one core, each contender in a process of its own, so that none is slowed by what another has
loaded; they take turns, round after round, and the figures are medians over the rounds.  A step's time is the
difference of two run lengths divided by the difference in steps, so it counts all that a step does (batch, forward,
backward, Adam, Python) and nothing that a run does once.

  peak     operations a second of one core, by a loop of nothing but fused multiply-adds, in the same rounds
  floor    6 (12 n_layer n_embd^2 + vocab_size n_embd) x tokens operations at that peak: no program can be faster
  PyTorch  the same model, batches and Adam, eager, padded to the longest document (left out by name when not installed)
  NumPy    the same packed batch in NumPy: products by BLAS, attention document by document
  Python   the scalar tape of tests/reference.py, this project's own, which does what Karpathy's microgpt.py does

--growth shows instead what a step costs with more layers, documents or tokens in a document, for each token and layer:
where that stays the same, the cost of a step grows in proportion.  It is only printed.

--threads shows instead what N threads on as many cores gain over one.  It is only printed.

A machine that is shared slows everything: read the ratios, not the microseconds.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from functools import partial
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import numpy as np
from peak import peak
from peers import numpy_step, python_step, torch_step

from microgpt import kernels
from microgpt.config import Config
from microgpt.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
SHAPES = [  # dtype, batch_size, n_embd, n_head
    ("float64", 1, 16, 4),
    ("float32", 1, 16, 4),
    ("float32", 16, 16, 4),
    ("float32", 16, 32, 4),
    ("float32", 16, 64, 4),
    ("float32", 16, 128, 8),
]


def per_step(step, few, many):
    """Microseconds a step: the time of `many` steps less that of `few`, shared among the difference."""
    times = []
    for n in (few, many):
        start = time.perf_counter()
        for _ in range(n):
            step()
        times.append(time.perf_counter() - start)
    return (times[1] - times[0]) / (many - few) * 1e6


class Contender:
    """A process that has made its step by make(config), and measures it when it is asked to."""

    def __init__(self, make, config):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=contend, args=(theirs, make, config), daemon=True)
        self.process.start()
        theirs.close()
        missing, seconds = self.connection.recv()
        if missing is not None:
            raise ImportError(missing)
        many = int(0.15 / seconds) + 2  # about so many seconds a round
        self.lengths = max(1, many // 10), many + 1

    def measure(self):
        self.connection.send(self.lengths)
        return self.connection.recv()

    def close(self):
        self.connection.send(None)
        self.process.join()


def contend(connection, make, config):
    """What a contender's process does: says how long a step takes, or what is missing, and then measures."""
    try:
        step = make(config)
    except ImportError as error:
        connection.send((str(error), None))
        return
    start = time.perf_counter()
    step()
    step()
    connection.send((None, (time.perf_counter() - start) / 2))
    while lengths := connection.recv():
        connection.send(per_step(step, *lengths))


def our_step(config, threads=None):
    return Trainer(config, threads=threads).step


def columns_a_step(trainer):
    """Tokens that an average batch of the data has."""
    d = trainer.dataset
    return d.offsets[d.n_documents] / d.n_documents * d.batch_size


def measure(config, rounds, peers):
    """A row of the table: medians over the rounds, every contender once in each."""
    trainer = Trainer(config)
    tokens = columns_a_step(trainer)
    vocab_size = trainer.tokens.size
    operations = 6 * (12 * config.n_layer * config.n_embd**2 + vocab_size * config.n_embd) * tokens
    contenders = {}
    for name, make in {"microgpt": our_step, **peers}.items():
        try:
            contenders[name] = Contender(make, config)
        except ImportError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
    taken = {name: [] for name in contenders}
    peaks = []
    for _ in range(rounds):
        peaks.append(peak(config.dtype))
        for name, contender in contenders.items():
            taken[name].append(contender.measure())
    for contender in contenders.values():
        contender.close()
    row = {name: statistics.median(times) for name, times in taken.items()}
    rate = statistics.median(peaks)
    return {
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "block_size": config.block_size,
        "tokens": tokens,
        "peak_gflops": rate / 1e3,
        "floor_us": operations / rate,
        "us": row,
        "share_of_peak": operations / rate / row["microgpt"],
        "times_faster_than": {name: us / row["microgpt"] for name, us in row.items() if name != "microgpt"},
    }


def shapes(arguments):
    steps = 10**6  # the schedule's end, which no round reaches
    for dtype, batch_size, n_embd, n_head in SHAPES:
        peers = {"PyTorch": torch_step, "NumPy": numpy_step}
        if batch_size == 1:
            peers["Python"] = python_step
        yield Config(arguments.input, dtype=dtype, batch_size=batch_size, n_embd=n_embd, n_head=n_head,
                     num_steps=steps), peers  # fmt: skip


def long_lines(arguments):
    """A file of lines of 45 names, some 330 characters."""
    names = Path(arguments.input).read_text(encoding="utf-8").split()
    path = Path(tempfile.mkdtemp()) / "lines.txt"
    path.write_text("\n".join(" ".join(names[i : i + 45]) for i in range(0, len(names), 45)), encoding="utf-8")
    return str(path)


def large(arguments):
    """6 layers, 384 wide, 256 long, 12 lines of names a step."""
    yield Config(long_lines(arguments), dtype="float32", batch_size=12, n_layer=6, n_embd=384, n_head=6, block_size=256,
                 num_steps=10**6), {"PyTorch": torch_step}  # fmt: skip


def growth(arguments):
    """Models 64 wide, one size growing at a time: layers (of 16 documents), documents, their length (of 4)."""
    common = {"dtype": "float32", "n_embd": 64, "num_steps": 10**6}
    for n_layer in (1, 2, 4, 8, 16):
        yield "layers", n_layer, Config(arguments.input, n_layer=n_layer, batch_size=16, **common)
    for batch_size in (1, 4, 16, 64, 256):
        yield "batch", batch_size, Config(arguments.input, batch_size=batch_size, **common)
    lines = long_lines(arguments)
    for block_size in (16, 32, 64, 128, 256):
        yield "block", block_size, Config(lines, block_size=block_size, batch_size=4, **common)


def print_growth(arguments):
    print("| dtype float32, n_embd 64 | | tokens | µs a step | µs a token and layer |\n|---|--:|--:|--:|--:|")
    for what, size, config in growth(arguments):
        row = measure(config, arguments.rounds, {})
        tokens, us = row["tokens"], row["us"]["microgpt"]
        print(f"| {what} | {size} | {tokens:.0f} | {us:,.1f} | {us / tokens / config.n_layer:.2f} |", flush=True)


def print_threads(arguments):
    n = arguments.threads
    print(f"| dtype | batch | n_embd | one thread, µs | {n} threads, µs | times as fast |\n|---|--:|--:|--:|--:|--:|")
    for config in [config for config, _ in shapes(arguments) if config.batch_size > 1] + [
        c for c, _ in large(arguments)
    ]:
        contenders = [Contender(partial(our_step, threads=threads), config) for threads in (1, n)]
        taken = [[contender.measure() for contender in contenders] for _ in range(arguments.rounds)]
        for contender in contenders:
            contender.close()
        one, many = map(statistics.median, zip(*taken))
        name = f"| {config.dtype} | {config.batch_size} | {config.n_embd} "
        print(f"{name}| {one:,.1f} | {many:,.1f} | {one / many:.2f} |", flush=True)


def table(rows):
    names = ["PyTorch", "NumPy", "Python"]
    yield (
        "| dtype | batch | n_embd | floor, µs | **microgpt, µs** | of peak | "
        + " | ".join(f"{n}, µs" for n in names)
        + " |"
    )
    yield "|---|--:|--:|--:|--:|--:|" + "--:|" * len(names)
    for r in rows:
        cells = []
        for name in names:
            us = r["us"].get(name)
            cells.append(f"{us:,.0f} ({us / r['us']['microgpt']:,.1f} ×)" if us else "–")
        yield (
            f"| {r['dtype']} | {r['batch_size']} | {r['n_embd']} | {r['floor_us']:,.1f} "
            f"| **{r['us']['microgpt']:,.1f}** | {100 * r['share_of_peak']:.0f} % | " + " | ".join(cells) + " |"
        )


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    labels = [f"{r['dtype']}\nbatch {r['batch_size']}\nn_embd {r['n_embd']}" for r in rows]
    x = np.arange(len(rows))
    series = [("floor", [r["floor_us"] for r in rows])]
    series += [
        (name, [r["us"].get(name, math.nan) for r in rows]) for name in ("microgpt", "NumPy", "PyTorch", "Python")
    ]
    for i, (name, values) in enumerate(series):
        axes.bar(x + (i - 2) * 0.17, values, 0.17, label=name)
    axes.set_yscale("log")
    axes.set_ylabel("µs a step, one core")
    axes.set_xticks(x, labels)
    axes.legend(ncols=5, loc="upper left", fontsize="small")
    axes.set_ylim(top=axes.get_ylim()[1] * 3)
    figure.savefig(path, dpi=120)


def machine():
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {kernels.ISA}, {date.today()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--input", default=str(ROOT / "input.txt"))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--large", action="store_true", help="6 layers, 384 wide, block 256, batch 12 instead (minutes)"
    )
    instead.add_argument("--threads", type=int, metavar="N", help="what N threads gain over one instead")
    instead.add_argument("--growth", action="store_true", help="what more layers, documents and tokens cost instead")
    arguments = parser.parse_args()
    if arguments.plot:
        import matplotlib  # noqa: F401 - rather now than after minutes of measuring
    if arguments.threads:
        print(f"{machine()}\n")
        return print_threads(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if arguments.growth:
        print(f"{machine()}\n")
        return print_growth(arguments)
    rows = []
    for config, peers in (large if arguments.large else shapes)(arguments):
        rows.append(measure(config, arguments.rounds, peers))
        print(f"{config.dtype}, batch {config.batch_size}, n_embd {config.n_embd}: done", file=sys.stderr)
    peaks = {r["dtype"]: round(r["peak_gflops"]) for r in rows}
    print(f"{machine()}; peak, GFLOP/s: {', '.join(f'{k} {v}' for k, v in peaks.items())}\n")
    print("\n".join(table(rows)))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)
    return None


if __name__ == "__main__":
    main()
