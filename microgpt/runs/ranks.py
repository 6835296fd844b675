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

from ..base.errors import MPI_PACKAGES, ConfigError, named, optional

T = TypeVar("T")
PATIENCE_SECONDS = 1.0  # for which a rank that fails waits for the others to fail as well


class Ranks:
    """This process among those that mpiexec has started.  Raises ExtraError where there is no MPI."""

    job: ClassVar[Ranks | None] = None  # of which this process is a part

    def __init__(self) -> None:
        mpi = optional("mpi4py.MPI", "mpi", named("mpi"), MPI_PACKAGES)
        self._comm = mpi.COMM_WORLD
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.n_here = self._comm.Split_type(mpi.COMM_TYPE_SHARED).Get_size()  # on this host
        self._signals: list[Signals] = []  # that this process got
        self._agreed: list[Signals] = []
        self._ends = self._comm.Dup()
        self._theirs: Any = None  # what others send
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
        neighbouring sums.  Addition commutes, so that both sides of a pair get the same bits.

        With the partner at each distance a rank exchanges halves: it adds up one, and leaves the other to the partner;
        of its half then half with the next, and so on.  On the way back it gets from each what that one has added up.
        So it sends each number about twice, however many ranks there are.  With the losses they tell of signals.
        """
        most = gradient[: gradient.size // 2 + 1]
        if self._theirs is None or (self._theirs.size, self._theirs.dtype) != (most.size, most.dtype):
            self._theirs = np.empty_like(most)  # a message that is longer than its place would write beyond it
        distances = [1 << i for i in range(self.size.bit_length() - 1)]
        mine, halves, last = gradient, [], max(self._signals, default=0)
        for distance in distances:
            parts = mine[: mine.size // 2], mine[mine.size // 2 :]
            mine, other = parts if self.rank & distance == 0 else parts[::-1]
            self._exchange(distance, other, received := self._theirs[: mine.size])
            mine += received
            said = np.array([(loss, last), (0, 0)], np.float64)
            self._exchange(distance, said[0], said[1])
            loss, last = float(said[0, 0] + said[1, 0]), int(said[:, 1].max())
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
