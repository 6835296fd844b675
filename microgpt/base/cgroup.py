"""What the control groups say that this process is in: a container has one of its own."""

import os
from contextlib import suppress

GROUPS = "/proc/self/cgroup"
ROOT = "/sys/fs/cgroup"


def limits(controller: str, file: str, file1: str) -> list[str]:
    """What stands in this file (or in file1, of version 1) of our groups and those around them.

    A container may see its own group as the root.
    """
    texts = []
    for line in read(GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root, name = (os.path.join(ROOT, controller), file1) if controllers else (ROOT, file)
        parts = path.strip("/").split("/")
        texts += [read(os.path.join(root, *parts[:n], name)) for n in range(len(parts) + 1)]
    return texts


def read(path: str) -> str:
    """The text of a file, empty if there is none."""
    with suppress(OSError), open(path, errors="replace") as file:
        return file.read()
    return ""
