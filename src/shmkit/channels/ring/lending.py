"""Lending: a side of a ring is one thread's for longer than the common case takes.

The thread has a loan then, and the mutex between processes if the side has one. The guard of the
cursor (shmkit/core.py) is free meanwhile: other threads wait for the end of the loan, and a call
that the same thread makes from a signal handler or finalizer is refused.
"""

from __future__ import annotations

import threading
from sys import getrecursionlimit, setrecursionlimit
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from shmkit.core import BUSY, CAREFUL, CLOSED, DEPTH, FREE, LENT, NO_ROLE, PATIENCE
from shmkit.errors import ClosedError
from shmkit.segment.semaphores import SLICE

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.channels.ring.read import Reader
    from shmkit.channels.ring.write import Writer
    from shmkit.channels.roles import Side
    from shmkit.deadline import Deadline
    from shmkit.segment.segment import Segment
    from shmkit.sync.doorbell import Doorbell

__all__ = [
    "Loan",
    "Parts",
    "Wait",
    "attempt",
    "check_loan",
    "check_open",
    "close",
    "give_back",
    "has_role",
    "insist",
    "take_role",
    "wait",
]

T = TypeVar("T")


class Parts(NamedTuple):
    """What both sides of a ring are made of.

    Attributes:
        title: what messages call the ring.
        segment: its memory.
        data_bell: consumers sleep there.
        space_bell: producers sleep there.
        producers: the producers' role.
        consumers: the consumers' role.
        policy: what a put to a full ring does: one of words.POLICIES.
        checked: whether frames carry a checksum.
        tells_deaths: whether a wait ends with PeerDied when the other side died.
    """

    title: str
    segment: Segment
    data_bell: Doorbell
    space_bell: Doorbell
    producers: Side
    consumers: Side
    policy: str
    checked: bool
    tells_deaths: bool


class Wait(NamedTuple):
    """The answer of an attempt that found no room, or no frame.

    Attributes:
        seen: the position of the other side then; when it moves, it is time for the next attempt.
    """

    seen: int


class Loan:
    """One thread has a side to itself, although the guard is free.

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


def attempt(
    side: Writer | Reader, act: Callable[[], T], deadline: Deadline, keep: Loan | None = None
) -> T:
    """Call a function while no other thread or process is inside a side.

    Args:
        side: the side.
        act: what to call. It may be left by an exception at any point.
        deadline: when to give up waiting for the side.
        keep: a loan that outlives the call, unless a Wait is returned. The caller has to
            `give_back` it, whatever happens.

    Raises:
        RuntimeError: this thread is inside a call on this side.
        ClosedError: the handle was closed.
        Full, Empty: the side did not come free in time.
    """
    if side.is_inside():
        raise side.nested()
    loan = keep or Loan()
    try:
        # Also a call that does not wait gives a thread inside the side a moment to finish.
        end = max(deadline.at, monotonic() + PATIENCE)
        _borrow(side, loan, end)
        mutex = side.mutex
        if mutex is not None:
            if mutex.held:  # no call of this handle is inside: the word was overwritten
                raise side.segment.poison(f"a lock is marked as held by this {side.role.role}")
            if not mutex.acquire(True, _seconds_to(end)):
                raise _late(side)
        # A handler that ran during the wait may have closed the handle, or forked.
        check_loan(side, loan)
        side.state = BUSY
        result = act()
        if keep is None or type(result) is Wait:
            give_back(side, loan)
        else:
            side.state = LENT
    except BaseException as error:
        more = DEPTH if isinstance(error, RecursionError) else 0
        setrecursionlimit(getrecursionlimit() + more)
        # Twice: a signal handler may raise as the first one begins.
        try:
            give_back(side, loan)
        finally:
            give_back(side, loan)
            setrecursionlimit(getrecursionlimit() - more)
        raise
    return result


def insist(side: Writer | Reader, act: Callable[[], T | Wait], deadline: Deadline) -> T:
    """Attempt it again and again, waiting for the other side in between."""
    while True:
        result = attempt(side, act, deadline)
        if not isinstance(result, Wait):
            return result
        wait(side, result.seen, deadline)


def wait(side: Writer | Reader, seen: int, deadline: Deadline) -> None:
    """Wait until the other side is no longer where it was seen.

    Raises:
        Full, Empty: it stayed there.
        PeerDied: it died; told once per death.
        ClosedError: the handle was closed meanwhile.
    """
    if side.never_waits or deadline.is_now:
        if side.tells_deaths:
            side.peer.raise_if_seen_dead(side.title, side.moves, seen)
        if side.watch is not None:
            side.watch.arm(seen)
        raise side.refusal(f"{side.title} is {side.why}")

    def look() -> None:
        check_open(side)
        if side.tells_deaths:
            side.peer.raise_if_dead(side.title, side.moves, seen)

    if not side.sleeps_at.wait(side.moves, seen, deadline, look):
        if side.watch is not None:
            side.watch.arm(seen)
        raise side.refusal(f"{side.title} stayed {side.why} until the timeout")


def _late(side: Writer | Reader) -> Exception:
    return side.refusal(f"another {side.verb} on {side.title} did not end in time")


def _borrow(side: Writer | Reader, loan: Loan, end: float) -> None:
    while True:
        with side.guard:
            before: Loan | None = side.loan
            if before is None:
                check_open(side)
                if side.state in (BUSY, LENT):
                    side.settle()  # an exception in the clean-up after another one left it so
                side.loan, side.state = loan, LENT
                return
        # This thread would wait for itself, for ever.
        if before.thread == loan.thread:
            raise side.nested()
        before.wait(min(SLICE, max(0.0, end - monotonic())))
        if monotonic() >= end:
            raise _late(side)


def give_back(side: Writer | Reader, loan: Loan) -> None:
    """End a loan, if it has not ended yet."""
    if side.loan is loan:
        with side.guard:
            # Again under the guard: a handler may have given it back in between.
            if side.loan is loan:
                side.settle()


def check_loan(side: Writer | Reader, loan: Loan | None) -> None:
    """Raise if a loan ended early: a handler closed the handle, or forked."""
    if loan is None or side.loan is not loan:
        check_open(side)
        raise RuntimeError(
            "this process was forked inside a call, or with a frame open: that is the parent's, "
            "and only the parent goes on with it"
        )


def check_open(side: Writer | Reader) -> None:
    """Raise ClosedError if the handle was closed."""
    if side.idle == CLOSED:
        raise ClosedError(f"this handle on {side.title} is closed")


def has_role(side: Writer | Reader) -> bool:
    """Whether this handle has taken the role of a side."""
    return side.idle in (FREE, CAREFUL)


def take_role(side: Writer | Reader) -> None:
    """Take the role of a side, unless this handle has it; RoleTaken if another one has."""
    if side.idle == NO_ROLE:
        side.role.claim()
        side.idle = CAREFUL if side.checked else FREE


def close(side: Writer | Reader) -> None:
    """Let no call in any more; another thread that has a frame is waited for, for a second."""
    # A thread that hangs with a frame open must not keep close() for ever.
    end = monotonic() + 1
    while True:
        with side.guard:
            loan: Loan | None = side.loan
            if loan is None or loan.thread == get_ident() or monotonic() > end:
                had_role, side.idle = has_role(side), CLOSED
                side.settle()
                if side.mutex is not None:
                    side.mutex.retire()
                break
        loan.wait(SLICE)
    if had_role:
        side.role.release()


def _seconds_to(end: float) -> float | None:
    """Seconds until `end` on the monotonic clock; None if that is more than a lock can wait."""
    seconds = end - monotonic()
    return max(0.0, seconds) if seconds < threading.TIMEOUT_MAX else None
