"""microgpt: Karpathy's microgpt as explicit matrix code, with the kernels in C and the graph in Python.

    train(...)    train a model                load(path)    load one
    Model         sample, score, evaluate,     kernels       the C kernels as NumPy functions
                  report, export
    sweep(...)    train with many settings     plot(...)     draw the losses of runs, or a sweep
    Config, Trainer   for a training loop of your own
    Optimizer         for an update rule of your own
    checkpoint        checkpoint files: checkpoint.load(path)
    get_include() the directory of the C sources, for those who compile them

The errors that these raise are ConfigError, DataError, CheckpointError,
NotFiniteError and SamplingError.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .base.errors import CheckpointError, ConfigError, DataError, NotFiniteError, SamplingError
from .base.package import __version__, beside

__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
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
    """The directory of kernels.h and of f32.c, f64.c and common.c: another C or cffi project compiles these.

    With whatever flags, and -ffp-contract=off, on which the same bits rest; -ffast-math is refused.
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
        """Import what is used only when it is used: the command line needs little of it."""
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
