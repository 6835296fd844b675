"""The limits of the control groups (cgroups) that this process is in: a container has its own cgroup."""

import os
from contextlib import suppress

GROUPS = "/proc/self/cgroup"
ROOT = "/sys/fs/cgroup"


def limits(controller: str, file: str, file1: str) -> list[str]:
    """The contents of `file` (`file1` in cgroup version 1) of the process's cgroups and their ancestors.

    The root counts too, because a container may see its own cgroup as the root.
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
    """The text of a file, or "" if it cannot be read."""
    with suppress(OSError), open(path, errors="replace") as file:
        return file.read()
    return ""
