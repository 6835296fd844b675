"""Signals: a run that is asked to stop finishes its step, saves itself, and says so with its exit code."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from helpers import ROOT, everything, often, write_names

import microgpt
from microgpt.__main__ import main
from microgpt.base import signals
from microgpt.base.config import Config
from microgpt.commands import train
from microgpt.core.trainer import Trainer
from microgpt.runs import checkpoint, run

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 138}
SETTINGS = {"num_steps": 10**6, "n_embd": 32, "n_layer": 2, "batch_size": 16}


@pytest.fixture
def folder(tmp_path):
    write_names(tmp_path / "names.txt", 200)
    return tmp_path


def start(folder, *arguments, **options):
    """A process that has started training."""
    command = [sys.executable, "-m", "microgpt", "train", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=folder, env=environment, text=True, **streams, **options)
    while (line := process.stdout.readline()) and not line.startswith("num params"):
        pass
    return process


def out(**settings):
    flags = [text for name, value in settings.items() for text in ("--" + name.replace("_", "-"), value)]
    return ["--out", "run", "--input", "names.txt", *flags]


def stop(process, *numbers):
    """Send the signals; the exit code and how long it took to end."""
    begun = time.monotonic()
    for number in numbers:
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error and error.count("\n") <= 2, error
    return process.returncode, time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.parametrize("every", [0, 1], ids=["in training", "in saving"])
@pytest.mark.parametrize("number, code", CODES.items(), ids=[number.name for number in CODES])
def test_at_random_moments(folder, number, code, every):
    """A run that is stopped by signals and resumed many times ends with the same bytes."""
    settings = SETTINGS | {"checkpoint_every": every}
    rng, slowest = random.Random(number), 0
    for i in range(often(3, 100 if every == 0 else 25)):
        process = start(folder, *(["--resume", "run"] if i else out(**settings)))
        time.sleep(rng.uniform(0, 0.03))
        found, seconds = stop(process, number)
        assert found == code
        slowest = max(slowest, seconds)
    assert slowest < 1.1
    saved = run.load(str(folder / "run"))
    os.chdir(folder)
    trainer = Trainer(Config(input="names.txt", **settings))
    trainer.steps(saved.step, [], ())
    assert saved.step > 0
    assert everything(trainer.checkpoint()) == everything(saved)
    assert bytes(checkpoint.to_bytes(trainer.checkpoint())) == (folder / "run" / run.CHECKPOINT).read_bytes()
    assert len((folder / "run" / run.METRICS).read_text().splitlines()) == saved.step


@pytest.mark.slow
@pytest.mark.parametrize("every", [0, 1], ids=["in training", "in saving"])
def test_twice(folder, every):
    """A second SIGINT right after the first, as a program may send it, changes nothing: the run is saved."""
    for i in range(often(3, 20)):
        before = run.load(str(folder / "run")).step if i else 0
        process = start(folder, *(["--resume", "run"] if i else out(**SETTINGS, checkpoint_every=every)))
        time.sleep(0.02)
        code, seconds = stop(process, signal.SIGINT, signal.SIGINT)
        assert code == 130 and seconds < 1.1
        assert checkpoint.load(str(folder / "run" / run.CHECKPOINT)).step > before


def test_impatience(folder):
    """A second SIGINT some time after the first, during a long evaluation, ends at once with a notice."""
    write_names(folder / "names.txt", 20_000)
    settings = {"n_embd": 256, "n_layer": 8, "val_fraction": 0.9, "eval_every": 1, "init_std": 0.02}
    process = start(folder, *out(**settings))
    time.sleep(0.5)
    while process.poll() is None:  # a busy machine may take notice of two at once
        process.send_signal(signal.SIGINT)
        time.sleep(2)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error == "microgpt: stopped at once, without saving\n"
    assert run.load(str(folder / "run")).step == 0


def wait_for_a_step(metrics):
    while not metrics.exists() or not metrics.stat().st_size:
        time.sleep(0.01)


def test_the_model_so_far(folder):
    """Ctrl-C in microgpt.train() without a directory gives the model so far, also to a session that did not expect it,
    as in a notebook."""
    code = """
import microgpt
try:
    microgpt.train("names.txt", num_steps=10**9, metrics="m")
except KeyboardInterrupt as error:
    model = error.model
    print(isinstance(error, microgpt.Interrupted), "sys.last_value.model" in str(error))
    print(len(model.history.losses) > 0, len(model.sample(2)))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment, text=True, **streams)
    wait_for_a_step(folder / "m")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "True True\nTrue 2\n"), err


def test_a_session_keeps_the_model(folder):
    """After Ctrl-C in an interactive session or a notebook, sys.last_value has the model, as the message says."""
    lines = ["import sys, microgpt", "microgpt.train('names.txt', num_steps=10**9, metrics='m')"]
    lines += ["print('kept', len(sys.last_value.model.sample(2)))", ""]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-i", "-q"], cwd=folder, env=environment, text=True, **streams)
    process.stdin.write("\n".join(lines))
    process.stdin.flush()
    wait_for_a_step(folder / "m")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "kept 2" in out, err
    assert "Interrupted: stopped after step" in err


def test_an_unsaved_model(folder, monkeypatch):
    """If a run cannot be saved, the error of microgpt.train() has the model."""

    def broken(*given):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(run, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(run.Run, "save", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        microgpt.train(folder / "names.txt", num_steps=20, out=folder / "run")
    assert caught.value.model.history.losses == microgpt.train(folder / "names.txt", num_steps=20).history.losses


@pytest.mark.parametrize("times", [1, 2])
def test_from_python(folder, times):
    """Ctrl-C in microgpt.train(), even twice, raises KeyboardInterrupt after the run is saved, and the old handler is
    restored."""
    code = """
import signal, microgpt
try:
    microgpt.train(input="names.txt", out="run", num_steps=10**9)
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    wait_for_a_step(folder / "run" / run.METRICS)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted True\n" and process.returncode == 0
    lines = (folder / "run" / run.METRICS).read_text().splitlines()
    assert run.load(str(folder / "run")).step == len(lines) > 0


def test_which_signal_ends_at_once(monkeypatch):
    """After a first signal, only a later Ctrl-C ends at once; a second SIGTERM does not."""
    clock, stop, ended = SimpleNamespace(), [], []
    monkeypatch.setattr(signals, "time", clock)
    handle = signals.stopper(stop, lambda number, frame: ended.append(clock.monotonic()))
    sent = [(100, "SIGTERM"), (109, "SIGTERM"), (109, "SIGHUP"), (100.4, "SIGINT"), (101, "SIGINT"), (110, "SIGINT")]
    for now, name in sent:
        clock.monotonic = lambda now=now: now
        handle(signal.Signals[name], None)
    assert ended == [101, 110] and [number.name for number in stop] == [name for _, name in sent]


def test_the_first_signal_counts(folder, monkeypatch, capfd):
    """The exit code and the notice are those of the first signal."""
    monkeypatch.setattr(train, "stop_on_signals", lambda: nullcontext([signal.SIGTERM, signal.SIGINT]))
    assert main(["train", "--input", str(folder / "names.txt")]) == 143
    assert "stopped by SIGTERM after step 0" in capfd.readouterr().err


def test_handlers_are_given_back(folder):
    """A command and train() restore the signal handlers."""
    before = [signal.getsignal(number) for number in CODES]
    assert main(["train", "--input", str(folder / "names.txt"), "--num-steps", "1", "--num-samples", "0"]) == 0
    assert [signal.getsignal(number) for number in CODES] == before
    mine = signal.signal(signal.SIGINT, lambda number, frame: None), signal.getsignal(signal.SIGINT)
    try:
        microgpt.train(folder / "names.txt", num_steps=1)
        assert signal.getsignal(signal.SIGINT) is mine[1]
    finally:
        signal.signal(signal.SIGINT, mine[0])


def test_in_a_thread(folder):
    """train() works in a thread, which cannot catch signals."""
    with ThreadPoolExecutor(1) as pool:
        model = pool.submit(microgpt.train, folder / "names.txt", num_steps=2).result()
    assert model.config.num_steps == 2


def test_without_a_directory(folder):
    """A run without a directory ends with the same exit codes on signals."""
    for number, code in CODES.items():
        process = start(folder, "--input", "names.txt", "--num-steps", 10**9)
        assert stop(process, number)[0] == code


def test_ignored_signals(folder):
    """A signal that the parent process ignores (nohup) stays ignored."""

    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start(folder, "--input", "names.txt", "--num-steps", 10**9, preexec_fn=ignore)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    assert stop(process, signal.SIGTERM)[0] == 143


def test_paused(folder):
    """SIGSTOP and SIGCONT change nothing."""
    process = start(folder, *out(num_steps=20_000, n_embd=8, n_head=2, num_samples=0))
    for _ in range(3):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0 and run.load(str(folder / "run")).step == 20_000


def test_reader_goes_away(folder):
    """With `| head`, the run is saved and ends, and stderr says that it stopped early."""
    process = start(folder, *out(num_steps=10**6, log_every=1))
    process.stdout.readline()
    process.stdout.close()
    assert "stopped because stdout was closed" in process.stderr.read() and process.wait(60) == 0
    assert run.load(str(folder / "run")).step > 0
    assert run.Run(str(folder / "run")).resume().step > 0


def test_a_forked_process_ends_by_sigterm():
    """A process forked during training ends at once on SIGTERM, as process pools require."""
    begun, begins = os.pipe()
    with signals.stop_on_signals() as stop:
        pid = os.fork()
        if pid == 0:
            os.write(begins, b"!")
            time.sleep(30)
            os._exit(0)
        os.read(begun, 1)  # for a signal that comes earlier Python drops
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143 and not stop
    os.close(begun)
    os.close(begins)
