"""Settings files, in TOML: those of --config, a run's config.toml, and the recipes that come with the package."""

import os
from dataclasses import fields
from typing import Any

from .config import Config
from .errors import ConfigError, DataError
from .files import NO_FILE, open_file
from .package import PACKAGE
from .settings import check, flag, suggestion
from .terminal import reason, shown

PATHS = "paths"  # a table beside the settings
URI = "file:"  # what a path begins with if its bytes are not UTF-8, which TOML requires; they are written as %FF
RECIPES = os.path.join(PACKAGE, "recipes")


def read_toml(path: str) -> dict[str, Any]:
    """{name: value} of a settings file, which has lines such as `num-steps = 1000`.

    Raises ConfigError; DataError for a file that exists but cannot be read now.
    """
    table = parse_toml(path)
    table.pop(PATHS, None)
    known = {flag(f.name)[2:]: f for f in fields(Config)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        f = known.get(name)
        if f is None:
            meant = suggestion(name, known)
            raise ConfigError(f"--config: {path}: expected the name of a setting, found {key!r}{meant}")
        if f.name in values:
            raise ConfigError(f"--config: {path}: expected each setting once, found {key!r} in two spellings")
        try:
            check(f, value)
        except ConfigError as error:
            raise ConfigError(f"--config: {path}: {error}") from None
        values[f.name] = from_uri(value) if f.name == "input" else value
    return values


def recipes() -> list[str]:
    """The names of the recipes, which are the settings files that come with the package."""
    return sorted(name[: -len(".toml")] for name in os.listdir(RECIPES) if name.endswith(".toml"))


def read_recipe(name: str) -> dict[str, Any]:
    """{name: value} of a recipe.  Raises ConfigError, with the names of all recipes, if there is none of this name."""
    if name not in (known := recipes()):
        meant = suggestion(name, known) if isinstance(name, str) else ""
        raise ConfigError(f"expected one of {', '.join(known)}, found {shown(name)}{meant}", argument="recipe")
    return read_toml(os.path.join(RECIPES, f"{name}.toml"))


def with_recipe(name: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe, and those given, which take precedence; a given list has the values of a sweep.

    If the recipe's warm-up is too long for the given steps, it becomes a tenth of them; likewise the learning rate at
    the end becomes a tenth of the given peak.
    """
    if name is None:
        return given
    settings = read_recipe(name)
    for part, whole in ("warmup_steps", "num_steps"), ("min_learning_rate", "learning_rate"):
        found: Any = given.get(whole)
        least = min(found) if isinstance(found, list) and found else found
        most = settings.get(part, 0)
        if type(least) in (int, float) and 0 < least < 10 * most:  # other values are refused later
            settings[part] = type(most)(least / 10)
    return settings | given


def parse_toml(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb", opener=open_file) as file:
            return tomllib.load(file)
    except (OSError, MemoryError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not TOML
        message = f"--config: expected a TOML file of settings, found {path!r}: {reason(error)}"
        transient = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in NO_FILE)
        raise (DataError if transient else ConfigError)(message) from None


def remembered_input(path: str) -> str | None:
    """The path of the input in a run's settings file, or None.  Raises DataError when the file cannot be read now."""
    try:
        paths = parse_toml(path).get(PATHS)
    except ConfigError:  # no such file, or not a settings file
        return None
    found = paths.get("input") if isinstance(paths, dict) else None
    return from_uri(found) if isinstance(found, str) else None


def to_toml(config: Config, input: str | None = None) -> str:
    """The text of a settings file.  --config reads the same Config from it, remembered_input() the path `input`."""
    settings = config.as_dict() | {"input": to_uri(config.input)}
    lines = [f"{flag(name)[2:]} = {toml_value(value)}\n" for name, value in settings.items()]
    if input is not None:
        path = toml_value(to_uri(input))
        lines.append(f"\n[{PATHS}]  # where the input was; the run does not depend on it\ninput = {path}\n")
    return "".join(lines)


def to_uri(path: str) -> str:
    """The path as valid UTF-8: itself, or a file: URI if it is not UTF-8 or looks like one."""
    from urllib.parse import quote

    raw = os.fsencode(path)
    return URI + quote(raw) if path.startswith(URI) or raw.decode("utf-8", "replace") != path else path


def from_uri(path: str) -> str:
    from urllib.parse import unquote_to_bytes

    return os.fsdecode(unquote_to_bytes(path[len(URI) :])) if path.startswith(URI) else path


def toml_value(value: object) -> str:
    import json

    # a JSON string is a TOML string, except that TOML requires DEL to be escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if type(value) is str else repr(value)
