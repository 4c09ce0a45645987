"""Tokens: the count of a semaphore in a segment, of which a death takes nothing away.

SysV semaphores know what each process has taken, and undo it at its end (`SEM_UNDO` of semop(2)).
Here each participant has one word for that: how many tokens it holds, and how many it made by
releasing what no participant held. So what can be had follows from the words of all:

    count = initial - held by each + made by each

A token is taken, given or made by one store into one such word, under the segment's lock
(mutex.py). That store is the commit. The count is kept beside it, so that it need not be added up
each time. A participant that was killed between the two left the lock to be passed on with
AFTER_DEATH, and then the count is made anew.

- **Release** takes from what this handle holds. If it holds none, another process's token is given
  back, which is legal: a dead holder's if there is one, else a live one's. If no process holds one,
  a token is made. So the sum is right whichever process releases.
- **A dead holder's tokens** come back when a waiter looks, twice a second. They never raise what
  there is above the initial count: what is above it are signals, made by releases for acquires
  that are never given back, and a signal that was taken has arrived. The dead one's word says so
  in one store: it holds none, and what does not come back was made less.
- **Close** in order keeps what was taken: another process may be going to release it.
- **A newcomer** that gets a dead one's place finds its word there, holds its tokens in its stead,
  and gives them back in its first call.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from shmkit.core import COUNTER, MOST_TOKENS, PATIENCE, TokensCore
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment
from shmkit.segment.acquired import AFTER_DEATH, YES
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.segment import Segment
from shmkit.segment.words import (
    INSIDE,
    LINE_WORDS,
    PARTICIPANT_BYTE,
    PHASE,
    READY,
    SEMAPHORE_BELL,
    SEMAPHORE_COUNT,
    SEMAPHORE_INITIAL,
    SEMAPHORE_NEWS,
    STATE,
    TOKENS,
    TOKENS_HELD,
    TOKENS_MADE,
)
from shmkit.sync.doorbell import Doorbell
from shmkit.sync.mutex import Mutex
from shmkit.sync.threads import ThreadGuard

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["MOST", "Tokens", "filled"]

MOST: Final = MOST_TOKENS
_FREE_LOOKS: Final = 8  # for the dead, one after the other, by a caller that only tries
_REST: Final = 0.05  # seconds between its further ones


class Tokens(TokensCore):
    """One handle's part in the count.

    Args:
        segment: the control page; it is closed with this.

    Raises:
        CorruptSegment: its memory was overwritten.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment: Segment = segment
        membership = segment.membership
        self._closed = False
        self._table = membership.participants
        self._words = words = segment.words
        self._mutex = Mutex(membership, words, 0)
        self._bell = Doorbell(
            words, SEMAPHORE_BELL, STATE, membership.semaphores, "data", shared=True
        )
        self._begin()
        membership.presence.call_after_fork(self._begin)
        membership.watch(self, segment.close)
        try:
            self._settle()  # its place may have been a dead holder's
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Hold nothing: at first, and in a forked child."""
        self._mutex.start_anew()
        self._guard = ThreadGuard()
        self._place = self._own = -1  # of this participant, and index of its word
        self._owed = 0  # tokens to give back: see `release` and `take`
        self._looked = 0.0  # when it looked for the dead
        self._vain = 0  # looks since one found any

    # -- the calls ---------------------------------------------------------------------------------

    def acquire(self, deadline: Deadline) -> bool:
        """Take one, waiting while there is none; whether it was taken."""
        while True:
            news = self._words[SEMAPHORE_NEWS]  # before the try: a release from here on is seen
            if self.take():
                return True
            if self._look(patient=not deadline.expired()):
                continue
            if deadline.expired():
                return False
            # Whatever ends the wait, the next round finds out.
            self._bell.wait(SEMAPHORE_NEWS, news, deadline, self._look)

    def release(self) -> bool:
        """Give one back, or make one; False if there are as many as there can be."""
        if self._guard.is_mine():
            # By a handler or a finalizer, in the middle of a call: that call does it at its end.
            self._check_open()
            self._owed += 1
            return True
        return self.give()

    @property
    def count(self) -> int:
        """How many can be had at this moment."""
        self._check_open()
        if not self._guard.is_mine():
            self._look()
        count = self._words[SEMAPHORE_COUNT]
        self._check_open()
        return count

    def close(self) -> None:
        """Leave; what was taken stays taken. Idempotent; the second does what the first could not.

        Raises:
            RuntimeError: called inside another call of this thread.
        """
        self._check_apart()
        try:
            self._keep()
        finally:
            self._closed = True
            self._mutex.retire()
            self._words = NO_WORDS
            self._bell.close()
            self.segment.close()
            self._table = self.segment.membership.participants  # the other kept the memory mapped

    # -- alone with the words ----------------------------------------------------------------------

    def _settle(self) -> None:
        while True:
            self._alone(lambda: self._give(0), None)
            if not STRONG_ORDER:  # else giving the guard back was one
                fence()  # between the stores and the look at the bell's flag: doorbell.py
            self._bell.ring()
            if not self._owed:  # else a handler has released meanwhile
                return

    def _settle_if_open(self) -> None:
        if not self._closed:
            self._settle()

    def _look(self, *, patient: bool = True) -> bool:
        """Have the tokens of dead holders come back; whether there were any."""
        self._check_open()
        now = monotonic()
        if not patient and self._vain >= _FREE_LOOKS and now - self._looked < _REST:
            return False
        self._looked = now
        self._vain += 1
        if not self._places_of_dead() or not self._alone(self._bury, PATIENCE):
            return False
        self._vain = 0
        fence()
        self._bell.ring()
        return True

    def _keep(self) -> None:
        """Hold none any more, without giving any back: less was made."""
        if self._own >= 0 and not self._closed and self._words[self._own] & TOKENS_HELD:
            self._alone(self._make_less, 1)

    def _alone(self, act: Callable[[], bool], timeout: float | None) -> bool | None:
        """Do something alone with the words; what it returned, None if the time was up first."""
        guard, mutex, done = self._guard, self._mutex, None
        self._check_apart()
        try:
            if self._enter(timeout):
                done = act()
                mutex.release()
                guard.give()
        except BaseException:
            for mine in guard.mine:  # no call, as in `take`
                if mine:
                    if mutex._place[PHASE] == INSIDE:
                        for _ in mutex.gives:
                            break
                    for _ in guard.gives:
                        break
                break
            raise
        return done

    # -- inside ------------------------------------------------------------------------------------

    def _enter(self, timeout: float | None) -> bool:
        guard, words = self._guard, self._words
        if not guard.try_take() and not guard.take(Deadline(timeout)):
            return False
        if self._closed:
            self._check_open()
        how = self._mutex.acquire(True, timeout)
        if how is not YES and not how:
            guard.leave()
            return False
        # In a forked child, before its first call, the table has the parent's place.
        if self._table.own != self._place:
            self._move()
        elif how is AFTER_DEATH:
            self._recount()
        if words[STATE] != READY or words[SEMAPHORE_COUNT] > MOST:
            raise self._corrupt()
        return True

    def _give(self, more: int) -> bool:
        words = self._words
        while more or self._owed:
            at, tokens = self._next_to_give()
            if words[SEMAPHORE_COUNT] >= MOST:
                self._owed = 0
                return False
            # No call, after which a handler could come, until it is no longer owed.
            words[at] = tokens  # step: semaphore.give
            words[SEMAPHORE_COUNT] = words[SEMAPHORE_COUNT] + 1  # step: semaphore.count_up
            words[SEMAPHORE_NEWS] = words[SEMAPHORE_NEWS] + 1 & COUNTER  # step: semaphore.news
            if more:
                more = 0
            else:
                self._owed -= 1
        return True

    def _bury(self) -> bool:
        words = self._words
        for at in self._places_of_dead():
            self._return(at)
        self._recount()
        words[SEMAPHORE_NEWS] = words[SEMAPHORE_NEWS] + 1 & COUNTER
        return True

    def _make_less(self) -> bool:
        words, own = self._words, self._own
        made, held = words[own] >> TOKENS_MADE, words[own] & TOKENS_HELD
        words[own] = (made - held & TOKENS_HELD) << TOKENS_MADE  # step: semaphore.keep
        return True

    def _move(self) -> None:
        """Have a place for the first time in this process, or another one."""
        words, before, place = self._words, self._own, self._table.own
        own = self._table.at(place) + TOKENS
        self._return(own)
        if before >= 0:
            # Killed in between it holds none, which is what a dead one holds.
            held = words[before] & TOKENS_HELD
            words[before] = words[before] - held
            words[own] = words[own] + held
        self._own, self._place = own, place
        self._recount()

    def _next_to_give(self) -> tuple[int, int]:
        """Index of the word whose token is given next, and what it becomes."""
        words, own = self._words, self._own
        tokens = words[own]
        if tokens & TOKENS_HELD:
            return own, tokens - 1
        # Another process acquired it. A dead one first: its token was to come back anyway.
        for at in (*self._places_of_dead(), *self._places_that_hold()):
            if words[at] & TOKENS_HELD:
                return at, words[at] - 1
        return own, ((tokens >> TOKENS_MADE) + 1 & TOKENS_HELD) << TOKENS_MADE

    def _places_that_hold(self) -> list[int]:
        """Indices of the words of participants that hold tokens, of live and of dead ones."""
        table = self._table
        first = table.at(0) + TOKENS
        tokens = self._words[first : table.at(table.count) : LINE_WORDS].tolist()
        return [
            first + place * LINE_WORDS for place, word in enumerate(tokens) if word & TOKENS_HELD
        ]

    def _places_of_dead(self) -> list[int]:
        """The same, of dead ones alone."""
        table = self._table
        first = table.at(0) + TOKENS
        return [
            at
            for at in self._places_that_hold()
            if not table.presence.is_held(PARTICIPANT_BYTE + (at - first) // LINE_WORDS)
        ]

    def _return(self, at: int) -> None:
        """Have what a dead one holds come back, up to the initial count; the caller counts."""
        words = self._words
        made, held = words[at] >> TOKENS_MADE, words[at] & TOKENS_HELD
        if held:
            # All there are, free or held: more of them than at first are signals.
            signals = self._sums()[0] & TOKENS_HELD
            gone = min(held, signals) if signals <= MOST else 0
            words[at] = (made - gone & TOKENS_HELD) << TOKENS_MADE  # step: semaphore.return

    def _recount(self) -> None:
        """Make the count what follows from the participants' words."""
        words = self._words
        made, held = self._sums()
        count = words[SEMAPHORE_INITIAL] + made - held & TOKENS_HELD
        words[SEMAPHORE_COUNT] = count  # step: semaphore.recount

    def _sums(self) -> tuple[int, int]:
        """How many tokens were made, and how many are held, by all together."""
        table = self._table
        first = table.at(0) + TOKENS
        tokens = self._words[first : table.at(table.count) : LINE_WORDS].tolist()
        made = sum(word >> TOKENS_MADE for word in tokens)
        return made, sum(word & TOKENS_HELD for word in tokens)

    # -- errors ------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(
                f"this semaphore ({self.segment.buffer.url}) was closed: attach again, or make "
                "another one"
            )

    def _check_apart(self) -> None:
        """Refuse a call inside another one, before it could undo what that one does."""
        if self._guard.is_mine():
            raise self._nested()

    def _nested(self) -> RuntimeError:
        return RuntimeError(
            "a call inside another one of the same thread on this semaphore: a signal handler, "
            "finalizer or debugger that may come there can release it, and for all else needs "
            "a handle of its own"
        )

    def _corrupt(self) -> CorruptSegment:
        where, words = str(self.segment.buffer.url), self._words
        return CorruptSegment(
            f"this semaphore ({where}) was overwritten: close it everywhere, and remove that name",
            where=where,
            detail=f"its state is {words[STATE]} and its count {words[SEMAPHORE_COUNT]}",
        )


def filled(initial: int) -> Callable[[memoryview], None]:
    """What writes the count that it begins with into a new page."""

    def fill(view: memoryview) -> None:
        words = view.cast("Q")
        words[SEMAPHORE_INITIAL] = words[SEMAPHORE_COUNT] = initial

    return fill
