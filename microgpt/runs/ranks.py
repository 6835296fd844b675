"""Ranks: the processes of an MPI job, which divide the shards of each step among them (needs mpi4py).

Every rank runs the same program on its own shards; only rank 0 prints and writes files.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from signal import Signals
from typing import Any, ClassVar, TypeVar

import numpy as np

from ..base.errors import MPI_PACKAGES, ConfigError, named, optional

T = TypeVar("T")
PATIENCE_SECONDS = 1.0  # a rank that fails waits this long for the others to fail as well


class Ranks:
    """This process as one of those that mpiexec started.  Raises ExtraError if MPI is not installed."""

    job: ClassVar[Ranks | None] = None  # the job of this process

    def __init__(self) -> None:
        mpi = optional("mpi4py.MPI", "mpi", named("mpi"), MPI_PACKAGES)
        self._comm = mpi.COMM_WORLD
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.n_here = self._comm.Split_type(mpi.COMM_TYPE_SHARED).Get_size()  # ranks on this host
        self._signals: list[Signals] = []  # received by this process
        self._agreed: list[Signals] = []  # known to all ranks
        self._ends = self._comm.Dup()
        self._theirs: Any = None  # the buffer for received halves
        Ranks.job = self

    def silence(self) -> None:
        """Discard the output of every rank but rank 0."""
        if self.rank:
            sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until exit

    def share(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        found: T = self._comm.bcast(value)
        return found

    def part(self, shards: Sequence[T]) -> Sequence[T]:
        """This rank's part of the shards.  Raises ConfigError if the ranks cannot form a binary tree over them."""
        if self.size & (self.size - 1) or self.size > len(shards):
            raise ConfigError(
                f"{named('mpi')}: expected a number of processes that is a power of two and at most "
                f"the value of {named('shards')}, {len(shards)}, found {self.size}"
            )
        n = len(shards) // self.size
        return shards[self.rank * n : (self.rank + 1) * n]

    def stop(self, signals: list[Signals]) -> list[Signals]:
        """Return a list that gets any rank's signal once all ranks know of it, so that all stop after the same step."""
        self._signals = signals
        return self._agreed if self.size > 1 else signals

    def total(self, gradient: Any, loss: float) -> float:
        """Sum the gradients of all ranks in place, and return the sum of their losses.

        The sum is a binary tree: neighbouring ranks first, then neighbouring pairs, and so on.  Addition commutes, so
        both partners get the same bits.  At each distance, a rank exchanges halves with its partner: it sums one half
        and the partner sums the other.  At the next distance it halves its half again.  On the way back, each partner
        returns the half that it summed.  A rank therefore sends each number about twice, however many ranks there are.
        The signals travel with the losses.
        """
        most = gradient[: gradient.size // 2 + 1]
        if self._theirs is None or (self._theirs.size, self._theirs.dtype) != (most.size, most.dtype):
            self._theirs = np.empty_like(most)  # MPI would write a longer message beyond its end
        distances = [1 << i for i in range(self.size.bit_length() - 1)]
        mine, halves, last = gradient, [], max(self._signals, default=0)
        for distance in distances:
            parts = mine[: mine.size // 2], mine[mine.size // 2 :]
            mine, other = parts if self.rank & distance == 0 else parts[::-1]
            self._exchange(distance, other, received := self._theirs[: mine.size])
            mine += received
            pair = np.array([(loss, last), (0, 0)], np.float64)  # mine, theirs
            self._exchange(distance, pair[0], pair[1])
            loss, last = float(pair[0, 0] + pair[1, 0]), int(pair[:, 1].max())
            halves.append((mine, other))
        for distance, (mine, other) in zip(distances[::-1], halves[::-1]):
            self._exchange(distance, mine, other)
        if last and not self._agreed:
            self._agreed.append(Signals(last))
        return loss

    def _exchange(self, distance: int, sent: Any, received: Any) -> None:
        other = self.rank ^ distance
        self._comm.Sendrecv(sent, other, recvbuf=received, source=other)

    def end_all(self, line: str, code: int) -> None:
        """End every process of the job, because the others would wait for this one for ever.

        If all ranks come here, all have failed in the same way: rank 0 has printed the error, and each rank exits.
        """
        here, until = self._ends.Ibarrier(), time.monotonic() + PATIENCE_SECONDS
        while not here.Test():
            if time.monotonic() > until:
                if self.rank:
                    os.write(2, f"microgpt: rank {self.rank}: {line}\n".encode("utf-8", "backslashreplace"))
                self._comm.Abort(code)
            time.sleep(0.01)
