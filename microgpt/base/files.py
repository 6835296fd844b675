"""Writing files atomically: a crash at any moment leaves the old content or the new one."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import BinaryIO

from .terminal import shown

AnyPath = str | os.PathLike[str]

KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
# errors that say that a path leads to no file; any other may be gone at the next attempt
NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
# errors with which link() says that it cannot link here: no links, too many, or another user's file
NO_LINK = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Folder:
    """An open directory: the same one, even if the path later names another directory.

    The methods take the names of files in it.  They raise OSError for a link, a FIFO or a device, because another user
    could choose what it leads to.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        with suppress(OSError):  # nothing was written through it
            os.close(self.fd)

    def lock(self, doing: str) -> None:
        """Lock the directory until close() or the end of the process; BlockingIOError if another holds the lock."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process is {doing} in {self.path!r}") from None

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def open(self, path: str, flags: int) -> int:
        """Open the file of this folder that the last part of `path` names; an `opener` for open()."""
        name, in_place = os.path.basename(path), bool(flags & (os.O_WRONLY | os.O_RDWR))
        self.check(name, in_place)
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=self.fd)
        return checked(fd, name, in_place)

    def check(self, name: str, in_place: bool = False) -> None:
        """Raise OSError if this name is not a file's, or if the file is to be written in place and has other names."""
        with suppress(FileNotFoundError):
            must_be_file(name, os.stat(name, dir_fd=self.fd, follow_symlinks=False), in_place)

    def has_space(self, name: str) -> bool:
        """Whether the disk has space for another file of this size, as far as it can tell."""
        disk = os.fstatvfs(self.fd)
        try:
            needed = os.stat(name, dir_fd=self.fd).st_size
        except OSError:
            return True
        return disk.f_blocks == 0 or disk.f_bavail * disk.f_frsize >= needed

    def write(self, name: str, data: bytes, previous: str | None = None) -> None:
        """Replace the file's content by `data`; the old file stays as `previous`.

        After an OSError the file is unchanged; or, if only the last fsync failed, it is new, but a power failure may
        bring the old one back.
        """
        self.check(name)
        with naming(name), self.temporary(name) as new:
            self.create(new, data)
            if not self.holds(new, data):
                raise OSError(errno.EIO, "expected to read back what was written, found something else", name)
            if previous is not None:
                self.keep(name, previous)
            self.rename(new, name)
            os.fsync(self.fd)

    def holds(self, name: str, data: bytes) -> bool:
        """Whether there is such a file with this content."""
        try:
            with open(name, "rb", opener=self.open) as file:
                return same_content(file, data)
        except FileNotFoundError:
            return False

    @contextmanager
    def temporary(self, name: str) -> Iterator[str]:
        """An unused name for a temporary file, which is removed afterwards."""
        new = self.remove_temporary(name)
        try:
            yield new
        finally:
            with suppress(OSError):
                self.remove_temporary(name)

    def remove_temporary(self, name: str) -> str:
        """Remove the temporary file, if there is one; returns its name."""
        new = f".{name}.tmp"
        self.remove(new)
        return new

    def remove(self, name: str) -> None:
        """Remove the file, if there is one."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def create(self, name: str, data: bytes) -> None:
        """Create a file, which is on the disk when this returns."""
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self.fd)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    def keep(self, name: str, previous: str) -> None:
        """Let `previous` name the file too, if it exists, and no longer the file that it named."""
        self.check(previous)
        with self.temporary(previous) as second:
            try:
                self.link(name, second)
            except FileNotFoundError:
                return
            self.rename(second, previous)

    def link(self, name: str, second: str) -> None:
        """Give the file a second name, which must be unused; copy it on a file system without links."""
        try:
            os.link(name, second, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            with open(name, "rb", opener=self.open) as file:
                self.create(second, file.read())

    def rename(self, name: str, new: str) -> None:
        os.replace(name, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)


def write(path: str, data: bytes, previous: str | None = None) -> None:
    """Replace the file at `path` atomically; the old file stays as `previous`, a name in the same directory."""
    directory, name = os.path.split(os.path.abspath(path))
    with closing(Folder(directory)) as folder:
        folder.write(name, data, previous)


def path_text(path: object, name: str, expected: str = "a path") -> str:
    """The path as a str.  Raises TypeError about the argument `name`."""
    path = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(path, str):
        raise TypeError(f"{name}: expected {expected}, found {shown(path)}")
    return path


def path_or_texts(input: object) -> str | list[str]:
    """The argument `input` as a str, if it is a path, or as a list of texts.  Raises TypeError."""
    if not isinstance(input, (list, tuple)):
        return path_text(input, "input", "a path or a list of texts")
    for i, text in enumerate(input):
        if not isinstance(text, str):
            raise TypeError(f"input: expected a list of texts, found {shown(text)} at index {i}")
    return list(input)


def folder_at(path: str) -> Folder | None:
    """The directory at `path`, or None if there is none.  Raises OSError when this cannot be determined now."""
    try:
        return Folder(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
        return None


def open_file(path: str, flags: int) -> int:
    """An opener for open() that follows links and raises OSError, without waiting, for anything but a file."""
    return checked(os.open(path, flags | os.O_NONBLOCK), path)


def exists_or_unknown(path: str) -> bool:
    """Whether the path exists or the system cannot tell, in which case open() will report why."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        pass
    return True


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Give an OSError about a descriptor this file name."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = name
        raise


def checked(fd: int, path: str, in_place: bool = False) -> int:
    """The descriptor, if it passes must_be_file(); otherwise close it and raise OSError."""
    try:
        must_be_file(path, os.fstat(fd), in_place)
    except BaseException:
        os.close(fd)
        raise
    return fd


def must_be_file(path: str, status: os.stat_result, in_place: bool = False) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise OSError(errno.EINVAL, f"expected a file, found {found}", path)
    if in_place and status.st_nlink > 1:  # the other name may be another user's
        raise OSError(errno.EINVAL, f"expected a file without hard links, found one with {status.st_nlink}", path)


def write_all(fd: int, data: bytes) -> None:
    """Write all data: a single os.write() may write only a part."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def same_content(file: BinaryIO, data: bytes, chunk: int = 2**20) -> bool:
    return all(file.read(chunk) == data[i : i + chunk] for i in range(0, len(data), chunk)) and not file.read(1)
