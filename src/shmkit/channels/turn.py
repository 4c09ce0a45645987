"""Turn: one at a time on a side of a channel.

A handler that raises (Ctrl-C) comes when a call returns or a function of Python begins, so also
between "the lock was taken" and the next line. Hence the shape of `run` and `around`: the lock is
taken and given back inside the `try`, and when that is left by an exception, `leave` goes by what
the lock itself knows of its owner, not by what was noted after the lock came. And it is called
twice, for a handler that comes before its first line.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from shmkit.deadline import Deadline

__all__ = ["PATIENCE", "Turn"]

PATIENCE: Final = 0.2
"""Seconds to wait for a turn in any case. Nobody has it for longer than microseconds, except in a
`with` or when stopped: to wait a little for it is not yet to wait for the other side."""

_T = TypeVar("_T")


class Turn:
    """Exclusion for the careful path of one side, among the threads of a handle.

    A call from inside another one of the same thread (a reserved frame, a signal handler, a
    finalizer) is an error, not a deadlock.

    Args:
        late: makes the error for who does not get the turn in time.
    """

    __slots__ = ("_give", "_late", "_lock", "is_mine")

    is_mine: Callable[[], bool]
    """Whether this thread has it, on whichever path."""

    def __init__(self, late: Callable[[], Exception]) -> None:
        self._late = late
        # Of all locks this one knows its owner from the moment it is taken; threading.Condition
        # asks it the same way.
        lock: Any = threading.RLock()
        self._lock = lock
        self.is_mine = lock._is_owned
        self._give: Callable[[], None] = lock.release

    def run(self, deadline: Deadline, act: Callable[[], _T]) -> _T:
        """Call a function in turn.

        Args:
            deadline: when to give up waiting for the turn.
            act: what to call.

        Raises:
            RuntimeError: this thread has the turn already.
            Exception: the turn did not come in time: what `late` makes.
        """
        if self.is_mine():
            raise self._nested()
        try:
            self._enter(deadline)
            result = act()
            self._give()
        except BaseException:
            try:
                self.leave()
            finally:
                self.leave()
            raise
        return result

    def around(
        self, deadline: Deadline, steps: Generator[_T, None, bool | None]
    ) -> Generator[_T, None, bool | None]:
        """`run` for the body of a context manager; returns what it returns."""
        if self.is_mine():
            raise self._nested()
        try:
            self._enter(deadline)
            result = yield from steps
            self.leave()  # unless `end` came meanwhile
        except BaseException:
            try:
                self.leave()
            finally:
                self.leave()
            raise
        return result

    def _nested(self) -> RuntimeError:
        return RuntimeError(
            "a call inside another one on the same handle and side: leave the `with` of the "
            "frame first; a signal handler or finalizer needs a handle of its own"
        )

    def _enter(self, deadline: Deadline) -> None:
        lock = self._lock
        if not lock.acquire(False) and not lock.acquire(timeout=PATIENCE):
            rest = _rest(deadline)
            if not lock.acquire(timeout=-1 if rest is None else rest):
                raise self._late()

    def leave(self) -> None:
        """Give the turn to the next, if this thread has it."""
        if self.is_mine():
            self._lock.release()

    def end(self) -> None:
        """Wait for whoever has the turn, unless it is this thread; nobody has it any more then."""
        if not self.is_mine():
            self._lock.acquire()
        self.leave()


def _rest(deadline: Deadline) -> float | None:
    """Seconds to wait for a turn after PATIENCE; None for ever."""
    seconds = deadline.remaining()
    return seconds if seconds < threading.TIMEOUT_MAX else None
