"""The core: the steps that everything waits for, in plain Python, to be read in one sitting.

A ring's two cursors do the common case of `put` and `get`, and nothing else: a role is held, there
is room or a frame before the end of the lap, nothing is checked. Whatever is not so makes them
answer "not done", and the careful code in `channels/ring` takes over. `state` says whether the
common case may be taken, and if not why not; all else is read from the shared words in each call.

    put    room? -> header -> payload -> store tail -> ring the bell if a consumer may sleep
    get    frame? -> copy it out -> store head -> ring the bell if a producer may sleep

A lap is one passage through the data. Positions only grow, and frames never lie across the end of a
lap, so a position and its lap's end tell where a frame is in memory. What other processes store is
input: every index is checked before it is used.

Threads of a process exclude each other by `guard`, processes by the side's mutex, if it has one. A
call from inside another one of the same thread and side (by a signal handler, a finalizer, a
debugger) finds the guard its own and the state BUSY: it is refused, and never waits.

Each step has a name, `# step: ...`: the tests kill a process at every one of them.
"""

from __future__ import annotations

import threading
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from shmkit.errors import ClosedError
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.words import (
    DATA_BELL,
    HEAD,
    READY,
    SHUT,
    SKIP,
    SPACE_BELL,
    STATE,
    TAIL,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.deadline import Deadline

__all__ = [
    "BUSY",
    "CAREFUL",
    "CLOSED",
    "FREE",
    "IMPOSSIBLE",
    "LENT",
    "NO_ROLE",
    "Cursor",
    "Loan",
    "ReadCursor",
    "Wait",
    "WriteCursor",
]

# -- a ring's cursors: whether the common case may be taken, and why not ---------------------------

NO_ROLE: Final = 0  # the first call takes the role
FREE: Final = 1  # it may
CAREFUL: Final = 2  # frames carry a checksum
BUSY: Final = 3  # a call is inside
LENT: Final = 4  # a call waits for the mutex, or a frame is reserved or peeked at
CLOSED: Final = 5

IMPOSSIBLE: Final = 1 << 63 | 15
"""Bits that no position has: frames are 16-aligned, and no ring moves 8 EiB."""

PATIENCE: Final = 0.2
"""Seconds to wait for a side in any case. It is held for microseconds, unless its holder is stopped
or uses a frame in place: to wait so long for it is not yet to wait for the other side."""

_SLICE: Final = 0.05  # seconds; a wake-up that was lost costs no more
_WEAK_ORDER: Final = not STRONG_ORDER
_OPEN: Final = (READY, SHUT)  # to consumers

_T = TypeVar("_T")


class Wait(NamedTuple):
    """The answer of an attempt that found no room, or no frame.

    Attributes:
        seen: the position of the other side then; when it moves, it is time for the next attempt.
    """

    seen: int


class Loan:
    """That one thread has a side to itself, while the guard is free.

    Attributes:
        thread: ident of that thread.
    """

    __slots__ = ("_ended", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self._ended = threading.Lock()
        self._ended.acquire()

    def end(self) -> None:
        """Wake the threads that wait; to be called once."""
        self._ended.release()

    def wait(self, seconds: float) -> None:
        """Wait for the end of it, for a time."""
        if self._ended.acquire(timeout=seconds):
            self._ended.release()  # for the next thread that waits


class Cursor:
    """What both cursors have: the memory, and one call at a time.

    Args:
        title: what messages call the ring.
        words: the segment as 8-byte words.
        data: the map of the segment.
        base: byte in `data` where the ring's data begins.
        size: bytes of the ring's data, a power of two.
        mutex: the lock between the processes on this side; None where there is one process.
        bell: what wakes the other side: `ring()`.

    Attributes:
        state: whether the common case may be taken, or why not.
        largest: bytes of the largest frame.
        idle: what `state` is when no call is inside: NO_ROLE, FREE, CAREFUL or CLOSED.
        guard: the lock between threads, for the common case, and to change `loan`. Held for
            microseconds; for PATIENCE if the mutex is with a process that is stopped.
        loan: which thread has the side to itself for more than that, or None.
        note: called within the lock before each commit, with the position that is to be left and
            the next one; False refuses it. None for nothing.
        seen: how far the other side was seen to be. It only gets further, so a late look is safe.
    """

    __slots__ = (
        "base",
        "bell",
        "data",
        "guard",
        "idle",
        "largest",
        "loan",
        "mask",
        "mutex",
        "note",
        "seen",
        "size",
        "state",
        "title",
        "words",
    )

    def __init__(
        self,
        title: str,
        words: memoryview[int],
        data: Any,
        base: int,
        size: int,
        mutex: Any,
        bell: Any,
    ) -> None:
        self.title = title
        self.words = words
        self.data = data
        self.base = base
        self.size = size
        self.mask = size - 1
        self.largest = size - 16
        self.mutex = mutex
        self.bell = bell
        self.note: Callable[[int, int], bool] | None = None
        self.idle = NO_ROLE
        self.start_anew()

    def start_anew(self) -> None:
        """Be without a role, and hold nothing: at first, and in a forked child."""
        if self.mutex is not None:
            self.mutex.start_anew()
        self.guard: Any = threading.RLock()
        self.loan: Loan | None = None
        if self.idle != CLOSED:
            self.idle = NO_ROLE
        self.state = self.idle
        self.seen = 0

    # -- the careful calls: one at a time ----------------------------------------------------------

    def attempt(self, act: Callable[[], _T], deadline: Deadline, keep: Loan | None = None) -> _T:
        """Call a function while no other thread or process is inside this side.

        Args:
            act: what to call. It may be left by an exception at any point.
            deadline: when to give up waiting for the side.
            keep: the loan to have the side by, also afterwards, unless a Wait was returned. It is
                for the caller to `give_back`, whatever happens.

        Raises:
            RuntimeError: this thread is inside a call on this side.
            ClosedError: the handle was closed.
            Exception: the side did not come free in time: what `late` makes.
        """
        if self.is_inside():
            raise self.nested()
        loan = keep or Loan()
        try:
            end = max(deadline.at, monotonic() + PATIENCE)
            self._borrow(loan, end)
            mutex = self.mutex
            if mutex is not None and not mutex.acquire(True, _seconds_to(end)):
                raise self.late()
            if self.loan is not loan:
                raise self.lost()
            self.state = BUSY
            result = act()
            if keep is None or type(result) is Wait:
                self.give_back(loan)
            else:
                self.state = LENT
        except BaseException:
            # Twice, for a handler that raises as the first begins.
            try:
                self.give_back(loan)
            finally:
                self.give_back(loan)
            raise
        return result

    def insist(self, act: Callable[[], _T | Wait], deadline: Deadline) -> _T:
        """Attempt it again and again, waiting for the other side in between."""
        while True:
            result = self.attempt(act, deadline)
            if not isinstance(result, Wait):
                return result
            self.wait(result.seen, deadline)

    def _borrow(self, loan: Loan, end: float) -> None:
        while True:
            with self.guard:
                before = self.loan
                if before is None:
                    if self.idle == CLOSED:
                        raise self.closed_error()
                    if self.state in (BUSY, LENT):
                        self._settle()  # left so by exceptions that came while another was handled
                    self.loan, self.state = loan, LENT
                    return
            if before.thread == loan.thread:
                raise self.nested()
            before.wait(min(_SLICE, max(0.0, end - monotonic())))
            if monotonic() >= end:
                raise self.late()

    def lost(self) -> Exception:
        """The error for a loan that ended early: a handler closed the handle, or forked."""
        if self.idle == CLOSED:
            return self.closed_error()
        return RuntimeError(
            "this process was forked inside a call, or with a frame open: that is the parent's, "
            "and only the parent goes on with it"
        )

    def give_back(self, loan: Loan) -> None:
        """End a loan, if it has not ended yet."""
        if self.loan is loan:
            with self.guard:
                if self.loan is loan:
                    self._settle()

    def _escape(self, guard: Any) -> None:
        """Leave the common case by an exception, if this thread got as far as the guard."""
        if guard._is_owned():
            if guard is self.guard:  # else this is a forked child
                self._settle()
            guard.release()

    def _settle(self) -> None:
        """Leave the side; whatever an exception has skipped of it is done by the next time."""
        mutex = self.mutex
        if mutex is not None and mutex.held:
            mutex.release()
        loan, self.loan = self.loan, None
        self.state = self.idle
        if loan is not None:
            loan.end()

    def is_inside(self) -> bool:
        """Whether this thread is inside a call on this side; not if it only has a frame of it."""
        if self.guard._is_owned():
            return True
        loan = self.loan
        return self.state == BUSY and loan is not None and loan.thread == get_ident()

    @property
    def has_role(self) -> bool:
        """Whether this handle has taken the role of this side."""
        return self.idle in (FREE, CAREFUL)

    def close(self) -> bool:
        """Let no call in any more; another thread that has a frame is waited for, for a second.

        Returns:
            Whether the handle had the role of this side, which is the caller's to give back.
        """
        end = monotonic() + 1
        while True:
            with self.guard:
                loan = self.loan
                if loan is None or loan.thread == get_ident() or monotonic() > end:
                    had_role, self.idle = self.has_role, CLOSED
                    self._settle()
                    if self.mutex is not None:
                        self.mutex.retire()
                    return had_role
            loan.wait(_SLICE)

    # -- what a ring's cursors are to say ----------------------------------------------------------

    def wait(self, seen: int, deadline: Deadline) -> None:
        """Wait until the other side is no longer where it was seen."""
        raise NotImplementedError

    def late(self) -> Exception:
        """The error for a thread that did not get the side in time."""
        raise NotImplementedError

    def closed_error(self) -> ClosedError:
        """The error for a call on a closed handle."""
        return ClosedError(f"this handle on {self.title} is closed")

    def nested(self) -> RuntimeError:
        """The error for a call from inside another one."""
        return RuntimeError(
            f"a call inside another one on the same handle of {self.title}, and the same side of "
            "it: leave the `with` of the frame first; a signal handler or finalizer needs a handle "
            "of its own"
        )


class WriteCursor(Cursor):
    """The producers' side of a ring; `seen` is the head, `bell` wakes a consumer.

    Room for frames reaches up to a ring's size behind the head.
    """

    __slots__ = ()

    def put(self, frame: bytes | memoryview) -> bool:
        """Copy a frame in, if that is the common case; whether it was."""
        guard = self.guard
        if guard._is_owned():
            return False  # inside another call: the careful code refuses it
        size, words, done = len(frame), self.words, False
        try:
            guard.acquire()
            if self.state == FREE:
                self.state = BUSY
                mutex = self.mutex
                if mutex is None or mutex.acquire(True, PATIENCE):
                    tail = words[TAIL]
                    end = tail + ((size + 31) & -16)
                    done = (
                        (16 <= end - self.seen <= self.size or self._look_at_head(end))
                        and size <= self.largest
                        and end <= (tail | self.mask) + 1
                        and not tail & IMPOSSIBLE
                        and words[SKIP] != tail
                        and words[STATE] == READY
                        and (self.note is None or self.note(tail, end))
                    )
                    if self.state != BUSY:
                        raise self.nested()  # a handler forked in here: the parent goes on
                    if done:
                        at = self.base + (tail & self.mask)
                        words[at >> 3] = size  # step: put.header
                        at += 16
                        self.data[at : at + size] = frame  # step: put.payload
                        if _WEAK_ORDER:
                            fence()
                        words[TAIL] = end  # step: put.tail
                    if mutex is not None:
                        mutex.release()
                self.state = FREE
            guard.release()
        except BaseException:
            # Twice, for a handler that raises as the first begins.
            try:
                self._escape(guard)
            finally:
                self._escape(guard)
            raise
        # Giving the guard back was a fence, on x86: a consumer that is about to sleep either sees
        # the tail, or its flag is seen here.
        if _WEAK_ORDER:
            fence()
        if done and words[DATA_BELL]:  # step: put.bell
            self.bell.ring()
        return done

    def _look_at_head(self, end: int) -> bool:
        """See how far the consumers are; whether a frame may reach up to `end`."""
        head = self.words[HEAD]
        if head & IMPOSSIBLE or not 16 <= end - head <= self.size:
            return False
        self.seen = head
        return True


class ReadCursor(Cursor):
    """The consumers' side of a ring; `seen` is the tail, `bell` wakes a producer.

    Up to the tail all frames are whole.
    """

    __slots__ = ()

    def get(self) -> bytes | None:
        """Take the oldest frame out, if that is the common case; None if it is not."""
        guard = self.guard
        if guard._is_owned():
            return None  # inside another call: the careful code refuses it
        words, frame = self.words, None
        try:
            guard.acquire()
            if self.state == FREE:
                self.state = BUSY
                mutex = self.mutex
                if mutex is None or mutex.acquire(True, PATIENCE):
                    head, state = words[HEAD], words[STATE]
                    is_there = 16 <= self.seen - head <= self.size or self._look_at_tail(head)
                    at = self.base + (head & self.mask)
                    size = words[at >> 3]  # with a flag or a kind in it, no frame is so large
                    end = head + ((size + 31) & -16)
                    done = (
                        is_there
                        and end <= self.seen
                        and end <= (head | self.mask) + 1
                        and not head & IMPOSSIBLE
                        and words[SKIP] != head
                        and state in _OPEN
                        and (self.note is None or self.note(head, end))
                    )
                    if self.state != BUSY:
                        raise self.nested()  # a handler forked in here: the parent goes on
                    if done:
                        at += 16
                        frame = self.data[at : at + size]  # step: get.copy
                        if _WEAK_ORDER:
                            fence()
                        words[HEAD] = end  # step: get.head
                    if mutex is not None:
                        mutex.release()
                self.state = FREE
            guard.release()
        except BaseException:
            try:
                self._escape(guard)
            finally:
                self._escape(guard)
            raise
        if _WEAK_ORDER:
            fence()
        if frame is not None and words[SPACE_BELL]:  # step: get.bell
            self.bell.ring()
        return frame

    def _look_at_tail(self, head: int) -> bool:
        """See how far the producers are; whether there are frames at `head`."""
        tail = self.words[TAIL]
        if _WEAK_ORDER:
            fence()
        if tail & IMPOSSIBLE or not 16 <= tail - head <= self.size:
            return False
        self.seen = tail
        return True


def _seconds_to(end: float) -> float | None:
    """Until a point on the monotonic clock; None for ever, which is also more than a lock takes."""
    seconds = end - monotonic()
    return max(0.0, seconds) if seconds < threading.TIMEOUT_MAX else None
