"""What speaks to a terminal: notices, and text in a form that a terminal does not obey."""

import sys


def escaped(text: str) -> str:
    """The text with line ends and control characters, which a terminal would obey, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str) -> str:
    """The text for stdout: as it is, or escaped where that is a terminal."""
    return escaped(text) if sys.stdout.isatty() else text


def notice(message: object) -> None:
    """One line on stderr."""
    print(f"microgpt: {escaped(str(message))}", file=sys.stderr)


def reason(error: Exception) -> object:
    """Why the system refused something, in its words."""
    return getattr(error, "strerror", None) or error
