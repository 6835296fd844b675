"""Flags and settings files: a value out of range is refused, with its name, before anything is written."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest
from helpers import microgpt, write_names

from microgpt import load
from microgpt.__main__ import main
from microgpt.base.config import Config, Sampling
from microgpt.base.config_file import read_toml, to_toml
from microgpt.base.errors import ConfigError
from microgpt.base.settings import flag
from microgpt.core.trainer import Trainer
from microgpt.runs.loop import draw_samples

NUMBERS = ["nan", "inf", "-inf", "1e400", str(2**63), str(10**20), "9" * 5000, "1_000", "١٢", "", "ten", "0x10", " 1"]
NUMBERS += ["-1"]
TRAIN = {
    "seed": ["1.5"],
    "num-steps": ["0", "1.5"],
    "batch-size": ["0", "1.5"],
    "shards": ["0", "1.5", "2", "3"],  # 2: of a batch of 1
    "n-layer": ["0", "1.5"],
    "n-embd": ["0", "1.5"],
    "n-head": ["0", "1.5"],
    "block-size": ["0", "1.5"],
    "log-every": ["0", "1.5"],
    "num-samples": ["1.5"],
    "learning-rate": ["0", "1e-400"],
    "beta1": ["1"],
    "beta2": ["1.0"],
    "eps": ["0"],
    "init-std": ["0"],
    "temperature": [],
    "val-fraction": ["1", "1.0", "1.5", "-0.1"],
    "val-split": ["lines", ""],
    "val-seed": ["-1", "1.5", "1"],  # 1: without --val-fraction
    "eval-every": ["1.5"],
    "patience": ["1.5", "1"],  # 1: without --val-fraction
    "checkpoint-every": ["1.5"],
    "sample-every": ["1.5"],
    "warmup-steps": ["1.5", "-2"],
    "min-learning-rate": ["-1e-9", "0.011"],  # more than the learning rate
    "weight-decay": ["-0.1"],
    "grad-clip": ["-0.1"],
}
SAMPLE = {
    "num-samples": ["1.5"],
    "temperature": ["1001", "-0.1"],
    "top-k": ["1.5"],
    "top-p": ["0", "1.01"],
    "length": ["1.5", str(2**31)],
    "seed": ["1.5"],
}
WORDS = [
    "float16",
    "Float64",
    "float",
    "64",
    "double",
    "f8",
    "",
    " float64",
    "float64 ",
    "float32,float64",
    "None",
    "0",
]
CHOICES = [
    "",
    "Line",
    "lines",
    "none ",
    "None",
    "0",
    "1",
    "blank line",
    "blank_line",
    "linear,cosine",
    "step",
    "LINEAR",
]
CHOICES += ["\n", "\u202e", "x" * 10**4]
PROMPTS = ["Z", "aZ", "é", "a b", "0", "\n", "\t", "-", "a" * 16, "ab" * 20, "🙂", "A"]
CASES = [("train", name, text) for name, more in TRAIN.items() for text in NUMBERS + more]
CASES += [("sample", name, text) for name, more in SAMPLE.items() for text in NUMBERS + more]
CASES += [("train", "dtype", text) for text in WORDS]
CASES += [("train", name, text) for name in ("split", "schedule") for text in CHOICES]
CASES += [("train", "recipe", text) for text in [*CHOICES, "reference.toml", "../recipes/reference", "/etc/passwd"]]
CASES += [("sample", "prompt", text) for text in PROMPTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory that contains a run."""
    folder = tmp_path_factory.mktemp("flags")
    flags = ["--input", write_names(folder / "input.txt"), "--num-steps", 3, "--num-samples", 0]
    assert microgpt("train", "--out", "run", *flags, cwd=folder).returncode == 0
    return folder


def refused(capfd, *arguments):
    """The message of main() in this process, which must be one line on stderr, with exit code 2."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capfd.readouterr()
    assert code == 2 and out == "" and err.count("\n") == 1 and err[:-1].isprintable(), (code, err)
    return err


@pytest.mark.parametrize("command, name, text", CASES, ids=lambda text: text[:12] or "empty")
def test_bad_values(folder, monkeypatch, capfd, command, name, text):
    """A bad value of any flag gives exit code 2 and one line with the flag and the value; nothing is written."""
    monkeypatch.chdir(folder)
    before = sorted(os.listdir(folder))
    arguments = ["--out", "new", "--metrics", "m"] if command == "train" else ["run"]
    message = refused(capfd, command, *arguments, f"--{name}={text}")
    assert message.startswith("microgpt") and f"--{name}: expected " in message and ", found " in message
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("command, settings", [("train", Config), ("sample", Sampling)])
def test_no_flag_is_left_out(command, settings):
    """The bad values above cover every setting except the input, for which any path is allowed."""
    tried = {name for of, name, _ in CASES if of == command}
    assert {flag(f.name).removeprefix("--") for f in fields(settings)} - {"input"} <= tried


USAGE = [["sample"], ["sample", "run", "run"], ["sample", "run", "--top", "3"], ["eval"], ["eval", "run", "--probs"],
         ["score", "run"], ["score"], ["info", "run"], ["plot", "run"], ["train", "--checkpoint", "5"],
         ["train", "--out"], ["train", "--resume"], ["train", "--config"], ["sample", "run", "--probs=1"],
         ["sample", "run", "--json=x"]]  # fmt: skip


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_bad_usage(folder, monkeypatch, capfd, arguments):
    """Missing, superfluous or abbreviated arguments are refused in one line that refers to --help."""
    monkeypatch.chdir(folder)
    assert "--help" in refused(capfd, *arguments)


# ---- files of settings ----

BAD_TOML = {
    "unknown": ("num-stesp = 10", "'num-stesp'; did you mean 'num-steps'?"),
    "unknown, nothing near": ("zzz = 10", "'zzz'"),
    "path": ('out = "run"', "'out'"),
    "twice": ("n-embd = 8\nn_embd = 8", "two spellings"),
    "same key twice": ("n-embd = 8\nn-embd = 8", "--config"),
    "no TOML": ("hello", "--config"),
    "not UTF-8": (b"input = '\xff'", "--config"),
    "table": ("[n-embd]\nx = 1", "--n-embd: expected a whole number"),
    "text": ('n-embd = "8"', "--n-embd: expected a whole number"),
    "real": ("n-embd = 8.0", "--n-embd: expected a whole number"),
    "bool": ("n-embd = true", "--n-embd: expected a whole number"),
    "out of range": ("n-embd = 0", "--n-embd: expected a whole number at least 1"),
    "nan": ("learning-rate = nan", "--learning-rate: expected a number above 0"),
    "inf": ("learning-rate = inf", "--learning-rate"),
    "date": ("seed = 2020-01-01", "--seed"),
    "list": ("seed = [1]", "--seed"),
    "too large": ("seed = 9223372036854775808", "--seed"),
    "5,000 digits": ("seed = " + "9" * 5000, "--config"),
    "deep": ("seed = " + "[" * 100_000, "--config"),
}


@pytest.mark.parametrize("text, named", BAD_TOML.values(), ids=BAD_TOML.keys())
def test_bad_settings(folder, monkeypatch, capfd, text, named):
    """A mistake in a settings file gives exit code 2 and names the file, the key and the closest setting."""
    monkeypatch.chdir(folder)
    (folder / "settings").write_bytes(text if type(text) is bytes else text.encode())
    message = refused(capfd, "train", "--config", "settings", "--out", "new")
    assert named in message and "settings" in message
    assert not (folder / "new").exists()


@pytest.mark.parametrize("name", ["seed", "n_head", "num_steps"])
def test_huge_whole_numbers(name, tmp_path):
    """A number too long for repr() is refused like any other, from Python and from a file."""
    with pytest.raises(ConfigError, match="found a whole number of thousands of digits"):
        Config(**{name: 10**5000})
    (tmp_path / "settings").write_text(f"{name} = 0x{'F' * 5000}")
    with pytest.raises(ConfigError, match="found a whole number of thousands of digits"):
        read_toml(str(tmp_path / "settings"))


@pytest.mark.parametrize("path", ["missing", ".", "", "input.txt/x", "x" * 300])
def test_no_settings(folder, monkeypatch, capfd, path):
    """A settings file that cannot be read gives exit code 2."""
    monkeypatch.chdir(folder)
    assert "--config: expected a TOML file" in refused(capfd, "train", "--config", path)


def test_command_line_over_file_over_defaults(folder):
    """A flag overrides the file, which overrides the default; a name may have hyphens or underscores."""
    (folder / "settings").write_text('input = "input.txt"\nnum_steps = 7\nn-embd = 8\nlearning-rate = 1\n')
    out = microgpt("train", "--config", "settings", "--num-steps", 5, "--out", "merged", "--num-samples=0", cwd=folder)
    assert out.returncode == 0 and "/    5 |" in out.stdout
    found = read_toml(str(folder / "merged" / "config.toml"))
    assert (found["num_steps"], found["n_embd"], found["n_head"], found["learning_rate"]) == (5, 8, 4, 1.0)


def test_a_run_is_repeated_from_its_settings(folder):
    """Training with a run's config.toml repeats the run exactly."""
    for name, arguments in ("a", ["--n-embd", 8, "--num-steps", 9]), ("b", ["--config", "a/config.toml"]):
        flags = ["--input", "input.txt"] if name == "a" else []
        assert microgpt("train", "--out", name, *flags, *arguments, cwd=folder).returncode == 0
    assert (folder / "a" / "checkpoint.npz").read_bytes() == (folder / "b" / "checkpoint.npz").read_bytes()


@pytest.mark.parametrize("path", ["a", 'quo"te', "back\\slash", "new\nline", "zoë 🙂", "\x7f\x01"])
def test_settings_round_trip(tmp_path, path):
    """A written settings file reads back as the same settings."""
    config = Config(input=path, learning_rate=1e-300, eps=1e-8, seed=2**63 - 1)
    (tmp_path / "c").write_text(to_toml(config), encoding="utf-8")
    assert Config(**read_toml(str(tmp_path / "c"))) == config


# ---- other files ----


@pytest.mark.parametrize("run", ["missing", ".", "input.txt", "", "run/config.toml", "/dev/zero", "x" * 300])
@pytest.mark.parametrize("command", ["sample", "eval", "score"])
def test_no_run(folder, monkeypatch, capfd, command, run):
    """A path that is not a run gives exit code 1 and one line that names it."""
    monkeypatch.chdir(folder)
    code = main([command, run] + ["ab"] * (command == "score"))
    out, err = capfd.readouterr()
    assert code == 1 and out == "" and err.count("\n") == 1 and run[:50] in err


def test_metrics_in_the_run(folder, monkeypatch, capfd):
    """--metrics never overwrites a run's files nor adds one, whatever path it is given."""
    monkeypatch.chdir(folder)
    before = (folder / "run" / "checkpoint.npz").read_bytes()
    (folder / "link").symlink_to("run")
    for path in "run/checkpoint.npz", "run/../run/metrics.jsonl", "link/new":
        assert "--metrics" in refused(capfd, "train", "--resume", "run", "--metrics", path)
    assert (folder / "run" / "checkpoint.npz").read_bytes() == before


def test_samples_while_training(folder):
    """--sample-every prints samples during training and changes nothing else."""
    flags = ["train", "--input", "input.txt", "--num-steps", 20, "--log-every", 7]
    plain = microgpt(*flags, cwd=folder).stdout
    shown = microgpt(*flags, "--sample-every", 8, cwd=folder).stdout
    lines = [line for line in shown.splitlines(keepends=True) if "| samples " in line]
    assert [line.split("/")[0] for line in lines] == ["step    8 ", "step   16 "]
    assert "".join(line for line in shown.splitlines(keepends=True) if line not in lines) == plain


def test_samples_of_running_text_while_training(folder):
    """For running text, --sample-every prints each sample as an indented block, with its newlines."""
    flags = ["train", "--input", "input.txt", "--split", "none", "--num-steps", 2, "--num-samples", 0]
    plain = microgpt(*flags, cwd=folder).stdout
    shown = microgpt(*flags, "--sample-every", 2, cwd=folder).stdout
    added = shown.removeprefix(plain)
    assert added.startswith("step    2 /    2 | samples\n  ") and "\\n" not in added
    texts = draw_samples(trainer_of(folder, split="none", num_steps=2))
    assert "\n" in "".join(texts)
    blocks = ["  " + text.replace("\n", "\n  ") for text in texts]
    assert added == "step    2 /    2 | samples\n" + "\n\n".join(blocks) + "\n"


def trainer_of(folder, **settings):
    trainer = Trainer(Config(str(folder / "input.txt"), **settings))
    trainer.steps(trainer.config.num_steps, [], ())
    return trainer


def test_one_sample_of_running_text(folder):
    """Of running text, `sample` and an exported program print one sample, as it is; of lines, and of several, more."""
    flags = ["--input", "input.txt", "--split", "none", "--num-steps", 5, "--num-samples", 0]
    assert microgpt("train", *flags, "--out", "text", cwd=folder).returncode == 0
    model = load(folder / "text")
    assert microgpt("export", "text", "-o", "text.py", cwd=folder).returncode == 0
    program = subprocess.run([sys.executable, "text.py"], cwd=folder, capture_output=True, encoding="utf-8")
    assert microgpt("sample", "text", cwd=folder).stdout == model.sample(1)[0] + "\n" == program.stdout
    several = [f"sample {i:2d}:\n{text}\n\n" for i, text in enumerate(model.sample(3), 1)]
    assert microgpt("sample", "text", "--num-samples", 3, cwd=folder).stdout == "".join(several)
    assert microgpt("sample", "text", "--json", cwd=folder).stdout.count("\n") == 1
    probs = microgpt("sample", "text", "--length", 2, "--probs", cwd=folder).stdout
    assert probs.startswith(model.sample(1, length=2)[0]) and probs.count(" 0.") == 2
    assert microgpt("sample", "run", cwd=folder).stdout.count("sample ") == 20
