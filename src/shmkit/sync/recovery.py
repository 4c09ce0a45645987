"""Rescue: what becomes of a lock's token when somebody died at the lock (mutex.py).

One rescuer at a time, by a kernel-held lock byte, so that a rescuer's own death frees it:

- One died INSIDE: it had the token. The rescuer becomes the holder in its place: it writes itself
  INSIDE, and only then the dead IDLE. It posts nothing: killed between a post and the clearing, it
  would have made a second token.
- Some died ENTERING or LEAVING: the token may have died with them, or not. It did if it is nowhere
  else. In this order: note every phase and count of entries; nobody alive is INSIDE or LEAVING; a
  try at the semaphore fails; each live one that is ENTERING ticks once more (it might have taken
  the token and not yet said so); and then all is as noted, and a try fails again. Then the rescuer
  becomes the holder.

Lines of those who died ENTERING or LEAVING are evidence, until the token is seen elsewhere: here,
or by a newcomer that finds no other line (evidence.py). So a rescuer that is killed or interrupted
with the token in hand leaves behind what it had found.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

from shmkit.deadline import Deadline
from shmkit.segment.participants import (
    ENTERING,
    ENTRIES,
    IDLE,
    INSIDE,
    LEAVING,
    LINE_PHASES,
    LOCK_WORDS,
    PHASE,
    TICKS,
)
from shmkit.segment.presence import RESCUE_BYTE
from shmkit.sync.acquired import AFTER_DEATH, NO, YES
from shmkit.sync.semaphore import SLICE

if TYPE_CHECKING:
    from shmkit.segment.membership import Membership
    from shmkit.sync.acquired import Acquired
    from shmkit.sync.semaphore import NoSemaphore, Semaphore

__all__ = ["COUNTER", "Rescuing"]

_FREE_LOOKS: Final = 8  # one after the other, by somebody who only tries
COUNTER: Final = (1 << 63) - 1  # from there on from 0: what counts is whether it changes

# Index of a phase word -> phase, entries before it was read, entries after.
_Lines: TypeAlias = dict[int, tuple[int, int, int]]


class Rescuing:
    """The half of a `Mutex` that looks for the dead."""

    __slots__ = (
        "_entries",
        "_index",
        "_looked",
        "_membership",
        "_place",
        "_semaphore",
        "_vain",
        "_words",
    )

    _membership: Membership
    _words: memoryview[int]
    _index: int
    _semaphore: Semaphore | NoSemaphore
    _place: memoryview[int]  # this participant's words at this lock
    _entries: int
    _looked: float  # when for the dead
    _vain: int  # such looks since one helped

    def _phase_of(self, line: int) -> int:
        return line + LINE_PHASES + LOCK_WORDS * self._index

    def _stand_at(self, line: int) -> None:
        """Make this participant's line the place to write where it is."""
        phase = self._phase_of(line)
        place = self._words[phase : phase + LOCK_WORDS]
        self._entries = place[ENTRIES] & COUNTER
        self._place = place

    def _look_for_the_dead(self, *, patient: bool) -> Acquired:
        """Become the holder if the token went with a dead one.

        Who only tries again and again looks once in a while: those who wait need the same lock byte
        and the door.
        """
        now = monotonic()
        if not patient and self._vain >= _FREE_LOOKS and now - self._looked < SLICE:
            return NO
        self._looked = now
        self._vain += 1
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
            if dead:
                return self._look_for_the_token(dead, rest, patient=patient)
            return NO
        except TimeoutError:
            return NO  # somebody is stopped at the door
        finally:
            presence.unlock(byte)  # step: mutex.rescued

    def _survey(self) -> tuple[_Lines, _Lines]:
        """Phases and entries of all the others: of those who died at the lock, and of the rest."""
        dead: _Lines = {}
        rest: _Lines = {}
        words, own = self._words, self._membership.line()
        with self._membership.entering(SLICE):  # no newcomer takes a line while we look
            for line, lives in self._membership.lines():
                if line != own:
                    at = self._phase_of(line)
                    # The entries on both sides of the phase, or what is noted was never so at once;
                    # the phase after the life, for that of the dead does not change any more.
                    entries = words[at + ENTRIES]
                    died = words[at] != IDLE and not lives() and words[at] != IDLE
                    (dead if died else rest)[at] = words[at], entries, words[at + ENTRIES]
        return dead, rest

    def _succeed(self, dead: _Lines, how: Acquired) -> Acquired:
        # In this order: two that are INSIDE, one of them dead, are one holder for whoever comes
        # after us. None that is INSIDE would be a lost token.
        place = self._place
        self._vain = 0
        place[PHASE] = INSIDE  # step: mutex.inside
        self._entries = place[ENTRIES] = self._entries + 1  # step: mutex.count
        for at in dead:
            self._words[at] = IDLE  # step: mutex.clear
        return how

    def _look_for_the_token(self, dead: _Lines, rest: _Lines, *, patient: bool) -> Acquired:
        """Some died ENTERING or LEAVING: is the token in anybody's hands?"""
        words, take = self._words, self._semaphore.acquire_within
        if any(phase in (INSIDE, LEAVING) for phase, *_ in rest.values()):
            return NO
        if take(0):  # step: mutex.try
            return self._succeed(dead, YES)
        noted = {at: words[at + TICKS] for at, (phase, *_) in rest.items() if phase == ENTERING}
        if noted and not patient:
            return NO  # that takes time; if they wait, they find out
        deadline = Deadline(4 * SLICE)
        while any(
            words[at] == ENTERING and words[at + TICKS] == tick for at, tick in noted.items()
        ):
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
