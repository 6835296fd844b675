"""How many threads work: by default as many as there are cores, and no more than the work can feed.

The bits of a result do not depend on it.
"""

import math
import os
import re

from . import cgroup
from .errors import ConfigError, EnvironmentVariableError
from .settings import plain
from .terminal import shown

MOST = 256
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"  # of a core: the same text for each
FEED = 200_000  # multiply-adds of a step, without which one thread more costs time


def number(threads: int | None, n_multiplies: float = float("inf")) -> int:
    """`threads`, if it says how many; or else as many of the default as steps of so many multiply-adds can feed."""
    if threads is not None:
        return check(threads)
    return max(1, int(min(default(), n_multiplies / FEED)))


def check(threads: object) -> int:
    """`threads` as an int.  Raises ConfigError unless it is a number of threads."""
    value = plain(threads)
    if type(value) is not int or not 1 <= value <= MOST:
        raise ConfigError(f"expected a whole number from 1 to {MOST}, found {shown(threads)}", argument="threads")
    return value


def parse(text: str) -> int:
    """The number that the text says."""
    return check(int(text) if re.fullmatch("[0-9]{1,4}", text) else text)


def default() -> int:
    """MICROGPT_THREADS, or as many as there are cores to use."""
    text = os.environ.get("MICROGPT_THREADS", "")
    try:
        return parse(text) if text else cores()
    except ConfigError as error:
        raise EnvironmentVariableError(error.problem, subject="MICROGPT_THREADS") from None


def cores() -> int:
    """The cores that this process may use, and that its container pays for.

    Hyperthreads share a core's arithmetic, of which a kernel takes all: they count as one.
    """
    if hasattr(os, "sched_getaffinity"):
        n = len({cgroup.read(SIBLINGS.format(cpu)) or cpu for cpu in os.sched_getaffinity(0)})
    else:
        n = os.cpu_count() or 1
    quotas = [text.split() for text in cgroup.limits("cpu", "cpu.max", "cpu.cfs_quota_us")]
    periods = [text.split() for text in cgroup.limits("cpu", "cpu.max", "cpu.cfs_period_us")]
    for quota, period in zip(quotas, periods):
        if quota and period and quota[0].isdecimal() and int(period[-1]) > 0:
            n = min(n, math.ceil(int(quota[0]) / int(period[-1])))
    return max(1, n)
