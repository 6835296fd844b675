"""Reading a text as lines, paragraphs or running text, and holding a part of it out, against a few lines of Python."""

import itertools
import os
import random

import pytest

from microgpt.base.config import SPLITS, Config
from microgpt.base.errors import ConfigError, DataError
from microgpt.core.documents import Documents, read

EXAMPLES = {  # content: its lines, its paragraphs, its running text
    "paragraphs": (b"ab\n  c\n\nd\n", ["ab", "c", "d"], ["ab\n  c", "d"], ["ab\n  c\n\nd\n"]),
    "no final newline": (b"ab\n\nc", ["ab", "c"], ["ab", "c"], ["ab\n\nc"]),
    "white space parts": (b"a \n \t\n\n b", ["a", "b"], ["a ", " b"], ["a \n \t\n\n b"]),
    "blank around": (b"\n \n a\n\n\n", ["a"], [" a"], ["\n \n a\n\n\n"]),
    "one character": (b"a", ["a"], ["a"], ["a"]),
    "carriage returns": (b"a\r\nb\r\n\r\nc\rd\r\re", [*"abcde"], ["a\nb", "c\nd", "e"], ["a\nb\n\nc\nd\n\ne"]),
    "a newline is no carriage return": (b"a\n\rb\n", ["a", "b"], ["a", "b"], ["a\n\nb\n"]),
    "other separators": ("a\x0bb\u2028\n\x85\nc".encode(), ["a\x0bb", "c"], ["a\x0bb\u2028", "c"],
                         ["a\x0bb\u2028\n\x85\nc"]),
    "byte-order mark inside": ("a\ufeff\n\n\ufeffb".encode(), ["a\ufeff", "\ufeffb"], ["a\ufeff", "\ufeffb"],
                               ["a\ufeff\n\n\ufeffb"]),
}  # fmt: skip
WRONG = {
    "latin-1": (b"emma\nzo\xeb\n", "byte 0xeb at offset 7; if the file is in CP1252, convert it .*"),
    "utf-16": ("emma\n".encode("utf-16"), "byte 0xff at offset 0; if the file is in UTF-16, convert it .*"),
    "a surrogate": (b"a\xed\xa0\x80", "byte 0xed at offset 1; .*"),
    "cut inside a character": (b"zo\xc3", "byte 0xc3 at offset 2; .*"),
}


def lines(text):
    """The reference's."""
    return [line.strip() for line in text.strip().split("\n") if line.strip()]


def paragraphs(text):
    found, current = [], []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            current.append(line)
        elif current:
            found.append("\n".join(current))
            current = []
    return found


DIVIDED = {"line": lines, "blank-line": paragraphs, "none": lambda text: [text] if text else []}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "input.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


@pytest.mark.parametrize("content, lines, paragraphs, running", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_examples(write, content, lines, paragraphs, running):
    """Lines are stripped, paragraphs keep what is between blank lines, running text is all there is; \\r is \\n."""
    path = write(content)
    assert [read(path, split)[0] for split in SPLITS] == [lines, paragraphs, running]


@pytest.mark.parametrize("split", SPLITS)
def test_any_text(write, split):
    """Whatever a file holds, its documents are plain Python's, or it is refused when there are none."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\n\n\r \t\x0b\x85\u2028\ufeff\0ab")

    @hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.text(characters, max_size=40), st.booleans())
    def same(text, bom):
        bom = bom or text.startswith("\ufeff")
        text = text.removeprefix("\ufeff")
        path = write("\ufeff" * bom + text)
        expected = DIVIDED[split](text.replace("\r\n", "\n").replace("\r", "\n"))
        if expected:
            assert read(path, split) == (expected, bom)
        else:
            with pytest.raises(DataError, match="expected at least one"):
                read(path, split)

    same()


@pytest.mark.parametrize("split, what", list(zip(SPLITS, ["line of text", "line of text", "character"])))
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b" \n\t\r\n\x0b\n"], ids=["empty", "only a mark", "blank"])
def test_nothing_to_read(write, split, what, content):
    """A file without text is refused by its name; white space is text only where the text is running."""
    path = write(content)
    if split == "none" and content.isspace():
        assert read(path, split)[0] == [" \n\t\n\x0b\n"]
    else:
        with pytest.raises(DataError, match=f"^{path}: expected at least one {what}, found none$"):
            read(path, split)


@pytest.mark.parametrize("content, reason", WRONG.values(), ids=WRONG.keys())
def test_not_utf_8(write, content, reason):
    """A file that is not UTF-8 is refused with its name and what was found where."""
    path = write(content)
    with pytest.raises(DataError, match=f"^{path}: expected UTF-8 text, found {reason}$"):
        read(path)


def test_refused_paths(tmp_path):
    """What is not a readable regular file is refused by name, and nothing waits for a pipe or a device."""
    (tmp_path / "file").write_text("emma")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    names = ["missing", "file/below", "loop", "fifo", "x" * 300, "nul\0inside"]
    for path in [*(str(tmp_path / name) for name in names), str(tmp_path), "/dev/null", "/dev/zero"]:
        with pytest.raises(DataError) as refused:
            read(path)
        assert path.replace("\0", r"\x00") in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_refused_permission(write):
    """A file that may not be read is refused by name."""
    path = write("emma")
    os.chmod(path, 0)
    with pytest.raises(DataError, match="ermission"):
        read(path)


@pytest.mark.parametrize("fraction", [0.0, 1e-9, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("split", SPLITS)
def test_held_out(write, split, fraction):
    """The last documents after the shuffle are held out, or the last characters of running text; at least one."""
    text = "".join(f"{i} {chr(97 + i)}\n\n" for i in range(20))
    documents = Documents(Config(split=split, val_fraction=fraction, seed=5), write(text), random.Random(5))
    expected = DIVIDED[split](text)
    random.Random(5).shuffle(expected)
    whole = expected[0] if split == "none" else expected
    n = max(1, int(len(whole) * fraction)) if fraction else 0
    training, held_out = whole[: len(whole) - n], whole[len(whole) - n :]
    if split == "none":
        training, held_out = [training], [held_out] * (n > 0)
    assert (documents.training, documents.held_out) == (training, held_out)
    assert (documents.count, documents.n_held_out) == (len(whole), n)
    assert documents.vocab == sorted(set("".join(expected)))


@pytest.mark.parametrize("split, what", list(zip(SPLITS, ["documents", "documents", "characters"])))
def test_nothing_left_to_train_on(write, split, what):
    """Holding out the only document, or the only character of running text, is refused."""
    config = Config(split=split, val_fraction=0.5)
    with pytest.raises(ConfigError, match=f"val_fraction: .* all of the {what}, found 1 of 1"):
        Documents(config, write("a"), random.Random(0))


@pytest.mark.parametrize("split", SPLITS)
def test_other_documents_have_another_hash(write, split):
    """The SHA-256 of two short texts is the same just when they have the same documents."""
    found = set()
    for text in map("".join, itertools.chain(*(itertools.product("ab\n ", repeat=n) for n in range(1, 5)))):
        if DIVIDED[split](text):
            documents = Documents(Config(split=split), write(text), random.Random(1))
            found.add((tuple(documents.training), documents.sha256))
    assert len(found) > 30
    assert len(found) == len({documents for documents, _ in found}) == len({sha256 for _, sha256 in found})
