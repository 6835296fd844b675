"""microgpt: Karpathy's microgpt as explicit matrix code, with the kernels in C and the graph in Python.

    train(...)    train a model                load(path)    load one
    Model         sample, score, evaluate      kernels       the C kernels as NumPy functions
    get_include() the directory of the C sources, for those who compile them

The errors that these raise are ConfigError, DataError, CheckpointError,
NotFiniteError and SamplingError.
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "train": "api",
    "load": "api",
    "Model": "api",
    "ConfigError": "errors",
    "DataError": "errors",
    "CheckpointError": "errors",
    "NotFiniteError": "errors",
    "SamplingError": "errors",
}
__all__ = ["__version__", "get_include", "kernels", *_HOME]


def get_include() -> str:
    """The directory of kernels.h and kernels.c: another C or cffi project includes the one and compiles the other.

    With whatever flags, and -ffp-contract=off, on which the same bits rest; -ffast-math is refused.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(here, "csrc")
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(here), "csrc")


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import what is used only when it is used: the command line needs little of it."""
    if name == "kernels":
        return import_module(".kernels", __name__)
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
