"""CallFuture: a Future that makes its condition variable when a thread first waits.

Most of what a `concurrent.futures.Future` costs is its condition variable, and most futures do not
need one: when their result is asked for, it is there. So it is made at its first use. Whatever
waits, calls back or cancels uses `_condition`, here as in the base class. As long as a future has
none, no thread does any of this, and its state is set under one lock that all futures share.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from typing import Any, TypeVar

__all__ = ["CallFuture"]

_T = TypeVar("_T")

# Re-entrant: a finalizer or a signal handler may run while it is held, and use another future.
_guard = threading.RLock()


class CallFuture(Future[_T]):
    """The future of a call that was submitted."""

    _made: threading.Condition | None

    def __init__(self) -> None:
        # Not the base class's __init__, which would make the condition.
        self._made = None
        self._state = PENDING
        self._result: Any = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        made = self._made
        if made is None:
            fresh = threading.Condition()  # outside the guard: this may run a finalizer
            with _guard:
                made = self._made
                if made is None:
                    made = self._made = fresh
        return made

    def set_running_or_notify_cancel(self) -> bool:
        """As of a Future."""
        with _guard:
            if self._made is None and self._state == PENDING:
                self._state = RUNNING
                return True
        return super().set_running_or_notify_cancel()

    def set_result(self, result: _T) -> None:
        """As of a Future."""
        with _guard:
            if self._made is None and self._state == RUNNING:
                self._result = result
                self._state = FINISHED
                return
        # Outside the guard: this runs callbacks, which may take long.
        super().set_result(result)

    def result(self, timeout: float | None = None) -> _T:
        """As of a Future."""
        # Without the lock: the state is stored last, after the result.
        if self._state == FINISHED and self._exception is None:
            result: _T = self._result
            return result
        return super().result(timeout)

    def done(self) -> bool:
        """As of a Future."""
        return self._state == FINISHED or super().done()


def _renew_guard() -> None:
    """In a forked child: the thread that held it is not there."""
    global _guard
    _guard = threading.RLock()


os.register_at_fork(after_in_child=_renew_guard)
