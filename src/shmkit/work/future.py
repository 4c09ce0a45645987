"""CallFuture: a Future that makes its condition variable when it is first needed.

Most of what a `concurrent.futures.Future` costs is its condition variable, and most futures do not
need one: when their result is asked for, it is there. So it is made at its first use. Whatever
calls back, cancels, fails or waits for several uses `_condition`, here as in the base class. As
long as a future has none, no thread does any of this, and its state is set under one lock that all
futures share.

A thread in `result` waits with a plain lock of its own. That is what a condition variable does,
too, with four times the work around it. Such a sleeper is woken by the result; or when the future
gets its condition, and waits on that one from then on.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, PENDING
from typing import Any, Protocol, TypeVar

__all__ = ["CallFuture"]

_T = TypeVar("_T")

# Re-entrant: a finalizer or a signal handler may run while it is held, and use another future.
_guard = threading.RLock()


class Keeper(Protocol):
    """What a pool does for the futures of its calls."""

    def recall(self, future: CallFuture[Any]) -> bool:
        """Keep a call from being run; False if a worker has it, or it was recalled before."""

    def has_begun(self, future: CallFuture[Any]) -> bool:
        """Whether a worker has the call."""


class CallFuture(Future[_T]):
    """The future of a call that was submitted.

    It is pending until its result is there: `running` asks the pool, and so does `cancel`.

    Attributes:
        keeper: the pool; None for a call that never goes to one.
        position: what its call is known by in the ring of calls; 0 while it is in none.
        is_recalled: whether it was taken back, and no worker is to have it.
    """

    keeper: Keeper | None = None
    position: int = 0
    is_recalled: bool = False

    _made: threading.Condition | None
    _sleepers: tuple[threading.Lock, ...] = ()  # for each thread that waits without a condition

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
                    self._wake()
        return made

    def _wake(self) -> None:
        """Wake each sleeper, for good; the guard is held."""
        sleepers, self._sleepers = self._sleepers, ()
        for lock in sleepers:
            lock.release()

    def _sleep(self, timeout: float | None) -> float | None:
        """Wait for the result, or for a condition; what is left of the timeout, None for ever."""
        lock = threading.Lock()
        lock.acquire()
        try:
            with _guard:
                self._sleepers = (*self._sleepers, lock)
                # After the store: the tuple may run a finalizer, which uses this future. From here
                # on, what sets the state or makes the condition finds the lock.
                is_awake = self._made is not None or self._state == FINISHED
            if is_awake:
                return timeout
            if timeout is None:
                lock.acquire()
                return None
            end = time.monotonic() + timeout
            lock.acquire(timeout=timeout)
            return max(0.0, end - time.monotonic())
        finally:
            # It is still there after a timeout, or if a signal handler raised.
            if lock in self._sleepers:
                with _guard:
                    self._sleepers = tuple(other for other in self._sleepers if other is not lock)

    def cancel(self) -> bool:
        """As of a Future: until a worker has the call."""
        if self.keeper is not None and self._state == PENDING:
            if self.keeper.recall(self):
                return self.cancel_recalled()
            # A worker has it; or another thread has recalled it, and cancels it.
            return self.cancelled()
        return super().cancel()

    def cancel_recalled(self) -> bool:
        """Cancel it, after its call was recalled; and wake the threads that wait for it."""
        return super().cancel() and super().set_running_or_notify_cancel() is False

    def running(self) -> bool:
        """As of a Future."""
        if self.keeper is not None and self._state == PENDING:
            return self.keeper.has_begun(self) and self._state == PENDING
        return super().running()

    def set_result(self, result: _T) -> None:
        """As of a Future."""
        with _guard:
            if self._made is None and self._state != FINISHED:
                self._result = result
                self._state = FINISHED
                self._wake()
                return
        # Outside the guard: this runs callbacks, which may take long.
        super().set_result(result)

    def result(self, timeout: float | None = None) -> _T:
        """As of a Future."""
        # As a condition does: with 0 or less it does not wait.
        if self._state != FINISHED and (timeout is None or timeout > 0):
            timeout = self._sleep(timeout)
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
