"""The number of threads: by default one per core, but no more than the work can keep busy.

Results are bit-identical for any number of threads.
"""

import math
import os
import re

from . import cgroup
from .errors import ConfigError, EnvironmentVariableError
from .settings import plain
from .terminal import shown

MAX_THREADS = 256
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"  # the same text for all threads of a core
MULTIPLIES_PER_THREAD = 200_000  # of a step; with fewer, an additional thread costs time


def number(threads: int | None, n_multiplies: float = float("inf")) -> int:
    """`threads`, or else the default, limited to what a step of `n_multiplies` multiply-adds can keep busy."""
    if threads is not None:
        return check(threads)
    return max(1, int(min(default(), n_multiplies / MULTIPLIES_PER_THREAD)))


def check(threads: object) -> int:
    """`threads` as an int.  Raises ConfigError if it is not a valid number of threads."""
    value = plain(threads)
    if type(value) is not int or not 1 <= value <= MAX_THREADS:
        raise ConfigError(
            f"expected a whole number from 1 to {MAX_THREADS}, found {shown(threads)}", argument="threads"
        )
    return value


def parse(text: str) -> int:
    """The number of threads that `text` gives.  Raises ConfigError for anything else."""
    return check(int(text) if re.fullmatch("[0-9]{1,4}", text) else text)


def default() -> int:
    """MICROGPT_THREADS, or else the number of usable cores."""
    text = os.environ.get("MICROGPT_THREADS", "")
    try:
        return parse(text) if text else cores()
    except ConfigError as error:
        raise EnvironmentVariableError(error.problem, subject="MICROGPT_THREADS") from None


def cores() -> int:
    """The number of cores that this process may use within its container's CPU quota.

    The hyperthreads of a core count as one, because they share the arithmetic units, which a kernel keeps busy.
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
