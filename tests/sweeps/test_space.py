"""Search spaces: how settings are read, and what samplers draw."""

import itertools
import math
import random
from dataclasses import fields

import numpy as np
import pytest
from helpers import write_names
from sweeping import needs_optuna, sweep

import microgpt
from microgpt.base.config import Config
from microgpt.base.errors import ConfigError
from microgpt.base.settings import kind
from microgpt.sweeps.records import Trial
from microgpt.sweeps.space import (
    SETTINGS,
    Between,
    grid_point,
    grid_size,
    random_point,
    space_of,
    to_json,
    tpe_points,
    values_of,
    values_of_flag,
)


def says(name, text):
    return values_of_flag(SETTINGS[name], text)


def test_what_a_flag_says():
    """Values, lists and ranges of whole numbers, numbers and text are read correctly."""
    assert says("n_embd", "16") == [16]
    assert says("n_embd", "16,8,32") == [16, 8, 32]
    assert says("n_embd", "8..64") == Between(8, 64)
    assert says("n_embd", "8..64:log") == Between(8, 64, True)
    assert says("learning_rate", "1e-3,.5,1") == [0.001, 0.5, 1.0]
    assert says("learning_rate", "1e-3...5:log") == Between(0.001, 0.5, True)
    assert says("seed", f"0..{2**63 - 1}") == Between(0, 2**63 - 1)
    assert says("dtype", "float32,float64") == ["float32", "float64"]
    assert says("input", "../a.txt,b..c") == ["../a.txt", "b..c"]


@pytest.mark.parametrize("f", fields(Config), ids=lambda f: f.name)
def test_what_is_written_is_read_back(f):
    """A flag, Python and sweep.json give the same values, for every setting."""
    one = f.default if f.metadata["choices"] or kind(f) is str else kind(f)(f.metadata["range"].high_open or 1)
    one = 0.5 if f.metadata["range"] and one not in f.metadata["range"] else one
    for text in [str(one)] + [f"{one / 2 if kind(f) is float else one}..{one + one}"] * (
        kind(f) is not str and one < 0.5
    ):
        values = values_of_flag(f, text)
        assert values_of(f, to_json(values)) == values
    assert values_of(f, one) == values_of(f, [one]) == values_of(f, (one,)) == [one]
    assert type(values_of(f, one)[0]) is kind(f)


def test_python_says_it_with_numpy_too():
    """NumPy numbers become Python numbers, and a whole number is accepted for a float."""
    assert values_of(SETTINGS["learning_rate"], np.array([0.5, 1.0])) == [0.5, 1.0]
    assert [type(v) for v in values_of(SETTINGS["n_embd"], np.arange(1, 3))] == [int, int]
    assert (
        values_of(SETTINGS["learning_rate"], 1) == [1.0] and type(values_of(SETTINGS["learning_rate"], 1)[0]) is float
    )


@pytest.mark.parametrize(
    "low, high, log",
    [(0.1234564, 0.12345641, False), (0.1234566, 0.12345661, True), (2.0000004, 3.0000006, True), (8, 9, True)],
)
def test_what_is_drawn_is_in_range(low, high, log):
    """Rounding to six digits never leaves a range."""
    values = Between(low, high, log)
    assert all(low <= values.draw(random.Random(seed)) <= high for seed in range(50))
    assert all(low <= values.rounded(x) <= high for x in (low, low * (1 - 1e-9), high, high * (1 + 1e-9)))


NUMBERS = ["", "ten", "nan", "inf", "1,", ",1", "1,,2", "1 ,2", "1..", "..1", "1..x", "2..1", "1..1", "1..2..3",
           "1..2:exp", "1..2:", "1..2:log:log", ":log", "1:log", "0x1..0x2", "1_0", "٣..٤", "1..nan", "-1..1", "1e999",
           "9" * 40]  # fmt: skip
BAD = {
    **{f.name: [*NUMBERS, *(["1.5", "1.5..3", "1,1.5"] if kind(f) is int else [])]
       for f in fields(Config) if kind(f) in (int, float)},
    "dtype": ["", "float16", "float32,", "float32,float32", "float32..float64", "float32 ,float64", "32", "1..2",
              "Float32", "float64,x", ",", "None"],
    "input": ["", "a,", ",a", "a,a", ","],
}  # fmt: skip


def is_refused(name, text):
    with pytest.raises(ConfigError, match=f"^{name}: expected .*found [^\\n]*$"):
        values_of_flag(SETTINGS[name], text)


@pytest.mark.parametrize("name", [*BAD, "schedule", "split"])
def test_bad_values_of_a_setting(name):
    """Invalid values, lists and ranges are refused with the setting's name, for every setting."""
    for text in BAD.get(name, BAD["dtype"]):
        is_refused(name, text)
    for value in (None, True, [], [None], {1}, [[1]], object(), b"1"):
        with pytest.raises(ConfigError, match=f"^{name}: expected"):
            values_of(SETTINGS[name], value)


def test_ranges_stay_within_the_setting():
    """Both ends of a range must be valid values, and a logarithmic range begins above 0."""
    for name, text in (("beta1", "0.5..1"), ("n_embd", "0..8"), ("n_embd", "8..65537"), ("val_fraction", "0.1..1"),
                       ("learning_rate", "0..1"), ("weight_decay", "0..1:log"), ("num_steps", "1..2000000000"),
                       ("seed", "0..9:log")):  # fmt: skip
        is_refused(name, text)


FLAGS = {
    "trials": ["0", "-1", "1.5", "x", "", "100001", "1e3", "nan", "9" * 30, "1,2", "1..2", "None"],
    "sampler": ["", "Grid", "random,tpe", "bayes", "1", "grid ", " grid", "optuna", "none", "None", "0", "tpe."],
    "round": ["0", "-1", "1.5", "x", "", "100001", "1e3", "nan", "9" * 30, "1,2", "1..2", "None"],
    "rungs": ["0", "-1", "1.5", "x", "20,10", "10,10", "10,", ",10", "10..20", "40", "1e1", "9" * 30],
    "sweep-seed": ["-1", "1.5", "x", "", "1e3", "nan", "9" * 30, "1,2", "1..2", "None", str(2**63), "0x1"],
    "trial-timeout": ["-1", "x", "", "nan", "inf", "9" * 30, "1,2", "1..2", "None", "1e10", "0x1", "1s"],
    "threads": ["0", "-1", "1.5", "x", "", "257", "1e3", "nan", "9" * 30, "1,2", "1..2", "None"],
    "recipe": ["", "x", "nothing", "0", "../x", "Names", "a,b", "1..2", "None", " ", "recipes", "-"],
    "config": ["", "x", "nothing", "0", "../x", "Names", "a,b", "1..2", "None", " ", ".", "names.txt"],
    "resume": ["", "x", "nothing", "0", "../x", "names.txt", "a,b", "1..2", "None", " ", ".", "names.txt/x"],
}


@pytest.mark.parametrize("name", FLAGS)
def test_bad_values_of_a_flag(name, tmp_path, monkeypatch, capsys):
    """A wrong flag gives one line that names it and exit code 2 (1 without a sweep to resume); nothing is written."""
    from microgpt.__main__ import main

    monkeypatch.chdir(tmp_path)
    write_names(tmp_path / "names.txt")
    for value in FLAGS[name]:
        rest = [] if name == "resume" else ["s", "--input", "names.txt", "--num-steps", "40"]
        rest += [] if name in ("resume", "trials") else ["--trials", "3"]
        code = main(["sweep", *rest, f"--{name}={value}", "--executor", "thread:1"])
        stderr = capsys.readouterr().err
        assert code == (1 if name == "resume" else 2), (value, stderr)
        assert stderr.count("\n") == 1 and stderr.startswith(f"microgpt: --{name}: "), (value, stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["names.txt"]


@pytest.mark.parametrize(
    "flags, name",
    [
        (["--trials", "0"], "--trials: expected at least 1, or --sampler grid"),
        (
            ["--n-embd", "10", "--n-head", "4"],
            "all of the first 3 trials have impossible settings: --n-head: expected a divisor",
        ),
        (
            ["--n-embd", "10", "--n-head", "4,3", "--round", "2"],
            "all of the first 2 trials have impossible settings: --n-head: expected",
        ),
        (["--val-fraction", "0"], "val-fraction"),
        (["--rungs", "10", "--num-steps", "5..10"], "rungs"),
        (["--sampler", "grid", "--learning-rate", "0.1..1"], "learning-rate"),
        (["--sampler", "grid", "--n-embd", "8..16:log"], "n-embd"),
        (["--sampler", "grid", "--n-embd", "8,16"], "trials"),
        (["--sampler", "grid", "--trials", "0", "--seed", "0..1000000"], "seed"),
        (["--sampler", "grid", "--trials", "0", "--seed", "0..999", "--n-embd", "8..999"], "trials"),
        (["--input", "missing.txt"], "missing.txt"),
        (["--input", "."], "."),
    ],
)
def test_what_does_not_go_together(flags, name, tmp_path):
    """A space in which no trial can be trained gives one line, before anything is written."""
    write_names(tmp_path / "names.txt")
    process = sweep("s", "--trials", 3, "--input", "names.txt", *flags, cwd=tmp_path)
    assert process.returncode == (1 if "--input" in flags else 2) and name in process.stderr and process.stderr
    assert not (tmp_path / "s").exists()


def test_neither_or_both_directories(tmp_path):
    """Giving neither a directory nor one to resume, or both, is an error."""
    for flags in ([], ["a", "--resume", "b"]):
        process = sweep(*flags, "--trials", 3, cwd=tmp_path)
        assert process.returncode == 2 and "--resume" in process.stderr
    with pytest.raises(TypeError, match="unknown setting 'n_embed'; did you mean 'n_embd'"):
        microgpt.sweep(tmp_path / "s", trials=1, n_embed=8)


# ---- samplers ----

SPACE = space_of({"n_embd": [8, 16, 32], "learning_rate": "1e-4..1e-1:log", "seed": "0..2", "dtype": ["float32"]})


def test_the_grid_is_the_product():
    """The grid has every combination once, the last setting changing fastest, with all numbers of a range."""
    space = space_of({"n_embd": [8, 16, 32], "seed": "1..4", "n_layer": [2], "dtype": ["float32", "float64"]})
    assert list(space) == ["seed", "n_layer", "n_embd", "dtype"]  # the order of Config
    product = itertools.product(range(1, 5), [2], [8, 16, 32], ["float32", "float64"])
    expected = [dict(zip(space, values)) for values in product]
    assert [grid_point(space, i) for i in range(grid_size(space))] == expected


def test_random_trials_depend_on_nothing_but_their_number():
    """A random trial depends only on the seed and its number."""
    first = [random_point(SPACE, 1, i) for i in range(50)]
    assert [random_point(SPACE, 1, i) for i in reversed(range(50))] == first[::-1]
    assert [random_point(SPACE, 2, i) for i in range(50)] != first
    assert random_point(SPACE, 1, 0) == {"seed": 1, "n_embd": 8, "learning_rate": 0.00569896, "dtype": "float32"}


def test_what_is_drawn_for_a_setting_depends_on_no_other():
    """A random sweep draws the same values of a setting, whatever the ranges of the other settings."""
    other = SPACE | space_of({"num_steps": [1000], "n_embd": "8..64", "dtype": ["float32", "float64"]})
    for i in range(50):
        one, two = random_point(SPACE, 1, i), random_point(other, 1, i)
        assert (one["learning_rate"], one["seed"]) == (two["learning_rate"], two["seed"])


@needs_optuna
def test_tpe_is_not_asked_what_is_fixed():
    """Fixed settings do not change what TPE draws for the others."""
    fixed = space_of({"num_steps": [1000], "batch_size": [2]})
    asked = tpe_points(SPACE, 0, range(8), [])
    assert [s | {"num_steps": 1000, "batch_size": 2} for s in asked] == tpe_points(fixed | SPACE, 0, range(8), [])


def test_random_trials_are_spread_as_they_should():
    """Values are equally likely, and in a logarithmic range, decades are; both ends are included."""
    n = 6000
    drawn = [random_point(SPACE, 3, i) for i in range(n)]
    bound = 5 * math.sqrt(n / 3 * 2 / 3)  # five standard deviations of a count with probability 1/3
    for name, values in (("n_embd", [8, 16, 32]), ("seed", [0, 1, 2])):
        for value in values:
            assert abs(sum(t[name] == value for t in drawn) - n / 3) < bound
    for low in (1e-4, 1e-3, 1e-2):
        assert abs(sum(low <= t["learning_rate"] < 10 * low for t in drawn) - n / 3) < bound
    rng = random.Random(0)
    whole = [Between(1, 8, log=True).draw(rng) for _ in range(n)]  # k as often as log(k + 1) - log(k)
    for k in range(1, 9):
        p = math.log((k + 1) / k) / math.log(9)
        assert abs(whole.count(k) - n * p) < 5 * math.sqrt(n * p * (1 - p))


def told(space, loss, settings):
    return [Trial(i, s, "done", 10, loss(s), []) for i, s in enumerate(settings)]


@needs_optuna
def test_tpe_goes_where_losses_are_small():
    """TPE finds better learning rates than chance, and is deterministic."""

    def loss(settings):
        return abs(math.log10(settings["learning_rate"]) + 2.5)

    asked = []
    for start in range(0, 40, 8):
        before = told(SPACE, loss, asked)
        new = tpe_points(SPACE, 0, range(start, start + 8), before)
        assert tpe_points(SPACE, 0, range(start, start + 8), before) == new
        asked += new
    chance = sum(loss(random_point(SPACE, 0, i)) for i in range(1000)) / 1000
    assert sum(map(loss, asked[24:])) / 16 < 0.7 * chance
    assert all(1e-4 <= s["learning_rate"] <= 1e-1 and s["seed"] in range(3) and s["dtype"] == "float32" for s in asked)


@needs_optuna
def test_tpe_is_told_of_all_kinds_of_ends():
    """TPE takes failed, timed-out and stopped trials into account."""
    settings = [random_point(SPACE, 0, i) for i in range(20)]
    done = told(SPACE, lambda s: s["learning_rate"], settings)
    other = [
        Trial(t.trial, t.settings, "stopped", 5, t.val_loss, [(5, t.val_loss)]) if t.trial % 2 else t for t in done
    ]
    ends = ("failed", "invalid", "died", "timeout")
    failed = [Trial(t.trial, t.settings, ends[t.trial % 4]) if t.trial > 3 else t for t in done]
    found = [tpe_points(SPACE, 0, range(20, 24), before) for before in (done, other, failed)]
    assert all(found[i] != found[j] for i, j in ((0, 1), (0, 2)))
