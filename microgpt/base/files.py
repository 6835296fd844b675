"""Files that are never half written: a crash at any moment leaves the old one or the new one."""

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
# how a path is said to lead to no file; whatever else is said of one may be otherwise the next time
NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
# how link() says that a file system has no links, or no more of them, or not of somebody else's file
NO_LINK = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Folder:
    """A directory that stays the same one, whatever its path comes to lead to.

    What is asked for is the name of a file in it.  A link, a FIFO or a device of that name is OSError: whoever put it
    there would have its target read or written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        with suppress(OSError):  # nothing was written by way of it
            os.close(self.fd)

    def lock(self, doing: str) -> None:
        """Be the only one until close() or the end of the process, however it ends; BlockingIOError if another is."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process is {doing} in {self.path!r}") from None

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def open(self, path: str, flags: int) -> int:
        """A descriptor of the file, an opener for open(), which may be given file(name)."""
        name, in_place = os.path.basename(path), bool(flags & (os.O_WRONLY | os.O_RDWR))
        self.check(name, in_place)
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=self.fd)
        return checked(fd, name, in_place)

    def check(self, name: str, in_place: bool = False) -> None:
        """OSError when what has this name is not a file, or will be written in place and has other names too."""
        with suppress(FileNotFoundError):
            must_be_file(name, os.stat(name, dir_fd=self.fd, follow_symlinks=False), in_place)

    def write(self, name: str, data: bytes, previous: str | None = None) -> None:
        """Make `data` the content of the file; the old one stays as `previous`.

        Raises OSError, and then the file is what it was; or it is new, and a power failure may bring the old one back.
        """
        self.check(name)
        with naming(name), self.temporary(name) as new:
            self.create(new, data)
            with open(new, "rb", opener=self.open) as file:
                if not same_content(file, data):
                    raise OSError(errno.EIO, "expected to read back what was written, found something else", name)
            if previous is not None:
                self.keep(name, previous)
            self.rename(new, name)
            os.fsync(self.fd)

    @contextmanager
    def temporary(self, name: str) -> Iterator[str]:
        """A name beside this one that is free, and is so again afterwards."""
        new = self.remove_temporary(name)
        try:
            yield new
        finally:
            with suppress(OSError):
                self.remove_temporary(name)

    def remove_temporary(self, name: str) -> str:
        """The name of a temporary file, which is no longer there if it was."""
        new = f".{name}.tmp"
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=self.fd)
        return new

    def create(self, name: str, data: bytes) -> None:
        """A new file, on the disk when this returns."""
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self.fd)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    def keep(self, name: str, previous: str) -> None:
        """Have the file, if there is one, as `previous` too, in place of what was that until then."""
        self.check(previous)
        with self.temporary(previous) as second:
            try:
                self.link(name, second)
            except FileNotFoundError:
                return
            self.rename(second, previous)

    def link(self, name: str, second: str) -> None:
        """Give the file a second name, which must be free; on a file system without links it is a copy's."""
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
    """Folder.write of the file at `path`; `previous` is a name beside it."""
    directory, name = os.path.split(os.path.abspath(path))
    with closing(Folder(directory)) as folder:
        folder.write(name, data, previous)


def path_text(path: object, name: str) -> str:
    """The path as a str.  Raises TypeError, which names the argument."""
    path = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(path, str):
        raise TypeError(f"{name}: expected a path, found {shown(path)}")
    return path


def folder_at(path: str) -> Folder | None:
    """The directory at `path`, or None where there is none.  OSError when that cannot be said now."""
    try:
        return Folder(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
        return None


def open_file(path: str, flags: int) -> int:
    """An opener for open(): of a file, through links too, and OSError, without waiting, for anything else."""
    return checked(os.open(path, flags | os.O_NONBLOCK), path)


def exists_or_unknown(path: str) -> bool:
    """Whether something is there, or the system cannot tell: then open() reports why."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        pass
    return True


@contextmanager
def naming(name: str) -> Iterator[None]:
    """An OSError of the system has a file's name: this one, if it was about a descriptor."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = name
        raise


def checked(fd: int, path: str, in_place: bool = False) -> int:
    """The descriptor, when it is of such a file; closed and OSError when it is not."""
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
    if in_place and status.st_nlink > 1:  # it is somebody else's under the other
        raise OSError(errno.EINVAL, f"expected a file of one name, found one of {status.st_nlink}", path)


def write_all(fd: int, data: bytes) -> None:
    """os.write, which may write less than it is given, until all is written."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def same_content(file: BinaryIO, data: bytes, chunk: int = 2**20) -> bool:
    return all(file.read(chunk) == data[i : i + chunk] for i in range(0, len(data), chunk)) and not file.read(1)
