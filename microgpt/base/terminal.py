"""Notices, and text made safe to print on a terminal."""

import re
import sys
import warnings
from contextvars import ContextVar

from .package import PACKAGE

# what a terminal acts on: control characters, line and paragraph separators, and marks that change the direction of
# text; and surrogates, which cannot be encoded
ACTIVE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")

on_command_line = ContextVar("on_command_line", default=False)  # set by errors.naming_flags()
_quiet = ContextVar("quiet", default=False)


class MicrogptWarning(UserWarning):
    """Something unusual that does not stop the work, such as texts cut off at the context length."""


def escaped(text: str) -> str:
    """The text with line ends and other characters that a terminal would act on as escapes."""
    return ACTIVE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def printable(text: str) -> str:
    """The text for stdout: escaped if stdout is a terminal, otherwise unchanged."""
    return escaped(text) if sys.stdout.isatty() else text


def quiet() -> None:
    """Print no more notices in this context: a sweep would print those of hundreds of runs."""
    _quiet.set(True)


def notice(message: object) -> None:
    """Print one line on stderr, or issue a MicrogptWarning if Python code, and not the command line, is the caller."""
    line = escaped(str(message))
    if _quiet.get():
        return
    if on_command_line.get():
        print(f"microgpt: {line}", file=sys.stderr)
    else:
        warnings.warn(line, MicrogptWarning, stacklevel=_depth_of_caller())


def _depth_of_caller() -> int:
    """The stacklevel, for notice(), of the code that called this package."""
    found, depth, frame = 1, 1, sys._getframe(1).f_back
    while frame is not None:
        depth += 1
        if frame.f_code.co_filename.startswith(PACKAGE):
            found = depth
        frame = frame.f_back
    return found + 1


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
