"""Several processes: find the lost one and name it, if the others cannot continue.

PyTorch's errors say that a connection was closed or that time is over, not whose. Every process
that fails leaves a word in the store where the processes met; who leaves none has been killed,
or hangs.
"""

import os
import socket
import time
from collections.abc import Callable

import torch
from torch.distributed import DistError, PrefixStore, Store

# Seconds in which the others must notice a failure too: a closed connection at once, and the end
# of a wait about when this process does, because the waits began at the same step.
GRACE_CLOSED, GRACE_LATE = 2.0, 5.0
# Texts of errors of the exchange between processes.
EXCHANGE = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
# The message of a process whose error came from the exchange.
WAITED = "waited"


class ProcessLost(ConnectionError):
    """Other processes of a run have ended or do not answer; the message names them."""


class RollCall:
    """The processes of a run, and the message of each that ends with an error.

    Args:
        store: that of the process group.
        minutes: how long a process waits for another, for the message.
    """

    def __init__(self, store: Store, rank: int, processes: int, minutes: float) -> None:
        self._store = PrefixStore("lgmnet", store)
        self.rank, self.processes, self.minutes = rank, processes, minutes
        self._store.set(f"where {rank}", f"{socket.gethostname()}, process id {os.getpid()}")

    def failed(self, error: Exception) -> None:
        """Write a message for the other processes; name a process that caused the error.

        Raises:
            ProcessLost: another process has ended, or does not answer.
        """
        exchanged = came_from_exchange(error)
        word = (
            WAITED if exchanged else str(error).strip().partition("\n")[0] or type(error).__name__
        )
        try:
            self._store.set(f"word {self.rank}", word)
            lost = self._lost("imed out" in str(error)) if exchanged else ""
        except RuntimeError:  # the process that holds the store has ended
            lost = "process 0 or the launcher, which holds the list of the processes, has ended"
        if lost:
            raise ProcessLost(f"{lost}; mend that, and go on with --resume") from error

    def _lost(self, late: bool) -> str:
        others = [rank for rank in range(self.processes) if rank != self.rank]
        seconds = GRACE_LATE if late else GRACE_CLOSED
        wait_until(lambda: all(self._word(rank) for rank in others), seconds)
        words = {rank: self._word(rank) for rank in others}
        return "; ".join(
            self._about(rank, word, late) for rank, word in words.items() if word != WAITED
        )

    def _word(self, rank: int) -> str:
        return self._read(f"word {rank}")

    def _read(self, key: str) -> str:
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _about(self, rank: int, word: str, late: bool) -> str:
        who = f"process {rank} of {self.processes} ({self._read(f'where {rank}')})"
        if word:
            return f"{who} has ended: {word}"
        if late:
            return f"{who} has not answered for {self.minutes:g} minutes (training.timeout)"
        return f"{who} has ended without a word, as one that was killed"


def came_from_exchange(error: Exception) -> bool:
    """Whether an error means that other processes are lost or late, not that this one failed."""
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return False
    if isinstance(error, DistError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in EXCHANGE)


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    """Ask repeatedly, for at most that time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
