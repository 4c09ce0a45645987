"""Mutex: exclusion between the participants of a segment that survives the death of its holder.

A semaphore of one gives exclusion for the price of two calls. What it lacks is a memory of who has
its token, so each participant writes into its own line where it is:

    IDLE -> ENTERING -> (wait: token taken) -> INSIDE -> LEAVING -> (post: token given back) -> IDLE

Beside its phase it counts its `entries`: how often it got INSIDE. Waits come in slices, and a slice
that times out is counted in the waiter's `ticks`: "I did not have the token just now". Whoever
waited a slice in vain looks for the dead (rescue.py).

`tests/model/mutex.pml` is this protocol, for Spin: three participants, killed at any step. The
participants' lines and their liveness: lines.py, liveness.py.
"""

from __future__ import annotations

import os
import threading
from itertools import repeat, starmap
from threading import get_ident
from typing import TYPE_CHECKING, Final

import posix_ipc

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError
from shmkit.segment.participants import ENTERING, ENTRIES, IDLE, INSIDE, LEAVING, PHASE, TICKS
from shmkit.sync.acquired import NO, YES, Acquired
from shmkit.sync.doorbell import NO_WORDS
from shmkit.sync.recovery import COUNTER, Rescuing
from shmkit.sync.semaphore import SLICE, NoSemaphore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from shmkit.segment.membership import Membership
    from shmkit.sync.semaphore import Semaphore

__all__ = ["NOBODY", "Mutex"]

NOBODY: Final = 0  # no thread has this ident

_TRIES: Final = 30  # yields before the first slice: a holder that runs is out by then
_NO_PLACE: Final = memoryview(b"\xff" * 24).cast("Q")  # in no phase
_NO_WAIT: Final = (0.0,)

_yield = getattr(os, "sched_yield", lambda: None)


class Mutex(Rescuing):
    """One participant's handle on one of the locks of its segment. Threads of a process take turns.

    Args:
        membership: the participant.
        words: the segment as 8-byte words.
        index: 0 or 1, which of the segment's locks.
    """

    __slots__ = (
        "__weakref__",
        "_gate",
        "_post_token",
        "_queue",
        "_tokens",
        "_wake",
        "owner",
    )

    owner: int
    """Ident of the thread of this process that is at it or has it; 0 or less where it did not say
    who it is."""

    def __init__(self, membership: Membership, words: memoryview[int], index: int) -> None:
        self._membership = membership
        self._words = words
        self._index = index
        self._use(membership.token(index))
        self.start_anew()

    def _use(self, semaphore: Semaphore | NoSemaphore) -> None:
        self._semaphore = semaphore
        # `starmap` hands the tuple on as it is, where `map` would make one for each call.
        self._tokens: Iterator[None] = starmap(semaphore.raw.acquire, repeat(_NO_WAIT))
        self._post_token: Callable[[], None] = semaphore.raw.release

    def start_anew(self) -> None:
        """Hold nothing and be nobody: at first, and in a forked child."""
        self._place = _NO_PLACE
        self._entries = 0
        self._looked, self._vain = 0.0, 0
        self.owner = NOBODY
        self._gate = threading.Lock()
        self._wake = threading.Lock()  # its release is the token that wakes one of `_queue` threads
        self._queue = 0

    def acquire(
        self, block: bool = True, timeout: float | None = None, me: int = NOBODY
    ) -> Acquired:
        """Get it, waiting while another has it.

        A handler that raises (Ctrl-C) ends it at any moment: then it is not had, or `owner` is `me`
        and it is.

        Args:
            block: wait at all.
            timeout: seconds to wait at most; None for ever, 0 not at all.
            me: ident of this thread, for `owner`.

        Returns:
            `Acquired.YES`; `AFTER_DEATH` if the holder before died holding it; `NO` if the time was
            up first.

        Raises:
            ClosedError: the handle was closed.
            ValueError: a negative timeout, and the lock was not free.
        """
        # No call between the look and the store: so threads of this process exclude each other. And
        # none after it is INSIDE: a handler that raises runs when a call returns.
        place = self._place
        if place[PHASE] == IDLE:
            place[PHASE] = ENTERING  # step: mutex.entering
            self.owner = me
            try:
                try:
                    # Not by a call, after which a handler could come: by the next of an iterator.
                    tokens = self._tokens  # step: mutex.take
                    for _ in tokens:
                        place[PHASE] = INSIDE  # step: mutex.inside
                        self._entries = place[ENTRIES] = self._entries + 1  # step: mutex.count
                        return YES
                except posix_ipc.BusyError:
                    return self._wait_for_token(Deadline(timeout if block else 0))
            except BaseException:
                self._abandon()
                raise
        deadline = Deadline(timeout if block else 0)
        mark = me or -get_ident()
        try:
            if not self._wait_for_turn(deadline, mark):
                return NO
            return self._wait_for_token(deadline)
        except BaseException:
            if self.owner == mark:
                self._abandon()
            raise

    def release(self) -> None:
        """Give it back.

        Raises:
            RuntimeError: this handle does not hold it.
        """
        place = self._place
        if place[PHASE] != INSIDE:
            self._check_open()
            raise RuntimeError("release of a lock that this handle does not hold")
        self.owner = NOBODY
        place[PHASE] = LEAVING  # step: mutex.leaving
        try:
            self._post_token()  # step: mutex.post
        finally:
            place[PHASE] = IDLE  # step: mutex.idle
        if self._queue:
            self._wake_one()

    def leave(self, me: int) -> None:
        """Give it back if this thread has it: when a handler may have raised at any moment."""
        if self.owner == me and self.held:
            self.release()

    def retire(self) -> None:
        """Make it unusable for this handle, which is to leave; threads that wait get ClosedError.

        Whoever of them holds it is waited for, a second at most.
        """
        deadline = Deadline(1)
        self._semaphore.close()
        while True:
            given_up = deadline.expired()  # it is in a `with`, and finds the handle closed after it
            place = self._place  # no call until it is _NO_PLACE
            if place is _NO_PLACE or place[PHASE] == IDLE or given_up:
                self._place, self._words = _NO_PLACE, NO_WORDS
                self._use(NoSemaphore())
                return
            self._wake.acquire(timeout=SLICE / 10)

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
        return self._place[PHASE] == INSIDE

    # -- waiting -----------------------------------------------------------------------------------

    def _wait_for_turn(self, deadline: Deadline, mark: int) -> bool:
        """Wait until no other thread of this handle is at it, and be the one that is: ENTERING."""
        self._queue += 1
        try:
            while True:
                self._check_open()
                if self._place is _NO_PLACE:
                    with self._gate:
                        if self._place is _NO_PLACE:
                            self._take_place()
                place = self._place  # no call until it is ENTERING
                phase = place[PHASE]
                if phase == IDLE:
                    place[PHASE] = ENTERING  # step: mutex.entering
                    self.owner = mark
                    return True
                if phase > LEAVING and place is not _NO_PLACE:
                    raise self._membership.corrupt(f"phase {phase} of this handle at a lock")
                left = deadline.remaining()
                if left == 0:
                    return False
                self._wake.acquire(timeout=min(left, SLICE))
        finally:
            self._queue -= 1

    def _wake_one(self) -> None:
        try:
            self._wake.release()
        except RuntimeError:
            return  # a token is there that nobody has taken yet

    def _take_place(self) -> None:
        membership = self._membership
        membership.register()
        self._use(membership.token(self._index))  # in a forked child perhaps others by now
        self._stand_at(membership.line())

    def _wait_for_token(self, deadline: Deadline) -> Acquired:
        """From ENTERING on: to INSIDE with the token, or back to IDLE without."""
        place, tries = self._place, _TRIES
        while True:
            left = deadline.remaining()
            patience = 0 if tries else min(left, SLICE)
            if self._semaphore.acquire_within(patience):  # step: mutex.take
                # No call from the token on, as in acquire.
                place[PHASE] = INSIDE  # step: mutex.inside
                self._entries = place[ENTRIES] = self._entries + 1  # step: mutex.count
                return YES
            place[TICKS] = (place[TICKS] + 1) & COUNTER  # step: mutex.tick
            if tries and left:
                tries -= 1
                _yield()
                continue
            got = self._look_for_the_dead(patient=left > 0)
            if got:
                return got
            if left == 0 or self._semaphore.closed:
                self.owner = NOBODY
                place[PHASE] = IDLE  # step: mutex.give_up
                if self._queue:
                    self._wake_one()
                self._check_open()
                return NO

    def _abandon(self) -> None:
        """Get out of an acquire that was ended by a signal handler."""
        place = self._place
        self.owner = NOBODY
        if place[PHASE] == ENTERING:
            place[PHASE] = IDLE  # without the token: whoever takes it is INSIDE in the same step
        elif place[PHASE] == INSIDE:
            self._pass_on()  # it came by a rescue

    def _pass_on(self) -> None:
        """Give back what was got by a rescue in an acquire that can not tell of the death."""
        self.release()

    def _check_open(self) -> None:
        if self._semaphore.closed:
            raise ClosedError("this lock was closed")
