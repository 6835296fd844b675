"""The Python API does what the command line does."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import INPUT, PACKAGE, ROOT, TINY, golden, tiny_trainer, write_names

import microgpt
from microgpt.__main__ import main
from microgpt.base.config import Config
from microgpt.base.config_file import read_recipe, recipes, with_recipe
from microgpt.core.trainer import Trainer
from microgpt.export import trace
from microgpt.runs import run


def test_train_and_load(tmp_path):
    """train() returns a model, and load() returns the same model from the run's directory."""
    out = str(tmp_path / "run")
    names = Path(write_names(tmp_path / "names.txt"))  # a Path works like a str
    trained = microgpt.train(input=names, out=out, metrics=str(tmp_path / "m"), **TINY)
    loaded = microgpt.load(out)
    assert trained.sample(9) == loaded.sample(9) and trained.score("ab") == loaded.score("ab")
    assert (tmp_path / "m").read_bytes() == (tmp_path / "run" / run.METRICS).read_bytes()
    assert microgpt.train(resume=out, num_steps=12).config.num_steps == 12


def test_texts(tmp_path):
    """train() on a list of texts is train() on a file that has them; to resume, the run needs either again."""
    texts = Path(write_names(tmp_path / "names.txt")).read_text().split("\n")
    settings = TINY | {"block_size": 8, "val_fraction": 0.2}
    model, same = (microgpt.train(source, **settings) for source in (texts, str(tmp_path / "names.txt")))
    assert model.sample(9) == same.sample(9) and model.history.losses == same.history.losses
    assert model.data_sha256 == same.data_sha256
    assert model.held_out() == same.held_out() == same.held_out(texts)
    out = tmp_path / "run"
    microgpt.train(texts, out=out, **settings)
    with pytest.raises(microgpt.DataError, match="texts that were given in Python; set input to them, or to a file"):
        microgpt.train(resume=out, num_steps=9)
    with pytest.raises(microgpt.DataError, match="expected the documents that the run started with"):
        microgpt.train(texts[1:], resume=out, num_steps=9)
    assert microgpt.train(texts, resume=out, num_steps=9).step == 9
    assert microgpt.train(tmp_path / "names.txt", resume=out, num_steps=10).step == 10


def test_warnings(tmp_path):
    """What commands print as a notice, Python code gets as a warning that points to its own line."""
    pytest.importorskip("safetensors", reason="needs safetensors, to write a file of weights")
    names, cut = write_names(tmp_path / "names.txt"), "names.txt: block_size 4 cuts off the ends of"
    runs = {
        "train": lambda: microgpt.train(names, out=tmp_path / "run", **TINY),
        "resume": lambda: microgpt.train(resume=tmp_path / "run", num_steps=9),
        "Trainer": lambda: Trainer(Config(input=names, **TINY)),
        "trace": lambda: trace.to_bytes(Config(input=names, **TINY), 1),
        "report": lambda: microgpt.load(tmp_path / "run").report(tmp_path / "page.html"),
        "sweep": lambda: microgpt.sweep(
            tmp_path / "s", input=names, trials=2, sampler="grid", executor="thread:1", **TINY | {"block_size": [4, 8]}
        ),
    }
    for name, run_it in runs.items():
        with pytest.warns(microgpt.MicrogptWarning) as found:
            run_it()
        assert [cut in str(warning.message) for warning in found] == [True], name
        assert found[0].filename == __file__, name
    with pytest.warns(microgpt.MicrogptWarning, match=r"^step 1: expected a loss near .*a smaller init_std"):
        microgpt.train(names, **TINY | {"block_size": 16, "init_std": 9.0, "num_steps": 1})


def test_history(tmp_path):
    """The history has the losses in the metrics: after a resume, those of the new steps; after load(), all of them."""
    out, names = tmp_path / "run", write_names(tmp_path / "names.txt")

    def lines(first):
        found = [json.loads(line) for line in (out / run.METRICS).read_text().splitlines()][first:]
        val_losses = [(line["step"], line["val_loss"]) for line in found if "val_loss" in line]
        return [line["step"] for line in found], [line["loss"] for line in found], val_losses

    for settings, first in (
        ({"out": out, "input": names, "val_fraction": 0.1, "eval_every": 3} | TINY, 0),
        ({"resume": out, "num_steps": 15}, 8),
    ):
        history = microgpt.train(**settings).history
        assert (list(history.steps), list(history.losses), history.val_losses) == lines(first)
    assert [step for step, _ in history.val_losses] == [9, 12, 15]
    history = microgpt.load(out).history
    assert (list(history.steps), list(history.losses), history.val_losses) == lines(0)


def test_save(tmp_path):
    """save() writes the run's checkpoint, byte for byte, whether the model was trained or loaded."""
    out, names = tmp_path / "run", write_names(tmp_path / "names.txt")
    model = microgpt.train(names, out=out, **TINY)
    wanted = (out / run.CHECKPOINT).read_bytes()
    for each in (model, microgpt.train(names, **TINY), microgpt.load(out), microgpt.load(out / run.CHECKPOINT)):
        each.save(tmp_path / "model.npz")
        assert (tmp_path / "model.npz").read_bytes() == wanted
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "missing" / "model.npz")
    with pytest.raises(TypeError, match="path: expected a path, found 1"):
        model.save(1)
    for name in ("model.safetensors", "model.py", "model"):
        with pytest.raises(
            microgpt.ConfigError, match=f"save: expected a name that ends in .npz, found '.*{name}'; export"
        ):
            model.save(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_what_commands_do(tmp_path, monkeypatch):
    """report(), export() and plot() write the same bytes as the commands do for the run."""
    pytest.importorskip("safetensors", reason="needs safetensors, to write a file of weights")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    write_names(tmp_path / "names.txt")
    model = microgpt.train("names.txt", out="run", val_fraction=0.2, eval_every=2, **TINY)
    assert model.num_params == sum(array.size for array in model.params.values())
    for ending in ("html", "py", "safetensors"):
        main(["export", "run", "-o", f"by-command.{ending}"])
        model.export(Path(f"run.{ending}"))
        assert Path(f"run.{ending}").read_bytes() == Path(f"by-command.{ending}").read_bytes()
    main(["report", "run", "-o", "by-command.html"])
    model.report(Path("run.html"))
    assert Path("run.html").read_bytes() == Path("by-command.html").read_bytes()
    main(["plot", "run", "-o", "by-command.svg", "--no-raw"])
    microgpt.plot(Path("run"), "run.svg", raw=False)
    assert Path("run.svg").read_bytes() == Path("by-command.svg").read_bytes()
    microgpt.plot(["run", "run/metrics.jsonl"], "two.png")


def test_what_is_wrong_with_a_path(tmp_path):
    """Messages name the argument: `path` for the file to write, `texts` for texts, `runs` for runs."""
    model = microgpt.Model(tiny_trainer(tmp_path).checkpoint())
    for write in (model.report, model.export, lambda path: microgpt.plot("run", path)):
        with pytest.raises(microgpt.ConfigError, match=r"^path: expected a name that ends in .*, found 'model.txt'$"):
            write("model.txt")
        with pytest.raises(TypeError, match=r"^path: expected a path, found 1$"):
            write(1)
    with pytest.raises(microgpt.DataError, match=r"^path: expected a writable file, found "):
        model.export(tmp_path / "missing" / "model.html")
    with pytest.raises(microgpt.ConfigError, match=r"^texts: expected characters of the vocabulary"):
        model.report(tmp_path / "report.html", texts=["anna!"])
    with pytest.raises(TypeError, match=r"^runs: expected a path, found 1$"):
        microgpt.plot([1], "losses.png")


def test_short_texts_of_objects(tmp_path):
    """The repr of every public object is one short line, however large the object is."""
    trainer = tiny_trainer(tmp_path)
    model = microgpt.Model(trainer.checkpoint())
    text = "abba" * 1000
    objects = [model, model.score("abc"), model.evaluate([text]), trainer.documents, trainer.dataset]
    objects += [trainer.params, model.inspect("ab"), microgpt.sweep(tmp_path / "sweep", executor="thread:1",
                sampler="grid", input=tmp_path / "names.txt", **TINY)[0]]  # fmt: skip
    for each in objects:
        found = repr(each)
        assert len(found) < 600 and " at 0x" not in found and "\n" not in found


def test_a_saved_model_is_as_it_was(tmp_path):
    """A model made from a trainer does not change when the trainer makes another step."""
    trainer = tiny_trainer(tmp_path)
    trainer.step()
    model = microgpt.Model(trainer.checkpoint())
    model.save(tmp_path / "before.npz")
    trainer.step()
    model.save(tmp_path / "after.npz")
    assert (tmp_path / "before.npz").read_bytes() == (tmp_path / "after.npz").read_bytes()


def test_recipe(tmp_path):
    """A recipe has the settings of its file, given settings override them, and `reference` is the defaults."""
    assert Config(**read_recipe("reference")) == Config()
    names = write_names(tmp_path / "names.txt")
    small = {"num_steps": 1, "n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 4, "warmup_steps": 0}
    for name in recipes():
        wanted = Config(**read_recipe(name) | small | {"input": names})
        assert microgpt.train(names, recipe=name, **small).config == wanted
    with pytest.raises(microgpt.ConfigError, match=r"recipe: expected one of .*, found 'refrence'; did you mean"):
        microgpt.train(names, recipe="refrence")


@pytest.mark.parametrize("name", recipes())
@pytest.mark.parametrize("num_steps", [1, 9, 50, 999, 10**6])
def test_recipes_fit_any_length(name, num_steps):
    """A recipe works with any number of steps: its warm-up is at most a tenth of them, unless a user gives it."""
    recipe, settings = read_recipe(name), with_recipe(name, {"num_steps": num_steps})
    config = Config(**settings)
    assert config.warmup_steps == min(recipe.get("warmup_steps", 0), num_steps // 10)
    assert Config(**with_recipe(name, {"learning_rate": 1e-5})).min_learning_rate < 1.01e-6
    assert with_recipe(name, {"num_steps": [num_steps, 10**7]})["num_steps"] == [num_steps, 10**7]
    given = {"num_steps": 50, "warmup_steps": 100}
    with pytest.raises(microgpt.ConfigError, match=r"^warmup_steps: expected at most num_steps 50, found 100"):
        Config(**with_recipe(name, given))


@pytest.mark.parametrize("fails", [False, True])
def test_progress(tmp_path, monkeypatch, capsys, fails):
    """progress=True shows a bar of all steps on stderr, closed even after an error; nothing goes to stdout."""
    pytest.importorskip("tqdm")
    names = write_names(tmp_path / "names.txt")
    if fails:
        monkeypatch.setattr(Trainer, "measure", lambda trainer: 1 / 0)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        microgpt.train(names, progress=True, val_fraction=0.1, **TINY)
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and ("8/8" in err and "loss" in err) != fails


def test_it_is_the_reference(tmp_path):
    """With the default settings, the trained weights are those of the reference."""
    model = microgpt.train(input=str(INPUT))
    for name, (_, first, last) in golden("input_default")["final_params_sum_first_last"].items():
        assert model.params[name][0, 0] == pytest.approx(first, abs=1e-10)
        assert model.params[name][-1, -1] == pytest.approx(last, abs=1e-10)


def test_errors(tmp_path):
    """Each mistake raises the public error for it, which is a ValueError or an ArithmeticError."""
    names = write_names(tmp_path / "names.txt")
    with pytest.raises(microgpt.ConfigError, match="n_embd"):
        microgpt.train(input=names, n_embd="16")
    with pytest.raises(microgpt.DataError, match="missing"):
        microgpt.train(input=str(tmp_path / "missing"))
    with pytest.raises(microgpt.CheckpointError):
        microgpt.load(str(tmp_path))
    with pytest.raises(microgpt.NotFiniteError):
        microgpt.train(input=names, beta2=0, beta1=0.9, init_std=1, learning_rate=1000, **TINY | {"num_steps": 500})
    with pytest.raises(TypeError):
        microgpt.train(input=names, n_embed=16)
    model = microgpt.Model(tiny_trainer(tmp_path).checkpoint())
    for call in (model.score, lambda wrong: model.sample(prompt=wrong)):
        with pytest.raises(microgpt.ConfigError, match="expected text, found a whole number of thousands of digits"):
            call(10**5000)
    assert issubclass(microgpt.CheckpointError, ValueError)


def test_a_failed_run_is_closed(tmp_path):
    """After an error, the run's directory is unlocked."""
    names, out = write_names(tmp_path / "names.txt"), str(tmp_path / "run")
    with pytest.raises(microgpt.NotFiniteError):
        microgpt.train(input=names, out=out, beta2=0, beta1=0.9, init_std=1, learning_rate=1000, num_steps=500)
    run.Run(out).resume()


def test_what_is_refused_leaves_no_trace(tmp_path):
    """A bad input creates no directory, and a bad directory leaves the metrics file unchanged."""
    out, metrics = tmp_path / "run", tmp_path / "m"
    with pytest.raises(microgpt.DataError):
        microgpt.train(tmp_path / "missing.txt", out=out)
    assert not out.exists()
    out.mkdir()
    (out / "config.toml").touch()
    metrics.write_text("mine")
    with pytest.raises(microgpt.ConfigError, match="out"):
        microgpt.train(write_names(tmp_path / "names.txt"), out=out, metrics=metrics)
    assert metrics.read_text() == "mine"


def test_a_directory_that_is_not_empty(tmp_path):
    """A new run is refused in the directory of another; the message suggests resume only if there is a checkpoint."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.toml").write_text("")
    with pytest.raises(microgpt.ConfigError, match=r"found config.toml in '\S+'; fresh=True replaces it$"):
        microgpt.train(input=write_names(tmp_path / "names.txt"), out=str(out))
    (out / "checkpoint.npz").write_text("")
    with pytest.raises(microgpt.ConfigError, match=r"; resume='\S+' continues it, fresh=True replaces it$"):
        microgpt.train(input=str(tmp_path / "names.txt"), out=str(out))


def test_names():
    """Every public name can be imported, and no other; only two of them are modules."""
    for name in microgpt.__all__:
        assert isinstance(getattr(microgpt, name), ModuleType) == (name in ("kernels", "checkpoint"))
    with pytest.raises(AttributeError):
        microgpt.nothing  # noqa: B018


def test_default_input_elsewhere(tmp_path, monkeypatch):
    """Without input.txt in the directory, train() uses the names that come with the package, and so does held_out()."""
    monkeypatch.chdir(tmp_path)
    settings = {**TINY, "val_fraction": 0.1}
    with pytest.warns(microgpt.MicrogptWarning, match="not found in this directory"):
        found = microgpt.train(**settings)
    same = microgpt.train(str(INPUT), **settings)
    assert found.history.losses == same.history.losses
    assert found.held_out() == same.held_out(INPUT)


@pytest.mark.skipif(PACKAGE.parent != ROOT, reason="needs a checkout")
def test_every_file_is_installed(tmp_path):
    """An installation has every file of the package, including recipes, the C sources and the default input."""
    setup = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q"]
    command = [*setup, "egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    files = [path for path in PACKAGE.rglob("*.*") if path.suffix not in (".so", ".pyc")]
    assert len(files) > 30
    assert [path for path in files if not (tmp_path / path.relative_to(ROOT)).exists()] == []
    beside = [INPUT, *(ROOT / "csrc").iterdir()]
    installed = [tmp_path / "microgpt" / path.relative_to(ROOT) for path in beside]
    assert [path.read_bytes() for path in installed] == [path.read_bytes() for path in beside]


def test_import_is_light():
    """Importing the package, or training, imports no module that only other features need."""
    heavy = [
        "zipfile",
        "tomllib",
        "tqdm",
        "matplotlib",
        "numpy.random",
        "microgpt.runs.checkpoint",
        "microgpt.report.plot",
    ]
    code = f"import sys, microgpt; print([name for name in {heavy} + ['numpy'] if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    code = "import sys; from microgpt.__main__ import main; "
    code += f"main(['train', '--num-steps', '1', '--input', {str(INPUT)!r}]); "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.endswith("\n[]\n")


def test_integers_for_reals():
    """A setting that is a float accepts an int: learning_rate=1 becomes 1.0."""
    assert type(Config(learning_rate=1).learning_rate) is float


def test_numbers_of_numpy():
    """Settings accept NumPy scalars and store them as Python numbers."""
    config = Config(num_steps=np.int64(5), learning_rate=np.float32(0.5), eps=np.float64(1e-6))
    assert (config.num_steps, config.learning_rate, config.eps) == (5, 0.5, 1e-6)
    assert {type(config.num_steps), type(config.learning_rate), type(config.eps)} == {int, float}
    for wrong in (np.float64(5), np.True_, True, np.array(5)):
        with pytest.raises(microgpt.ConfigError, match="expected a whole number, found"):
            Config(num_steps=wrong)


def test_settings_of_a_trainer(tmp_path):
    """A trainer keeps its settings."""
    assert tiny_trainer(tmp_path, n_layer=3).config.n_layer == 3


@pytest.mark.parametrize("error", [microgpt.NotFiniteError(7, float("nan")), MemoryError()], ids=repr)
def test_metrics_of_a_failed_evaluation(tmp_path, monkeypatch, error):
    """If an evaluation fails, the steps before it are still in the metrics."""

    def fail(trainer):
        raise error

    monkeypatch.setattr(Trainer, "measure", fail)
    names, path = write_names(tmp_path / "names.txt"), tmp_path / "m"
    with pytest.raises(type(error)):
        microgpt.train(names, metrics=str(path), **TINY, val_fraction=0.1, eval_every=7)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5, 6, 7]
