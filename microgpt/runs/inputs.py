"""Where the text of a run is: every path of an input is resolved here."""

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


def resolve_input(name: str) -> str:
    """The path of an input; for the default name, where this directory has no such file, the names that come with
    microgpt."""
    if name != Config.input or exists_or_unknown(name) or os.path.islink(name):  # a link to nothing is an error to show
        return name
    path = beside(name)
    notice(f"{name}: none in this directory; taking the names that come with microgpt, {path}")
    return path


def given_input(settings: Given) -> str:
    """The path of the input that was given, or else of the default one."""
    return settings["input"] if "input" in settings else resolve_input(Config.input)


def input_of_run(path: str, name: str) -> str:
    """The path of the input `name` of the run in the directory `path`, or of a checkpoint in one: where it was when the
    run was last trained, or what has its name here.  Raises DataError when it is at neither place."""
    from .run import CONFIG, opened

    folder = opened(path)
    if folder is not None:
        folder.close()
    directory = os.path.dirname(path) if folder is None else path
    remembered = remembered_input(os.path.join(directory, CONFIG))
    with suppress(OSError, ValueError):  # the same by its shorter name
        if remembered is not None and os.path.samefile(remembered, name):
            return name
    places = [resolve_input(name)] if remembered is None else [remembered, name]
    for place in places:
        if exists_or_unknown(place):
            return place
    looked = " and ".join(dict.fromkeys(repr(os.path.abspath(place)) for place in places))
    raise DataError(
        f"expected the run's input, found none (looked for {looked}); {named('input')} says where it is", subject=name
    )


def input_of_trial(name: str, cwd: str) -> str:
    """The path of a trial's input: as seen from the directory where the sweep began, or else from this one."""
    path = os.path.join(cwd, name)
    return path if exists_or_unknown(path) else os.path.abspath(resolve_input(name))
