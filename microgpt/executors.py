"""Engines on which trials run: each is a concurrent.futures.Executor."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple, ParamSpec, TypeVar

from . import threads
from .errors import ConfigError, DataError, named
from .signals import SIGNALS
from .terminal import shown

MOST = 1024  # workers
GRACE_SECONDS = 10.0  # after which a process that should have seen its time limit is ended
DASK_SECONDS = 10
FORMS = "process:N, thread:N, dask:HOST:PORT, mpi or MODULE:CALLABLE"

P = ParamSpec("P")
T = TypeVar("T")


class Engine(NamedTuple):
    make: Callable[[], Executor]
    ours: bool  # to shut down, and to make again when it broke
    threads: int | None  # of a trial


class Overdue(Exception):  # noqa: N818 - of a trial
    """A process did not come back in time, and was ended."""


def engine(executor: object, seconds: float = 0.0) -> Engine:
    """The Engine of a name, an Executor, or a callable that returns one; `seconds` is a trial's time limit.

    Raises ConfigError; whether there is a Dask or MPI to connect to shows when it is made.
    """
    if is_executor(executor):
        return Engine(lambda: executor, False, 1)  # type: ignore[return-value,arg-type]
    if callable(executor):
        return Engine(lambda: checked(executor(), executor), True, 1)
    if not isinstance(executor, str):
        raise refused(executor, f"expected {FORMS}, an Executor, or a callable that returns one")
    name, colon, rest = executor.partition(":")
    if name in ("process", "thread"):
        n = threads.cores() if not colon else int(rest) if re.fullmatch("[0-9]{1,4}", rest) else 0
        if not 1 <= n <= MOST:
            raise refused(executor, f"expected {name}:N with a whole number from 1 to {MOST}")
        if name == "thread":
            return Engine(lambda: ThreadPoolExecutor(n), True, 1)
        return Engine(lambda: Processes(n, seconds), True, None)
    if name == "dask" and re.fullmatch(r"(\w+://)?[^\s/]+:[0-9]{1,5}", rest):
        need("distributed", executor)
        return Engine(lambda: dask(rest), True, 1)
    if executor == "mpi":
        need("mpi4py", executor)
        return Engine(mpi, True, 1)
    if not re.fullmatch(r"[\w.]+:[\w.]+", executor) or name in ("dask", "mpi"):
        raise refused(executor, f"expected {FORMS}")
    try:
        found: Any = importlib.import_module(name)
        for part in rest.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise refused(executor, f"expected MODULE:CALLABLE that can be imported ({error})") from None
    if not callable(found):
        raise refused(executor, "expected MODULE:CALLABLE that can be called")
    return Engine(lambda: checked(found(), executor), True, 1)


def is_executor(value: object) -> bool:
    return callable(getattr(value, "submit", None)) and not isinstance(value, type)


def checked(value: object, executor: object) -> Executor:
    if not is_executor(value):
        raise refused(executor, f"expected a callable that returns a concurrent.futures.Executor ({shown(value)})")
    return value  # type: ignore[return-value]


def refused(executor: object, expected: str) -> ConfigError:
    return ConfigError(f"{named('executor')}: {expected}, found {shown(executor)}")


def need(module: str, executor: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise refused(executor, f"expected {module} to be installed (pip install {module}; {error})") from None


# ---- processes ----


class Processes(Executor):
    """N processes, of which any may die or be ended without harm to the others: each is a pool of its own.

    They are spawned, not forked; each has its share of the cores; they end with the process that made them.
    """

    def __init__(self, n: int, seconds: float = 0.0) -> None:
        self._limit = seconds + GRACE_SECONDS if seconds else None
        self._share = max(1, threads.default() // n)
        self._mine = threading.local()  # each thread has one
        self._pools: list[ProcessPoolExecutor] = []
        self._threads = ThreadPoolExecutor(n)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._threads.submit(self._call, function, *args, **kwargs)

    def _call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if getattr(self._mine, "pool", None) is None:
            context = multiprocessing.get_context("spawn")
            self._mine.pool = ProcessPoolExecutor(1, context, begin, (self._share,))
            self._pools.append(self._mine.pool)
            self._mine.pid = None
        pool: ProcessPoolExecutor = self._mine.pool
        try:
            self._mine.pid = self._mine.pid or pool.submit(os.getpid).result()
            return pool.submit(function, *args, **kwargs).result(self._limit)
        except TimeoutError:
            os.kill(self._mine.pid, signal.SIGKILL)
            self._mine.pool = None
            raise Overdue from None
        except BrokenExecutor:
            self._mine.pool = None
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait, cancel_futures=cancel_futures)


def begin(n_threads: int) -> None:
    """In a new process: its threads; it leaves signals, which a terminal sends to all, to who made it."""
    os.environ["MICROGPT_THREADS"] = str(n_threads)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# ---- other computers ----


def dask(address: str) -> Executor:
    """The workers of a Dask scheduler.  Raises ConfigError or DataError."""
    import logging

    distributed: Any = importlib.import_module("distributed")  # untyped, or not there

    try:
        client = distributed.Client(address, timeout=DASK_SECONDS, set_as_default=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{named('executor')}: expected a Dask scheduler that answers, found none at {address}: {error}"
        ) from None
    for name in ("distributed.client", "distributed.core"):  # what these would say, of a lost scheduler, we do
        logging.getLogger(name).setLevel(logging.CRITICAL)

    base: Any = distributed.cfexecutor.ClientExecutor

    class Dask(base):  # type: ignore[misc]
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait and not cancel_futures)
            client.close()

    executor: Executor = Dask(client, pure=False)  # or else equal trials would be one
    return executor


def mpi() -> Executor:
    """The other ranks of an MPI job.  Raises ConfigError when this is none."""
    from mpi4py import MPI
    from mpi4py.futures import MPIPoolExecutor

    # without its launcher each rank would be a sweep, and start others
    if MPI.COMM_WORLD.size < 2 or importlib.import_module("mpi4py.futures._core").SharedPool is None:
        raise refused(
            "mpi", "expected to be run by mpiexec -n N python -m mpi4py.futures -m microgpt sweep, with N at least 2"
        )
    executor: Executor = MPIPoolExecutor()
    return executor
