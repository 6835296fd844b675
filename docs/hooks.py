"""What MkDocs does beyond Markdown: formulas, pages for files outside docs/, the commands, and examples in docstrings.

MkDocs calls the functions named on_...; mkdocstrings uses Docstrings.  The pages themselves stay plain Markdown.
"""

import argparse
import html
import importlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

from griffe import Docstring, Extension, Function, Object, Parameter, ParameterKind, Parameters
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
REPOSITORY = "repository/"  # where the site has the files outside docs/
LINK = re.compile(r"(\[(?P<text>[^\]]*)\]\()(?P<path>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>([,.;:]?)', re.DOTALL)
FUNCTION = re.compile(rf'(?P<page>{REPOSITORY}(?P<path>csrc/\w+\.c)\.html)"><code>(?P<name>\w+)</code>')
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".toml": "toml", ".js": "javascript"}


def on_files(files: Any, config: Any) -> Any:
    """Add a page, or a copy, for each file outside docs/ that a page links to, and for those that these link to."""
    ahead = [DOCS / file.src_uri for file in files if file.src_uri.endswith(".md")]
    for source in ahead:  # which grows
        for link in LINK.finditer(FENCE.sub("", source.read_text(encoding="utf-8"))):
            target = (source.parent / link["path"]).resolve()
            uri = uri_of(target)
            if uri.startswith(REPOSITORY) and target.is_file() and files.get_file_from_path(uri) is None:
                if not uri.endswith(".md"):  # a picture
                    files.append(File.generated(config, uri, abs_src_path=str(target)))
                elif target.suffix == ".md":
                    files.append(File.generated(config, uri, content=target.read_text(encoding="utf-8")))
                    ahead.append(target)
                else:
                    files.append(File.generated(config, uri, content=listing(target)))
    return files


def uri_of(path: Path) -> str:
    """Where the site has a file of the repository."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    page = ".md" if path.suffix in LANGUAGES else ""
    return f"{REPOSITORY}{path.relative_to(ROOT).as_posix()}{page}"


def listing(path: Path) -> str:
    """A page with a source file."""
    text = path.read_text(encoding="utf-8")
    head = "---\nhide: [toc]\nsearch: { exclude: true }\n---\n"
    return f'{head}# {path.relative_to(ROOT).as_posix()}\n\n``` {LANGUAGES[path.suffix]} linenums="1"\n{text}```\n'


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links out of docs/ at the pages of on_files, and put the commands in their place."""
    uri = page.file.src_uri
    source = ROOT / uri.removeprefix(REPOSITORY) if uri.startswith(REPOSITORY) else DOCS / uri

    def moved(link: re.Match[str]) -> str:
        target = (source.parent / link["path"]).resolve()
        if not target.is_relative_to(ROOT) or (target.is_relative_to(DOCS) and source.is_relative_to(DOCS)):
            return link[0]
        path = os.path.relpath(uri_of(target), os.path.dirname(uri))
        return f"{link[1]}{path}{link['anchor'] or ''})"

    if source.suffix == ".md":
        parts = re.split(f"({FENCE.pattern})", markdown, flags=FENCE.flags)
        markdown = "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))
    return markdown.replace("<!-- every command -->", commands(), 1)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Formulas as MathML, which browsers show without a script; links to functions of C, at the functions' lines."""

    def mathml(formula: re.Match[str]) -> str:
        kind, tex, punctuation = formula.groups()
        display, name = ("block", "formula") if kind == "div" else ("inline", "inline-formula")
        return f'<{kind} class="{name}">{convert(html.unescape(tex), display=display)}{punctuation}</{kind}>'

    def at_line(link: re.Match[str]) -> str:
        return f'{link["page"]}{line_of(link["name"], ROOT / link["path"])}"><code>{link["name"]}</code>'

    return FUNCTION.sub(at_line, FORMULA.sub(mathml, content))


def line_of(name: str, path: Path) -> str:
    """The anchor of the line of a C file that defines a function."""
    definition = re.compile(rf"^(?:\w.*[ *])?(?:API\({name}\)|{name})\(.*[^;]$")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if definition.match(line):
            return f"#__codelineno-0-{number}"
    raise PluginError(f"{path.name} defines no {name}")


def commands() -> str:
    """Every command with its arguments, from the parser."""
    from microgpt.commands import make_parser

    (subparsers,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    parts = []
    for name, command in subparsers.choices.items():
        head = "| argument | meaning |\n|---|---|"
        parts += [f"## microgpt {name}\n", sentence(command.description)]
        below_head = False
        for group in command._action_groups:
            rows = [row_of(action, command) for action in group._group_actions if action.dest != "help"]
            if rows and (group.description or not below_head):
                parts += ["", sentence(group.description), head]
                below_head = True
            parts += rows
        parts.append("")
    return "\n".join(parts)


def sentence(text: str | None) -> str:
    return f"{text[0].upper()}{plain(text[1:]).rstrip('.')}.\n" if text else ""


def row_of(action: argparse.Action, command: argparse.ArgumentParser) -> str:
    """A row of the table: an argument with its value, and its help text."""
    formatter = command._get_formatter()
    value = formatter._format_args(action, action.metavar or action.dest.upper())
    argument = re.sub(", *", ", ", " ".join(filter(None, [", ".join(action.option_strings), value])))
    meaning = plain(formatter._expand_help(action)) if action.help else ""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (f"`{argument}`", meaning)) + " |"


class Docstrings(Extension):
    """What mkdocstrings shows: examples that begin with >>> as blocks of code, and signatures made from settings."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if isinstance(obj, Function) and any(str(d.value).startswith("accepts(") for d in obj.decorators):
            live: Any = importlib.import_module(obj.module.path)
            for name in obj.path.removeprefix(obj.module.path + ".").split("."):
                live = getattr(live, name)
            obj.parameters = Parameters(*map(parameter, inspect.signature(live).parameters.values()))
            obj.docstring = Docstring(inspect.getdoc(live) or "", parent=obj)
        if obj.docstring is not None:
            text = re.sub(r"^( *)>>> .*(?:\n(?! *$).*)*", fenced, obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r"^(\w+ = \S+): ", r"- `\1`: ", text, flags=re.MULTILINE)
            obj.docstring.value = plain(text)


def plain(text: str) -> str:
    """Text whose `code` is Markdown's, and in which an asterisk, <end> or __dlpack__ is no markup."""
    parts = re.split(r"(^```.*?^```|^ {4}.*?$|`[^`]*`)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if i % 2 else re.sub(r"[*_$\\]", r"\\\g<0>", part.replace("<", "&lt;")) for i, part in enumerate(parts)
    )


def parameter(live: inspect.Parameter) -> Parameter:
    kind = ParameterKind(live.kind.description)
    named = {} if live.default is live.empty else {"default": repr(live.default)}
    if live.annotation is not live.empty:
        named["annotation"] = inspect.formatannotation(live.annotation)
    return Parameter(live.name, kind=kind, **named)


def fenced(example: re.Match[str]) -> str:
    lines = [line.removeprefix(example[1]) for line in example[0].splitlines()]
    return "\n".join(["", "```pycon", *lines, "```", ""])
