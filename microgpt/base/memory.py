"""How much memory this process may take: what the machine has, or the less that its container may use."""

import os
from contextlib import suppress

from . import cgroup

LITTLE = 10**8  # bytes, for which it is not worth asking


def shortage(needed: float) -> str | None:
    """What to say when `needed` bytes are not there: '3 GB, found 2 GB'; None when they are."""
    left = max(0.0, available())
    return f"{needed / 1e9:.2g} GB, found {left / 1e9:.2g} GB" if needed > left else None


def require(needed: float, what: str) -> None:
    """Raise MemoryError unless `what` can have the bytes: a system that runs out of memory may end the process."""
    if needed > LITTLE and (found := shortage(needed)):
        raise MemoryError(f"{what}: expected memory of {found}")


def available() -> float:
    """How many bytes this process may still take; infinity where the system does not tell."""
    limits = [int(text) for text in cgroup.limits("memory", "memory.max", "memory.limit_in_bytes") if is_number(text)]
    with suppress(AttributeError, ValueError, OSError):
        pages = os.sysconf("SC_PHYS_PAGES")
        limits += [pages * os.sysconf("SC_PAGE_SIZE")] if pages > 0 else []
    return min(limits, default=float("inf")) - _taken()


def is_number(text: str) -> bool:
    """Whether it is not "max", nor empty."""
    return text.strip().isdecimal()


def _taken() -> int:
    pages = cgroup.read("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0
