"""Lets the file operations of a run fail one by one, in processes of their own; prints what came of it.

Run by test_faults.py with faults.c preloaded, as `fault_driver.py WHAT FOLDER few|all [COMMAND]`.  `saves` saves a run
again and again; `commands` calls a command on a run that was trained before; `swaps` resumes a run and, at every
operation, puts a link in the place of its directory.  For each fault there is a line of JSON.
"""

import ctypes
import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from helpers import tiny_trainer, write_names

import microgpt
from microgpt.__main__ import main
from microgpt.base import files
from microgpt.base.errors import CheckpointError, MissingError
from microgpt.runs import metrics, run

run.PATIENCE_SECONDS = 0  # a fault that persists does not get better
SHORT, KILL, SWAP = -1, -2, -3
KINDS = ["open", "read", "write", "stat", "list", "truncate", "fsync", "close", "rename", "link", "unlink"]
TINY = ["--n-embd", "4", "--n-head", "2", "--block-size", "4", "--num-samples", "0"]

shim = ctypes.CDLL(None)
folder = Path(sys.argv[2])
output = folder / "output"  # of the last process


def in_child(work):
    """(exit status, whether a fault struck) of a forked process that does this work; less than 0 is a signal.

    The status is what the work returns, where None is 0; 3 means that it raised OSError, 4 that it raised another.
    """
    pid = os.fork()
    if pid == 0:
        status = 4
        try:
            signal.alarm(120)  # for one that hangs
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(1, 2)
            status = work() or 0
            sys.stdout.flush()
        except OSError:
            status = 3
        finally:
            fired = shim.fault_fired()
            shim.fault_set(b"", b"", 0, 0, 0)
            os._exit(status + 10 * min(fired, 1))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return (status, True) if status < 0 else (status % 10, status >= 10)


def faults(**actions):
    """(kind, action, persist) of each action by the kind of operation."""
    for kind, actions_of_kind in actions.items():
        for action in actions_of_kind:
            yield kind, action, 0
            if action not in (SHORT, KILL, SWAP):
                yield kind, action, 1


def strike(directory, kinds, prepare, work):
    """What came of the work, each time after prepare(), with each fault at each of its operations in the directory."""
    for kind, action, persist in kinds:
        n, fired = 0, True
        while fired:
            n += 1
            prepare()

            def armed():
                shim.fault_set(str(directory).encode(), kind.encode(), n, action, persist)
                return work()

            status, fired = in_child(armed)
            yield {"kind": kind, "action": action, "persist": persist, "n": n, "status": status, "fired": fired}


def fresh(directory, template):
    """The directory as the template is."""
    if directory.is_symlink():
        directory.unlink()
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(template, directory)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def step(path):
    """Of a checkpoint, or of a run's directory."""
    try:
        return run.load(str(path)).step
    except CheckpointError as error:
        return "none" if isinstance(error, MissingError) else f"bad: {error}"


def show(**result):
    print(json.dumps(result), flush=True)  # or else a child would write it again


# ---- saves ----


def saves():
    steps = {"first save": 0, "second save": 1, "third save": 2, "stale temporary file": 1}
    kinds = list(
        faults(
            **{kind: [errno.EIO, KILL] for kind in ("open", "close", "rename", "unlink", "read", "stat", "truncate")},
            link=[errno.EIO, errno.EDQUOT, errno.EPERM, KILL],
            fsync=[errno.EIO, errno.ENOSPC, KILL],
            write=[errno.EIO, errno.ENOSPC, SHORT, KILL],
        )
    )
    if sys.argv[3] == "few":
        kinds = [fault for fault in kinds if fault[0] not in ("stat", "truncate")]
    trainer = tiny_trainer(folder)
    states = {scene: folder / f"{scene} template" for scene in steps}  # what is on the disk before the save
    for directory in states.values():
        directory.mkdir()
    first = run.Run(str(states["third save"]))
    first.create()
    first.start(trainer.checkpoint(), trainer.input)
    shutil.copytree(states["third save"], states["second save"], dirs_exist_ok=True)
    shutil.copytree(states["third save"], states["stale temporary file"], dirs_exist_ok=True)
    (states["stale temporary file"] / ".checkpoint.npz.tmp").write_bytes(b"half of something")
    trainer.steps(1, [], ())
    first.save(trainer.checkpoint())
    first.close()
    trainers = {scene: tiny_trainer(folder, steps[scene]) for scene in steps}
    later = {scene: tiny_trainer(folder, steps[scene] + 1) for scene in steps}
    directory = folder / "run"

    def save(trainer):
        target = run.Run(str(directory))
        target.folder = files.Folder(str(directory))
        if trainer.step_count == 0:
            target.start(trainer.checkpoint(), trainer.input)
        else:
            target.metrics = metrics.Metrics.of_run(target.folder, run.METRICS, trainer.step_count)
            target.save(trainer.checkpoint())

    for scene, done in steps.items():
        struck = strike(directory, kinds, lambda: fresh(directory, states[scene]), lambda: save(trainers[scene]))
        for result in struck:
            result |= {"scene": scene, "old": done - 1, "found": step(directory)}
            result |= {"previous": step(directory / run.PREVIOUS)}
            result["left"] = sorted(name for name in os.listdir(directory) if name.endswith(".tmp"))
            again, _ = in_child(lambda: save(later[scene]))
            show(**result, again=again, found_again=step(directory))


# ---- commands ----


def commands():
    """On a run with checkpoints of steps 4 and 8, and on the same run with the last one damaged."""
    few = sys.argv[3] == "few"
    actions = {
        "read": [errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, SHORT, KILL],
        "open": [errno.EMFILE, errno.EIO, errno.EACCES, errno.ENFILE, errno.ENOMEM, errno.ESTALE, KILL],
        "stat": [errno.EIO, errno.EACCES, errno.ENOMEM, errno.ESTALE, KILL],
        "list": [errno.EIO, errno.ENOMEM, KILL],
    }
    kinds = list(faults(**actions))
    if few:
        first = {kind: actions[kind][0] for kind in actions}
        kinds = [fault for fault in kinds if fault[1] == first[fault[0]]]
    place, whole, damaged = folder / "place", folder / "whole", folder / "damaged"
    a_run, picture, measured = place / "run", place / "picture.png", place / "metrics"
    place.mkdir()
    names, settings = write_names(place / "names.txt"), str(place / "settings.toml")
    assert in_child(lambda: main(["train", "--input", names, *TINY, "--num-steps", "8", "--checkpoint-every", "4",
                                  "--out", str(a_run)])) == (0, False), output.read_text()  # fmt: skip
    shutil.copy(a_run / run.CONFIG, settings)
    shutil.copytree(a_run, whole)
    shutil.copytree(a_run, damaged)
    (damaged / run.CHECKPOINT).write_bytes((whole / run.CHECKPOINT).read_bytes()[:-1])
    resume = ["train", "--resume", str(a_run), "--num-steps", "12"]
    end = {}
    for scene in whole, damaged:
        fresh(a_run, scene)
        assert in_child(lambda: main(resume)) == (0, False)
        end[scene] = {name: (a_run / name).read_bytes() for name in (run.CHECKPOINT, run.METRICS, run.CONFIG)}

    def load():
        try:
            print(*microgpt.load(a_run).sample(2))
        except CheckpointError as error:
            print(error)
            return 1

    works = {
        "train --resume": lambda: main(resume),
        "train --metrics": lambda: main([*resume, "--metrics", str(measured)]),
        "train --out": lambda: main(["train", "--config", settings, "--out", str(a_run)]),
        "sample": lambda: main(["sample", str(a_run), "--num-samples", "2"]),
        "eval": lambda: main(["eval", str(a_run)]),
        "score": lambda: main(["score", str(a_run), "ab"]),
        "load": load,
        "plot": lambda: main(["plot", str(a_run), "-o", str(picture)]),
    }

    def prepare(scene):
        fresh(a_run, scene)
        picture.unlink(missing_ok=True)
        measured.unlink(missing_ok=True)

    command, work = sys.argv[4], works[sys.argv[4]]
    if command == "plot":
        in_child(work)  # which looks for fonts, the first time
    for scene in (whole,) if command in ("plot", "train --out") else (whole, damaged):
        before = content(scene)
        if few and scene == damaged and command not in ("train --resume", "sample"):
            continue
        some = [f for f in kinds if not few or f[0] == "read" or command.startswith(("train", "sample"))]
        some = [f for f in some if not few or (command, scene) == ("train --resume", whole) or not f[2]]
        for result in strike(place, some, lambda: prepare(scene), work):
            result |= {"command": command, "scene": scene.name, "output": output.read_text()}
            after = content(a_run)
            result["changed"] = sorted(name for name in before | after if before.get(name) != after.get(name))
            result |= {name: step(a_run / name) for name in (run.CHECKPOINT, run.PREVIOUS)}
            result |= {"n_metrics": after[run.METRICS].count(b"\n"), "again": 0}
            if result["changed"]:
                result["again"], _ = in_child(lambda: main(resume))
                after = content(a_run)
                result["right"] = all(after[name] == data for name, data in end[scene].items())
            show(**result)


# ---- swaps ----


def swaps():
    """The run goes on where its directory is now, and the one that the link leads to, another run, is left alone."""
    place = folder / "swaps"
    template, other, a_run, aside = (place / name for name in ("template", "other", "run", "aside"))
    place.mkdir()
    names = write_names(place / "names.txt")
    for directory in template, other:
        seed = str(len(directory.name))
        assert in_child(lambda: main(["train", "--input", names, *TINY, "--num-steps", "8", "--checkpoint-every", "4",
                                      "--seed", seed, "--out", str(directory)])) == (0, False)  # fmt: skip
    resume = ["train", "--resume", str(a_run), "--num-steps", "12"]
    fresh(a_run, template)
    assert in_child(lambda: main(resume)) == (0, False)
    before, end = content(other), content(a_run)
    safe = folder / "safe"
    shutil.copytree(other, safe)

    def prepare():
        shutil.rmtree(aside, ignore_errors=True)
        fresh(a_run, template)
        fresh(other, safe)

    shim.fault_swap(str(aside).encode(), str(other).encode())
    for result in strike(a_run, faults(**{kind: [SWAP] for kind in KINDS}), prepare, lambda: main(resume)):
        result |= {"untouched": content(other) == before, "right": content(aside if result["fired"] else a_run) == end}
        show(**result, swapped=a_run.is_symlink(), output=output.read_text())


{"saves": saves, "commands": commands, "swaps": swaps}[sys.argv[1]]()
