"""Signals that ask a process to stop: SIGINT, SIGTERM, SIGHUP, and SIGUSR1, which mpiexec passes to its processes."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handle: Handler) -> Iterator[None]:
    """Handle the signals with handle(number, frame), except those that the parent process had ignored (nohup)."""
    wanted = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> None:
    """End the process immediately: an import that is under way could swallow or replace an exception."""
    os._exit(128 + number)


BOUNCE_SECONDS = 0.5  # one Ctrl-C may arrive twice within this time: from the terminal and from a wrapper


def stopper(stop: list[signal.Signals], at_once: Handler) -> Handler:
    """A handler that appends each signal to `stop`; a second, later Ctrl-C calls `at_once`.

    A process forked from this one does not check the list: SIGTERM, with which pools end their processes, ends it
    immediately.
    """
    first, owner = 0.0, os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if number == signal.SIGTERM and os.getpid() != owner:
            leave(number, frame)
        if not stop:
            first = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() > first + BOUNCE_SECONDS:
            at_once(number, frame)
        stop.append(signal.Signals(number))

    return handle


@contextmanager
def stop_on_signals() -> Iterator[list[signal.Signals]]:
    """A list to which signals are appended, for a loop to check; a second Ctrl-C ends the process immediately."""

    def at_once(number: int, frame: FrameType | None) -> None:
        os.write(2, b"microgpt: stopped at once, without saving\n")
        leave(number, frame)

    stop: list[signal.Signals] = []
    with handled(stopper(stop, at_once)):
        yield stop


@contextmanager
def interrupt_at_the_end() -> Iterator[list[signal.Signals]]:
    """A list to which Ctrl-C is appended, for a loop to check; raises KeyboardInterrupt after the loop has saved.

    A second Ctrl-C raises KeyboardInterrupt immediately.  The list stays empty if the program handles Ctrl-C itself,
    or in a thread other than the main one, which cannot catch signals.
    """
    stop: list[signal.Signals] = []
    default = signal.default_int_handler
    if signal.getsignal(signal.SIGINT) is not default or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signal.signal(signal.SIGINT, stopper(stop, default))
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, default)
    if stop:
        raise KeyboardInterrupt
