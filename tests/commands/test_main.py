"""The command line: what it prints, what it refuses, how it ends."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import INPUT, PACKAGE, ROOT, golden, microgpt, on_terminal

from microgpt.__main__ import main
from microgpt.base.package import __version__

# With these settings the loss diverges within a few steps.
DIVERGE = ["--beta2", "0", "--beta1", "0.9", "--init-std", "1", "--learning-rate", "1000"]


TEXT = {"capture_output": True, "text": True}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a small input.txt."""
    (tmp_path / "input.txt").write_text("emma\nolivia\nava\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(capfd):
    """Call main() in this process, which is fast; returns the exit code, stdout and stderr."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    yield call
    signal.signal(signal.SIGTERM, handler)


def check_refusal(result, code, *named):
    """Check for this exit code, one line on stderr that contains the names, and nothing on stdout."""
    assert result[0] == code, result
    assert result[1] == ""
    assert re.fullmatch(r"microgpt[^\n]*\n", result[2]) and result[2][:-1].isprintable()
    for name in named:
        assert name in result[2]


# ---- what it prints ----


def reference_output(g):
    """What microgpt.py prints."""
    lines = [f"num docs: {g['num_docs']}", f"vocab size: {g['vocab_size']}", f"num params: {g['num_params']}"]
    n = g["num_steps"]
    lines += [f"step {i:4d} / {n:4d} | loss {loss:.4f}" for i, loss in enumerate(g["losses"], 1)]
    lines += ["", "--- inference (new, hallucinated names) ---"]
    lines += [f"sample {i:2d}: {sample}" for i, sample in enumerate(g["samples"], 1)]
    return lines


def test_default_output_and_metrics(tmp_path):
    """With a line for every step stdout is the reference's, line for line, and the metrics hold every digit."""
    g, metrics = golden("input_default"), tmp_path / "metrics.jsonl"
    run = microgpt("train", "--log-every", 1, "--metrics", metrics)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.endswith("\n") and run.stdout.splitlines() == reference_output(g)
    found = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in found] == list(range(1, 1001))
    np.testing.assert_allclose([line["loss"] for line in found], g["losses"], rtol=0, atol=1e-12)
    rates = [0.01 * (1 - step / 1000) for step in range(1000)]
    np.testing.assert_allclose([line["lr"] for line in found], rates, rtol=1e-15)


def test_flags_reach_the_run():
    """With the settings of the second golden run as flags, stdout is the reference's too."""
    g = golden("input_l2")
    names = ("seed", "num_steps", "n_layer", "n_embd", "n_head", "block_size", "temperature")
    flags = [text for name in names for text in ("--" + name.replace("_", "-"), g[name])]
    run = microgpt("train", "--input", INPUT, "--log-every=1", *flags, cwd=ROOT / "tests")
    assert run.returncode == 0
    assert run.stdout.splitlines() == reference_output(g)
    assert re.fullmatch(
        r"microgpt: [^\n]*input.txt: --block-size 8 cuts off the ends of \d+ lines, [^\n]*\n", run.stderr
    )


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_no_input_here(empty, call):
    """In an empty directory the default input is the names that come with the package; a notice says so, and the run
    finds them again from another directory."""
    code, out, err = call("train", "--num-steps=20", "--num-samples=1", "--val-fraction=0.1", "--out=run")
    assert (code, out.partition("\n")[0]) == (0, "num docs: 31735")
    assert re.fullmatch(r"microgpt: input\.txt: not found in this directory; [^\n]*input\.txt\n", err)
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    code, out, err = call("eval", "../run", "--held-out")
    assert code == 0 and err.startswith("microgpt: ../run: using best.npz, step 20") and out.startswith("input: /")
    code, out, err = call("train", "--resume=../run", "--num-steps=21", "--num-samples=0")
    assert code == 0 and "not found in this directory" not in err
    shutil.copy("../run/checkpoint.npz", "model.npz")  # without the config.toml, which has the path of the input
    assert call("eval", "model.npz")[2].startswith("microgpt: input.txt: not found in this directory")


def test_the_input_here_comes_first(folder, call):
    """An input.txt in this directory is used, without a notice, even if it cannot be trained on."""
    code, out, err = call("train", "--num-steps=1", "--num-samples=0")
    assert (code, out.partition("\n")[0], err) == (0, "num docs: 3", "")
    (folder / "input.txt").write_text("\n")
    check_refusal(call("train"), 1, "input.txt", "at least one line")
    (folder / "input.txt").unlink()
    (folder / "input.txt").symlink_to("missing")
    check_refusal(call("train"), 1, "input.txt", "No such file")


def test_a_file_is_the_input(empty, call):
    """`train FILE`, before or after flags, means `train --input FILE`, also when resuming."""
    Path("names.txt").write_text("emma\nolivia\nava\n")
    flags = ["--num-steps=2", "--num-samples=1"]
    wanted = call("train", "--input=names.txt", *flags)
    assert wanted[0] == 0 and wanted == call("train", "names.txt", *flags) == call("train", *flags, "names.txt")
    assert call("train", "names.txt", "--out=run", *flags)[0] == 0
    os.rename("names.txt", "moved.txt")
    assert call("train", "--resume=run", "--num-steps=3", "moved.txt")[0] == 0
    check_refusal(call("train", "--resume=run", "--num-steps=4", "names.txt"), 1, "names.txt", "No such file")


def test_an_input_that_is_asked_for(empty, call):
    """An explicit --input is never replaced by the package's names, even if it is the default path."""
    check_refusal(call("train", "--input=input.txt"), 1, "input.txt", "No such file")


@pytest.mark.skipif("MICROGPT_NAMES" not in os.environ, reason="MICROGPT_NAMES is not set to the path of names.txt")
def test_names_output():
    """On Karpathy's file of names stdout is the reference's."""
    run = microgpt("train", "--log-every", 1, "--input", os.environ["MICROGPT_NAMES"])
    assert run.stdout.splitlines() == reference_output(golden("names_default"))


def test_fewer_lines(folder):
    """The first step, the last one and every N-th have a line."""
    run = microgpt("train", "--num-steps", 50, "--log-every", 20, "--num-samples", 0, cwd=folder)
    assert re.findall(r"step +(\d+) /", run.stdout) == ["1", "20", "40", "50"]
    assert "inference" not in run.stdout


def test_info():
    """info shows the version, the package's path and the instruction set that was selected."""
    run = microgpt("info", env={"MICROGPT_ISA": "scalar"})
    assert run.returncode == 0 and run.stderr == ""
    for word in ("0.1.0", str(PACKAGE), "scalar", "compiler", "threads"):
        assert word in run.stdout


def test_help():
    """The help lists flags and their defaults."""
    assert "train" in microgpt("--help").stdout
    text = microgpt("train", "--help").stdout
    for part in ("--n-embd", "--metrics", "default 16", "default 0.01", "{float64,float32}"):
        assert part in text


def test_help_of_a_command():
    """`microgpt help` and `microgpt help COMMAND` print what --help prints."""
    assert microgpt("help").stdout == microgpt("--help").stdout
    assert microgpt("help", "score").stdout == microgpt("score", "--help").stdout


def test_score_of_a_file(folder):
    """score reads texts from a file or from standard input, one for each line, as it reads them from arguments."""
    assert microgpt("train", "--num-steps", 3, "--num-samples", 0, "--out", "run", cwd=folder).returncode == 0
    (folder / "texts.txt").write_text("emma\n\nava\n")
    expected = microgpt("score", "run", "emma", "ava", cwd=folder).stdout
    assert expected.count("\n") == 2
    assert microgpt("score", "run", "--input", "texts.txt", cwd=folder).stdout == expected
    for flags in (["-"], ["--input", "-"]):
        assert microgpt("score", "run", *flags, cwd=folder, input="emma\n\nava\n").stdout == expected
    refusal = microgpt("score", "run", "-", cwd=folder, input="").stderr
    assert refusal == "microgpt: standard input: expected at least one line of text, found none\n"


def test_version():
    """--version prints the version."""
    assert microgpt("--version").stdout == f"microgpt {__version__}\n"


def test_without_numpy(folder):
    """Without NumPy one line says what to install."""
    code = "import sys; sys.modules['numpy'] = None; from microgpt.__main__ import main; sys.exit(main(['train']))"
    process = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, **TEXT)
    check_refusal((process.returncode, process.stdout, process.stderr), 1, "pip install numpy")


def test_not_built(folder):
    """In a checkout without the compiled kernels one line says how to build them."""
    shutil.copytree(PACKAGE, folder / "microgpt", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    # an editable installation would find the modules where they are built
    code = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
    code += "from microgpt.__main__ import main; sys.exit(main(['train']))"
    process = subprocess.run([sys.executable, "-c", code], cwd=folder, **TEXT)
    check_refusal((process.returncode, process.stdout, process.stderr), 1, "compiled kernels", "pip install -e .")


def test_notices(folder):
    """A byte-order mark and lines longer than the context give one notice each, and the run continues."""
    (folder / "input.txt").write_bytes(b"\xef\xbb\xbfabcdefgh\nabcdefghi\nab\n")
    run = microgpt("train", "--block-size", 8, "--num-steps", 3, "--num-samples", 0, cwd=folder)
    assert run.returncode == 0 and "vocab size: 10\n" in run.stdout
    first, second = run.stderr.splitlines()
    assert "input.txt" in first and "byte-order mark" in first
    assert "input.txt" in second and "--block-size 8 cuts off the ends of 2 lines, 5.3% of the characters" in second


ODD = {
    "one character": "a",
    "one distinct character": "aaa\na\n",
    "carriage returns": "ab\r\ncd\r\n",
    "NUL": "a\0b\n",
    "emoji": "👩‍🚀\n\U0010ffff\n",
    "separators inside": "a\x0bb\x85c\u2028d\n",
    "longer than the block": "a" * 1000,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_input(folder, text):
    """Unusual text can be trained on; samples consist of its characters, in any encoding of the output."""
    (folder / "input.txt").write_bytes(text.encode())
    flags = "train", "--num-steps", 4, "--num-samples", 3, "--batch-size", 3
    run = microgpt(*flags, cwd=folder, env={"PYTHONIOENCODING": "utf-8"})
    assert run.returncode == 0
    samples = run.stdout.split("---\n")[1]
    assert set(re.sub(r"sample +\d+: ", "", samples)) <= set(text) | {"\n"}
    assert microgpt(*flags, cwd=folder, env={"PYTHONIOENCODING": "ascii"}).returncode == 0


# ---- terminals ----


def test_control_characters(folder):
    """Control characters in samples are escaped on a terminal, which would act on them, and nowhere else."""
    (folder / "input.txt").write_text("\x1b]0;\x07\n\x1b]0;\x07\n\x9b\u202e\n")
    flags = "train", "--num-steps", 60, "--num-samples", 8
    shown, _ = on_terminal(*flags, cwd=folder, streams=["stdout"])
    plain = microgpt(*flags, cwd=folder).stdout
    samples = plain.split("---\n")[1]
    assert "\x1b" in samples
    assert all(c.isprintable() or c in "\r\n" for c in shown)
    assert shown.count("\\x1b") == samples.count("\x1b")
    assert shown.replace("\r\n", "\n").encode().decode("unicode_escape") == plain


def test_control_characters_of_a_model(folder):
    """sample and score escape control characters on a terminal too."""
    (folder / "input.txt").write_text("\x1b]0;\x07\n\x9b\u202e\n")
    assert microgpt("train", "--num-steps", 30, "--out", "run", cwd=folder).returncode == 0
    for arguments in (["sample", "run", "--probs"], ["score", "run", "\x1b]\x9b"]):
        shown, process = on_terminal(*arguments, cwd=folder, streams=["stdout"])
        assert process.returncode == 0 and "\\x1b" in shown and "\\x9b" in shown
        assert all(c.isprintable() or c in "\r\n" for c in shown)


def test_progress_bar(folder):
    """A progress bar appears on stderr if that is a terminal; stdout is the same with and without it."""
    pytest.importorskip("tqdm")
    flags = "train", "--num-steps", 30, "--num-samples", 1
    shown, process = on_terminal(*flags, cwd=folder, streams=["stderr"])
    plain = microgpt(*flags, cwd=folder)
    assert "30/30" in shown and "docs/s" in shown
    assert process.stdout == plain.stdout
    assert plain.stderr == ""


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_lines_beside_the_bar(folder, columns):
    """Each line printed beside a bar stays on a line of its own, and the bar takes only one."""
    pytest.importorskip("tqdm")
    flags = ["--num-steps", 30, "--num-samples", 1, "--val-fraction", 0.2, "--eval-every", 10, "--sample-every", 20]
    shown, _ = on_terminal("train", *flags, cwd=folder, streams=["stdout", "stderr"], columns=columns)
    seen = []
    for line in shown.split("\r\n"):
        cells = []
        for part in line.split("\r"):  # each overwrites the one before
            cells[: len(part)] = part
        seen.append("".join(cells).rstrip())
    plain = microgpt("train", *flags, cwd=folder).stdout.splitlines()
    bars = [line for line in seen if line not in plain and not line.startswith("microgpt: ")]
    assert all(re.fullmatch(r"\d+/30 .*, \d+:\d+ left", bar) and len(bar) <= columns for bar in bars) and len(bars) == 1
    assert [line for line in seen if line in plain] == [
        line for line in plain if not line.startswith("step    1 /")
    ] + [""]


def test_no_escapes_in_pipes(folder):
    """Without a terminal the output is only plain lines."""
    run = microgpt("train", "--num-steps", 30, "--num-samples", 5, cwd=folder)
    assert run.stderr == "" and not {"\r", "\x1b"} & set(run.stdout)


# ---- bad input ----

BAD_USAGE = {
    "no command": ([], "COMMAND"),
    "unknown command": (["tarin"], "tarin"),
    "unknown flag": (["train", "--n-emb", "8"], "microgpt train: expected a flag of this command, found '--n-emb'"),
    "nanoGPT's flag": (["train", "--max_iters=3"], "did you mean '--num-steps'?"),
    "PyTorch's flag": (["train", "--lr", "3"], "did you mean '--learning-rate'?"),
    "no such flag": (["train", "--device", "cuda"], "microgpt computes on the CPU"),
    "a flag of another command": (["eval", "run", "--epochs", "3"], "'--epochs' (see microgpt eval --help)"),
    "help for nothing": (["help", "tarin"], "did you mean 'train'?"),
    "nothing to score": (["score", "run"], "expected either TEXT or --input FILE, found neither (see"),
    "two things to score": (["score", "run", "a", "--input", "b"], "expected either TEXT or --input FILE, found both"),
    "flag like another": (["train", "--num_steps=3"], "did you mean '--num-steps'? (see microgpt train --help)"),
    "abbreviated flag": (["train", "--num-step", "8"], "--num-step"),
    "missing value": (["train", "--seed"], "--seed"),
    "stray word": (["train", "input.txt", "quickly"], "quickly"),
    "several lines": (["train", "input.txt", "two\nlines\x1b[31m"], "two"),
    "two inputs": (["train", "a.txt", "--input", "b.txt"], "--input: cannot be given with FILE 'a.txt', found 'b.txt'"),
    "heads": (["train", "--n-head", "3"], "--n-head: expected a divisor of --n-embd 16, found 3"),
    "dtype": (["train", "--dtype", "float16"], "--dtype: expected one of float64, float32, found 'float16'"),
    "too large": (["train", "--n-embd", "65536", "--n-head", "1"], "--n-embd 65536"),
    "too many": (["train", "--n-layer", "1000", "--n-embd", "2048"], "--n-layer 1000"),
}


@pytest.mark.parametrize("arguments, named", BAD_USAGE.values(), ids=BAD_USAGE.keys())
def test_bad_usage(folder, call, arguments, named):
    """Any other mistake in the arguments is refused in one line that names it."""
    check_refusal(call(*arguments), 2, named)
    assert os.listdir(folder) == ["input.txt"]


BAD_INPUT = {
    "missing": lambda path: None,
    "directory": lambda path: path.mkdir(),
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path),
    "empty": lambda path: path.write_bytes(b""),
    "blank": lambda path: path.write_bytes(b" \n\t\n\r\n"),
    "latin-1": lambda path: path.write_bytes("zoë".encode("latin-1")),
}


@pytest.mark.parametrize("name", ["names.txt", "two\nlines\x1b[31m.txt", "zoë 🙂.txt"])
@pytest.mark.parametrize("make", BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input(folder, call, make, name):
    """An input that cannot be trained on is refused in one line that names it, whatever the name consists of."""
    make(folder / name)
    before = sorted(os.listdir(folder))
    check_refusal(call("train", "--input", name, "--metrics", "m"), 1, name.partition("\n")[0][:5])
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("path", ["", ".", "missing/metrics", "input.txt/metrics", "x" * 300])
def test_bad_metrics(folder, call, path):
    """A metrics file that cannot be written is refused before training."""
    check_refusal(call("train", "--metrics", path), 1, "--metrics", repr(path)[:20])
    assert os.listdir(folder) == ["input.txt"]


def test_metrics_are_not_the_input(folder, call):
    """The metrics do not overwrite the input, whatever path names it."""
    (folder / "link").symlink_to("input.txt")
    check_refusal(call("train", "--metrics", folder / "link"), 2, "--metrics", "link")
    assert (folder / "input.txt").read_text() == "emma\nolivia\nava\n"


def test_metrics_are_not_the_settings(folder, call):
    """The metrics do not overwrite the settings file."""
    (folder / "conf.toml").write_text("num-steps = 3\n")
    check_refusal(call("train", "--config", "conf.toml", "--metrics", "./conf.toml"), 2, "--metrics", "--config")
    assert (folder / "conf.toml").read_text() == "num-steps = 3\n"


def test_mistakes_are_one_line_of_a_process(folder):
    """A separate process behaves as the tests above show within this one: exit code, one line, no traceback."""
    for arguments, code in (["train", "--seed", "-1"], 2), (["train", "--input", "missing"], 1), (["tarin"], 2):
        run = microgpt(*arguments, cwd=folder)
        check_refusal((run.returncode, run.stdout, run.stderr), code, arguments[-1])


def test_bad_instruction_set(folder):
    """An unknown instruction set is refused in one line that lists the known ones."""
    run = microgpt("train", cwd=folder, env={"MICROGPT_ISA": "mmx"})
    check_refusal((run.returncode, run.stdout, run.stderr), 2, "MICROGPT_ISA", "scalar", "'mmx'")


# ---- how it ends ----


def test_loss_not_finite(folder):
    """A loss that is not finite ends the run with exit code 3 and one line that names the step."""
    run = microgpt("train", *DIVERGE, "--num-steps", 100, "--log-every", 1, "--metrics", "m", cwd=folder)
    assert run.returncode == 3
    step = re.search(r"\nmicrogpt: step (\d+): expected a finite loss, found (inf|nan)[^\n]*\n$", run.stderr)[1]
    assert re.match("microgpt: step 1: .* try a smaller --init-std, such as 0.02\n", run.stderr)
    finite = re.findall(r"step +(\d+) /", run.stdout)
    assert len(finite) == int(step) - 1 == len((folder / "m").read_text().splitlines())


@pytest.mark.parametrize("num_steps", range(4, 14))
def test_sampling_after_divergence(folder, call, num_steps):
    """A model that diverges in its last steps does not crash, although it cannot be sampled from."""
    code, _, err = call("train", *DIVERGE, "--num-steps", num_steps)
    assert code in (0, 3) and err.count("\n") == 1 + (code == 3)  # the first line says that such a run seldom learns


@pytest.mark.parametrize("temperature", ["1e-320", "1e-300", "1e-30", "0", "1000"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_extreme_temperatures(folder, call, dtype, temperature):
    """Any temperature from 0 up draws samples; the lowest ones take the most probable token."""
    code, out, err = call(
        "train", "--dtype", dtype, "--temperature", temperature, "--num-steps", 20, "--num-samples", 4
    )
    assert (code, err) == (0, "")
    samples = re.findall(r"sample +\d+: (.*)", out)
    assert len(samples) == 4 and (len(set(samples)) == 1) == (temperature != "1000")


def test_full_disk(folder):
    """If the disk is full for stdout or the metrics, the run ends with exit code 1 and one line."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    run = microgpt("train", "--metrics", "/dev/full", cwd=folder)
    assert run.returncode == 1
    assert re.fullmatch(r"microgpt: [^\n]*/dev/full[^\n]*\n", run.stderr)
    with open("/dev/full", "w") as full:
        run = microgpt("train", cwd=folder, stdout=full)
    assert run.returncode == 1
    assert re.fullmatch(r"microgpt: [^\n]*\n", run.stderr)


def test_stdout_is_closed_early(folder):
    """When stdout is closed (| head) the run ends, and a notice says that it stopped early."""
    command = [sys.executable, "-m", "microgpt", "train", "--log-every", "1", "--num-steps", "100000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        shown = process.stderr.read().decode()
    assert process.returncode == 0
    assert re.fullmatch(
        r"microgpt: stopped because stdout was closed [^\n]* step \d+; nothing is saved [^\n]*\n", shown
    )


def test_lines_come_at_once(folder):
    """A step's line is printed immediately, not buffered."""
    command = [sys.executable, "-m", "microgpt", "train", "--log-every", "1000000000", "--num-steps", "1000000000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, bufsize=0) as process:
        ready = [select.select([process.stdout], [], [], 20)[0] and process.stdout.readline() for _ in range(4)]
        process.kill()
    assert ready[3].startswith(b"step    1 ")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(folder, number, code):
    """Interrupted or terminated, a run ends with the signal's exit code and without a traceback."""
    command = [sys.executable, "-m", "microgpt", "train", "--log-every", "1", "--num-steps", "1000000000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while b"step" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        _, error = process.communicate()
    assert process.returncode == code
    assert re.fullmatch(rb"microgpt: stopped by SIG[A-Z]+ after step \d+; nothing is saved without --out\n", error)


def test_closed_stdout(folder):
    """A run without any stdout (>&-) does not crash."""
    command = ["sh", "-c", 'exec "$0" -m microgpt train --num-steps 2 >&-', sys.executable]
    process = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert process.returncode in (0, 1) and process.stderr.count(b"\n") == process.returncode


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory():
    """The default run's peak memory is at most 30 MB above that of importing NumPy."""
    peak = r"import re; print(re.search(r'VmHWM:\s*(\d+) kB', open('/proc/self/status').read())[1])"
    run = "from microgpt.__main__ import main; main(['train'])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    megabytes = []
    for work in ("import numpy", run):
        command = [sys.executable, "-c", f"{work}\n{peak}"]
        finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        megabytes.append(int(finished.stdout.split()[-1]) * 1024 / 1e6)
    assert 1 < megabytes[1] - megabytes[0] < 30
