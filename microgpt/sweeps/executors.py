"""Executors that run trials: processes, threads, Dask, MPI, or any concurrent.futures.Executor."""

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
from ..base.terminal import notice, shown

MAX_WORKERS = 1024
DASK_SECONDS = 10  # timeout for connecting to a scheduler
FORMS = "process:N, thread:N, dask:HOST:PORT, mpi or MODULE:CALLABLE"

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def open_executor(executor: object) -> Iterator[tuple[Executor, int | None]]:
    """Yield (an Executor, threads per trial or None for its own default) for a name, an Executor, which stays open, or
    a callable that returns one.  Raises ConfigError, or DataError if no scheduler answers."""
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
        if not 1 <= n <= MAX_WORKERS:
            raise wrong_executor(executor, f"{name}:N with a whole number from 1 to {MAX_WORKERS}")
        opened: Executor = Processes(n) if name == "process" else ThreadPoolExecutor(n)
    else:
        opened = mpi() if executor == "mpi" else Restarting(callable_of(executor))
    with opened:
        yield opened, None if name == "process" else 1


def is_executor(value: object) -> bool:
    return callable(getattr(value, "submit", None)) and not isinstance(value, type)


def callable_of(executor: object) -> Callable[[], Executor]:
    """The callable itself, or the one that the text MODULE:CALLABLE names."""
    value: Any = executor
    if isinstance(executor, str):
        module, colon, path = executor.partition(":")
        if not colon:
            raise wrong_executor(executor, FORMS)
        try:
            value = import_module(module)
            for part in path.split("."):
                value = getattr(value, part)
        except AttributeError:
            raise wrong_executor(executor, f"the name of a callable in the module {module!r}") from None
        except ModuleNotFoundError as error:
            raise wrong_executor(executor, f"{FORMS} with an installed module {error.name!r}") from None
        except (ImportError, ValueError, TypeError):  # such as an empty name
            raise wrong_executor(executor, FORMS) from None
    if not callable(value):
        raise wrong_executor(executor, f"{FORMS}, an Executor, or a callable that returns one")
    return value  # type: ignore[no-any-return]


def wrong_executor(executor: object, expected: str) -> ConfigError:
    return ConfigError(f"expected {expected}, found {shown(executor)}", argument="executor")


class Restarting(Executor):
    """An executor made by a function, which makes a new one when the old one breaks."""

    def __init__(self, make: Callable[[], Executor]) -> None:
        try:
            self._make, self._executor = make, make()
        except Exception as error:
            expected, found = "a callable without arguments that returns an Executor", type(error).__name__
            raise ConfigError(f"expected {expected}, found one that raises {found}: {error}", "executor") from error
        if not is_executor(self._executor) or not callable(getattr(self._executor, "shutdown", None)):
            raise wrong_executor(self._executor, "a callable that returns a concurrent.futures.Executor")

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        try:
            return self._executor.submit(function, *args, **kwargs)
        except RuntimeError:  # BrokenExecutor is a RuntimeError
            self._executor.shutdown(wait=False)
            self._executor = self._make()
            return self._executor.submit(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        try:
            self._executor.shutdown(wait=wait)  # some, such as loky's and Dask's, have no cancel_futures
        except Exception as error:  # after all trials, so the sweep is fine
            notice(f"{named('executor')}: shutdown has failed: {type(error).__name__}: {error}")


class Processes(Executor):
    """N worker processes, each in a pool of its own, so that a worker that dies does not break the others.

    Workers are spawned, not forked; they divide the cores equally, and they end when their parent process ends.
    """

    def __init__(self, n: int) -> None:
        context, share = multiprocessing.get_context("spawn"), max(1, threads.default() // n)
        self._pools = [Restarting(lambda: ProcessPoolExecutor(1, context, start_worker, (share,))) for _ in range(n)]
        self._idle: queue.SimpleQueue[Restarting] = queue.SimpleQueue()
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
        with ThreadPoolExecutor(len(self._pools)) as each:  # idle workers end at once; wait, or Python may exit first
            each.map(Restarting.shutdown, self._pools)


def start_worker(n_threads: int) -> None:
    """Prepare a worker process.  It ignores signals, because a terminal sends them to the parent too, which acts."""
    os.environ["MICROGPT_THREADS"] = str(n_threads)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    import_module(f"{__package__}.worker")  # now, so that the import does not count as time of the first trial


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def dask(address: str) -> Iterator[Executor]:
    """An executor that uses the workers of a Dask scheduler."""
    distributed = optional("distributed", "dask", f"{named('executor')}: dask")
    try:
        client = distributed.Client(address, timeout=DASK_SECONDS, set_as_default=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"expected a running Dask scheduler, found none at {address}: {error}", argument="executor"
        ) from None
    for name in ("distributed.client", "distributed.core"):  # we report a lost scheduler ourselves
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with client:
        yield client.get_executor(pure=False)  # a pure call would run equal trials only once


def mpi() -> Executor:
    """An executor that uses the other ranks of an MPI job."""
    comm = optional("mpi4py.MPI", "mpi", f"{named('executor')}: mpi", MPI_PACKAGES).COMM_WORLD
    futures: Any = import_module("mpi4py.futures")
    # without this launcher, every rank would start a sweep of its own
    if comm.size < 2 or futures._core.SharedPool is None:
        launcher = "mpiexec -n N python -m mpi4py.futures -m microgpt sweep"
        raise wrong_executor("mpi", f"to be started by {launcher}, with N at least 2")
    executor: Executor = futures.MPIPoolExecutor()
    return executor
