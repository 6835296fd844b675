"""Reading a text as lines, paragraphs or running text, and holding a part of it out, against a few lines of Python."""

import bz2
import gzip
import itertools
import lzma
import os
import random
import warnings

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
ICONV = "; if the file is in another encoding, convert it: iconv -f ENCODING -t UTF-8"
BYTES = random.Random(0).randbytes(500)
CHINESE = "子曰學而時習之。\n"
MARKED = "the byte-order mark of UTF-{0}; convert it: iconv -f UTF-{0} -t UTF-8"
NULS = "NUL bytes as in UTF-{0}; if it is UTF-{0}, convert it: iconv -f UTF-{0} -t UTF-8"
WRONG = {
    "latin-1": (b"emma\nzo\xeb\n", "byte 0xeb at offset 7" + ICONV),
    "cp1251": ("анна\n".encode("cp1251"), "byte 0xe0 at offset 0" + ICONV),
    "gbk": (CHINESE.encode("gbk"), "byte 0xd7 at offset 0" + ICONV),
    "shift-jis": ("日本\n".encode("shift-jis"), "byte 0x93 at offset 0" + ICONV),
    "utf-16": ("emma\n".encode("utf-16"), MARKED.format(16)),
    "utf-16 big": (b"\xfe\xff" + "emma\n".encode("utf-16-be"), MARKED.format(16)),
    "utf-32": ("emma\n".encode("utf-32"), MARKED.format(32)),
    "utf-32 big": ("\ufeffemma\n".encode("utf-32-be"), MARKED.format(32)),
    "utf-16-le": ("emma\nzoë\n".encode("utf-16-le"), NULS.format("16LE")),
    "utf-16-be": ("emma\nzoë\n".encode("utf-16-be"), NULS.format("16BE")),
    "utf-32-le": (CHINESE.encode("utf-32-le"), NULS.format("32LE")),
    "utf-32-be": ("emma\nzoë\n".encode("utf-32-be"), NULS.format("32BE")),
    "gzip": (gzip.compress(BYTES), "a gzip file; unpack it: gunzip"),
    "bzip2": (bz2.compress(BYTES), "a bzip2 file; unpack it: bunzip2"),
    "xz": (lzma.compress(BYTES), "an xz file; unpack it: unxz"),
    "zip": (b"PK\3\4" + BYTES, "a zip file (or a document or package that is one, such as .docx); unpack it: unzip"),
    "pdf": (b"%PDF-1.4\n1 0 obj\n", "a PDF file; extract its text: pdftotext"),
    "random bytes": (BYTES, "byte 0xcd at offset 0" + ICONV),
    "a surrogate": (b"a\xed\xa0\x80", "byte 0xed at offset 1" + ICONV),
    "cut inside a character": (b"zo\xc3", "byte 0xc3 at offset 2" + ICONV),
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
    """A file that is not UTF-8 is refused with what its bytes prove; another encoding is not guessed."""
    path = write(content)
    with pytest.raises(DataError) as refused:
        read(path)
    assert str(refused.value) == f"{path}: expected UTF-8 text, found {reason}"


CUT = "{}: block_size 4 cuts off the ends of {}; to use all of them: {}split none, which reads the file as running text"
NOTICES = {
    "nothing": ("abc\nab\n", {}, []),
    "an end": ("abcd\nab\n", {}, ["1 line, 0.0% of the characters", "block_size 5, or "]),
    "characters": ("abcdefghi\nabc\nabcd\nabcde\n", {}, ["3 lines, 28.6% of the characters", "block_size 10, or "]),
    "paragraphs": ("ab\ncd\n\nab", {"split": "blank-line"},
                   ["1 paragraph, 14.3% of the characters", "block_size 6, or "]),
    "a long line": ("a" * 1024, {}, ["1 line, 99.6% of the characters", ""]),
    "running text": ("a" * 1024, {"split": "none"}, []),
    "held out": ("abcdefghi\nab\nac\nad\nae\naf\n", {"val_fraction": 0.4, "seed": 2}, []),
}  # fmt: skip


@pytest.mark.parametrize("content, settings, cut", NOTICES.values(), ids=NOTICES.keys())
def test_what_is_cut_off(write, content, settings, cut):
    """A warning states the share of the training characters that the context leaves out, and what would keep them."""
    path = write(content)
    config = Config(block_size=4, **settings)
    documents = Documents(config, path, random.Random(config.seed))
    with warnings.catch_warnings(record=True) as found:
        documents.notice_unusual(config.block_size)
    if settings.get("val_fraction"):
        assert "abcdefghi" in documents.held_out  # which is measured whole
    assert [str(warning.message) for warning in found] == ([CUT.format(path, *cut)] if cut else [])


def test_other_notices(write):
    """A byte-order mark, NUL characters, and held-out texts that are also trained on have a warning each."""
    path = write(b"\xef\xbb\xbf" + b"a\0\n" * 6)
    config = Config(val_fraction=0.5, val_split="documents")
    with warnings.catch_warnings(record=True) as found:
        Documents(config, path, random.Random(0)).notice_unusual(16)
    bom, nul, seen = (str(warning.message) for warning in found)
    assert bom == f"{path}: removed the byte-order mark"
    assert nul == f"{path}: found 6 NUL characters, which the model learns like any other"
    assert seen.startswith(f"{path}: 3 of 3 held-out documents are also in the training set, ")


@pytest.mark.parametrize("split", SPLITS)
def test_texts(write, split):
    """A list of texts gives the documents and the SHA-256 of a file that contains them."""
    texts = {"line": ["ab", " c ", "d"], "blank-line": ["ab\r\n c", "d"], "none": ["ab\n", "c"]}[split]
    config = Config(split=split, val_fraction=0.4)
    path = write({"line": "\n", "blank-line": "\n\n", "none": ""}[split].join(texts))
    of_texts, of_file = (Documents(config, source, random.Random(1)) for source in (texts, path))
    assert (of_texts.training, of_texts.held_out) == (of_file.training, of_file.held_out)
    assert of_texts.sha256 == of_file.sha256


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
    with pytest.raises(ConfigError, match=f"val_fraction: expected to leave {what} to train on, found 1 of 1 held out"):
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
