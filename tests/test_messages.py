"""Every message of the package is in messages.md, with the situation that produces it; the two agree.

After a change of wording, `python tests/test_messages.py --write` runs all situations and rewrites the messages.
"""

import ast
import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import microgpt
from microgpt.__main__ import main
from microgpt.base.terminal import MicrogptWarning

TABLE = Path(__file__).with_name("messages.md")
PACKAGE = Path(microgpt.__file__).parent
CSRC = PACKAGE.parent / "csrc"
SMALL = {"n_embd": 4, "n_head": 2, "block_size": 5, "num_steps": 8}

# the beginnings of messages that no situation can produce here, and why
EXCEPTIONS = {
    "cannot add the compiled functions": "the kernels belong to another Python",
    "microgpt.kernels.checks has not been imported": "importing microgpt.kernels imports it",
    "out: expected a result that fits into the address space": "64 bits hold the size of every result",
    "microgpt: rank ": "needs several processes, which tests/runs/test_ranks.py starts",
}


# ---- reading and running the table ----


def sections(text: str) -> dict[str, str]:
    """{heading: its text} of the table."""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def run(section: str, fixtures: Path) -> str:
    """The text of a section with the messages that its situations produce now, in a directory of its own."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(fixtures, folder, dirs_exist_ok=True)
        os.chdir(folder)
        try:
            scope = {"microgpt": microgpt, "kernels": microgpt.kernels, "np": np, "os": os, "sys": sys, "Path": Path}

            def block(match: re.Match[str]) -> str:
                with pytest.MonkeyPatch.context() as patch:
                    patch.delenv("MICROGPT_THREADS", raising=False)
                    scope["patch"] = patch
                    return f"```console\n{run_block(match[1], scope, folder)}```\n"

            return re.sub(r"```console\n(.*?)```\n", block, section, flags=re.DOTALL)
        finally:
            os.chdir(before)


def run_block(block: str, scope: dict[str, Any], folder: str) -> str:
    """The block with new messages; a situation is a line that begins with $ or >>>, and the lines of ... below it."""
    lines, entry = list[str](), list[str]()

    def finish() -> None:
        if entry:
            lines.extend([*entry, *said(entry, scope, folder)])
            entry.clear()

    for line in block.splitlines():
        if line.startswith(("$ ", ">>> ")):
            finish()
            entry.append(line)
        elif line.startswith("... "):
            entry.append(line)
        elif not line or line.startswith("# "):
            finish()
            lines.append(line)
    finish()
    return "".join(f"{line}\n" for line in lines)


def said(entry: list[str], scope: dict[str, Any], folder: str) -> list[str]:
    """The lines that a command writes to stderr, or that Python code prints or raises, with shortened paths."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        last = []
        if entry[0].startswith("$ "):
            *variables, _, arguments = re.split(r"(?:^|(?<= ))(microgpt)(?: |$)", entry[0][2:])
            for variable in shlex.split(variables[0]):
                patch.setenv(*variable.split("="))
            with contextlib.suppress(SystemExit):
                main(shlex.split(arguments))
            streams = [err]
        else:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always", MicrogptWarning)
                try:
                    exec("\n".join(line[4:] for line in entry), scope)
                except Exception as error:
                    last = [f"{type(error).__name__}: {error}"]
            last = [f"{each.category.__name__}: {each.message}" for each in warned] + last
            streams = [out, err]
    text = "".join(stream.buffer.getvalue().decode() for stream in streams)
    found = [*text.splitlines(), *last]
    return [line.replace("\n", "\\n") for line in map(shortened(folder), found)]


# what depends on the machine, the C library or the versions of NumPy and Python
VARIABLE = [
    r"\b[0-9a-f]{64}\b",
    r"\b\d+\.\d{4,}\b",  # losses
    r"(?<=1\.79, found )[\d.]+(?=;)",  # the loss of the first step
    r"(?<=none at 127\.0\.0\.1:1: ).*",  # the words of Dask
    r"(?<=for the kernels, found )\d+",
    r"(?<=at byte )[1-9]\d+",
    r"(?<=a file of )\d+",
    r"(?<=a vocabulary of at most 1048576 bytes, found )\d+",
    re.escape(tempfile.gettempdir()) + r"/tmp\w{8}",  # where the fixtures were made
    r"(?<=expected one of )scalar.*(?= on this machine)",
]


def shortened(folder: str) -> Callable[[str], str]:
    names = [os.path.realpath(folder), folder, str(PACKAGE.parent)]

    def shorten(line: str) -> str:
        for name in names:
            line = line.replace(name, "…")
        return re.sub("|".join(VARIABLE), "…", line)

    return shorten


def lacks(section: str) -> list[str]:
    """The packages that a section needs and that are not installed."""
    needed = re.findall(r"^Needs (\w+)\.$", section, re.MULTILINE)
    return [name for name in needed if importlib.util.find_spec(name) is None]


def make_fixtures(folder: Path) -> None:
    """Write names.txt and two runs, of which one has a held-out set."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as first:  # a run remembers where its text was, which is then no more
        os.chdir(first)
        try:
            Path("names.txt").write_text("anna\nzoe\n", encoding="utf-8")
            microgpt.train("names.txt", out="run", threads=1, **SMALL)
            microgpt.train("names.txt", out="held", threads=1, val_fraction=0.5, **SMALL)
            shutil.copytree(first, folder, dirs_exist_ok=True)
        finally:
            os.chdir(before)


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixtures")
    make_fixtures(folder)
    return folder


@pytest.mark.parametrize("heading", sections(TABLE.read_text(encoding="utf-8")))
def test_messages(heading, fixtures):
    """The situations of this section produce the messages in the table."""
    section = sections(TABLE.read_text(encoding="utf-8"))[heading]
    if lacking := lacks(section):
        pytest.skip(f"needs {lacking[0]}")
    assert run(section, fixtures) == section


# ---- finding the messages in the source ----

PRODUCERS = {"notice", "warn", "error", "refused", "wrong_executor", "require"}


def patterns(path: Path) -> dict[str, int]:
    """{pattern of a message: line} of all texts in a file that become messages.

    These are the texts of what is raised or printed as a notice, also within a function that is called for it, and
    all other texts that say what was expected.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    # docstrings, and the parts of f-strings
    others = {id(node.body[0].value) for node in ast.walk(tree) if hasattr(node, "body") and is_text_first(node.body)}
    others |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            spoken, called = node.exc.args, name_of(node.exc)
        elif isinstance(node, ast.Call) and name_of(node) in PRODUCERS:
            spoken, called = node.args, ""
        elif re.search(r"expected\\ |^microgpt:\\ ", pattern_of(node)) and id(node) not in others:
            spoken, called = [node], ""
        else:
            continue
        for text in [t for argument in spoken for t in texts(argument, functions)] + texts_of(called, functions):
            if re.search(r"[a-z]{3}", pattern_of(text)) and "\\ " in pattern_of(text):  # not a name alone
                found.setdefault(pattern_of(text), text.lineno)
    return found


def is_text_first(body: object) -> bool:
    return isinstance(body, list) and bool(body) and isinstance(body[0], ast.Expr)


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def is_own(function: ast.expr) -> bool:
    """Whether this is a function or method of the same file: f or self.f."""
    return isinstance(function, ast.Name) or (
        isinstance(function, ast.Attribute) and ast.unparse(function.value) == "self"
    )


def texts_of(function: str, functions: dict[str, ast.FunctionDef]) -> list[ast.expr]:
    """The texts in what this function of the file returns."""
    if function not in functions:
        return []
    returned = [node.value for node in ast.walk(functions[function]) if isinstance(node, ast.Return) and node.value]
    return [text for value in returned for text in texts(value, {})]


def texts(node: ast.expr, functions: dict[str, ast.FunctionDef]) -> list[ast.expr]:
    """The longest texts in an expression, and those of functions that it calls."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return [node]
    found = texts_of(name_of(node), functions) if isinstance(node, ast.Call) and is_own(node.func) else []
    arguments = [*node.args, *(k.value for k in node.keywords)] if isinstance(node, ast.Call) else []
    parts = arguments if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return found + [text for part in parts if isinstance(part, ast.expr) for text in texts(part, functions)]


def pattern_of(text: ast.AST) -> str:
    """A regular expression for a text: its fixed parts, and anything in between; "" for another node."""
    if isinstance(text, ast.Constant):
        value = text.value.decode("latin-1") if isinstance(text.value, bytes) else text.value
        return re.escape(value.rstrip("\n")) if isinstance(value, str) else ""
    parts = text.values if isinstance(text, ast.JoinedStr) else []
    return "".join(re.escape(str(p.value).rstrip("\n")) if isinstance(p, ast.Constant) else ".*" for p in parts)


def c_patterns(text: str) -> list[str]:
    """As patterns(), of C."""
    found = re.findall(r'PyErr_(?:Format|SetString)\(\s*\w+,\s*"([^"]*)"', text)
    return [re.sub("%[a-z]+", ".*", re.escape(message)) for message in found]


def missing() -> list[str]:
    """Where the package has a message that is not in the table."""
    blocks = re.findall(r"```console\n(.*?)```\n", TABLE.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    said = "\n".join(line for line in lines if not line.startswith(("$ ", ">>> ", "... ", "# ")))
    where = [(path, line, text) for path in sorted(PACKAGE.rglob("*.py")) for text, line in patterns(path).items()]
    where += [(path, 1, text) for path in sorted(CSRC.glob("*.c")) for text in c_patterns(path.read_text())]
    return [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {pattern}"
        for path, line, pattern in where
        if not re.search(pattern, said) and not any(pattern.startswith(re.escape(start)) for start in EXCEPTIONS)
    ]


def test_no_message_is_missing():
    """Whatever the package raises or prints as a notice is in the table, or in EXCEPTIONS with the reason."""
    assert not (found := missing()), "\n" + "\n".join(found)


def write() -> None:
    """Rewrite the table; sections that need packages that are not installed stay as they are."""
    text = TABLE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        make_fixtures(Path(folder))
        for section in (section for section in sections(text).values() if not lacks(section)):
            text = text.replace(section, run(section, Path(folder)))
    TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(textwrap.dedent(__doc__ or ""))
    write()
    print("\n".join(missing()))
