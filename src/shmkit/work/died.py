"""WorkerDied: its own module, because the class it derives from takes long to import."""

from __future__ import annotations

import signal
from concurrent.futures.process import BrokenProcessPool

from shmkit.errors import ShmkitError

__all__ = ["WorkerDied"]


class WorkerDied(ShmkitError, BrokenProcessPool):
    """The worker process that ran this call died; the pool and its other calls go on.

    Args:
        pid: process id the worker had.
        exitcode: its exit status, minus the signal's number if one killed it.

    Attributes:
        pid: as given.
        exitcode: as given.
    """

    def __init__(self, pid: int, exitcode: int | None) -> None:
        super().__init__(
            f"worker process {pid} {_how(exitcode)} while it ran this call; it is replaced and the "
            "other calls go on: submit this one again if it may run twice"
        )
        self.pid = pid
        self.exitcode = exitcode


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "ended"
    if exitcode >= 0:
        return f"exited with status {exitcode}"
    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"
