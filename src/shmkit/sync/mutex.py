"""Mutex: exclusion between the participants of a segment that survives the death of its holder.

The common case, and the phases of the protocol, are in core.py. Here is the rest: the first call of
a handle, the wait, what happens when a signal handler raises. A wait comes in slices, and a slice
that ends in vain is counted in the waiter's `ticks`: "I did not have the token just now". Then the
waiter looks for the dead (segment/recovery.py).
"""

from __future__ import annotations

import time
from itertools import repeat
from typing import TYPE_CHECKING, Final

from shmkit.core import COUNTER, YIELDS, MutexCore, yield_cpu
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError
from shmkit.segment.acquired import AFTER_DEATH, NO, YES, Acquired
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.recovery import Recovery
from shmkit.segment.semaphores import FIRST_SLICE, SLICE, NoSemaphore
from shmkit.segment.words import (
    ENTERING,
    IDLE,
    INSIDE,
    LEAVING,
    LOCK_WORDS,
    PHASE,
    PHASES,
    TICKS,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from shmkit.segment.membership import Membership
    from shmkit.segment.semaphores import Semaphore

__all__ = ["Mutex", "NotHeld"]

_POLL: Final = 0.005  # seconds
_NO_PLACE: Final = memoryview(b"\xff" * 8 * LOCK_WORDS).cast("Q")  # not IDLE: the slow path


class NotHeld(ValueError, RuntimeError):
    """A release of what is not held: `multiprocessing` raises ValueError, `threading` the other."""


class Mutex(MutexCore):
    """One participant's handle on one of the locks of its segment.

    One thread at a time uses it, except for `retire` and `held`; its owner sees to that.

    Args:
        membership: the participant.
        words: the segment as 8-byte words.
        index: which of the segment's locks.
        keeps_news: what happens to the news of a death that an interrupted acquire was to tell.
            True: the next to acquire it is told. False: it is lost with the exception.
    """

    def __init__(
        self,
        membership: Membership,
        words: memoryview[int],
        index: int,
        *,
        keeps_news: bool = False,
    ) -> None:
        self._membership = membership
        self._words = words
        self._index = index
        self._keeps_news = keeps_news
        self._closed = False
        self._rescuing = False
        self._recovery: Recovery | None = None
        self._yes = YES
        self._use(membership.token(index))
        self.start_anew()

    def _use(self, semaphore: Semaphore | NoSemaphore) -> None:
        self._semaphore = semaphore
        self._tries, self._posts, self._busy = semaphore.tries, semaphore.posts, semaphore.busy
        self._flag, self._flag_value = semaphore.flag, semaphore.flag_value

    def start_anew(self) -> None:
        """Hold nothing, and be no participant: at first, and in a forked child."""
        self._place = _NO_PLACE
        self.gives: Iterator[object] = iter(())

    @property
    def held(self) -> bool:
        """Whether this handle holds it."""
        return self._place[PHASE] == INSIDE

    def __enter__(self) -> Acquired:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def retire(self) -> None:
        """Make it unusable for this handle, which is to leave; a thread that waits is told.

        A thread that holds it, or is in a call, is waited for, a second at most.
        """
        self._closed = True  # first: a waiter looks at it after each slice
        deadline = Deadline(1)
        while self._place is not _NO_PLACE and self._place[PHASE] in (ENTERING, INSIDE, LEAVING):
            if deadline.expired():
                break  # it is in a `with`, and finds the handle closed after it
            time.sleep(_POLL)  # polled: news of every release would slow releases down
        self._place, self.gives = _NO_PLACE, iter(())
        self._use(NoSemaphore())
        # These would keep the memory mapped.
        self._words, self._recovery = NO_WORDS, None

    # -- what is not the common case ---------------------------------------------------------------

    def _get_ready(self) -> memoryview[int]:
        """This participant's words, IDLE: at a first call, or after one that was interrupted."""
        self._check_open()
        place, had_place = self._place, self._place is not _NO_PLACE
        if not had_place:
            self._membership.register()
            self._use(self._membership.token(self._index))  # a forked child opens them anew
            self._recovery = Recovery(self._membership.participants, self._index)
            place = self._stand()
        phase = place[PHASE]
        if phase == INSIDE and had_place:
            raise RuntimeError("acquire of a lock that this handle holds already")
        if phase == LEAVING:
            # A debugger ended a release, before the post or after it. Leave this place as that of a
            # dead participant: a rescuer finds out where the token is.
            self._membership.move()
            place = self._stand()
        elif phase not in (IDLE, ENTERING):
            raise self._membership.corrupt(f"phase {phase} of this handle at a lock")
        return place  # ENTERING: an acquire was interrupted before it had the token

    def _stand(self) -> memoryview[int]:
        """Have this participant's words at the lock."""
        at = self._membership.line() + PHASES + LOCK_WORDS * self._index
        place = self._words[at : at + LOCK_WORDS]
        phases, flags = repeat(PHASE), repeat(0)
        self.gives = zip(
            map(self._flag.__setitem__, flags, repeat(self._flag_value)),
            map(place.__setitem__, phases, repeat(LEAVING)),
            self._posts,
            map(place.__setitem__, phases, repeat(IDLE)),
            strict=False,
        )
        self._place = place  # last: an interrupted call is done again
        return place

    def _wait(self, timeout: float | None) -> Acquired:
        """Wait for the token, ENTERING; end INSIDE with it, or IDLE without."""
        deadline, recovery = Deadline(timeout), self._recovery
        place, semaphore, tries = self._place, self._semaphore, YIELDS
        pause = FIRST_SLICE
        assert recovery is not None  # since _get_ready
        while True:
            # Tells rescuers that this participant does not have the token.
            place[TICKS] = place[TICKS] + 1 & COUNTER  # step: mutex.tick
            left = deadline.remaining()
            if tries and left:
                tries -= 1
                yield_cpu()
                got = self._take(place, self._tries)
            else:
                self._rescuing = True  # so that an exception in between does not lose the news
                how = recovery.look(place, semaphore, patient=left > 0)
                self._rescuing = False
                if how:
                    return how
                if left == 0 or self._closed:
                    place[PHASE] = IDLE  # step: mutex.give_up
                    self._check_open()
                    return NO
                got = self._take(place, semaphore.waiting(min(left, pause)))
                pause = min(2 * pause, SLICE)
            if got:
                return YES

    def _abandon(self, place: memoryview[int]) -> None:
        """Get out of an acquire that a signal handler ended."""
        if place[PHASE] == INSIDE:
            self.pass_on(AFTER_DEATH if self._rescuing else YES)
        self._rescuing = False

    def pass_on(self, how: Acquired) -> None:
        """Give back what an acquire got that can not tell of it: a signal handler ended it.

        Args:
            how: what the acquire came to.
        """
        if how is AFTER_DEATH and self._keeps_news:
            try:
                # Leave a place whose participant died inside, as it was found: the next is told.
                self._membership.move()
            except OSError:  # no place is free, or a process is stopped at the door
                self.release()
            else:
                self._stand()
        else:
            self.release()

    def _not_held(self) -> Exception:
        if self._closed:
            return ClosedError("this lock was closed")
        return NotHeld("release of a lock that this handle does not hold: acquire it first")

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this lock was closed")
