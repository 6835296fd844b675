"""Resolve the path of a run's input file."""

from __future__ import annotations

import os
from contextlib import suppress

from ..base.config import Config
from ..base.config_file import remembered_input
from ..base.errors import DataError, named
from ..base.files import exists_or_unknown
from ..base.package import beside
from ..base.settings import Given
from ..base.terminal import notice
from ..core.documents import TEXTS


def resolve_input(name: str) -> str:
    """The path of the input `name`: for the default name without such a file, the names that come with microgpt."""
    if name != Config.input or exists_or_unknown(name) or os.path.islink(name):  # a broken link is an error
        return name
    path = beside(name)
    notice(f"{name}: not found in this directory; using the names that come with microgpt, {path}")
    return path


def given_input(settings: Given) -> str:
    """The path of the given input, or of the default one."""
    return settings["input"] if "input" in settings else resolve_input(Config.input)


def input_of_run(path: str, name: str) -> str:
    """Find the input of a run: where it was when the run was last trained, or under its name in this directory.

    `path` is the run's directory, or a checkpoint file in it; `name` is the input in the settings.  Raises DataError if
    the input is at neither place.
    """
    from .run import CONFIG, opened

    if name == TEXTS:
        where = f"set {named('input')} to them, or to a file that has them"
        raise DataError(f"the run was trained on texts that were given in Python; {where}", subject=path)
    folder = opened(path)
    if folder is not None:
        folder.close()
    directory = os.path.dirname(path) if folder is None else path
    remembered = remembered_input(os.path.join(directory, CONFIG))
    with suppress(OSError, ValueError):  # the same file: prefer the shorter name
        if remembered is not None and os.path.samefile(remembered, name):
            return name
    places = [resolve_input(name)] if remembered is None else [remembered, name]
    for place in places:
        if exists_or_unknown(place):
            return place
    looked = " and ".join(dict.fromkeys(repr(os.path.abspath(place)) for place in places))
    raise DataError(
        f"expected the run's input file, found none at {looked}; give its path with {named('input')}", subject=name
    )


def input_of_trial(name: str, cwd: str) -> str:
    """The path of a trial's input, relative to the directory where the sweep began, or else to this one."""
    path = os.path.join(cwd, name)
    return path if exists_or_unknown(path) else os.path.abspath(resolve_input(name))
