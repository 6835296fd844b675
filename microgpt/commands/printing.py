"""Output that several commands share: numbered texts and JSON."""

from __future__ import annotations

from collections.abc import Callable

from ..base.config import LINE, Config
from ..base.terminal import printable


def numbered(i: int, text: str, config: Config, escape: Callable[[str], str] = printable) -> str:
    """A sample with its number: on one line if documents are lines, otherwise on lines of its own."""
    if config.split == LINE:
        return f"sample {i:2d}: {escape(text)}"
    return "\n".join([f"sample {i:2d}:", *map(escape, text.split("\n")), ""])


def characters(text: str, numbers: list[float], form: str) -> str:
    """'a 0.12  b 0.34  <end> 0.56': each character with its number, and the end if there is a number for it."""
    return "  ".join(f"{printable(char)} {number:{form}}" for char, number in zip([*text, "<end>"], numbers))


def to_json(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def print_written(output: str) -> None:
    print(f"wrote {printable(output)}")
