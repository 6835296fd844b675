"""python -m microgpt: runs a command and exits with its code, after at most one line about what went wrong."""

import os
import sys
from contextlib import suppress

from .base.errors import ConfigError, DataError, naming_flags
from .base.signals import handled, leave

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FINITE = 0, 1, 2, 3


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    with handled(leave), naming_flags():
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed, as by >&-
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end
            getattr(sys, name).reconfigure(errors="backslashreplace")
        return execute(argv)


def execute(argv: list[str] | None) -> int:
    from .base.terminal import notice
    from .commands import make_parser

    try:
        arguments = make_parser().parse_args(argv)
        code: int | None = arguments.function(arguments)
        sys.stdout.flush()
        return code or EXIT_DONE
    except BrokenPipeError:  # such as `| head`, which has read enough
        drop_stdout()
        end_job("", EXIT_DONE)
        return EXIT_DONE
    except Exception as error:
        code = exit_code(error)
        if code is None:
            import traceback

            end_job(traceback.format_exc(), EXIT_FAILED)
            raise
        text: object = error
        if isinstance(error, OSError) and error.errno is not None:
            text = f"{error.filename or 'stdout'}: {error.strerror}"
        elif isinstance(error, ModuleNotFoundError) and error.name in ("numpy", "_cffi_backend"):
            text = f"expected NumPy and cffi, found no module {error.name!r}: pip install numpy cffi"
        line = str(text) or type(error).__name__
        notice(line)
        if isinstance(error, OSError):
            drop_stdout()
        end_job(line, code)
        return code


def end_job(line: str, code: int) -> None:
    """End the other processes of this MPI job, if it is one: they would wait for this process forever."""
    ranks = sys.modules.get("microgpt.runs.ranks")
    if ranks is not None and ranks.Ranks.job is not None:
        ranks.Ranks.job.end_all(line, code)


def drop_stdout() -> None:
    """Discard what stdout still buffers: after a failed write, Python would fail again when it flushes it at exit."""
    with suppress(OSError, ValueError):  # stdout need not be a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(error: Exception) -> int | None:
    """The exit code of an error that a user can cause, or None for a bug."""
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    if isinstance(error, ArithmeticError):  # NotFiniteError, SamplingError
        return EXIT_NOT_FINITE
    return EXIT_FAILED if isinstance(error, (DataError, OSError, MemoryError, ImportError)) else None


if __name__ == "__main__":
    sys.exit(main())
