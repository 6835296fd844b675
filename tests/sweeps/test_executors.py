"""Executors: a sweep gives the same results on every executor, even if workers die."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import active_children, get_context
from shutil import which
from types import SimpleNamespace

import pytest
from helpers import ROOT
from sweeping import (
    LONG,
    SAMPLERS,
    SWEEP,
    TRAINING,
    begin,
    checkpoints,
    children_of,
    is_running,
    sweep,
    sweep_apart,
    trainer_of,
    trials,
    until,
)

import microgpt
from microgpt.base import threads
from microgpt.base.errors import ExtraError
from microgpt.sweeps import executors

needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="needs distributed, the extra [dask]")
MPIEXEC = which("mpiexec", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
needs_mpi = pytest.mark.skipif(
    find_spec("mpi4py") is None or MPIEXEC is None, reason="needs mpi4py, the extra [mpi], and mpiexec"
)
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@contextmanager
def cluster():
    """The address of a Dask scheduler with two worker processes."""
    from distributed import LocalCluster

    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with LocalCluster(n_workers=2, **options) as running:
            yield running


@pytest.fixture(scope="module")
def address():
    with cluster() as running:
        yield f"dask:{running.scheduler_address}"


def mpi_command(*arguments):
    """Run microgpt sweep on three ranks."""
    version = subprocess.run([MPIEXEC, "--version"], text=True, **PIPES).stdout
    flags = [] if "HYDRA" in version else ["--oversubscribe"]  # MPICH has no such flag
    command = [MPIEXEC, *flags, "-n", "3", sys.executable, "-m", "mpi4py.futures", "-m", "microgpt", "sweep"]
    return [*command, *map(str, arguments)]


def mpi_environment():
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return os.environ | {"PYTHONPATH": str(ROOT)} | root


def mpi_sweep(*arguments, cwd):
    process = subprocess.run(mpi_command(*arguments), cwd=cwd, env=mpi_environment(), text=True, timeout=300, **PIPES)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    "executor",
    [
        "process:1",
        "process:4",
        "thread:2",
        pytest.param("dask", marks=needs_dask),
        pytest.param("mpi", marks=needs_mpi),
    ],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_sweep_on_every_executor(sampler, executor, expected, folder, request):
    """24 trials with rungs, some failing or invalid, give the same trials.jsonl and checkpoint bytes."""
    arguments = ["s", *SWEEP, "--sampler", sampler, "--executor"]
    if executor == "mpi":
        mpi_sweep(*arguments, "mpi", cwd=folder)
    else:
        run = sweep if executor in ("dask", "thread:2") else sweep_apart
        executor = request.getfixturevalue("address") if executor == "dask" else executor
        assert run(*arguments, executor, cwd=folder).returncode == 0
    assert trials(folder / "s") == expected(sampler)[0]
    assert checkpoints(folder / "s") == expected(sampler)[1]
    found = {t["status"] for t in trials(folder / "s")}
    assert found == {"done", "stopped", "invalid", "failed"}


# ---- workers that die or take too long ----


@pytest.mark.parametrize(
    "executor, n_deaths", [("process:2", 1), ("process:2", 2), ("concurrent.futures:ProcessPoolExecutor", 2)]
)
def test_a_worker_that_is_killed(executor, n_deaths, expected, folder):
    """A trial whose worker is killed is retried once from its checkpoint, and then marked; all other trials continue,
    even those in the same pool."""
    process = begin("s", *LONG, "--executor", executor, cwd=folder)
    killed = set()
    for _ in range(n_deaths):
        pid = until(lambda: (p := trainer_of(folder / "s", 1)) not in killed and p)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    out, stderr = process.communicate(timeout=200)
    assert process.returncode == 0 and not stderr
    found = trials(folder / "s")
    assert all(found[i] == expected("long")[0][i] for i in range(6) if i != 1 or n_deaths == 1)
    if n_deaths == 1:
        assert checkpoints(folder / "s") == expected("long")[1]
    else:
        assert found[1]["status"] == "died" and "worker" in found[1]["error"] and found[1]["error"] in out


@pytest.mark.parametrize("ours", [True, False])
def test_an_executor_that_breaks_as_a_whole(ours, folder):
    """If a death breaks a pool, a callable makes a new one and no trial is lost; a given Executor is an error."""
    pools = []

    def pool():
        pools.append(ProcessPoolExecutor(2, get_context("spawn")))
        if len(pools) == 1:
            pools[0].submit(os._exit, 9).exception()  # as if a trial had died there
        return pools[-1]

    space = {"input": folder / "names.txt", "num_steps": 5, "block_size": 8, "seed": [1, 2, 3]}
    if ours:
        found = microgpt.sweep(folder / "s", sampler="grid", executor=pool, **space)
        assert [t.status for t in found] == ["done"] * 3 and len(pools) == 2
    else:
        with pytest.raises(OSError, match=r"^executor: the executor has failed .*resume"):
            microgpt.sweep(folder / "s", sampler="grid", executor=pool(), **space)
        found = microgpt.sweep(resume=folder / "s", executor="thread:1")
        assert [t.status for t in found] == ["done"] * 3
    for each in pools:
        each.shutdown()


@pytest.mark.parametrize("executor", ["process:2", "thread:2"])
def test_a_trial_that_never_ends(executor, folder):
    """--trial-timeout stops and marks only trials that take too long, on threads and on processes."""
    space = [*TRAINING[:2], "--num-steps", "20,1000000000", "--sampler", "grid"]
    process = sweep_apart("s", *space, "--executor", executor, "--trial-timeout", 1, cwd=folder)
    assert process.returncode == 0
    found = trials(folder / "s")
    assert [t["status"] for t in found] == ["done", "timeout"]
    assert found[1]["error"] == "stopped after the time limit of 1 seconds" and found[1]["error"] in process.stdout


def test_a_process_that_dies_is_replaced():
    """A process that dies does not affect the others, and the next call replaces it."""
    with executors.Processes(2) as processes:
        other = processes.submit(time.sleep, 0.5)
        pid = processes.submit(os.getpid).result()
        with pytest.raises(BrokenProcessPool):
            processes.submit(os._exit, 1).result()
        assert processes.submit(os.getpid).result() != pid
        assert other.result() is None


@needs_dask
def test_a_dask_worker_that_is_killed(expected, folder):
    """Dask retries a trial whose worker died; without a scheduler the sweep ends, and can be resumed."""
    with cluster() as running:
        address = f"dask:{running.scheduler_address}"
        process = begin("s", *LONG, "--executor", address, cwd=folder)
        os.kill(until(lambda: trainer_of(folder / "s", 1)), signal.SIGKILL)
        _, stderr = process.communicate(timeout=200)
        assert process.returncode == 0 and not stderr
        assert trials(folder / "s") == expected("long")[0]
        process = begin("t", *LONG, "--executor", address, cwd=folder)
        until(lambda: trainer_of(folder / "t", 1))
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 1 and stderr.startswith("microgpt: --executor: the executor has failed")
    assert sweep("--resume", "t", "--executor", "thread:2", cwd=folder).returncode == 0
    assert trials(folder / "t") == expected("long")[0]


def test_processes_end_with_a_sweep_that_is_killed(folder):
    """No worker, training or waiting, outlives a killed sweep."""
    flags = [*TRAINING[:2], "--num-steps", "10,1000000000", "--sampler", "grid"]
    process = begin("s", *flags, "--executor", "process:2", cwd=folder)
    until(lambda: (folder / "s" / "trials.jsonl").exists() and trials(folder / "s"))
    until(lambda: trainer_of(folder / "s", 1))
    children = children_of(process.pid)
    process.kill()
    process.communicate()
    assert len(children) > 2
    until(lambda: not any(map(is_running, children)))


# ---- number of workers and threads ----


def n_threads():
    return threads.default()


def test_processes_share_the_cores(monkeypatch):
    """N workers divide the cores equally, each with at least one thread."""
    for n_cores, n, share in ((16, 4, 4), (16, 3, 5), (2, 2, 1), (2, 3, 1)):
        monkeypatch.setenv("MICROGPT_THREADS", str(n_cores))
        with executors.Processes(n) as processes:
            assert processes.submit(n_threads).result() == share


def test_python_takes_any_executor(folder):
    """microgpt.sweep leaves a given Executor open, and closes the one that a callable returns."""
    space = {"input": folder / "names.txt", "num_steps": 5, "seed": "1..3", "sampler": "grid"}
    with ThreadPoolExecutor(2) as mine:
        found = [microgpt.sweep(folder / "a", executor=mine, **space)]
        assert mine.submit(int).result() == 0
    made = []
    found.append(microgpt.sweep(folder / "b", executor=lambda: made.append(ThreadPoolExecutor(1)) or made[0], **space))
    with pytest.raises(RuntimeError):
        made[0].submit(int)
    assert trials(folder / "a") == trials(folder / "b")
    assert [[t.trial for t in each] for each in found] == [[t.trial for t in found[0]]] * 2
    assert [t.val_loss for t in found[0]] == sorted(t.val_loss for t in found[0])


@pytest.mark.parametrize("error", [None, "cannot be reached"])
def test_a_shutdown_of_another_form(error, folder, monkeypatch):
    """An executor whose shutdown() knows only `wait`, or fails, does not cost the table of results."""

    class Plain:
        def __init__(self):
            self.pool = ThreadPoolExecutor(1)
            self.submit = self.pool.submit

        def shutdown(self, wait=True):
            self.pool.shutdown(wait)
            if error is not None:
                raise ConnectionError(error)

    monkeypatch.setitem(sys.modules, "plain", SimpleNamespace(Plain=Plain))
    process = sweep("s", *TRAINING, "--trials", 3, "--executor", "plain:Plain", cwd=folder)
    assert process.returncode == 0 and process.stdout.count("done") == 3
    assert process.stderr == (
        "" if error is None else f"microgpt: --executor: shutdown has failed: ConnectionError: {error}\n"
    )


@pytest.mark.skipif(find_spec("loky") is None, reason="needs loky")
def test_loky(expected, folder):
    """loky's executor, which has no cancel_futures, gives the same trials and the table."""
    process = sweep_apart("s", *SWEEP, "--executor", "loky:get_reusable_executor", cwd=folder)
    assert process.returncode == 0 and process.stdout.startswith("trial  held-out loss")
    assert trials(folder / "s") == expected("random")[0]


def test_pools_end_before_the_sweep(folder):
    """No worker process and no thread of a pool is left after a sweep: at Python's exit they would print errors."""
    before, processes = set(threading.enumerate()), active_children()
    microgpt.sweep(folder / "s", trials=2, executor="process:2", input=folder / "names.txt", num_steps=5)
    assert set(threading.enumerate()) <= before
    assert active_children() == processes


class Inline(Executor):
    """An Executor that runs each task inside submit(), after changing it."""

    def __init__(self, **changes):
        self.changes = changes

    def submit(self, function, t, task):
        future = Future()
        future.set_result(function(t, replace(task, **self.changes)))
        return future


def test_an_executor_that_works_at_once(expected, folder, monkeypatch):
    """An executor that runs tasks inside submit() gives the same trials and error messages."""
    monkeypatch.setitem(sys.modules, "inline", SimpleNamespace(Inline=Inline))
    assert sweep("s", *SWEEP, "--executor", "inline:Inline", cwd=folder).returncode == 0
    assert trials(folder / "s") == expected("random")[0]


def test_workers_that_see_another_directory(folder, tmp_path):
    """Workers that cannot see the sweep's directory are an error of the sweep, not of a trial."""
    space = {"input": folder / "names.txt", "num_steps": 5, "seed": "1..3", "sampler": "grid"}
    with pytest.raises(OSError, match=r"the worker of trial 0 cannot see this directory; fix this, then resume"):
        microgpt.sweep(folder / "s", executor=Inline(directory=str(tmp_path / "elsewhere")), **space)
    assert [t.status for t in microgpt.sweep(resume=folder / "s", executor="thread:1")] == ["done"] * 3


# ---- wrong names ----

BAD = ["", "process:0", "process:-1", "process:x", "process:1.5", "process:1025", "process:", "thread:0", "thread:",
       "dask", "dask:", "dask:host", "dask:tcp://host:port", "mpi:3", "processes", "no_such_module:f", "os:nope",
       "os:sep", "os:getcwd", "os.path:join", "a b:c", pytest.param("mpi", marks=needs_mpi)]  # fmt: skip


@pytest.mark.parametrize("executor", BAD)
def test_an_executor_that_is_none(executor, folder):
    """An unknown or unavailable executor gives one line that names the flag, and nothing is written."""
    process = sweep("s", *TRAINING, "--trials", 3, "--executor", executor, cwd=folder)
    assert process.returncode == 2 and process.stderr.startswith("microgpt: --executor: expected"), process.stderr
    assert "No module named" not in process.stderr and "has no attribute" not in process.stderr
    assert not (folder / "s").exists()


def test_an_extra_that_is_missing(folder):
    """Without Dask, mpi4py or Optuna, one line says what to install."""
    missing = {"dask:127.0.0.1:1": "distributed", "mpi": "mpi4py.MPI"}
    for executor, module in missing.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            module = module.partition(".")[0]
            with pytest.raises(
                ExtraError,
                match=rf"^executor: {executor[:4].rstrip(':')} needs {module}: pip install {module}.*; found",
            ):
                microgpt.sweep(folder / "s", trials=1, executor=executor, input=folder / "names.txt")
            patch.setitem(sys.modules, "optuna", None)
            with pytest.raises(
                ExtraError, match=r"^sampler: tpe needs optuna: pip install optuna, or the extra \[sweep\]"
            ):
                microgpt.sweep(folder / "s", trials=1, sampler="tpe", input=folder / "names.txt")
    assert not (folder / "s").exists()


@needs_dask
def test_a_scheduler_that_does_not_answer(folder, monkeypatch):
    """An address without a scheduler gives one line and exit code 1, and nothing is written."""
    monkeypatch.setattr(executors, "DASK_SECONDS", 0.3)
    process = sweep("s", *TRAINING, "--trials", 3, "--executor", "dask:127.0.0.1:9", cwd=folder)
    assert process.returncode == 1 and process.stderr.startswith(
        "microgpt: --executor: expected a running Dask scheduler"
    )
    assert not (folder / "s").exists()


@needs_mpi
def test_a_rank_that_is_killed(expected, folder):
    """If a rank dies, MPI ends the job; finished trials are kept, and the sweep can be resumed on any executor."""
    command = mpi_command("s", *LONG, "--executor", "mpi")
    process = subprocess.Popen(command, cwd=folder, env=mpi_environment(), **PIPES)
    os.kill(until(lambda: trainer_of(folder / "s", 3)), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    done = trials(folder / "s")
    assert len(done) < 6 and done == expected("long")[0][: len(done)]
    assert sweep("--resume", "s", "--executor", "thread:2", cwd=folder).returncode == 0
    assert (trials(folder / "s"), checkpoints(folder / "s")) == expected("long")
