"""Turn: one at a time on a side of a ring."""

from __future__ import annotations

import threading
from threading import get_ident
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shmkit.deadline import Deadline
    from shmkit.sync.mutex import Mutex

__all__ = ["NOBODY", "PATIENCE", "Turn"]

PATIENCE: Final = 0.2  # seconds
NOBODY: Final = 0


class Turn:
    """Exclusion for the careful path of one side: of a handle's threads; with "many", of processes.

    It knows the thread that has it: a call from inside another one (a reserved frame, a signal
    handler, a finalizer) is an error, not a deadlock.

    Args:
        mutex: the side's lock between processes; None where one handle has the side to itself.
    """

    __slots__ = ("_lock", "_mutex", "owner")

    def __init__(self, mutex: Mutex | None) -> None:
        self._mutex = mutex
        self._lock = threading.Lock()
        self.owner = NOBODY

    def enter(self, deadline: Deadline) -> bool:
        """Wait for the turn.

        Returns:
            False when the deadline passed first.

        Raises:
            RuntimeError: this thread has it already.
        """
        me = get_ident()
        if self.owner == me:
            raise RuntimeError(
                "a call inside another one on the same handle and side: leave the `with` of the "
                "frame first; a signal handler or finalizer needs a handle of its own"
            )
        if self._mutex is None and self._lock.acquire(False):
            self.owner = me
            return True
        # Nobody has the turn for longer than microseconds, except in a `with` or when stopped: to
        # wait a little for it is not yet to wait for the other side.
        left = max(deadline.remaining(), PATIENCE)
        if left > threading.TIMEOUT_MAX:
            left = -1
        if self._mutex is None:
            if not self._lock.acquire(timeout=left):
                return False
        elif not self._mutex.acquire(True, None if left < 0 else left):
            return False
        self.owner = me
        return True

    def leave(self) -> None:
        """Give the turn to the next; nothing happens if this thread has lost it by `end`."""
        if self.owner != get_ident():
            return
        self.owner = NOBODY
        if self._mutex is None:
            self._lock.release()
        elif self._mutex.held:  # not retired meanwhile
            self._mutex.release()

    def end(self) -> None:
        """Wait for whoever has the turn, unless it is this thread; nobody has it any more then."""
        if self._mutex is not None:
            self.leave()
            self._mutex.retire()
            return
        if self.owner != get_ident():
            self._lock.acquire()
        self.owner = NOBODY
        self._lock.release()
