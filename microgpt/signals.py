"""Signals that ask a process to stop: SIGINT, SIGTERM and SIGHUP."""

import os
import signal
from contextlib import contextmanager

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def handled(handle):
    """Let handle(number, frame) take the signals, but for those that whoever started us wants ignored (nohup)."""
    wanted = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number, frame):
    """End the process at once.  An exception could be lost, or turned into another, within somebody's import."""
    os._exit(128 + number)


@contextmanager
def stop_on_signals():
    """A list to which a signal adds itself, for a loop to see; a second SIGINT ends the process at once."""
    stop = []

    def handle(number, frame):
        if stop and number == signal.SIGINT:
            leave(number, frame)
        stop.append(signal.Signals(number))

    with handled(handle):
        yield stop
