"""Notices, and text made safe to print on a terminal."""

import sys
from contextvars import ContextVar

_quiet = ContextVar("quiet", default=False)


def escaped(text: str) -> str:
    """The text with line ends and control characters, which a terminal would act on, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str) -> str:
    """The text for stdout: escaped if stdout is a terminal, otherwise unchanged."""
    return escaped(text) if sys.stdout.isatty() else text


def quiet() -> None:
    """Print no more notices in this context: a sweep would print those of hundreds of runs."""
    _quiet.set(True)


def notice(message: object) -> None:
    """Print one line on stderr."""
    if not _quiet.get():
        print(f"microgpt: {escaped(str(message))}", file=sys.stderr)


def reason(error: Exception) -> object:
    """The system's reason for an error."""
    if isinstance(error, MemoryError):
        return str(error) or "not enough memory"
    return getattr(error, "strerror", None) or error


def shown(value: object) -> str:
    """The value for a message: at most about 100 characters, even of an integer too long for repr()."""
    try:
        text = repr(value)
    except ValueError:
        return "a whole number of thousands of digits"
    return text if len(text) <= 100 else text[:100] + "..."
