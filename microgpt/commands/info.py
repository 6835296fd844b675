"""microgpt info: show the version, paths, compiler, instruction set and number of threads."""

import argparse
import sys
from typing import Any

from ..base import threads
from ..base.package import PACKAGE, __version__
from .parser import add_command


def add(commands: Any) -> None:
    add_command(commands, info, "info", "show the version, paths, compiler, instruction set and number of threads")


def info(arguments: argparse.Namespace) -> None:
    import platform
    from importlib.metadata import version

    import numpy

    from ..kernels import compiled

    print(f"microgpt     {__version__}")
    print(f"package      {PACKAGE}")
    print(f"python       {platform.python_version()} ({sys.executable})")
    print(f"numpy, cffi  {numpy.__version__}, {version('cffi')}")
    print(f"compiler     {compiled.compiler()}")
    print(f"kernels      {compiled.ISA} (MICROGPT_ISA selects another)")
    print(f"threads      {threads.default()} (--threads or MICROGPT_THREADS sets another number)")
