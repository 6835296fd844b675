"""Threads change nothing but the time: not a bit, whatever their number, and whatever else goes on in the process."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import ROOT, microgpt, tiny_trainer

from microgpt.base.config import Config, Sampling
from microgpt.base.errors import ConfigError, NotFiniteError
from microgpt.base.threads import cores, number
from microgpt.core.evaluate import Evaluator
from microgpt.core.sample import samples
from microgpt.core.trainer import Trainer

SHAPES = [
    {},  # a document at a time, for which most threads have nothing
    {"batch_size": 7},
    {"batch_size": 16, "n_layer": 3, "n_embd": 24, "n_head": 3, "block_size": 9},
    {"batch_size": 5, "n_layer": 2, "n_embd": 17, "n_head": 1, "block_size": 3},
    {"batch_size": 90, "block_size": 300},  # stretches of attention
]


def state(trainer):
    """All bytes that steps lead to."""
    parts = [trainer.params.flat, trainer.optimizer.arrays["m"], trainer.optimizer.arrays["v"], trainer.grads.flat]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def long_documents(folder):
    path = folder / "long.txt"
    text = (ROOT / "input.txt").read_text(encoding="utf-8").split()
    path.write_text("\n".join(" ".join(text[i : i + 1 + i % 50]) for i in range(0, 3000, 10)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_training(tmp_path, dtype, shape):
    """Losses, weights, gradients, Adam's state and intermediates have the bytes of one thread."""
    config = Config(long_documents(tmp_path), dtype=dtype, num_steps=100, **shape)
    found = []
    for threads in 1, 2, 3, 5, 8:
        trainer = Trainer(config, threads=threads)
        losses = [trainer.step() for _ in range(6)]
        values = [trainer.value(name).tobytes() for name in ("losses", "logits", "dlogits", "layer0.q", "dembedding")]
        found.append((losses, state(trainer), values))
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_evaluation(tmp_path, dtype):
    """The loss of every character is that of one thread."""
    trainer = Trainer(Config(long_documents(tmp_path), dtype=dtype))
    losses = [Evaluator(trainer.params, trainer.documents.training, n).losses().tobytes() for n in (1, 2, 3, 8)]
    assert len(set(losses)) == 1


def test_files_do_not_tell(tmp_path):
    """A run's files are equal byte for byte, whatever --threads or MICROGPT_THREADS says."""
    command = [
        "train",
        "--input",
        long_documents(tmp_path),
        "--num-steps",
        20,
        "--batch-size",
        8,
        "--val-fraction",
        0.1,
    ]
    for threads in 1, 2, 4:
        out = tmp_path / str(threads)
        ways = ["--threads", threads] if threads < 4 else []
        env = {"MICROGPT_THREADS": "4"}
        process = microgpt(*command, "--eval-every", 10, "--out", out, *ways, env=env)
        assert process.returncode == 0, process.stderr
    for name in "checkpoint.npz", "metrics.jsonl", "config.toml":
        assert len({(tmp_path / n / name).read_bytes() for n in "124"}) == 1


def test_a_loss_that_is_not_finite(tmp_path):
    """Such a step changes no weight, by however many threads."""
    for threads in 1, 3:
        trainer = tiny_trainer(tmp_path, batch_size=8, threads=threads)
        trainer.step()
        trainer.params.views["lm_head"][0, 0] = float("inf")
        before = trainer.params.flat.tobytes(), trainer.optimizer.arrays["m"].tobytes()
        with pytest.raises(NotFiniteError, match="step 2"):
            trainer.step()
        assert (trainer.params.flat.tobytes(), trainer.optimizer.arrays["m"].tobytes()) == before
        assert trainer.step_count == 1


def test_two_trainers_at_once(tmp_path):
    """While one has the threads another works alone; both go on to the bytes of either by itself."""

    def work(trainer, found):
        for _ in range(300):
            trainer.step()
        found.append(state(trainer))

    settings = {"num_steps": 1000, "batch_size": 12, "n_embd": 16, "n_head": 4}
    expected, found = [], []
    work(tiny_trainer(tmp_path, threads=1, **settings), expected)
    trainers = [tiny_trainer(tmp_path, threads=2 + n % 2, **settings) for n in range(4)]
    threads = [threading.Thread(target=work, args=(trainer, found)) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected * 4


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sampling_meanwhile(tmp_path, dtype):
    """Samples are the same while another trainer has the threads now and then."""
    trainer, stop = tiny_trainer(tmp_path, batch_size=12, num_steps=10**6, threads=2), []
    params = tiny_trainer(tmp_path, steps=5, n_embd=16, n_head=4, block_size=16, dtype=dtype).params
    expected = list(samples(params, Sampling(300, temperature=1.0), threads=1))
    other = threading.Thread(target=trainer.steps, args=(10**6, [], stop))
    other.start()
    try:
        for _ in range(30):
            for columns in None, 100:
                found = list(samples(params, Sampling(300, temperature=1.0), threads=3, columns=columns))
                assert [text for texts, _ in found for text in texts] == expected[0][0]
    finally:
        stop.append(1)
        other.join()


def test_more_threads_than_cores(tmp_path):
    """Any number of threads gets there."""
    trainers = [tiny_trainer(tmp_path, batch_size=20, num_steps=1000, threads=n) for n in (1, 4 * cores(), 64)]
    for trainer in trainers:
        for _ in range(20):
            trainer.step()
    assert len({state(trainer) for trainer in trainers}) == 1


FORK = """
import os, sys, threading
sys.path.insert(0, "tests")
from pathlib import Path
from helpers import tiny_trainer
folder = Path(sys.argv[1])
one, other = (tiny_trainer(folder, batch_size=9, num_steps=10_000, threads=3) for _ in range(2))
one.steps(20, [], ())
stop = []
thread = threading.Thread(target=other.steps, args=(10_000, [], stop))  # so that it is in the middle of something
thread.start()
codes = []
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        one.steps(40, [], ())
        sys.stdout.write(one.params.flat.tobytes().hex()[-32:] + "\\n")
        sys.stdout.flush()
        os._exit(0)
    codes.append(os.waitpid(pid, 0)[1])
stop.append(1)
thread.join()
one.steps(40, [], ())
print(one.params.flat.tobytes().hex()[-32:], set(codes))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks(tmp_path):
    """A child of a process with threads, at whatever they are, has threads of its own and goes on to the same bytes."""
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    *children, parent = result.stdout.splitlines()
    assert parent.endswith(" {0}"), result.stderr
    assert set(children) == {parent.split()[0]} and len(children) == 20


WORKERS = """
import os, resource, signal, sys
sys.path.insert(0, "tests")
from pathlib import Path
from helpers import tiny_trainer
one, many = (tiny_trainer(Path(sys.argv[1]), batch_size=64, threads=n) for n in (1, 64))
def tasks():
    return {path.name for path in Path("/proc/self/task").iterdir()}
before = tasks()
if sys.argv[2] == "few":
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (24 << 20), resource.RLIM_INFINITY))
for trainer in one, many:
    trainer.step()
    trainer.step()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
workers = tasks() - before
masks = {Path(f"/proc/self/task/{task}/status").read_text().partition("SigBlk:")[2].split()[0] for task in workers}
ours = signal.pthread_sigmask(signal.SIG_BLOCK, [])
print(len(workers), one.params.flat.tobytes() == many.params.flat.tobytes(), len(ours), *masks)
"""


def workers(folder, how):
    """(their number, whether 64 threads and one agree, how many signals Python blocks, those that workers do)."""
    process = subprocess.run(
        [sys.executable, "-c", WORKERS, folder, how],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer needs the memory that is limited"
)
def test_fewer_threads_than_wanted(tmp_path):
    """Where the system gives fewer threads than are wanted the bytes are the same."""
    n, same, *_ = workers(tmp_path, "few")
    assert 0 < int(n) < 63 and same == "True"


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_workers_take_no_signals(tmp_path):
    """Every signal that can be blocked is, in the workers and not in the thread that called them."""
    n, same, blocked, *masks = workers(tmp_path, "all")
    assert (n, same, blocked) == ("63", "True", "0")
    assert len(masks) == 1 and all(
        int(masks[0], 16) >> (number - 1) & 1 for number in range(1, 32) if number not in (9, 19)
    )


def test_signals_are_for_python(tmp_path):
    """A signal meets the main thread, none of ours, and Ctrl-C ends a run of many threads as ever."""
    process = subprocess.Popen(
        [sys.executable, "-m", "microgpt", "train", "--num-steps", "1000000", "--batch-size", "64", "--threads", "4",
         "--out", str(tmp_path / "run")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "num docs" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped by SIGINT" in errors


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_threads_sleep(tmp_path):
    """A pool that has nothing to do takes no processor time."""
    trainer = tiny_trainer(tmp_path, batch_size=8, num_steps=1000, threads=4)
    trainer.step()
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


@pytest.mark.skipif(cores() < 2, reason="needs two cores")
def test_hyperthreads_count_as_one(tmp_path, monkeypatch):
    """Processors that share a core are one, for its arithmetic is all that a thread needs."""
    monkeypatch.setattr("microgpt.base.threads.SIBLINGS", str(tmp_path / "{}"))
    for cpu in os.sched_getaffinity(0):
        (tmp_path / str(cpu)).write_text("0-255\n")
    assert cores() == 1


def test_numbers(monkeypatch):
    """What is said counts; else the environment, and else the cores, as far as the work feeds them."""
    monkeypatch.delenv("MICROGPT_THREADS", raising=False)
    assert number(7, 1.0) == 7
    assert number(None, 1.0) == 1 and number(None) == cores()
    monkeypatch.setenv("MICROGPT_THREADS", "5")
    assert number(None) == 5 and number(None, 1.0) == 1 and number(2) == 2
    for wrong in 0, 257, -1, True, "2", 1.5, 10**5000:
        with pytest.raises(ConfigError, match=r"^threads: expected a whole number from 1 to 256, found "):
            number(wrong)
    for wrong in "0", "257", "x", " 2", "2.0", "9" * 5000:
        monkeypatch.setenv("MICROGPT_THREADS", wrong)
        with pytest.raises(ConfigError, match=r"^MICROGPT_THREADS: expected a whole number from 1 to 256, found "):
            number(None)
