"""Look for bytes that a reader answers wrongly:  python tests/fuzz READER [--seconds N] [--corpus DIR] [FILE ...]

Begins with seeds/READER and what is in DIR, and keeps in DIR what reaches new code.  A finding ends it: the trace is
printed, and the bytes are in DIR.crash-*, or fuzz.crash-* without a DIR, which as a FILE are tried again, without
atheris.  Mend what is wrong, with a test of its own, and keep the bytes in seeds/READER, for test_seeds.py.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "kernels")]
NAMES = sorted(path.name for path in (HERE / "seeds").iterdir())

parser = argparse.ArgumentParser(prog="tests/fuzz", description="Look for bytes that a reader answers wrongly.")
parser.add_argument("reader", metavar="READER", choices=NAMES, help=", ".join(NAMES))
parser.add_argument("files", metavar="FILE", nargs="*", help="try these only")
parser.add_argument("--seconds", metavar="N", type=int, default=60, help="how long (default 60)")
parser.add_argument("--corpus", metavar="DIR", help="what was found before, and will be (default: none is kept)")
arguments = parser.parse_args()

if arguments.files:
    from readers import READERS

    for file in arguments.files:
        READERS[arguments.reader](Path(file).read_bytes())
    sys.exit()

try:
    import atheris
except ImportError:
    sys.exit("tests/fuzz needs atheris: pip install -e '.[test,fuzz]'")
with tempfile.TemporaryDirectory() as tempfile.tempdir:
    if child := os.fork():  # libFuzzer's end is the process's: nothing there cleans up
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    with atheris.instrument_imports(include=["microgpt", "readers", "tomllib", "zipfile"]):
        from readers import READERS

        import microgpt.commands  # noqa: F401 - which is imported when it is used

    corpus = Path(arguments.corpus or tempfile.mkdtemp())
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={arguments.seconds}", "-timeout=60", "-rss_limit_mb=2048", "-max_len=16384"]
    flags = ["-len_control=10", "-print_final_stats=1", f"-artifact_prefix={arguments.corpus or 'fuzz'}."]
    corpora = [str(corpus), str(HERE / "seeds" / arguments.reader)]
    atheris.Setup([sys.argv[0], *corpora, *limits, *flags], READERS[arguments.reader])
    atheris.Fuzz()
