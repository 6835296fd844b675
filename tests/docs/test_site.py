"""The documentation site builds without a warning, is read without a network, and has every command and setting."""

import re
import subprocess
import sys
from html import unescape

import pytest
from helpers import ROOT

from microgpt.base.config import Config
from microgpt.commands import make_parser

for module in "mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml":
    pytest.importorskip(module, reason="needs MkDocs: pip install .[docs]")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder with the site; --strict refuses a dead link, a page outside the navigation and a missing name."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return folder


def text_of(page):
    """What a reader sees of a page."""
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_no_network(site):
    """No page or style sheet loads anything from another host."""
    elsewhere = r"""["']?(?:https?:)?//"""
    loads = re.compile(
        rf"<(?:script|img|iframe)[^>]*\ssrc={elsewhere}|url\({elsewhere}|@import"
        rf"|<link[^>]*rel=\W?(?:stylesheet|preconnect)[^>]*href={elsewhere}"
    )
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert pages and not [page for page in pages if loads.search(page.read_text(encoding="utf-8"))]


def test_formulas(site):
    """Every formula is MathML."""
    source = (ROOT / "docs" / "derivations.md").read_text(encoding="utf-8")
    formulas = len(re.findall(r"^\$\$$", source, re.MULTILINE)) // 2
    page = (site / "derivations.html").read_text(encoding="utf-8")
    assert formulas and page.count('display="block"') == formulas
    assert "arithmatex" not in page and "$" not in text_of(site / "derivations.html")
    outside_code = re.sub(r"<(pre|script).*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r"\\[a-z]{2,}", outside_code), "TeX that stayed TeX"


def test_links_to_functions(site):
    """A link to a function of C leads to the line that defines it."""
    links = re.findall(r'href="(repository/[^"#]+)#([^"]+)"><code>(\w+)<', (site / "derivations.html").read_text())
    assert len(links) > 15
    for path, anchor, name in links:
        page = (site / path).read_text(encoding="utf-8")
        line = re.search(rf'id="{anchor}".*', page)
        assert line and name in re.sub(r"<[^>]+>", "", line[0])


def test_commands(site):
    """The reference of commands has every flag of every command."""
    page = text_of(site / "reference" / "commands.html")
    commands = next(action.choices for action in make_parser()._actions if action.choices)
    sections = re.split(r"\nmicrogpt (?=\w+¶)", page.replace("\xb6", "¶"))
    for name, command in commands.items():
        (section,) = (section for section in sections if section.startswith(f"{name}¶"))
        for action in command._actions:
            assert all(flag in section for flag in action.option_strings if action.dest != "help"), (name, action.dest)


def test_settings(site):
    """The reference of Python has every setting in train()'s signature."""
    page = text_of(site / "reference" / "python.html")
    page = page[page.index("\ntrain(") : page.index("\nload(")]
    assert not [name for name in Config().as_dict() if not re.search(rf"\b{name}: \w+", page)]
