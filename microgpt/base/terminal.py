"""What speaks to a terminal: notices, and text in a form that a terminal does not obey."""

import sys
from contextvars import ContextVar

_quiet = ContextVar("quiet", default=False)


def escaped(text: str) -> str:
    """The text with line ends and control characters, which a terminal would obey, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str) -> str:
    """The text for stdout: as it is, or escaped where that is a terminal."""
    return escaped(text) if sys.stdout.isatty() else text


def quiet() -> None:
    """No notices from here on in this context: those of a hundred runs at once would be noise."""
    _quiet.set(True)


def notice(message: object) -> None:
    """One line on stderr."""
    if not _quiet.get():
        print(f"microgpt: {escaped(str(message))}", file=sys.stderr)


def reason(error: Exception) -> object:
    """Why the system refused something, in its words."""
    if isinstance(error, MemoryError):
        return str(error) or "expected memory for it, found too little"
    return getattr(error, "strerror", None) or error


def shown(value: object) -> str:
    """The value as a message has it: short, and an integer that Python does not write out is said to be one."""
    try:
        text = repr(value)
    except ValueError:
        return "a whole number of thousands of digits"
    return text if len(text) <= 100 else text[:100] + "..."
