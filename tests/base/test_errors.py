"""One-line errors, which consist of a subject and a problem."""

import pickle
import re
import unicodedata

import pytest

from microgpt.base.errors import ConfigError, DataError, EnvironmentVariableError, naming_flags, renamed
from microgpt.base.terminal import escaped


def test_what_an_error_is_about():
    """On the command line an argument is called by its flag; a file's name is escaped, so that it takes one line."""
    error = ConfigError("expected 1,\nfound 2", argument="n_embd")
    assert str(error) == r"n_embd: expected 1,\nfound 2" and error.problem == r"expected 1,\nfound 2"
    with naming_flags():
        assert str(error).startswith("--n-embd: ")
        assert str(DataError("is empty", subject="two\nlines")) == r"two\nlines: is empty"
    assert str(ConfigError("nothing fits")) == "nothing fits"
    assert str(EnvironmentVariableError("is 0", subject="MICROGPT_THREADS")) == "MICROGPT_THREADS: is 0"


def test_an_error_crosses_processes():
    """Unpickling an error gives an equal one."""
    error = pickle.loads(pickle.dumps(DataError("is empty", argument="input")))
    assert (type(error), str(error), error.argument) == (DataError, "input: is empty", "input")


@pytest.mark.parametrize("before, raised, wanted", [
    ("text", {"subject": "text"}, "texts: wrong"), ("text", {"argument": "text"}, "texts: wrong"),
    ("text", {"argument": "threads"}, "threads: wrong"), ("", {}, "texts: wrong"),
    ("", {"subject": "text"}, "text: wrong"), ("", {"argument": "text"}, "text: wrong"),
])  # fmt: skip
def test_renamed(before, raised, wanted):
    """Only an error about this argument or subject gets the name that the caller knows."""
    with pytest.raises(ConfigError) as caught, renamed(before, argument="texts"):
        raise ConfigError("wrong", **raised)
    assert str(caught.value) == wanted


LETTERS = [
    "نمی\u200cروم",
    "क्\u200dष",
    "👩\u200d🚀",
    "10\u00a0000\u202f€\u00a0!",
    "子\u3000曰",
    "zoe\u0308",
    "ภาษา\u200bไทย",
]


@pytest.mark.parametrize("text", LETTERS)
def test_letters_are_shown(text):
    """Letters of every script are printed as they are, with the joiners, spaces and marks between them."""
    assert escaped(text) == text


def test_what_a_terminal_acts_on_is_escaped():
    """Control characters, line ends, surrogates and marks of direction are escaped; nothing else is."""
    for char in map(chr, range(0x110000)):
        acts = unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs") or char in "\u061c\u200e\u200f"
        acts |= "\u202a" <= char <= "\u202e" or "\u2066" <= char <= "\u206f"
        assert re.fullmatch(r"\\[nrtxu0-9a-f]+", escaped(char)) if acts else escaped(char) == char
