"""Engines on which trials run: each is a concurrent.futures.Executor."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from ..base import threads
from ..base.errors import MPI_PACKAGES, ConfigError, DataError, named, optional
from ..base.signals import SIGNALS
from ..base.terminal import shown

MOST_WORKERS = 1024  # workers
DASK_SECONDS = 10  # to wait for a scheduler
FORMS = "process:N, thread:N, dask:HOST:PORT, mpi or MODULE:CALLABLE"

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def open_executor(executor: object) -> Iterator[tuple[Executor, int | None]]:
    """(an Executor, how many threads a trial has on it) of a name, of an Executor, which is left open, or of what
    returns one.  Raises ConfigError, or DataError when nobody answers."""
    if is_executor(executor):
        yield executor, 1  # type: ignore[misc]
        return
    name, colon, rest = executor.partition(":") if isinstance(executor, str) else ("", "", "")
    if name == "dask" and re.fullmatch(r"(\w+://)?[^\s/]+:[0-9]{1,5}", rest):
        with dask(rest) as workers:
            yield workers, 1
        return
    if name in ("process", "thread"):
        n = threads.cores() if not colon else int(rest) if re.fullmatch("[0-9]{1,4}", rest) else 0
        if not 1 <= n <= MOST_WORKERS:
            raise wrong_executor(executor, f"{name}:N with a whole number from 1 to {MOST_WORKERS}")
        found: Executor = Processes(n) if name == "process" else ThreadPoolExecutor(n)
    else:
        found = mpi() if executor == "mpi" else Renewed(callable_of(executor))
    with found:
        yield found, None if name == "process" else 1


def is_executor(value: object) -> bool:
    return callable(getattr(value, "submit", None)) and not isinstance(value, type)


def callable_of(executor: object) -> Callable[[], Executor]:
    """The callable, or that of the name MODULE:CALLABLE."""
    found: Any = executor
    if isinstance(executor, str):
        module, colon, path = executor.partition(":")
        try:
            found = import_module(module) if colon else None
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise wrong_executor(executor, f"{FORMS} ({error})") from None
    if not callable(found):
        raise wrong_executor(executor, f"{FORMS}, an Executor, or a callable that returns one")
    return found  # type: ignore[no-any-return]


def wrong_executor(executor: object, expected: str) -> ConfigError:
    return ConfigError(f"expected {expected}, found {shown(executor)}", argument="executor")


class Renewed(Executor):
    """The executor that a function makes, and another when that one broke."""

    def __init__(self, make: Callable[[], Executor]) -> None:
        self._make, self._executor = make, make()
        if not is_executor(self._executor):
            raise wrong_executor(self._executor, "a callable that returns a concurrent.futures.Executor")

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        try:
            return self._executor.submit(function, *args, **kwargs)
        except RuntimeError:  # BrokenExecutor is one
            self._executor.shutdown(wait=False)
            self._executor = self._make()
            return self._executor.submit(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._executor.shutdown(wait, cancel_futures=cancel_futures)


class Processes(Executor):
    """N processes, each a pool of its own, so that one that dies takes no other with it.

    They are spawned, not forked; each has its share of the cores; they end with the process that made them.
    """

    def __init__(self, n: int) -> None:
        context, share = multiprocessing.get_context("spawn"), max(1, threads.default() // n)
        self._pools = [Renewed(lambda: ProcessPoolExecutor(1, context, start_worker, (share,))) for _ in range(n)]
        self._idle: queue.SimpleQueue[Renewed] = queue.SimpleQueue()
        for pool in self._pools:
            self._idle.put(pool)
        self._threads = ThreadPoolExecutor(n)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._threads.submit(self._call, function, *args, **kwargs)

    def _call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        pool = self._idle.get()
        try:
            return pool.submit(function, *args, **kwargs).result()
        finally:
            self._idle.put(pool)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait=False)  # idle, they end together, and without being waited for


def start_worker(n_threads: int) -> None:
    """In a new process: its threads, and what trains; signals, which a terminal sends to all, are its maker's."""
    os.environ["MICROGPT_THREADS"] = str(n_threads)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    import_module(f"{__package__}.worker")  # not in the first trial's time


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def dask(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler."""
    distributed = optional("distributed", "dask", f"{named('executor')}: dask")
    try:
        client = distributed.Client(address, timeout=DASK_SECONDS, set_as_default=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"expected a Dask scheduler that answers, found none at {address}: {error}", argument="executor"
        ) from None
    for name in ("distributed.client", "distributed.core"):  # what these would say, of a lost scheduler, we do
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with client:
        yield client.get_executor(pure=False)  # or else equal trials would be one


def mpi() -> Executor:
    """The other ranks of an MPI job."""
    comm = optional("mpi4py.MPI", "mpi", f"{named('executor')}: mpi", MPI_PACKAGES).COMM_WORLD
    futures: Any = import_module("mpi4py.futures")
    # without its launcher each rank would be a sweep, and start others
    if comm.size < 2 or futures._core.SharedPool is None:
        launcher = "mpiexec -n N python -m mpi4py.futures -m microgpt sweep"
        raise wrong_executor("mpi", f"to be run by {launcher}, with N at least 2")
    executor: Executor = futures.MPIPoolExecutor()
    return executor
