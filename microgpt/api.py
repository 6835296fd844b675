"""The Python API: train or load a model, sample from it, score texts, and export it.

>>> import microgpt
>>> model = microgpt.train("input.txt", num_steps=1000, out="runs/first")           # doctest: +SKIP
>>> model = microgpt.load("runs/first")                                             # doctest: +SKIP
>>> model.sample(3, temperature=0.7, prompt="ka")                                   # doctest: +SKIP
>>> model.score("kamon").loss                                                       # doctest: +SKIP
>>> model.export("model.html")                                                      # doctest: +SKIP
>>> microgpt.plot(["runs/first"], "losses.png")                                     # doctest: +SKIP
"""

import os
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from .base import files
from .base.config import Config
from .base.config_file import with_recipe
from .base.errors import ConfigError, Interrupted, optional, renamed
from .base.files import AnyPath, path_or_texts, path_text
from .base.progress import Reporter, progress_bar
from .base.settings import Given
from .base.signals import interrupt_at_the_end
from .base.signature import accepts
from .core.documents import TEXTS
from .runs import loop
from .runs.history import History
from .runs.trained import Trained
from .runs.training import training

if TYPE_CHECKING:
    from .export.pytorch import GPT


@dataclass(frozen=True)
class Training(Config):
    """The arguments of train(): only the signature of this class is used."""

    input: AnyPath | list[str] | tuple[str, ...] = Config.input  # type: ignore[assignment]  # a Config keeps only text
    _: KW_ONLY
    recipe: str | None = None
    out: AnyPath | None = None
    resume: AnyPath | None = None
    metrics: AnyPath | None = None
    init_from: AnyPath | None = None
    fresh: bool = False
    last: bool = False
    threads: int | None = None
    progress: bool = False


@accepts(Training)
def train(given: Given) -> "Model":
    """Train a model on a text file or a list of texts and return the Model; its `history` holds the loss of each step.

    If a part of the text is held out (`val_fraction`), the Model has the weights with the lowest held-out loss, and its
    `step` says which step made them.

    Every argument is optional, and all but `input` are given by name:

    - `input`: path of a UTF-8 text file; by default input.txt, or the names that come with microgpt if there is none.
      Or a list of str: each is a document, and for split="none" they are joined.  A saved run keeps only their SHA-256,
      so to resume it, give the same list again, or a file with the same texts
    - `recipe`: name of a set of settings to start from, such as "reference"; settings that you give replace its values
    - `out`: directory in which to save the run; it is created if needed, and must not contain another run
    - `fresh`: True starts over in `out`, and replaces the run that it contains
    - `resume`: directory of a saved run to continue, instead of `out`; settings that you do not give keep their values
    - `init_from`: run or file from whose weights to start; the text must have the same vocabulary, and the settings
      `n_layer`, `n_embd`, `n_head`, `block_size`, `split` and `dtype` are the run's by default
    - `last`: True returns the final weights, whatever their held-out loss
    - `metrics`: file for the loss and the learning rate of each step, one line of JSON per step
    - `threads`: number of threads; by default, as many as there are cores and the work can keep busy;
      the results are bit-identical for any number
    - `progress`: True shows a progress bar, if tqdm is installed

    The settings and their defaults:

    SETTINGS

    Raises TypeError for an unknown setting, ConfigError for a wrong value, DataError for a file that cannot be used,
    CheckpointError for a run that cannot be resumed, NotFiniteError if the loss becomes infinite or NaN, and OSError if
    the run cannot be saved.  Ctrl-C finishes the current step, saves the run if there is one, and raises Interrupted, a
    KeyboardInterrupt.  The attribute `model` of Interrupted, and of that OSError, is the Model as trained so far.

    >>> model = microgpt.train("input.txt", num_steps=2000, n_embd=32, out="runs/wide")   # doctest: +SKIP
    >>> model.history.losses[-1]   # doctest: +SKIP
    """
    given = dict(given)
    recipe, threads, progress = (given.pop(name, None) for name in ("recipe", "threads", "progress"))
    fresh, last = (bool(given.pop(name, False)) for name in ("fresh", "last"))
    texts = None
    if "input" in given:
        source = path_or_texts(given["input"])
        given["input"], texts = (source, None) if isinstance(source, str) else (TEXTS, source)
    paths = ((name, given.pop(name, None)) for name in ("out", "resume", "metrics", "init_from"))
    out, resume, metrics_path, init_from = (None if path is None else path_text(path, name) for name, path in paths)
    settings, history, model = with_recipe(recipe, given), History(), None
    begun = training(
        settings, out, resume, metrics_path, threads=threads, init_from=init_from, fresh=fresh, texts=texts
    )
    try:
        with begun as (trainer, run, metrics), interrupt_at_the_end() as stop:
            config, first = trainer.config, trainer.step_count
            bar = progress_bar(config.num_steps, first, notebook=True) if progress else None
            reporter = Reporter(config, first, bar, "none") if progress else None
            try:
                best = loop.train(trainer, run, metrics, reporter, stop, history)
            finally:
                if reporter is not None:
                    reporter.close()
            best = None if last else loop.best_before(trainer, run, best)
            model = Model(trainer.checkpoint() if best is None else best, threads, history, texts=texts)
            if run is not None:
                run.finish(stop)
    except KeyboardInterrupt:
        if model is None:  # a second Ctrl-C, within a step
            raise
        raise Interrupted(model, trainer.step_count, trainer.config.num_steps) from None
    except OSError as error:
        error.model = model  # type: ignore[attr-defined]
        raise
    return model


def load(path: AnyPath, threads: int | None = None, last: bool = False) -> "Model":
    """Load a trained model and return it as a Model.

    - `path`: directory of a run, a checkpoint file (.npz), or a .safetensors file that Model.export() wrote.  In a
      directory that has best.npz, the weights with the lowest held-out loss
    - `threads`: number of threads; by default, as many as there are cores and the work can keep busy
    - `last`: True loads the final weights of a directory instead

    Loading runs no code from the file.  Raises CheckpointError if the file is missing, damaged or not a checkpoint.

    >>> model = microgpt.load("runs/first")   # doctest: +SKIP
    """
    from .runs import run

    name = path_text(path, "path")
    return Model(run.load(name, last), threads, directory=os.path.abspath(name))


class Model(Trained):
    """A trained model, as train() and load() return it.

    - `config`: its settings, a Config
    - `vocab`: list of its characters; the index of a character is its id
    - `params`: mapping from names, such as "layer0.attn_wq", to NumPy arrays of `config.dtype`.  A matrix is outputs x
      inputs; the embeddings have a column for each token (`wte`) and for each position (`wpe`)
    - `history`: the losses of its training
    - `threads`: number of threads, or None for as many as there are cores and the work can keep busy

    Losses are in nats: the negative natural logarithm of a probability.

    >>> model = microgpt.load("runs/first")   # doctest: +SKIP
    >>> model.sample(3, temperature=0.7, prompt="ka")   # doctest: +SKIP
    >>> model.score("kamon").loss   # doctest: +SKIP
    """

    def save(self, path: AnyPath) -> None:
        """Write a checkpoint file, which load() and the commands read.

        `path` is the file's name and must end in .npz.  Raises ConfigError for another ending, and OSError if the file
        cannot be written.

        >>> model.save("model.npz")   # doctest: +SKIP
        """
        name = path_text(path, "path")
        if not name.endswith(".npz"):
            raise ConfigError(f"save: expected a name that ends in .npz, found {name!r}; export() writes other formats")
        from .runs import checkpoint

        files.write(name, checkpoint.to_bytes(self._saved))

    def report(self, path: AnyPath, texts: list[str] | None = None) -> None:
        """Write a web page that shows what the model learned and runs the model in the browser.

        - `path`: name of the page, which must end in .html
        - `texts`: texts to show in detail, one character at a time; by default, a few from the training text or the
          held-out set

        Raises ConfigError for another ending, for unknown characters or for a text longer than the context, and
        DataError if the file cannot be written.

        >>> model.report("report.html", texts=["kamon"])   # doctest: +SKIP
        """
        from .report.report import report_model

        with renamed("output", argument="path"):
            report_model(self, path_text(path, "path"), texts)

    def export(self, path: AnyPath) -> None:
        """Write the model in another format, chosen by the ending of `path`:

        - .html: a web page that runs the model
        - .safetensors: the weights, which load() and PyTorch read
        - .onnx: an ONNX graph
        - .py: a program in plain Python without dependencies

        Raises ConfigError for another ending, DataError if the file cannot be written, and ExtraError if a library that
        the format needs is not installed.

        >>> model.export("model.safetensors")   # doctest: +SKIP
        """
        from .export.formats import export

        name = path_text(path, "path")
        with renamed("output", argument="path"):
            export(self, os.path.splitext(os.path.basename(name))[0], name)

    def to_torch(self) -> "GPT":
        """Return a copy of the model as a torch.nn.Module, with the tensor names of the .safetensors file.

        Raises ExtraError if PyTorch is not installed.

        >>> module = model.to_torch()   # doctest: +SKIP
        """
        return gpt("to_torch()")(self)

    @classmethod
    def from_torch(cls, module: "GPT", threads: int | None = None) -> "Model":
        """Return a Model with the current weights and precision of a module from to_torch().

        - `module`: the module; for one that torch.compile() returned, pass the original
        - `threads`: number of threads; by default, as many as there are cores and the work can keep busy

        Raises TypeError for another object; ConfigError for a precision other than float64 or float32, for changed
        shapes, or for weights that are not finite; and ExtraError if PyTorch is not installed.

        >>> model = microgpt.Model.from_torch(module)   # doctest: +SKIP
        """
        if not isinstance(module, gpt("from_torch()")):
            found = f"{type(module).__name__}; for a compiled module, pass the original one"
            raise TypeError(f"module: expected a module from to_torch(), found {found}")
        return cls(module.checkpoint(), threads)


def plot(runs: AnyPath | Iterable[AnyPath], path: AnyPath, log_x: bool = False, raw: bool = True) -> None:
    """Plot the losses of runs, or the results of a sweep, and save the picture.  Needs matplotlib.

    - `runs`: a run's directory or a metrics file, or a list of them; or the directory of one sweep
    - `path`: name of the picture, which must end in .png or .svg
    - `log_x`: True makes the axis of the steps logarithmic (runs only)
    - `raw`: False shows only the smoothed losses (runs only)

    Raises ConfigError for another ending, DataError if a file cannot be read or written, and ExtraError if matplotlib
    is not installed.

    >>> microgpt.plot(["runs/first", "runs/wide"], "losses.png", log_x=True)   # doctest: +SKIP
    """
    from .sweeps.plot import plot_runs_or_sweep

    several = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    paths = [path_text(each, "runs") for each in several]
    with renamed("output", argument="path"):
        plot_runs_or_sweep(paths, path_text(path, "path"), log_x, raw)


def gpt(what: str) -> "type[GPT]":
    """The class of PyTorch modules.  Raises ExtraError, which names `what` needs PyTorch."""
    optional("torch", "torch", what)
    from .export.pytorch import GPT

    return GPT
