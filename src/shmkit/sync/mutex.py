"""Mutex: exclusion between the participants of a segment that survives the death of its holder.

A semaphore of one gives exclusion for the price of two calls. What it lacks is a memory of who has
its token, so each participant writes into its own line where it is:

    IDLE -> ENTERING -> (wait: token taken) -> INSIDE -> LEAVING -> (post: token given back) -> IDLE

Beside its phase it counts its `entries`: how often it got INSIDE. Waits come in slices, and a slice
that times out is counted in the waiter's `ticks`: "I did not have the token just now". Whoever
waited a slice in vain looks for the dead, one rescuer at a time (a kernel-held lock byte, so that a
rescuer's own death frees it):

- One died INSIDE: it had the token. The rescuer becomes the holder in its place: it writes itself
  INSIDE, and only then the dead IDLE. It posts nothing: killed between a post and the clearing, it
  would have made a second token.
- Some died ENTERING or LEAVING: the token may have died with them, or not. It did if it is nowhere
  else. In this order: note every phase and count of entries; nobody alive is INSIDE or LEAVING; a
  try at the semaphore fails; each live one that is ENTERING ticks once more (it might have taken
  the token and not yet said so); and then all is as noted, and a try fails again. Then the rescuer
  becomes the holder.

Lines of those who died ENTERING or LEAVING are evidence, until the token is seen elsewhere: here,
or by a newcomer that finds no other line (evidence.py).

`tests/model/mutex.pml` is this protocol, for Spin: three participants, killed at any step. The
participants' lines and their liveness: lines.py, liveness.py.
"""

from __future__ import annotations

import enum
import os
import threading
from itertools import repeat
from threading import get_ident
from typing import TYPE_CHECKING, Final, TypeAlias

import posix_ipc

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment
from shmkit.sync.lines import (
    ENTERING,
    IDLE,
    INSIDE,
    LEAVING,
    LINE_PHASES,
    LOCK_WORDS,
)
from shmkit.sync.liveness import RESCUE_BYTE
from shmkit.sync.semaphore import SLICE, NoSemaphore
from shmkit.sync.waiting import NO_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from shmkit.sync.membership import Membership
    from shmkit.sync.semaphore import Semaphore

__all__ = [
    "AFTER_DEATH",
    "ENTERING",
    "IDLE",
    "INSIDE",
    "LEAVING",
    "NO",
    "NOBODY",
    "YES",
    "Acquired",
    "Mutex",
]

NOBODY: Final = 0  # no thread has this ident

_TRIES: Final = 30  # yields before the first slice: a holder that runs is out by then
_COUNTER: Final = (1 << 63) - 1  # from there on from 0: what counts is whether it changes
_NO_LINE: Final = 0  # index of a word that is never 0, so never IDLE: the magic

_yield = getattr(os, "sched_yield", lambda: None)


class Acquired(enum.IntEnum):
    """What an acquire came to; false if the lock was not acquired."""

    NO = 0
    YES = 1
    AFTER_DEATH = 2
    """Acquired, and the holder before died holding it: what it guards may be half-changed."""


YES: Final = Acquired.YES
NO: Final = Acquired.NO
AFTER_DEATH: Final = Acquired.AFTER_DEATH


# Index of a phase word -> phase, entries before it was read, entries after.
_Lines: TypeAlias = dict[int, tuple[int, int, int]]


class Mutex:
    """One participant's handle on one of the locks of its segment. Threads of a process take turns.

    Args:
        membership: the participant.
        words: the segment as 8-byte words.
        index: 0 or 1, which of the segment's locks.
    """

    __slots__ = (
        "__weakref__",
        "_entries",
        "_gate",
        "_index",
        "_membership",
        "_phase",
        "_post_token",
        "_queue",
        "_semaphore",
        "_tokens",
        "_wake",
        "_words",
        "owner",
    )

    owner: int
    """Ident of the thread of this process that is at it or has it; 0 or less where it did not say
    who it is."""

    def __init__(self, membership: Membership, words: memoryview[int], index: int) -> None:
        self._membership = membership
        self._words = words
        self._index = index
        self._phase = _NO_LINE
        self._use(membership.token(index))
        self.start_anew()

    def _use(self, semaphore: Semaphore | NoSemaphore) -> None:
        self._semaphore = semaphore
        self._tokens: Iterator[None] = map(semaphore.raw.acquire, repeat(0))
        self._post_token: Callable[[], None] = semaphore.raw.release

    def start_anew(self) -> None:
        """Hold nothing and be nobody: at first, and in a forked child."""
        self._phase = _NO_LINE  # index of this participant's phase word
        self._entries = 0
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
        words, phase = self._words, self._phase
        if words[phase] == IDLE:
            words[phase] = ENTERING  # step: mutex.entering
            self.owner = me
            try:
                try:
                    # Not by a call, after which a handler could come: by the next of an iterator.
                    tokens = self._tokens  # step: mutex.take
                    for _ in tokens:
                        words[phase] = INSIDE  # step: mutex.inside
                        self._entries = words[phase + 2] = self._entries + 1  # step: mutex.count
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
        words, phase = self._words, self._phase
        if words[phase] != INSIDE:
            self._check_open()
            raise RuntimeError("release of a lock that this handle does not hold")
        self.owner = NOBODY
        words[phase] = LEAVING  # step: mutex.leaving
        try:
            self._post_token()  # step: mutex.post
        finally:
            words[phase] = IDLE  # step: mutex.idle
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
        words, deadline = self._words, Deadline(1)
        self._semaphore.close()
        while True:
            given_up = deadline.expired()  # it is in a `with`, and finds the handle closed after it
            phase = self._phase  # no call until it is _NO_LINE
            if phase == _NO_LINE or words[phase] == IDLE or given_up:
                self._phase, self._words = _NO_LINE, NO_WORDS
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
        return self._words[self._phase] == INSIDE

    # -- waiting -----------------------------------------------------------------------------------

    def _wait_for_turn(self, deadline: Deadline, mark: int) -> bool:
        """Wait until no other thread of this handle is at it, and be the one that is: ENTERING."""
        words = self._words
        self._queue += 1
        try:
            while True:
                self._check_open()
                if self._phase == _NO_LINE:
                    with self._gate:
                        if self._phase == _NO_LINE:
                            self._take_place()
                phase = self._phase  # no call until it is ENTERING
                if words[phase] == IDLE:
                    words[phase] = ENTERING  # step: mutex.entering
                    self.owner = mark
                    return True
                if words[phase] > LEAVING:
                    raise self._corrupt(words[phase])
                left = deadline.remaining()
                if left == 0:
                    return False
                self._wake.acquire(timeout=min(left, SLICE))
        finally:
            self._queue -= 1

    def _corrupt(self, phase: int) -> CorruptSegment:
        where, detail = self._membership.where, f"phase {phase} of this handle at a lock"
        return CorruptSegment(
            f"segment {where!r} is corrupt: {detail}; close it, unlink it and create it anew",
            where=where,
            detail=detail,
        )

    def _wake_one(self) -> None:
        try:
            self._wake.release()
        except RuntimeError:
            return  # a token is there that nobody has taken yet

    def _take_place(self) -> None:
        membership = self._membership
        membership.register()
        self._use(membership.token(self._index))  # in a forked child perhaps others by now
        phase = self._phase_of(membership.line())
        self._entries = self._words[phase + 2] & _COUNTER
        self._phase = phase

    def _wait_for_token(self, deadline: Deadline) -> Acquired:
        """From ENTERING on: to INSIDE with the token, or back to IDLE without."""
        words, phase = self._words, self._phase
        tries = _TRIES
        while True:
            left = deadline.remaining()
            patience = 0 if tries else min(left, SLICE)
            if self._semaphore.acquire_within(patience):  # step: mutex.take
                # No call from the token on, as in acquire.
                words[phase] = INSIDE  # step: mutex.inside
                self._entries = words[phase + 2] = self._entries + 1  # step: mutex.count
                return YES
            words[phase + 1] = (words[phase + 1] + 1) & _COUNTER  # step: mutex.tick
            if tries and left:
                tries -= 1
                _yield()
                continue
            got = self._look_for_the_dead(patient=left > 0)
            if got:
                return got
            if left == 0 or self._semaphore.closed:
                self.owner = NOBODY
                words[phase] = IDLE  # step: mutex.give_up
                if self._queue:
                    self._wake_one()
                self._check_open()
                return NO

    def _abandon(self) -> None:
        """Get out of an acquire that was ended by a signal handler."""
        words, phase = self._words, self._phase
        self.owner = NOBODY
        if words[phase] == ENTERING:
            words[phase] = IDLE  # without the token: whoever takes it is INSIDE in the same step
        elif words[phase] == INSIDE:
            self._pass_on()  # it came by a rescue

    def _pass_on(self) -> None:
        """Give back what was got by a rescue in an acquire that can not tell of the death."""
        self.release()

    def _check_open(self) -> None:
        if self._semaphore.closed:
            raise ClosedError("this lock was closed")

    # -- rescue ------------------------------------------------------------------------------------

    def _phase_of(self, line: int) -> int:
        return line + LINE_PHASES + LOCK_WORDS * self._index

    def _look_for_the_dead(self, *, patient: bool) -> Acquired:
        """Become the holder if the token went with a dead one."""
        presence, byte = self._membership.presence, RESCUE_BYTE + self._index
        if not presence.try_lock(byte):  # step: mutex.rescue
            return NO  # another is at it
        try:
            dead, rest = self._survey()
            if dead and any(self._words[at] == INSIDE for at in rest):
                with self._membership.entering(SLICE):
                    self._membership.forget_beside_holder(self._index)
                return NO
            if any(phase == INSIDE for phase, *_ in dead.values()):
                return self._succeed(dead, AFTER_DEATH)
            if dead and patient:
                return self._look_for_the_token(dead, rest)
            return NO
        except TimeoutError:
            return NO  # somebody is stopped at the door
        finally:
            presence.unlock(byte)  # step: mutex.rescued

    def _survey(self) -> tuple[_Lines, _Lines]:
        """Phases and entries of all the others: of those who died at the lock, and of the rest."""
        dead: _Lines = {}
        rest: _Lines = {}
        words = self._words
        with self._membership.entering(SLICE):  # no newcomer takes a line while we look
            for line, lives in self._membership.lines():
                at = self._phase_of(line)
                if at != self._phase:
                    # The entries on both sides of the phase, or what is noted was never so at once;
                    # the phase after the life, for that of the dead does not change any more.
                    entries = words[at + 2]
                    died = words[at] != IDLE and not lives() and words[at] != IDLE
                    (dead if died else rest)[at] = words[at], entries, words[at + 2]
        return dead, rest

    def _succeed(self, dead: _Lines, how: Acquired) -> Acquired:
        # In this order: two that are INSIDE, one of them dead, are one holder for whoever comes
        # after us. None that is INSIDE would be a lost token.
        words, phase = self._words, self._phase
        words[phase] = INSIDE  # step: mutex.inside
        self._entries = words[phase + 2] = self._entries + 1  # step: mutex.count
        for at in dead:
            words[at] = IDLE  # step: mutex.clear
        return how

    def _look_for_the_token(self, dead: _Lines, rest: _Lines) -> Acquired:
        """Some died ENTERING or LEAVING: is the token in anybody's hands?"""
        words, take = self._words, self._semaphore.acquire_within
        if any(phase in (INSIDE, LEAVING) for phase, *_ in rest.values()):
            return NO
        if take(0):  # step: mutex.try
            return self._succeed(dead, YES)
        noted = {at: words[at + 1] for at, (phase, *_) in rest.items() if phase == ENTERING}
        deadline = Deadline(4 * SLICE)
        while any(words[at] == ENTERING and words[at + 1] == tick for at, tick in noted.items()):
            # The wait is on the token itself: should it turn up, it is ours.
            if take(SLICE / 10):  # step: mutex.try
                return self._succeed(dead, YES)
            if deadline.expired():
                return NO  # one of them is stopped, perhaps with the token: it is waited for
        if self._survey() != (dead, rest):
            return NO
        if take(0):  # step: mutex.try
            return self._succeed(dead, YES)
        return self._succeed(dead, AFTER_DEATH)
