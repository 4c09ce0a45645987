"""Lock: exclusion between processes, and a word about it when the holder before died."""

from __future__ import annotations

import threading
from math import inf
from typing import TYPE_CHECKING, Final

from shmkit import compiled
from shmkit.compiled import twin
from shmkit.deadline import Deadline
from shmkit.segment.acquired import AFTER_DEATH, NO, Acquired
from shmkit.segment.semaphores import SLICE
from shmkit.segment.words import INSIDE, LOCK_KIND, PHASE
from shmkit.sync.mutex import Mutex, NotHeld
from shmkit.sync.page import OnPage
from shmkit.sync.threads import ThreadGuard

if TYPE_CHECKING:
    from types import TracebackType

    from shmkit.segment.segment import Segment

__all__ = ["Acquired", "Lock", "NotHeld"]

_INDEX: Final = 0  # of its lock in the segment


@twin(compiled.LockCore)
class Lock(compiled.LockCore, OnPage):
    """One process at a time is inside; if it dies there, the next gets in, and is told.

    Without a name it is reached by forking or pickling it; with one, by every process of the same
    user that gives the same name. It is not reentrant, and the handle that acquired it releases it;
    threads of a process may share a handle, and take turns. A holder that is stopped is waited for;
    one that ends, or drops its handle, without a release has died inside.

    Args:
        name: a name without "/", or None. `create`, `attach` and `ensure` take files, too.
        participants: how many handles there may be at a time, of all processes.
        keep: leave the name in place when its last user leaves; files always stay.
        mode: permissions, less the umask; a process of another user has to say `trust_owner=True`
            as well.
        trust_owner: take what another user made, too: one that you trust.

    Raises:
        IncompatibleSegment: the name belongs to something else.
        CorruptSegment: its memory was overwritten.
        PermissionError: it is another user's.
        ValueError: a bad name, or participants that cannot be.
        OSError: no room, or `participants` handles are there.

    Notes:
        How a dead holder is told from a slow one: segment/recovery.py.

        A forked child is a user of its own from its first acquire on. Until then the handle of its
        parent has to stay open. Else the name is removed, and its next user makes another lock.

        A signal handler may call it. RuntimeError, at once, if it comes in the middle of a call of
        the same thread on the same handle.
    """

    _KIND = LOCK_KIND

    def _open(self, segment: Segment) -> None:
        self._segment = segment
        membership = segment.membership
        self._closed = False
        self._mutex = Mutex(membership, segment.words, _INDEX, keeps_news=True)
        self._begin()

        def remove() -> None:
            # If a process died inside, the page stays: the next holder is told of the death.
            if not membership.is_another_inside(_INDEX):
                segment.buffer.unlink()

        if segment.goes_with_last_user:
            membership.call_when_last(remove)
        membership.presence.call_after_fork(self._begin)
        membership.watch(self, segment.close)

    def _begin(self) -> None:
        """Hold nothing: at first, and in a forked child."""
        self._mutex.start_anew()
        self._guard = ThreadGuard()
        self._freed = threading.Event()  # set by a release, for other threads of this handle
        self._waiting = 0  # threads that may wait for `_freed`
        # Whether a thread is in a call with the guard: then the compiled twin leaves it alone.
        self._inside = False
        self._call: object = None  # the call of `acquire` that took it, or is about to

    def acquire(self, block: bool = True, timeout: float | None = None) -> Acquired:
        """Get it, waiting while another process, or another thread of this handle, has it.

        A signal handler that raises (Ctrl-C) ends it at any moment; then it was not acquired.

        Args:
            block: wait at all.
            timeout: seconds to wait at most: None for ever, 0 or less not at all.

        Returns:
            `Acquired.YES`; `AFTER_DEATH` if the holder before died holding it; `NO` if the time was
            up first.

        Raises:
            ClosedError: this handle was closed.
            CorruptSegment: its memory was overwritten.
            RuntimeError: called inside another call of this thread on this handle.
            TypeError, ValueError: a timeout that is no number, or NaN.
        """
        guard, deadline = self._guard, Deadline(timeout)
        if guard.is_mine():
            raise self._nested()
        # Identifies this call: after an exception it gives back only what it acquired itself.
        call, how = object(), NO
        try:
            try:
                if guard.try_take():
                    self._inside = True
                if guard.is_mine() and not self._mutex.held:
                    self._call = call
                    how = self._mutex.acquire(block, timeout)
                else:
                    how = self._acquire_after_others(deadline if block else Deadline(0), call)
            finally:
                self._leave()
        except BaseException:
            # No call from here on, but for the news of a death: more handlers may raise.
            for mine in guard.mine:  # it is, if a handler raised as `_leave` began
                if mine:
                    self._inside = False
                    for _ in guard.gives:
                        break
                break
            mutex = self._mutex
            if self._call is call and mutex._place[PHASE] == INSIDE:
                try:
                    if how is AFTER_DEATH:
                        mutex.pass_on(how)
                finally:
                    if mutex._place[PHASE] == INSIDE:
                        for _ in mutex.gives:
                            break
            raise
        return how

    def _acquire_after_others(self, deadline: Deadline, call: object) -> Acquired:
        """Wait for the other threads of this handle, then for the other processes.

        The caller gives the guard back, if this thread has it at the end.
        """
        guard, mutex = self._guard, self._mutex
        while True:
            self._check_open()
            if not guard.is_mine() and not guard.take(deadline):
                return NO
            self._inside = True
            if not mutex.held:
                self._call = call
                left = deadline.remaining()
                return mutex.acquire(True, None if left == inf else left)
            left = deadline.remaining()
            if not left:
                return NO
            # Before the guard is left: only then can another thread release, and set it.
            self._freed.clear()
            self._waiting += 1
            self._leave()
            self._freed.wait(min(left, SLICE))  # a wake-up that is missed costs a slice
            self._waiting -= 1

    def _leave(self) -> None:
        """Give the guard to the next thread, if this one has it."""
        if self._guard.is_mine():
            self._inside = False
            self._guard.leave()

    def release(self) -> None:
        """Give it back; any thread of the handle that acquired it may do that.

        Raises:
            ClosedError: this handle was closed.
            NotHeld: a ValueError and RuntimeError: this handle does not hold it.
            RuntimeError: as `acquire`.
        """
        guard = self._guard
        if guard.is_mine():
            raise self._nested()
        try:
            try:
                # While it is held no thread has the guard for longer than a moment.
                if guard.try_take() or (self._mutex.held and guard.take(Deadline(None))):
                    self._mutex.release()
                else:
                    raise NotHeld(
                        "release of a lock that this handle does not hold: acquire it first"
                    )
            finally:
                guard.leave()
        except BaseException:
            for mine in guard.mine:  # it is, if a handler raised as `leave` began
                if mine:
                    for _ in guard.gives:
                        break
                break
            raise
        # Outside of the guard, which a woken thread takes next.
        if self._waiting:
            self._freed.set()

    def _nested(self) -> RuntimeError:
        return RuntimeError(
            "a call inside another one of the same thread on this lock: a signal handler, "
            "finalizer or debugger that may come there needs a handle of its own"
        )

    def __enter__(self) -> Acquired:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether this handle holds it."""
        return self._mutex.held

    def close(self) -> None:
        """Leave it; if this handle holds it, whichever thread acquired it, it is released first.

        The last one out removes the name of a segment. Idempotent; after an interrupted one it
        does the rest.
        """
        self._closed = True
        self._freed.set()  # threads that wait for another one of this handle look at once
        try:
            # While it is held no thread waits for it with the guard: a second is plenty.
            if self._mutex.held and self._guard.take(Deadline(1)) and self._mutex.held:
                self._mutex.release()
        finally:
            self._guard.leave()
        self._mutex.retire()
        self._segment.close()

    def __repr__(self) -> str:
        where = self._segment.buffer.url
        if self._closed:
            return f"<Lock {where} closed>"
        return f"<Lock {where} {'held here' if self.held else 'not held here'}>"
