"""The package itself: its version, and the files that come with it."""

import os

__version__ = "0.1.0"

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def beside(name: str) -> str:
    """The path of a file or folder that comes with the package: inside it when installed, next to it in a checkout."""
    installed = os.path.join(PACKAGE, name)
    return installed if os.path.exists(installed) else os.path.join(os.path.dirname(PACKAGE), name)
