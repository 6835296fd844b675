"""microgpt from Python: train a model or load one, then sample from it, score texts, and measure it.

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
from .base.config_file import read_recipe
from .base.errors import ConfigError, optional, renamed
from .base.files import AnyPath, path_text
from .base.progress import Reporter, progress_bar
from .base.settings import Given
from .base.signals import interrupt_at_the_end
from .base.signature import accepts
from .runs import loop
from .runs.history import History
from .runs.trained import Trained
from .runs.training import training

if TYPE_CHECKING:
    from .export.pytorch import GPT


@dataclass(frozen=True)
class Training(Config):
    """What train() may be given: a run's settings, and its files.  Of this class only the signature is used."""

    input: AnyPath = Config.input  # type: ignore[assignment]  # more than a Config keeps
    _: KW_ONLY
    recipe: str | None = None
    out: AnyPath | None = None
    resume: AnyPath | None = None
    metrics: AnyPath | None = None
    threads: int | None = None
    progress: bool = False


@accepts(Training)
def train(given: Given) -> "Model":
    """Train a model on a text file; returns it.

    The settings are those of the command line, and `recipe` names a set of them.  With `out`, a directory, the run can
    be resumed with `resume`, which then says all that is not given; `metrics` is a file for each step's loss; `threads`
    is how many work, by default as many as there are cores and the work can feed, and changes no bit; `progress` shows
    a bar.  Raises ConfigError, DataError, CheckpointError, NotFiniteError or OSError; after Ctrl-C, when the run is
    saved, KeyboardInterrupt.

    SETTINGS
    """
    given = dict(given)
    recipe, threads, progress = (given.pop(name, None) for name in ("recipe", "threads", "progress"))
    if "input" in given:
        given["input"] = path_text(given["input"], "input")
    paths = ((name, given.pop(name, None)) for name in ("out", "resume", "metrics"))
    out, resume, metrics_path = (None if path is None else path_text(path, name) for name, path in paths)
    settings = ({} if recipe is None else read_recipe(recipe)) | given
    history = History()
    begun = training(settings, out, resume, metrics_path, threads=threads)
    with begun as (trainer, run, metrics), interrupt_at_the_end() as stop:
        config, first = trainer.config, trainer.step_count
        bar = progress_bar(config.num_steps, first, notebook=True) if progress else None
        reporter = Reporter(config, first, bar, "none") if progress else None
        try:
            loop.train(trainer, run, metrics, reporter, stop, history)
        finally:
            if reporter is not None:
                reporter.close()
    return Model(trainer.checkpoint(), threads, history)


def load(path: AnyPath, threads: int | None = None) -> "Model":
    """The Model of a run's directory, a checkpoint file or a .safetensors file of export.

    `threads` is how many threads sampling and measuring use, by default as many as there are cores and the work can
    feed.  Raises CheckpointError.
    """
    from .runs import run

    name = path_text(path, "path")
    return Model(run.load(name), threads, directory=os.path.abspath(name))


class Model(Trained):
    """A trained model: `config` (its settings), `vocab` (characters by id), `params` (arrays by name, a mapping) and
    `history` (the losses of its training)."""

    def save(self, path: AnyPath) -> None:
        """Write a checkpoint file, PATH.npz, which load() and the commands take.  Raises ConfigError, OSError."""
        name = path_text(path, "path")
        if not name.endswith(".npz"):
            raise ConfigError(
                f"save: expected a name that ends in .npz, found {name!r}; microgpt export writes other kinds"
            )
        from .runs import checkpoint

        files.write(name, checkpoint.to_bytes(self._saved))

    def report(self, path: AnyPath, texts: list[str] | None = None) -> None:
        """Write a page, PATH.html, that shows what the model learned and lets a reader try it in a browser.

        `texts` are looked at position by position; by default some of those it was trained on, or held out.  Raises
        ConfigError for another ending or a text that the model does not take, DataError for a file that cannot be
        written.
        """
        from .report.report import report_model

        with renamed("output", argument="path"):
            report_model(self, path_text(path, "path"), texts)

    def export(self, path: AnyPath) -> None:
        """Write the model as a file of the kind that its ending says: .html (a page on which it runs), .safetensors
        (weights, which load() takes too), .onnx (a graph) or .py (a program in plain Python).

        Raises ConfigError for another ending, DataError for a file that cannot be written, ExtraError where a library
        is not installed that the kind needs.
        """
        from .export.formats import export

        name = path_text(path, "path")
        with renamed("output", argument="path"):
            export(self, os.path.splitext(os.path.basename(name))[0], name)

    def to_torch(self) -> "GPT":
        """The model as a PyTorch module, whose state_dict() is the .safetensors file.  Raises ExtraError."""
        return gpt("to_torch()")(self)

    @classmethod
    def from_torch(cls, module: "GPT", threads: int | None = None) -> "Model":
        """The Model of a module that to_torch() gave, with the weights, and in the precision, that it has by now.

        Raises ConfigError for another precision than float64 or float32, other shapes, or numbers that are not finite.
        """
        if not isinstance(module, gpt("from_torch()")):
            found = f"{type(module).__name__}; of a compiled one give the module that was compiled"
            raise TypeError(f"module: expected what to_torch() gave, found {found}")
        return cls(module.checkpoint(), threads)


def plot(runs: AnyPath | Iterable[AnyPath], path: AnyPath, log_x: bool = False, raw: bool = True) -> None:
    """Draw the losses of runs, or a sweep, into a picture, PATH.png or PATH.svg; needs matplotlib.

    `runs` are directories of runs or metrics files, one or several, or the directory of one sweep.  Of runs, `log_x`
    makes the scale of the steps logarithmic, and raw=False leaves only the smoothed losses.  Raises ConfigError for
    another ending, PlotError (a DataError) for what cannot be read or written, ExtraError without matplotlib.
    """
    from .sweeps.plot import plot_runs_or_sweep

    several = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    paths = [path_text(each, "runs") for each in several]
    with renamed("output", argument="path"):
        plot_runs_or_sweep(paths, path_text(path, "path"), log_x, raw)


def gpt(what: str) -> "type[GPT]":
    """The class of PyTorch modules.  Raises ExtraError, which says what needs it."""
    optional("torch", "torch", what)
    from .export.pytorch import GPT

    return GPT
