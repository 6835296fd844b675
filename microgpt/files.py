"""A file that is never half written: a crash at any moment leaves the old one or the new one."""

import os
import stat
from contextlib import suppress
from typing import BinaryIO


def write(path: str, data: bytes | memoryview, previous: str | None = None) -> None:
    """Make `data` the content of the file at `path`; the old one stays as `previous`.

    Raises OSError, and then `path` is what it was.
    """
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.tmp")
    try:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        with open(temporary, "rb") as file:
            if not same_content(file, data):
                raise OSError(f"{path}: expected to read back what was written, found something else")
        if previous is not None and os.path.exists(path):
            keep(path, previous)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """os.write, which may write less than it is given, until all is written."""
    data = memoryview(data)
    while data:
        data = data[os.write(fd, data) :]


def same_content(file: BinaryIO, data: bytes | memoryview, chunk: int = 2**20) -> bool:
    return all(file.read(chunk) == data[i : i + chunk] for i in range(0, len(data), chunk)) and not file.read(1)


def keep(path: str, previous: str) -> None:
    """Give the file at `path` the second name `previous`, so that there is never none at `path`."""
    with suppress(FileNotFoundError):
        os.unlink(previous)
    try:
        os.link(path, previous)
    except OSError:  # a file system without links
        os.replace(path, previous)


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_own(path: str) -> int:
    """A descriptor of the file at `path`, made if there is none, to read and write; OSError for a link or no file.

    Whoever put a link there would have its target written to.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = os.open(path, flags, 0o666)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(fd)
        raise OSError(f"{path}: expected a file of the run's own, found a link or a device")
    return fd


def open_at_once(path: str, flags: int) -> int:
    """os.open that does not wait for the other end of a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
