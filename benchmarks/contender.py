"""Contenders: programs to compare, each in its own process, measured in turns so that they do not share a state."""

import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SECONDS = 0.15  # approximate time of a round


class Contender:
    """A process that creates a step() by make(config, n_threads), and times it on request.

    A process with one thread stays on one core.  Raises ImportError if a package is missing.
    """

    def __init__(self, make, config, n_threads):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=contend, args=(theirs, make, config, n_threads), daemon=True)
        os.environ.update(dict.fromkeys(LIBRARIES, str(n_threads)))  # libraries read these when they are loaded
        self.process.start()
        theirs.close()
        missing, many = self.connection.recv()
        if missing is not None:
            raise ImportError(missing)
        many = max(5, many)  # because documents differ in length
        self.lengths = max(1, many // 10), many

    def measure(self):
        self.connection.send(self.lengths)
        return self.connection.recv()

    def close(self):
        self.connection.send(None)
        self.process.join()


def contend(connection, make, config, n_threads):
    """The main function of a contender's process: sends the steps per round or what is missing, then measures."""
    if n_threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        step = make(config, n_threads)
    except ImportError as error:
        connection.send((str(error), None))
        return
    step()  # the first step takes longer, and so do a few hundred more of a small model
    many, end = 0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        step()
        many += 1
    connection.send((None, many))
    while lengths := connection.recv():
        connection.send(per_step(step, *lengths))


def per_step(step, few, many):
    """Microseconds per step: the difference in time between `many` and `few` steps, divided by the difference."""
    times = []
    for n in (few, many):
        start = time.perf_counter()
        for _ in range(n):
            step()
        times.append(time.perf_counter() - start)
    return (times[1] - times[0]) / (many - few) * 1e6


def in_turns(measures, rounds):
    """{name: median over the rounds} of functions without arguments, each called once per round."""
    taken = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
    return {name: statistics.median(times) for name, times in taken.items()}


def steps(contenders, rounds, beside=None):
    """{name: microseconds per step} for {name: (make, config, n_threads)}.

    `beside` are further measurements that take turns with them.  Contenders that are not installed are left out, with a
    line on stderr.
    """
    started = {}
    for name, arguments in contenders.items():
        try:
            started[name] = Contender(*arguments)
        except ImportError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
    try:
        return in_turns({**(beside or {}), **{name: c.measure for name, c in started.items()}}, rounds)
    finally:
        for contender in started.values():
            contender.close()


def run(command):
    """(seconds of processor time including child processes, seconds of wall-clock time, stdout) of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return processor, elapsed, process.stdout
