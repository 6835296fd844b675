"""Sweeps: what is recorded, whatever interrupts them."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from shutil import which
from types import SimpleNamespace

import pytest
from helpers import ROOT, often, on_terminal
from helpers import microgpt as microgpt_process
from sweeping import (
    LONG,
    SAMPLERS,
    SPACE,
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
from microgpt.base.config import Config
from microgpt.base.files import Folder
from microgpt.base.settings import flag
from microgpt.runs import run
from microgpt.sweeps import worker
from microgpt.sweeps.records import Task, Trial
from microgpt.sweeps.sweeper import Sweeper


def count(directory):
    """The number of trials that have ended, or -1 if no sweep runs there."""
    path = directory / "trials.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() and (directory / "running").exists() else -1


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_killed_again_and_again_and_resumed(sampler, expected, folder):
    """A sweep that is often killed and resumed has the same trials, none twice and none lost."""
    rng, kills, n = random.Random(7), 0, 0
    while kills < often(2, 20):  # in one sweep, or in another if it ends early
        n += 1
        kills += killed(
            folder / f"s{n}", [*SWEEP, "--sampler", sampler], often(2, 20) - kills, rng, expected(sampler)[0]
        )
        assert trials(folder / f"s{n}") == expected(sampler)[0]
        assert checkpoints(folder / f"s{n}") == expected(sampler)[1]


def killed(directory, flags, most, rng, expected):
    """Run a sweep to its end with at most `most` SIGKILLs; returns how many there were."""
    token, kills = directory / "running", 0
    while True:
        begun = (directory / "sweep.json").exists()
        engine, seconds = rng.choice([("process:2", 0.8), ("thread:2", 0.2)])  # threads start at once
        before = token.read_bytes() if token.exists() else b""
        where = ["--resume", directory.name] if begun else [directory.name, *flags]
        process = begin(*where, "--executor", engine, cwd=directory.parent)
        if kills < most:
            if rng.random() < 0.8:  # while trials run; otherwise at any moment
                until(lambda: process.poll() is not None or (token.exists() and token.read_bytes() != before))
            time.sleep(rng.uniform(0, seconds))
            process.kill()
        _, stderr = process.communicate()
        if process.returncode == 0:
            return kills
        assert process.returncode == -signal.SIGKILL and "Traceback" not in stderr, stderr
        kills += 1
        if (directory / "trials.jsonl").exists():
            assert trials(directory) == expected[: len(trials(directory))]


def interrupt(process, number=signal.SIGINT):
    """Send a signal; returns what the process wrote to stderr until it ended."""
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return stderr


@pytest.mark.parametrize("executor, number", [("process:2", signal.SIGINT), ("thread:2", signal.SIGTERM)])
def test_ctrl_c_keeps_what_is_done(executor, number, expected, folder):
    """A signal ends a sweep within seconds: finished trials are recorded, running ones saved, and all processes end."""
    process = begin("s", *LONG, "--executor", executor, cwd=folder)
    until(lambda: count(folder / "s") >= 2)
    until(lambda: any(trainer_of(folder / "s", n) for n in (2, 3)))
    children = children_of(process.pid)
    stderr = interrupt(process, number)
    assert process.returncode == 128 + number
    done = trials(folder / "s")
    message = f"stopped by {number.name} after {len(done)} of 6 trials; resume with: microgpt sweep --resume s"
    assert stderr == f"microgpt: {message}\n"
    assert 2 <= len(done) < 6 and done == expected("long")[0][: len(done)]
    until(lambda: not any(map(is_running, children)))  # the interpreter's resource tracker ends a moment later
    assert not (folder / "s" / "running").exists()
    steps = [run.load(str(path), last=True).step for path in folder.glob("s/trial-*")]
    assert 15000 in steps and any(0 < step < 15000 for step in steps)
    assert sweep("--resume", "s", "--executor", "thread:2", cwd=folder).returncode == 0
    assert (trials(folder / "s"), checkpoints(folder / "s")) == expected("long")


def test_a_directory_has_one_sweep_at_a_time(folder):
    """A directory in which a sweep runs, or that already holds a sweep or trials, is refused."""
    process = begin("s", *LONG, "--executor", "thread:1", cwd=folder)
    until(lambda: trainer_of(folder / "s", 0))
    second = sweep("--resume", "s", cwd=folder)
    assert second.returncode == 1 and second.stderr == "microgpt: another process is sweeping in 's'\n"
    second = sweep("s", *LONG, cwd=folder)
    assert second.returncode == 1 and "another process is sweeping in 's'" in second.stderr
    interrupt(process)
    second = sweep("s", *LONG, cwd=folder)
    assert second.returncode == 2 and "found sweep.json in 's'; --resume s continues it" in second.stderr
    (folder / "other" / "trial-00000").mkdir(parents=True)
    second = sweep("other", *LONG, cwd=folder)
    assert second.returncode == 2 and "without a sweep or a run, found trial-00000" in second.stderr


def test_a_line_that_was_cut_off_is_written_anew(folder):
    """An incomplete last line is dropped and its trial recorded again; a damaged line is an error."""
    assert sweep("s", *SWEEP, "--executor", "thread:1", cwd=folder).returncode == 0
    expected, path = trials(folder / "s"), folder / "s" / "trials.jsonl"
    text = path.read_bytes()
    ends = [i for i, byte in enumerate(text) if byte == 10]
    for left in (text[: ends[22] + 1], text[: ends[22] + 30], text[: ends[17] + 5], text + b"x" * 5000):
        path.write_bytes(left)
        assert sweep("--resume", "s", "--executor", "thread:1", cwd=folder).returncode == 0
        assert trials(folder / "s") == expected
    for damage in (
        b"{}\n",
        b"x\n",
        b"[1]\n",
        text[: ends[0] + 1] * 2,
        text.replace(b'"n_head": 2', b'"n_head": 1')[: ends[3] + 1],
    ):
        path.write_bytes(damage)
        process = sweep("--resume", "s", "--executor", "thread:1", cwd=folder)
        assert process.returncode == 1 and process.stderr.startswith("microgpt: s/trials.jsonl: expected"), damage


def test_a_worker_of_the_sweep_before(tmp_path):
    """A trial waits for a worker of a killed sweep that still trains it, unless it is told to stop; that worker notices
    that its sweep has ended."""
    before = Folder(str(tmp_path))
    before.lock("training")
    worker.wait_until_unlocked(str(tmp_path), ["stop"])
    threading.Timer(0.3, before.close).start()
    worker.wait_until_unlocked(str(tmp_path), [])
    with closing(Folder(str(tmp_path))) as now:
        now.lock("training")
        now.write("running", b"this one's")
    tasks = [Task(str(tmp_path), "", token, None, 0.0, 1) for token in ("this one's", "one's before")]
    assert list(map(worker.sweep_is_running, tasks)) == [True, False]


# ---- rungs ----


def test_rungs_stop_the_worse_half(folder):
    """After each rung, the better half of a round continues, by held-out losses that a plain loop confirms; the bytes
    of a finished trial equal those of an uninterrupted run."""
    flags = ["--input", "names.txt", "--block-size", 8, "--num-steps", 60, "--patience", 9, "--eval-every", 7]
    values = ["--learning-rate", "1e-3..3e-1:log", "--n-embd", "4,8"]
    process = sweep(
        "s", *flags, *values, "--trials", 10, "--round", 5, "--rungs", "5,30", "--executor", "thread:2", cwd=folder
    )
    assert process.returncode == 0
    found = trials(folder / "s")
    for start in (0, 5):
        alive = found[start : start + 5]
        for k, step in enumerate((5, 30)):
            losses = {}
            for t in alive:
                trainer = microgpt.Trainer(Config(**t["settings"] | {"input": str(folder / "names.txt")}))
                trainer.steps(step, [], ())
                losses[t["trial"]] = trainer.evaluate()
                assert t["rungs"][k] == [step, losses[t["trial"]]]
            best = sorted(losses, key=losses.get)[: (len(alive) + 1) // 2]
            for t in alive:
                stopped = t["trial"] not in best
                assert (t["step"] == step and t["status"] == "stopped") == stopped
                assert not stopped or t["val_loss"] == losses[t["trial"]]
            alive = [t for t in alive if t["trial"] in best]
        for t in alive:
            assert (t["status"], t["step"], len(t["rungs"])) == ("done", 60, 2)
            own = {name: t["settings"][name] for name in ("learning_rate", "n_embd")}
            alone = [x for name, value in own.items() for x in (flag(name), value)]
            name = f"alone-{t['trial']}"
            process = microgpt_process("train", *flags, *alone, "--val-fraction", 0.1, "--out", name, cwd=folder)
            assert process.returncode == 0
            for file in (run.CHECKPOINT, run.METRICS, run.BEST, run.CONFIG):
                assert (folder / "s" / t["run"] / file).read_bytes() == (folder / name / file).read_bytes()


def test_done_before_stopped():
    """Finished trials come first, by loss and then by number; then those that were trained furthest."""
    ended = [("stopped", 20, 1.0), ("done", 40, 2.0), ("stopped", 30, 2.0), ("done", 40, 2.0), ("done", 10, 1.5)]
    sweep = SimpleNamespace(trials=[Trial(i, {}, s, step=n, val_loss=x) for i, (s, n, x) in enumerate(ended)])
    assert [t.trial for t in Sweeper.best_first(sweep)] == [4, 1, 3, 2, 0]


def test_trials_that_end_before_a_rung(folder):
    """A trial with fewer steps than a rung is done, and is not compared at the rung."""
    flags = ["--input", "names.txt", "--num-steps", "10,40", "--seed", "1,2", "--rungs", "20", "--sampler", "grid"]
    assert sweep("s", *flags, "--executor", "thread:1", cwd=folder).returncode == 0
    found = trials(folder / "s")
    assert [t["step"] for t in found if t["settings"]["num_steps"] == 10] == [10, 10]
    assert sorted(t["status"] for t in found) == ["done", "done", "done", "stopped"]


# ---- resuming ----


def test_another_space_is_refused(folder):
    """On resuming, every setting must equal its first value, except the free ones."""
    assert sweep("s", *SWEEP, "--executor", "thread:1", cwd=folder).returncode == 0
    before = {path: path.read_bytes() for path in folder.glob("s/*") if path.is_file()}
    others = [["--learning-rate", "1e-3..1e-1"], ["--learning-rate", "1e-3..2e-1:log"],
              ["--learning-rate", "0.001,0.1"],
              ["--n-embd", "4,8"], ["--n-embd", "8,4,10"], ["--n-embd", "4..10"], ["--seed", "1"], ["--seed", "42,43"],
              ["--num-steps", "50"], ["--input", "others.txt"], ["--val-fraction", "0.2"], ["--trials", "12"],
              ["--sampler", "grid"], ["--sampler", "tpe"], ["--round", "12"], ["--rungs", "10"], ["--rungs", ""],
              ["--sweep-seed", "1"]]  # fmt: skip
    for flags in others:
        process = sweep("--resume", "s", *flags, cwd=folder)
        assert process.returncode == 2 and process.stderr.startswith(f"microgpt: {flags[0]}: expected "), process.stderr
        assert "as when the sweep started" in process.stderr
    assert {path: path.read_bytes() for path in folder.glob("s/*") if path.is_file()} == before
    assert sweep("--resume", "s", *SWEEP, "--seed", 42, "--trial-timeout", 100, cwd=folder).returncode == 0
    assert trials(folder / "s") == [json.loads(json.dumps(t)) for t in trials(folder / "s")]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_trials(sampler, expected, folder):
    """A sweep of complete rounds can be resumed with more trials, from another directory too, and equals the larger
    sweep; an incomplete last round or a changed text is refused."""
    smaller = [*SWEEP, "--trials", 12, "--sampler", sampler, "--executor", "thread:2"]
    assert sweep("s", *smaller, cwd=folder).returncode == 0
    (folder / "elsewhere").mkdir()
    process = sweep("--resume", "../s", "--trials", 24, "--executor", "thread:2", cwd=folder / "elsewhere")
    assert process.returncode == 0
    assert trials(folder / "s") == expected(sampler)[0]
    assert json.loads((folder / "s" / "sweep.json").read_text())["config"]["trials"] == 24
    assert sweep("u", *smaller, "--trials", 4, cwd=folder).returncode == 0
    process = sweep("--resume", "u", "--trials", 24, cwd=folder)
    assert process.returncode == 2 and process.stderr.startswith("microgpt: --trials: expected 4, as when")
    (folder / "names.txt").write_text("others\nnames\n" * 20)
    process = sweep("--resume", "s", "--trials", 30, cwd=folder)
    assert process.returncode == 1 and "names.txt" in process.stderr


# ---- a full disk ----


def test_a_full_disk(folder):
    """On a full disk a sweep ends with one line and exit code 1, keeps complete lines, and can be resumed when there is
    room."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if os.geteuid() or which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to be root, to mount a file system")
    try:
        flags = [*SWEEP[:4], *SPACE, "--executor", "thread:2"]
        process = sweep("disk/s", *flags, cwd=folder)
        assert process.returncode == 1 and "No space left on device" in process.stderr, process.stderr
        assert "resume" in process.stderr and process.stderr.count("\n") == 1
        done = trials(disk / "s")
        subprocess.run(["mount", "-o", "remount,size=30m", str(disk)], check=True)
        assert sweep("--resume", "disk/s", "--executor", "thread:2", cwd=folder).returncode == 0
        assert sweep("s", *flags, cwd=folder).returncode == 0
        assert trials(disk / "s") == trials(folder / "s") and done == trials(folder / "s")[: len(done)]
        assert checkpoints(disk / "s") == checkpoints(folder / "s")
    finally:
        subprocess.run(["umount", "-l", str(disk)])


def test_a_file_that_may_not_grow(folder):
    """If trials.jsonl cannot grow, its lines stay complete, and the sweep can be resumed."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), -1))\n"
    code += "from microgpt.__main__ import main; sys.exit(main())"
    flags = [*TRAINING[:2], "--num-steps", 2, "--n-embd", 4, "--block-size", 4, "--seed", "0..69", "--dtype", "float32"]
    command = [sys.executable, "-c", code, 16000, "sweep", "s", *flags, "--sampler", "grid", "--executor", "thread:2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 1 and "trials.jsonl: cannot be written: File too large" in process.stderr
    done = trials(folder / "s")
    assert 30 < len(done) < 70
    assert sweep("--resume", "s", "--executor", "thread:2", cwd=folder).returncode == 0
    assert trials(folder / "s")[: len(done)] == done and len(trials(folder / "s")) == 70


# ---- trials that fail ----


@pytest.mark.parametrize("executor", ["thread:1", "process:1"])
def test_a_path_that_is_not_utf8(executor, folder):
    """A sweep whose input path has bytes that are not UTF-8 writes its trials as JSON, and can be resumed."""
    path = os.fsdecode(os.fsencode(folder) + b"/n\xff.txt")
    (folder / "names.txt").rename(path)
    flags = ["--input", path, "--num-steps", 3, "--trials", 2, "--executor", executor]
    assert sweep_apart("s", *flags, cwd=folder).returncode == 0
    more = sweep_apart("--resume", "s", "--trials", 3, "--executor", executor, "--json", cwd=folder)
    assert more.returncode == 0
    for text in (folder / "s" / "trials.jsonl").read_text("utf-8"), more.stdout:
        assert [json.loads(line)["settings"]["input"] for line in text.splitlines()] == [path] * 3


def test_a_failure_ends_only_its_own_trial(folder):
    """A missing text or a model that is too large makes a trial failed or invalid; the exit code shows if no trial is
    done."""
    flags = ["--num-steps", 5, "--sampler", "grid", "--executor", "thread:2"]
    assert sweep("s", "--input", "names.txt,missing.txt", "--n-embd", "16,65536", *flags, cwd=folder).returncode == 0
    found = trials(folder / "s")
    assert [t["status"] for t in found] == ["done", "invalid", "failed", "failed"]
    assert "at most 2147483647 parameters" in found[1]["error"] and "missing.txt" in found[2]["error"]
    process = sweep("t", "--input", "names.txt", "--learning-rate", 900, "--weight-decay", 900, *flags[2:], cwd=folder)
    assert process.returncode == 1 and process.stderr == "microgpt: 0 of 1 trials finished\n"
    assert [t["status"] for t in trials(folder / "t")] == ["failed"]


# ---- what is printed ----


def test_the_table_and_json(expected, folder):
    """The table, the JSON lines and Python's list have all trials, the best first, with every varied setting."""
    process = sweep("s", *SWEEP, "--executor", "thread:2", cwd=folder)
    table = [line.split() for line in process.stdout.splitlines()]
    assert table[0] == [
        "trial",
        "held-out",
        "loss",
        "step",
        "status",
        "n_embd",
        "n_head",
        "learning_rate",
        "weight_decay",
    ]
    process = sweep("--resume", "s", "--json", cwd=folder)
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert sorted(t["trial"] for t in lines) == list(range(24)) == sorted(int(row[0]) for row in table[1:])
    assert [t["trial"] for t in lines] == [int(row[0]) for row in table[1:]]
    done = [t for t in lines if t["status"] == "done"]
    assert done == lines[: len(done)] and done == sorted(done, key=lambda t: t["val_loss"]) and len(done) > 2
    for row, t in zip(table[1:], lines):
        loss = t["val_loss"]
        written = "–" if loss is None else f"{loss:.4f}" if loss < 1e6 else f"{loss:.3g}"
        assert row[1:4] == [written, str(t["step"] or "–"), t["status"]]
        assert row[4:8] == [str(t["settings"][name]) for name in ("n_embd", "n_head", "learning_rate", "weight_decay")]
        assert " ".join(row[8:]) == (t["error"] or "")
    found = microgpt.sweep(resume=folder / "s")
    assert [t.trial for t in found] == [t["trial"] for t in lines]
    best = microgpt.load(folder / "s" / found[0].run)
    assert best.evaluate(best.held_out(folder / "names.txt")).loss == found[0].val_loss
    assert {"seed": found[0].settings.get("seed", 42)} | found[0].settings == {
        name: getattr(best.config, name) for name in ["seed", *found[0].settings]
    }


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_sees_how_far_it_is(columns, folder):
    """On a terminal, one line on stderr shows the number of finished trials and the best loss; otherwise none."""
    pytest.importorskip("tqdm")
    flags = ["--trials", 4, *SPACE, "--executor", "thread:2"]
    text, process = on_terminal("sweep", "s", *flags, cwd=folder, streams=["stderr"], columns=columns)
    assert process.returncode == 0
    bars = re.split(r"[\r\n]+", text.strip())
    assert re.fullmatch(r"4/4 .*, best loss \d\.\d{4}, 00:00 left", bars[-1]) and max(map(len, bars)) <= columns


def test_ctrl_c_in_python(folder):
    """In Python, Ctrl-C raises KeyboardInterrupt after saving all, and the sweep can be resumed."""
    code = """if True:
        import microgpt, threading, os, signal, time, pathlib
        def press():
            while not (pathlib.Path("s") / "trials.jsonl").exists() or not open("s/trials.jsonl").read():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=press).start()
        try:
            microgpt.sweep("s", input="names.txt", num_steps=15000, block_size=8, seed="0..5", sampler="grid",
                           executor="thread:2")
        except KeyboardInterrupt:
            n = len(open("s/trials.jsonl").readlines())
            assert 1 <= n < 6, n
            found = microgpt.sweep(resume="s", executor="thread:2")
            assert len(found) == 6
            print("interrupted, resumed")
        """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert process.stdout == "interrupted, resumed\n", process.stderr


def test_a_sweep_is_no_run(folder):
    """Passing a sweep instead of a run gives a message that each of its trials is a run."""
    assert sweep("s", "--input", "names.txt", "--trials", 1, "--num-steps", 2, cwd=folder).returncode == 0
    refused = microgpt_process("report", "s", "-o", "s.html", cwd=folder)
    assert refused.returncode == 1
    assert refused.stderr == "microgpt: s: expected a run's directory, found a sweep's; each of its trials is a run\n"
