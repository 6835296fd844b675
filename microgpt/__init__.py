"""microgpt: Karpathy's microgpt as explicit matrix code, with the kernels in C and the graph in Python.

    train(...)        train a model
    load(path)        load a trained model
    Model             sample, score, evaluate, report, export
    sweep(...)        train with many settings
    plot(...)         plot the losses of runs, or a sweep
    kernels           the C kernels as NumPy functions
    Config, Trainer   write your own training loop
    Optimizer         write your own update rule
    checkpoint        checkpoint files: checkpoint.load(path)
    get_include()     the directory of the C sources, to compile them

They raise ConfigError, DataError, CheckpointError, NotFiniteError and
SamplingError, and issue a MicrogptWarning for anything unusual; train() raises
Interrupted after Ctrl-C.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .base.errors import CheckpointError, ConfigError, DataError, Interrupted, NotFiniteError, SamplingError
from .base.package import __version__, beside
from .base.terminal import MicrogptWarning

__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "Interrupted",
    "MicrogptWarning",
    "Model",
    "NotFiniteError",
    "Optimizer",
    "SamplingError",
    "Trainer",
    "__version__",
    "checkpoint",
    "get_include",
    "kernels",
    "load",
    "plot",
    "sweep",
    "train",
]


def get_include() -> str:
    """Return the directory of the C sources: kernels.h, and f32.c, f64.c and common.c to compile into a C project.

    Compile them with -ffp-contract=off to get bit-identical results; with -ffast-math they do not compile.

    >>> microgpt.get_include()   # doctest: +SKIP
    """
    return beside("csrc")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from . import kernels
    from .api import Model, load, plot, train
    from .base.config import Config
    from .core.optimizer import Optimizer
    from .core.trainer import Trainer
    from .runs import checkpoint
    from .sweeps.sweeper import sweep
else:

    def __getattr__(name):
        """Import a public name when it is first used: importing all of them would slow down the command line."""
        if name in ("kernels", "checkpoint"):
            return import_module(".kernels" if name == "kernels" else ".runs.checkpoint", __name__)
        for module, names in (
            (".api", ("Model", "load", "plot", "train")),
            (".base.config", ["Config"]),
            (".core.optimizer", ["Optimizer"]),
            (".core.trainer", ["Trainer"]),
            (".sweeps.sweeper", ["sweep"]),
        ):
            if name in names:
                return getattr(import_module(module, __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
