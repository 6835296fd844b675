"""Model the time of a step against the number of MPI ranks, check the model here, and plot it for docs/scale.md.

    python benchmarks/scaling.py [--json FILE] [--plot FILE]          (needs mpi4py and mpiexec; about ten minutes)

With S shards on R ranks, a step takes

    S/R shard + log2 R (3 latency) + 2 (R-1)/R bytes / bandwidth + (R-1)/R bytes / addition + update

seconds.  The terms are: the forward and backward pass of each shard on one core, with the addition of its gradient;
three small messages per partner; sending and receiving the gradient in halves; adding the halves; and Adam, which every
rank performs for all weights.  The script measures `shard` from steps of two lengths, `update` alone, `addition` with
NumPy, and latency and bandwidth from messages between two ranks.  It then checks the model against steps on 1, 2 and 4
ranks.  NETWORKS holds the assumptions about networks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import numpy as np

from microgpt.base.config import Config
from microgpt.core.trainer import Trainer
from microgpt.runs.ranks import Ranks

ROOT = Path(__file__).resolve().parent.parent
WIDE = {"split": "none", "block_size": 256, "dtype": "float32", "init_std": 0.02}
MODELS = {  # a shard is one document or one window
    "default": Config(),
    "6 x 384": Config(n_layer=6, n_embd=384, n_head=6, **WIDE),
    "12 x 768": Config(n_layer=12, n_embd=768, n_head=12, **WIDE),
}
NETWORKS = {  # (seconds per message, bytes per second)
    "1 Gbit/s Ethernet": (50e-6, 0.118e9),
    "25 Gbit/s Ethernet": (20e-6, 2.9e9),
    "400 Gbit/s InfiniBand": (2e-6, 45e9),
}
N_SHARDS = 1024
RANKS = [1 << i for i in range(11)]
CHECKED = 8  # shards per step when the model is checked


@dataclass(frozen=True)
class Costs:
    """Seconds per shard and per update, bytes of the gradient, and bytes per second in additions."""

    shard: float
    update: float
    n_bytes: int
    addition: float


def step_seconds(costs, n_shards, n_ranks, latency, bandwidth, n_cores=None):
    """The modelled seconds of a step; with fewer cores than ranks, ranks wait for one another."""
    n_levels, moved = n_ranks.bit_length() - 1, (n_ranks - 1) / n_ranks * costs.n_bytes
    exchange = 3 * n_levels * latency + 2 * moved / bandwidth
    work = n_shards / n_ranks * costs.shard + moved / costs.addition + costs.update
    return exchange + work * (max(1, n_ranks / n_cores) if n_cores else 1)


def trainer(config, n_shards, ranks=None):
    config = replace(config, batch_size=n_shards, shards=n_shards, num_steps=10**6, input=str(ROOT / "input.txt"))
    return Trainer(config, threads=1, ranks=ranks)


def time_of(step, seconds=3.0):
    """The median time of step() over about `seconds` and at least 3 calls, after one call that is not counted."""
    step()
    times = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(config):
    """The Costs of a model, from two steps that differ only in their number of shards."""
    few, many = trainer(config, 2), trainer(config, 8)
    shard = (time_of(many.step) - time_of(few.step)) / 6
    update = time_of(lambda: few.optimizer.step(0.01), 0.3)
    gradient, theirs = few.grads.flat, np.ones_like(few.grads.flat)
    added = time_of(lambda: np.add(gradient, theirs, out=gradient), 0.3)
    return Costs(shard, update, gradient.nbytes, gradient.nbytes / added)


def mpiexec(n_ranks, *arguments):
    """Run this file on n_ranks ranks; returns the JSON that rank 0 prints."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # for pip's mpiexec
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"  # more ranks than cores
    command = ["mpiexec", "-n", str(n_ranks), sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def measure_exchange():
    """(seconds per message, bytes per second) between two ranks."""
    ranks = Ranks()
    seconds = {}
    for n in 8, 1 << 25:
        sent, received = np.ones(n, np.uint8), np.ones(n, np.uint8)
        times = []
        for _ in range(1000 if n == 8 else 20):
            start = time.perf_counter()
            ranks._exchange(1, sent, received)
            times.append(time.perf_counter() - start)
        seconds[n] = statistics.median(times)
    return seconds[8], (1 << 25) / (seconds[1 << 25] - seconds[8])


def measure_ranks(name):
    """Seconds per step of CHECKED shards on all ranks of this job."""
    ranks = Ranks()
    step = trainer(MODELS[name], CHECKED, ranks).step
    step()
    times = []
    while ranks.share(len(times) < 3 or sum(times) < 3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def as_rank(function):
    value = function()
    if Ranks.job.rank == 0:
        print(json.dumps(value))


def limits(times):
    """(number of ranks with the shortest step, largest number of ranks with an efficiency of at least 50 %)."""
    best = min(times, key=times.get)
    half = max(n for n, seconds in times.items() if times[1] / n / seconds >= 0.5)
    return best, half


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(10, 3.8), layout="constrained", sharey=True)
    for axes, (name, result) in zip(panels, results.items()):
        axes.plot(RANKS, RANKS, color="0.75", linewidth=1)
        axes.annotate("ideal", (RANKS[-3], RANKS[-3]), color="0.5", ha="right", va="bottom", fontsize="small")
        for network, blue in zip(NETWORKS, ("#9ecae1", "#4292c6", "#08519c")):
            times = result["networks"][network]
            axes.plot(RANKS, [times[1] / times[n] for n in RANKS], color=blue, label=network)
        axes.set(xscale="log", yscale="log", title=name, xlabel="ranks")
        axes.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"])
        axes.set_yticks([1, 8, 64, 512], ["1", "8", "64", "512"])
        axes.set_ylim(0.7, 1500)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("times as fast as one rank")
    panels[0].legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--rank", choices=["exchange", *MODELS], help=argparse.SUPPRESS)  # a process of mpiexec
    arguments = parser.parse_args()
    if arguments.rank:
        exchange = arguments.rank == "exchange"
        return as_rank(measure_exchange if exchange else lambda: measure_ranks(arguments.rank))

    latency, bandwidth = mpiexec(2, "--rank", "exchange")
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"here: {latency * 1e6:.1f} us per message, {bandwidth / 1e9:.1f} GB/s between ranks, {n_cores} cores\n")
    results = {}
    for name, config in MODELS.items():
        costs = measure(config)
        print(
            f"{name}: shard {costs.shard * 1e3:.4g} ms, update {costs.update * 1e3:.4g} ms, "
            f"gradient {costs.n_bytes / 1e6:.4g} MB, added at {costs.addition / 1e9:.1f} GB/s"
        )
        checks = []
        for n in (1, 2, 4):
            modelled = step_seconds(costs, CHECKED, n, latency, bandwidth, n_cores)
            checks.append((n, modelled, mpiexec(n, "--rank", name)))
            print(f"  {n} ranks here: model {modelled * 1e3:8.4g} ms, measured {checks[-1][2] * 1e3:8.4g} ms")
        networks = {}
        for network, link in NETWORKS.items():
            times = networks[network] = {n: step_seconds(costs, N_SHARDS, n, *link) for n in RANKS}
            best, half = limits(times)
            at = f"{times[best] * 1e3:.4g} ms, {times[1] / times[best]:.0f} times as fast as one rank"
            print(f"  {network}: shortest step with {best} ranks ({at}); at least 50 % efficiency up to {half} ranks")
        results[name] = {"costs": asdict(costs), "here": checks, "networks": networks}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    if arguments.plot:
        plot(results, arguments.plot)
    return None


if __name__ == "__main__":
    main()
