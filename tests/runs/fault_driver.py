"""Saves a run again and again in processes of its own, one file operation of each failing; prints what came of it.

Run by test_faults.py with faults.c preloaded.  For each save there is a line of JSON: which fault, how the save ended,
what the directory then held, and whether the next save went well.
"""

import ctypes
import errno
import json
import os
import shutil
import sys
from pathlib import Path

from helpers import tiny_trainer

from microgpt import run
from microgpt.errors import CheckpointError

SHORT, KILL = -1, -2
FAULTS = [(kind, action) for kind in ("open", "close", "rename", "link", "unlink") for action in (errno.EIO, KILL)]
FAULTS += [("fsync", action) for action in (errno.EIO, errno.ENOSPC, KILL)]
FAULTS += [("write", action) for action in (errno.EIO, errno.ENOSPC, SHORT, KILL)]
SCENES = ["first save", "second save", "third save", "stale temporary file"]

shim = ctypes.CDLL(None)
folder = Path(sys.argv[1])


def in_child(work):
    """The exit status of a forked process that does this work; 0 means that nothing was raised, 3 that OSError was."""
    pid = os.fork()
    if pid == 0:
        status = 4
        try:
            work()
            status = 0
        except OSError:
            status = 3
        finally:
            os._exit(status + 10 * min(shim.fault_fired(), 1))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def saved_step(directory):
    try:
        return run.load(str(directory)).step
    except CheckpointError as error:
        return "none" if "No such file" in str(error) else f"bad: {error}"


def main():
    trainer = tiny_trainer(folder)
    steps = {"first save": 0, "second save": 1, "third save": 2, "stale temporary file": 1}
    states = {}
    for scene in SCENES:  # what is on the disk before the save
        directory = folder / f"{scene} template"
        directory.mkdir()
        states[scene] = directory
    first = run.Run(str(states["third save"]))
    first.create()
    first.start(trainer)
    shutil.copytree(states["third save"], states["second save"], dirs_exist_ok=True)
    shutil.copytree(states["third save"], states["stale temporary file"], dirs_exist_ok=True)
    (states["stale temporary file"] / ".checkpoint.npz.tmp").write_bytes(b"half of something")
    trainer.steps(1, [], ())
    first.save(trainer)
    first.close()
    trainers = {scene: tiny_trainer(folder, steps[scene]) for scene in SCENES}
    later = {scene: tiny_trainer(folder, steps[scene] + 1) for scene in SCENES}

    def save(directory, trainer):
        target = run.Run(str(directory))
        if trainer.step_count == 0:
            target.start(trainer)
        else:
            target.metrics = run.Metrics(target.file(run.METRICS), trainer.step_count)
            target.save(trainer)

    directory = folder / "run"
    for scene in SCENES:
        for kind, action in FAULTS:
            for persist in (0, 1):
                n = 0
                fired = True
                while fired:
                    n += 1
                    shutil.rmtree(directory, ignore_errors=True)
                    shutil.copytree(states[scene], directory)

                    def work():
                        shim.fault_set(str(directory).encode(), kind.encode(), n, action, persist)
                        save(directory, trainers[scene])

                    status = in_child(work)
                    fired = status < 0 or status >= 10
                    result = {"scene": scene, "kind": kind, "action": action, "persist": persist, "n": n}
                    result |= {"status": status % 10 if status >= 0 else status, "fired": fired}
                    result |= {"old": steps[scene] - 1, "found": saved_step(directory)}
                    result["left"] = sorted(name for name in os.listdir(directory) if name.endswith(".tmp"))
                    again = in_child(lambda: save(directory, later[scene]))
                    result |= {"again": again, "found_again": saved_step(directory)}
                    print(json.dumps(result))


main()
