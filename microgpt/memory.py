"""How much memory this process may take: what the machine has, or the less that its container may use."""

import os
from contextlib import suppress

# of control groups, version 2 and 1: where their directories are, and the file of each that has its limit
CGROUP2 = "/sys/fs/cgroup", "memory.max"
CGROUP1 = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
LITTLE = 10**8  # bytes, for which it is not worth asking


def shortage(needed: float) -> str | None:
    """What to say when so many bytes more are too many: '3 GB, found 2 GB'; None when they are not."""
    left = max(0.0, available())
    return f"{needed / 1e9:.2g} GB, found {left / 1e9:.2g} GB" if needed > left else None


def require(needed: float, what: str) -> None:
    """MemoryError unless there are so many bytes for `what`: a system that runs out of them may end the process."""
    if needed > LITTLE and (found := shortage(needed)):
        raise MemoryError(f"{what}: expected memory of {found}")


def available() -> float:
    """How many bytes this process may still take; infinity where the system does not tell."""
    limits = _container_limits()
    with suppress(AttributeError, ValueError, OSError):
        pages = os.sysconf("SC_PHYS_PAGES")
        limits += [pages * os.sysconf("SC_PAGE_SIZE")] if pages > 0 else []
    return min(limits, default=float("inf")) - _taken()


def _container_limits() -> list[int]:
    """The limits of the control groups that this process is in, and of those around them.

    A container may see its own group as the root."""
    limits = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = CGROUP1 if controllers else CGROUP2
        parts = path.strip("/").split("/")
        for n in range(len(parts) + 1):
            with suppress(ValueError):  # "max", or no such group
                limits.append(int(_read(os.path.join(root, *parts[:n], name))))
    return limits


def _taken() -> int:
    pages = _read("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def _read(path: str) -> str:
    with suppress(OSError), open(path, errors="replace") as file:
        return file.read()
    return ""
