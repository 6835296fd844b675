"""How much memory this process may use: the machine's, or its container's limit if that is lower."""

import os
from contextlib import suppress

from . import cgroup

SMALL = 10**8  # bytes; checking smaller amounts is not worth the time


def shortage(needed: float) -> str | None:
    """The end of a message, '3 GB of memory, found 2 GB', if fewer than `needed` bytes are available, or None."""
    left = max(0.0, available())
    return f"{needed / 1e9:.2g} GB of memory, found {left / 1e9:.2g} GB" if needed > left else None


def require(needed: float, what: str) -> None:
    """Raise MemoryError unless `what` can have the bytes: a system that runs out of memory may kill the process."""
    if needed > SMALL and (found := shortage(needed)):
        raise MemoryError(f"{what}: expected {found}")


def available() -> float:
    """Bytes that this process may still take; infinity if the system does not report them."""
    limits = [int(text) for text in cgroup.limits("memory", "memory.max", "memory.limit_in_bytes") if is_number(text)]
    with suppress(AttributeError, ValueError, OSError):
        pages = os.sysconf("SC_PHYS_PAGES")
        limits += [pages * os.sysconf("SC_PAGE_SIZE")] if pages > 0 else []
    return min(limits, default=float("inf")) - _resident()


def is_number(text: str) -> bool:
    """Whether the text is a number, rather than "max" or empty."""
    return text.strip().isdecimal()


def _resident() -> int:
    pages = cgroup.read("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0
