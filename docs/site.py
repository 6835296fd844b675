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
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
REPOSITORY = "repository/"  # where the site has the files outside docs/
LINK = re.compile(r"(\[(?P<text>[^\]]*)\]\()(?P<path>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".toml": "toml", ".js": "javascript"}


def on_files(files: Any, config: Any) -> Any:
    """Add a page, or a copy, for each file outside docs/ that a page links to, and for those that these link to."""
    ahead = [DOCS / file.src_uri for file in files if file.src_uri.endswith(".md") and file.src_uri]
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
        return f"{link[1]}{path}{link['anchor'] or line_of(link['text'], target)})"

    if source.suffix == ".md":
        parts = re.split(f"({FENCE.pattern})", markdown, flags=FENCE.flags)
        markdown = "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))
    return markdown.replace("<!-- every command -->", commands(), 1)


def line_of(text: str, path: Path) -> str:
    """The anchor of the line that defines the function `text` in a C file, or nothing."""
    name = text.strip("`")
    if path.suffix == ".c" and re.fullmatch(r"\w+", name):
        definition = re.compile(rf"^(?:\w.*[ *])?(?:API\({name}\)|{name})\(")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if definition.match(line) and not line.endswith(";"):
                return f"#__codelineno-0-{number}"
    return ""


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Formulas as MathML, which browsers show without a script."""

    def mathml(formula: re.Match[str]) -> str:
        display = "block" if formula[1] == "div" else "inline"
        return str(convert(html.unescape(formula[2]), display=display))

    return FORMULA.sub(mathml, content)


def commands() -> str:
    """Every command with its arguments, from the parser."""
    from microgpt.commands import make_parser

    parser = make_parser()
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    parts = []
    for name, command in subparsers.choices.items():
        usage = " ".join(command.format_usage().removeprefix("usage: ").split())
        usage = usage if len(usage) < 100 else f"microgpt {name} [FLAG…]" + "".join(
            f" {metavar_of(action)}" for action in command._actions if not action.option_strings
        )
        parts.append(f"## microgpt {name}\n\n{command.description}\n\n```text\n{usage}\n```\n")
        for group in command._action_groups:
            rows = [row_of(action, command) for action in group._group_actions if not is_help(action)]
            if rows:
                if group.title not in ("positional arguments", "options"):
                    parts.append(f"**{group.title}**: {group.description or ''}\n")
                parts.append("| argument | meaning | default |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def is_help(action: argparse.Action) -> bool:
    return isinstance(action, argparse._HelpAction) or action.help is argparse.SUPPRESS


def metavar_of(action: argparse.Action) -> str:
    if action.metavar:
        return str(action.metavar)
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def row_of(action: argparse.Action, command: argparse.ArgumentParser) -> str:
    """A row of the table: the flag with its value, the help text, the default."""
    value = "" if action.nargs == 0 else metavar_of(action)
    flag = " ".join(filter(None, [", ".join(action.option_strings), value]))
    return f"| `{escaped(flag)}` | {escaped(html.escape(action.help or ''))} | |"


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


class Docstrings(Extension):
    """What mkdocstrings shows: examples that begin with >>> as blocks of code, and signatures made from settings."""

    def on_function(self, *, func: Function, **kwargs: Any) -> None:
        if any(str(decorator.value).startswith("accepts(") for decorator in func.decorators):
            live: Any = importlib.import_module(func.module.path)
            for name in func.path.removeprefix(func.module.path + ".").split("."):
                live = getattr(live, name)
            func.parameters = Parameters(*map(parameter, inspect.signature(live).parameters.values()))
            func.docstring = Docstring(inspect.getdoc(live) or "", parent=func)

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            example = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)
            obj.docstring.value = example.sub(fenced, obj.docstring.value)


def parameter(live: inspect.Parameter) -> Parameter:
    kind = ParameterKind(live.kind.description)
    named = {} if live.default is live.empty else {"default": repr(live.default)}
    if live.annotation is not live.empty:
        named["annotation"] = inspect.formatannotation(live.annotation)
    return Parameter(live.name, kind=kind, **named)


def fenced(example: re.Match[str]) -> str:
    lines = [line.removeprefix(example[1]) for line in example[0].splitlines()]
    return "\n".join(["", "```pycon", *lines, "```", ""])
