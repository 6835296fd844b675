"""Signals that ask a process to stop: SIGINT, SIGTERM and SIGHUP."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handle: Handler) -> Iterator[None]:
    """Let handle(number, frame) take the signals, but for those that our starter ignores (nohup)."""
    wanted = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> None:
    """End the process at once.  An exception could be lost, or turned into another, within somebody's import."""
    os._exit(128 + number)


BOUNCE_SECONDS = 0.5  # within which one Ctrl-C may arrive twice: a terminal sends it, and so does a wrapper


def stopper(stop: list[signal.Signals], at_once: Handler) -> Handler:
    """A handler that adds each signal to the list `stop`; a Ctrl-C that comes again, later, goes to at_once instead.

    A process that was forked from this one looks at no such list: SIGTERM, by which pools end theirs, ends it at once.
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
    """A list to which a signal adds itself, for a loop to see; a second Ctrl-C ends the process at once."""

    def at_once(number: int, frame: FrameType | None) -> None:
        os.write(2, b"microgpt: stopped at once, without saving\n")
        leave(number, frame)

    stop: list[signal.Signals] = []
    with handled(stopper(stop, at_once)):
        yield stop


@contextmanager
def interrupt_at_the_end() -> Iterator[list[signal.Signals]]:
    """A list to which Ctrl-C adds itself, for a loop to see; then a KeyboardInterrupt, when the loop has saved all.

    A second one is a KeyboardInterrupt at once.  Where Ctrl-C means something else, or no signal can be caught because
    this is not the main thread, the list stays empty.
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
