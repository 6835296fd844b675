"""Work that does not fit into the available memory is refused, before the system kills the process."""

import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import ROOT

from microgpt.base import cgroup, memory

ROOTS = {"memory.max": Path("/sys/fs/cgroup"), "memory.limit_in_bytes": Path("/sys/fs/cgroup/memory")}


@pytest.fixture
def in_container():
    """A function that runs a command in a cgroup with a memory limit; only root can create one."""
    with suppress(OSError):
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        file = "memory.limit_in_bytes" if any(names == "memory" for _, names, _ in groups) else "memory.max"
        path = next(path for _, names, path in groups if names == ("memory" if "limit" in file else ""))
        group = ROOTS[file] / path.strip("/") / f"microgpt-test-{os.getpid()}"
        group.mkdir()
        if (group / file).exists():
            yield lambda n_bytes, *command: run_in(group, file, n_bytes, command)
            for _ in range(50):  # until the last process has left the cgroup
                with suppress(OSError):
                    group.rmdir()
                    return
                time.sleep(0.1)
    pytest.skip("control groups cannot be made here")


def run_in(group, file, n_bytes, command):
    (group / file).write_text(str(n_bytes))
    enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'
    command = ["sh", "-c", enter, "sh", sys.executable, "-m", "microgpt", *map(str, command)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


@pytest.mark.parametrize("command", ["train", "train --out", "train, long text", "sample", "eval"])
def test_a_container(in_container, tmp_path, command):
    """From far too little memory to enough, a command in a cgroup is refused in one line or succeeds."""
    run, text = tmp_path / "run", tmp_path / "text.txt"
    wide = ["--n-embd", 320, "--n-layer", 4, "--num-steps", 1, "--num-samples", 1]
    rng = random.Random(1)
    text.write_text("\n".join("".join(rng.choices("abcdefgh", k=14)) for _ in range(100_000)))
    most = 2**30
    few = tmp_path / "few.txt"
    few.write_text("anna\nzoe")
    if command in ("sample", "eval"):
        assert in_container(most, "train", *wide, "--out", run).returncode == 0
    found = []
    for n_bytes in range(100 * 10**6, most, 150 * 10**6):
        line = {
            "train": ["train", *wide],
            "train --out": ["train", *wide, "--out", tmp_path / str(n_bytes)],
            "train, long text": [
                *["train", "--input", text, "--batch-size", 1000, "--num-steps", 60, "--val-fraction", 0.5],
                *["--num-samples", 1],
            ],
            "sample": ["sample", run, "--num-samples", 2],
            "eval": ["eval", run, "--input", few],
        }[command]
        result = in_container(n_bytes, *line)
        found.append(result.returncode)
        if result.returncode == 0:
            break
        assert result.stderr.count("\n") == 1 and "GB of memory" in result.stderr, (n_bytes, result)
    assert found[0] in (1, 2) and found[-1] == 0 and len(set(found)) == 2, found


@pytest.mark.parametrize("group", ["/a/b", "/"])
@pytest.mark.parametrize(
    "line, root, name",
    [("0::", "/sys/fs/cgroup", "memory.max"), ("4:cpu,memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes")],
)  # a machine has only one of the two
def test_the_least_limit_counts(monkeypatch, group, line, root, name):
    """The lowest limit of a cgroup and its ancestors counts; "max" or a missing file is no limit."""
    files = {"/proc/self/cgroup": f"1:cpu:/elsewhere\n{line}{group}\n", "/proc/self/statm": "9 2 1\n"}
    monkeypatch.setattr(cgroup, "read", lambda path: files.get(path, ""))
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    taken = 2 * os.sysconf("SC_PAGE_SIZE")
    assert memory.available() == physical - taken
    files |= {f"{root}/a/b/{name}": "max\n", f"{root}/{name}": "5000000\n", f"{root}/elsewhere/{name}": "1\n"}
    assert memory.available() == 5_000_000 - taken
    files[f"{root}/a/{name}"] = "4000000\n"
    assert memory.available() == (5_000_000 if group == "/" else 4_000_000) - taken


def test_no_system_that_tells(monkeypatch):
    """If the system does not report its memory, nothing is refused."""
    monkeypatch.setattr(cgroup, "read", lambda path: "")
    monkeypatch.setattr(memory.os, "sysconf", lambda name: -1)
    assert memory.shortage(1e30) is None
