"""CallFuture: a Future that makes what one waits with when somebody waits.

Most of what a `concurrent.futures.Future` costs is its condition variable, of which most futures
have no use: by the time their result is asked for it is there. So here it is made at its first use.
Everything that waits, calls back or cancels goes by way of `_condition`, here as in the base class;
as long as there is none, nobody does, and a state is set with nothing but a lock that all futures
share.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, PENDING, RUNNING
from typing import Any, TypeVar

__all__ = ["CallFuture"]

_T = TypeVar("_T")

# Re-entrant: a finalizer or a signal handler that comes in between may ask for another future.
_guard = threading.RLock()


class CallFuture(Future[_T]):
    """What the caller has of a call that was submitted."""

    _made: threading.Condition | None

    def __init__(self) -> None:
        # In place of the base class's, which would make the condition.
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
            fresh = threading.Condition()  # not with the guard: a finalizer may make one here
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
        super().set_result(result)

    def result(self, timeout: float | None = None) -> _T:
        """As of a Future."""
        if self._state == FINISHED and self._exception is None:
            result: _T = self._result
            return result
        return super().result(timeout)

    def done(self) -> bool:
        """As of a Future."""
        return self._state == FINISHED or super().done()


def _renew_guard() -> None:
    """In a forked child: whoever held it is not there."""
    global _guard
    _guard = threading.RLock()


os.register_at_fork(after_in_child=_renew_guard)
