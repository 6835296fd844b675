"""A sweep's directory: sweep.json, trials.jsonl and rungs.jsonl, with one writer at a time, beside the trials' runs."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, BinaryIO

from .config import Config, Given, Sweep
from .errors import ConfigError, DataError, named
from .files import Folder, folder_at, write_all
from .space import Space, as_text, space_of, to_json
from .terminal import reason
from .trial import Ending, Trial

SWEEP, TRIALS, RUNGS, RUNNING = "sweep.json", "trials.jsonl", "rungs.jsonl", "running"


def created(path: str) -> Folder:
    """A directory for a new sweep, which is ours until it is closed.  Raises ConfigError when it has one already."""
    try:
        with suppress(FileExistsError):
            os.makedirs(path)
        folder = Folder(path)
        folder.lock("sweeping")
        held = [name for name in sorted(os.listdir(folder.fd)) if name in (SWEEP, TRIALS) or name.startswith("trial-")]
    except OSError as error:
        raise OSError(f"{path}: expected a directory that can be written: {reason(error)}") from None
    if held:
        goes_on = f"; {named('resume')} {path} goes on with it" if SWEEP in held else ""
        raise ConfigError(f"{named('out')}: expected a directory without a sweep, found {held[0]} in {path!r}{goes_on}")
    return folder


def opened(path: str) -> Folder:
    folder = folder_at(path)
    if folder is None or not os.path.exists(folder.file(SWEEP)):
        raise DataError(f"{named('resume')}: expected the directory of a sweep, found {path!r}")
    folder.lock("sweeping")
    return folder


def goes_on(folder: Folder, own: Given, space: Space) -> tuple[Sweep, Space, str, str]:
    """(settings, space, where it was begun, hash of its text) of a sweep.  ConfigError when others are asked for."""
    try:
        with open(folder.file(SWEEP), "rb", opener=folder.open) as file:
            saved = json.load(file)
        config = Sweep(**{f.name: saved[f.name] for f in fields(Sweep)})
        space_saved, cwd, sha = space_of(saved["space"]), saved["cwd"], saved["data_sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{folder.file(SWEEP)}: expected a sweep's settings: {reason(error)}") from None
    for name, values in space.items():
        was = space_saved.get(name, [getattr(Config, name)])
        if values != was:
            raise not_the_same(name, as_text(was), as_text(values))
    changed = replace(config, **own)
    for f in fields(Sweep):
        before, now = getattr(config, f.name), getattr(changed, f.name)
        # more trials go on from whole rounds: the last, if it was a part of one, was judged as it was
        more = f.name == "trials" and now > before and before % config.round == 0
        if now != before and not f.metadata["free"] and not more:
            raise not_the_same(f.name, before, now)
    return changed, space_saved, cwd, sha


def write_settings(folder: Folder, config: Sweep, space: Space, cwd: str, data_sha256: str) -> None:
    """Write what goes_on() reads."""
    values = {name: to_json(v) for name, v in space.items()}
    text = {"format": 1, **config.as_dict(), "space": values, "cwd": cwd, "data_sha256": data_sha256}
    folder.write(SWEEP, (json.dumps(text, indent=1) + "\n").encode())


def not_the_same(name: str, before: object, now: object) -> ConfigError:
    return ConfigError(f"{named(name)}: expected {before}, with which the sweep to resume began, found {now}")


class Lines:
    """A file of JSON, a line a value, of which there are whole lines only, however a writer ended."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.path = folder.file(name)
        self._fd = folder.open(name, os.O_RDWR | os.O_CREAT)
        with open(self._fd, "rb", closefd=False) as file:
            self.values, self._size = whole_lines(file, self.path)
        os.ftruncate(self._fd, self._size)

    def append(self, *values: object) -> None:
        """Write the lines, on the disk when this returns.  Raises OSError, and then they are not there."""
        data = "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values).encode()
        try:
            os.lseek(self._fd, self._size, os.SEEK_SET)
            write_all(self._fd, data)
            os.fsync(self._fd)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise OSError(f"{self.path}: cannot be written: {reason(error)}") from None
        self._size += len(data)

    def close(self) -> None:
        os.close(self._fd)


def whole_lines(file: BinaryIO, path: str) -> tuple[list[Any], int]:
    """(values, how many bytes they take) of lines of JSON; the last may be a part of one.  Raises DataError."""
    lines = [line for line in file if line.endswith(b"\n")]
    try:
        return [json.loads(line) for line in lines], sum(map(len, lines))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON in every line: {error}") from None


def read_trials(values: list[Any], path: str) -> list[Trial]:
    """The trials of trials.jsonl's values.  Raises DataError."""
    try:
        trials = [Trial(**value) for value in values]
        for number, t in enumerate(trials):
            t.rungs = [(int(step), float(loss)) for step, loss in t.rungs]
            if t.trial != number:
                raise ValueError(f"trial {number} is missing")
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: expected a trial in every line: {error}") from None
    return trials


def read_rungs(values: list[Any], path: str) -> dict[tuple[int, int], list[Ending]]:
    """{(first trial of the round, step): how its trials came there} of rungs.jsonl's values.  Raises DataError."""
    try:
        return {(v["round"], v["step"]): [Ending(**ending) for ending in v["trials"]] for v in values}
    except (TypeError, KeyError) as error:
        raise DataError(f"{path}: expected a round's rung in every line: {error}") from None
