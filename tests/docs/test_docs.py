"""README and docs: what stands there runs as it stands there, prints what the page says, and points at what there is.

A page's blocks run one after the other, in a folder of their own, as in a checkout that has been installed: `sh` is
run, `console` is run and its output compared, `python` too with `pycon` to look at what it made, `c` is program.c.
In an output … is whatever stands there.  A comment before a block says what it needs, or why it is not run.
"""

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import INPUT, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (needs|not run here): (.*?) -->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUOTE = re.compile(r"<!-- not run here: lines of (\S+) -->\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TEXTS = {"names.txt": "MICROGPT_NAMES", "shakespeare.txt": "MICROGPT_SHAKESPEARE"}


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory: what a checkout has, with `python` and `microgpt` to be called."""
    for name, variable in TEXTS.items():
        if variable in os.environ:
            (tmp_path / name).symlink_to(os.environ[variable])
    (tmp_path / "input.txt").symlink_to(INPUT)
    for name, arguments in ("python", ""), ("microgpt", "-m microgpt"):
        command = tmp_path / ".bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    path = [tmp_path / ".bin", os.path.dirname(sys.executable), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, path)))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # stdout and stderr in their order
    monkeypatch.setenv("MPLBACKEND", "Agg")
    for name in "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM":
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
    return tmp_path


def is_here(need):
    """Whether this machine has a file, a command or a module."""
    found = os.path.exists(need) if "." in need else importlib.util.find_spec(need) or shutil.which(need)
    return bool(found)


def console(text):
    """Pairs: each command, and what the page says that it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def run_console(text):
    """Run the commands in one shell's state and compare what each prints."""
    setup = []
    for command, expected in console(text):
        if re.match(r"[A-Z]+=", command):  # a variable for the commands after it
            setup.append(command)
            continue
        script = "\n".join([*setup, command])
        process = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = expected.splitlines(keepends=True)
        pattern = "".join(r"(?:.*\n)*" if line == "…\n" else re.escape(line).replace("…", ".*") for line in lines)
        if not re.fullmatch(pattern, process.stdout):
            pytest.fail(f"$ {command}\n{process.stdout}\nwhere the page says\n{expected}", pytrace=False)
        assert process.returncode == 0, process.stdout


def run_examples(text, page, names):
    """Run what stands after >>> and compare what it prints."""
    test = doctest.DocTestParser().get_doctest(text, names, page.name, str(page), 0)
    test.globs = names  # which keep what the examples make
    failures = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=failures.append, clear_globs=False)
    if failures:
        pytest.fail("".join(failures), pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_as_it_stands(folder, page):
    """Every command and snippet of a page runs, and prints what the page says."""
    names, missing = {"__name__": "__main__"}, []
    for condition, what, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if condition == "not run here":
            continue
        if condition == "needs" and not is_here(what):
            missing.append(what)
        elif language == "console":
            run_console(text)
        elif language == "pycon":
            run_examples(text, page, names)
        elif language == "python":
            exec(compile(text, str(page), "exec"), names)
        elif language == "sh":
            subprocess.run(["bash", "-ec", text], check=True)
        elif language == "c":
            (folder / "program.c").write_text(text)
        else:
            assert language == "text", f"{page.name}: a block of {language}, which nobody runs"
    if missing:
        pytest.skip(f"all but what needs {', '.join(missing)}")


def anchors(page):
    """What links within a page may point at: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "tests" / "README.md", ROOT / "examples" / "README.md"], ids=str
)
def test_links(page):
    """Every link that stays in the repository leads to a file and a heading that is there."""
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if not re.match(r"https?:", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_quoted_lines(page):
    """Every line that a page quotes from a source file stands in that file."""
    for path, text in QUOTE.findall(page.read_text(encoding="utf-8")):
        source = {line.strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines()}
        missing = [line for line in text.splitlines() if line.strip() not in source]
        assert not missing, f"{path} does not contain these lines"


def test_pages_are_reached():
    """Every page of the docs can be found from the README, by links."""
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached and page.suffix == ".md" and page.exists():
            reached.add(page)
            links = LINK.findall(page.read_text(encoding="utf-8"))
            ahead += [(page.parent / link.partition("#")[0]).resolve() for link in links if ":" not in link]
    assert set(PAGES) <= reached
