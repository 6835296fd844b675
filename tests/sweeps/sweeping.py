"""Shared by the tests of sweeps: a small sweep, its files and its processes."""

import io
import json
import os
import subprocess
import sys
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib.util import find_spec

import pytest
from helpers import ROOT

from microgpt.__main__ import main

TRAINING = ["--input", "names.txt", "--num-steps", 40, "--block-size", 8, "--learning-rate", "1e-3..1e-1:log"]
# some trials are invalid (width 10 with 4 heads), and some fail (the decay makes weights grow)
SPACE = [*TRAINING, "--n-embd", "4,8,10", "--n-head", "2,4", "--weight-decay", "0,0.1,1000", "--dtype", "float32"]
SWEEP = ["--trials", 24, "--round", 6, "--rungs", "10,20", *SPACE]
# six trials of a few tenths of a second, long enough to be interrupted
LONG = [*TRAINING[:2], "--block-size", 8, "--num-steps", 15000, "--seed", "0..5", "--sampler", "grid"]
TIMES = ("seconds", "started")

needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="needs Optuna, the extra [sweep]")
SAMPLERS = ["random", pytest.param("tpe", marks=needs_optuna)]


def sweep(*arguments, cwd):
    """Run microgpt sweep in this process: its exit code and output; stderr has at most one line."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    arguments = ["sweep", *map(str, arguments)]
    with chdir(cwd), redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        code = main(arguments)
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in streams)
    assert stderr.count("\n") <= 1, stderr
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


def sweep_apart(*arguments, cwd):
    """Run microgpt sweep in its own process, which is then the main module of its spawned workers."""
    process = begin(*arguments, cwd=cwd)
    stdout, stderr = process.communicate(timeout=300)
    assert stderr.count("\n") <= 1, stderr
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def begin(*arguments, cwd):
    """A running microgpt sweep in its own process group."""
    command = [sys.executable, "-m", "microgpt", "sweep", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)


def trials(directory):
    """The trials in trials.jsonl, without times; an incomplete line is an error."""
    text = (directory / "trials.jsonl").read_text()
    assert not text or text.endswith("\n")
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text.splitlines()]


def checkpoints(directory):
    """The bytes of every trial's last checkpoint."""
    return {path.parent.name: path.read_bytes() for path in sorted(directory.glob("trial-*/checkpoint.npz"))}


def until(condition, seconds=60):
    """Wait until `condition` returns a true value, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)
    return found


def read(path):
    with open(path) as file:
        return file.read()


def trainer_of(directory, number):
    """The id of the process that trains this trial, which has locked its directory, or None."""
    try:
        inode = os.stat(directory / f"trial-{number:05d}").st_ino
    except FileNotFoundError:
        return None
    for line in read("/proc/locks").splitlines():
        fields = line.split()
        if "->" not in fields and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None


def children_of(pid):
    """The ids of the child processes of a process."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        found += map(int, read(f"/proc/{pid}/task/{task}/children").split())
    return found


def is_running(pid):
    try:
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
