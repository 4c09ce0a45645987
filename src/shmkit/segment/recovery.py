"""Recovery: what becomes of a lock's token when a participant died at the lock.

A robust mutex, as POSIX has them, for a lock that is a semaphore of one (core.py has its phases).
Each participant writes where it is: IDLE, ENTERING, INSIDE, LEAVING. So of a dead one it is known

- INSIDE: it had the token. The rescuer becomes the holder in its place: it writes itself INSIDE,
  and only then the dead one IDLE. It posts nothing: killed between a post and the clearing, it
  would have made a second token.
- ENTERING or LEAVING: an operation was pending, and the token may have died with it, or not. It did
  if it is nowhere else. In this order: note each phase and count of entries; no live participant is
  INSIDE or LEAVING; a try at the semaphore fails; each live one that is ENTERING ticks once more
  (it might have taken the token and not yet said so); and then all is as noted, and a try fails
  again. Then the rescuer becomes the holder.

One rescuer at a time, by a lock byte of the kernel's, so that a rescuer's own death frees it.

A pending place is *settled*, made free again, once the token is seen elsewhere *after* the death.
Settled earlier, a token that died there would never be missed, and the lock would stay shut.
There are two proofs:

- a participant is INSIDE: it has the token;
- the token can be had. It goes back *before* anything is settled, and it is taken only where a
  place is pending: so a rescuer that dies with the token in hand leaves that place pending, and the
  next rescuer finds the token lost.

A waiter settles places in `Recovery.look`; a newcomer that finds no free place, in
`settle_by_token`. Both are alone at the door meanwhile, so that no newcomer takes such a place, and
hold the lock's rescue byte. `tests/model/mutex.pml` has all of it, and what happens otherwise.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

from shmkit.deadline import Deadline
from shmkit.segment.acquired import AFTER_DEATH, NO, YES
from shmkit.segment.semaphores import SLICE
from shmkit.segment.words import (
    ENTERING,
    ENTRIES,
    IDLE,
    INSIDE,
    LEAVING,
    LINE_WORDS,
    PHASE,
    RESCUE_BYTE,
    TICKS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shmkit.segment.acquired import Acquired
    from shmkit.segment.participants import Participants
    from shmkit.segment.semaphores import Semaphore

__all__ = ["COUNTER", "Recovery", "settle_beside_holder", "settle_by_token"]

COUNTER: Final = (1 << 63) - 1  # 0 comes after it: counts are compared for a change only
_FREE_LOOKS: Final = 8  # one after the other, by a caller that only tries
_REST: Final = 0.05  # seconds between its further ones
_AT_THE_DOOR: Final = 0.05  # seconds to wait there
_POLL: Final = 0.005  # seconds between looks at the ticks

# Index of a phase word -> phase, entries before it was read, entries after.
_Phases: TypeAlias = dict[int, tuple[int, int, int]]


class Recovery:
    """The search of one participant for the dead at one lock.

    Args:
        participants: the segment's table.
        lock: index of the lock.
    """

    __slots__ = ("_last", "_lock", "_participants", "_vain")

    def __init__(self, participants: Participants, lock: int) -> None:
        self._participants = participants
        self._lock = lock
        self._last = 0.0  # when it looked
        self._vain = 0  # looks since one helped

    def look(self, own: memoryview[int], token: Semaphore, *, patient: bool) -> Acquired:
        """Become the holder if the token went with a dead participant.

        A caller that only tries, again and again, looks once in a while: waiters need the same lock
        byte and the door.

        Args:
            own: this participant's words at the lock; its phase is ENTERING.
            token: the lock's semaphore.
            patient: whether the caller waits.

        Returns:
            NO; YES or AFTER_DEATH if this participant is INSIDE now.
        """
        now = monotonic()
        if not patient and self._vain >= _FREE_LOOKS and now - self._last < _REST:
            return NO
        self._last = now
        self._vain += 1
        presence, byte = self._participants.presence, RESCUE_BYTE + self._lock
        unlocks = presence.unlocks(byte)
        if not presence.try_lock(byte):  # step: mutex.rescue
            return NO  # another participant is at it
        try:
            return self._rescue(own, token, patient=patient)
        except TimeoutError:
            return NO  # a process is stopped at the door
        finally:
            for _ in unlocks:  # step: mutex.rescued
                break

    def _rescue(self, own: memoryview[int], token: Semaphore, *, patient: bool) -> Acquired:
        words = self._participants.words
        dead, rest = self._survey()
        # A holder that was alive a moment ago has the token: it died with none of the dead.
        if dead and any(words[at] == INSIDE for at in rest):
            leaving = self._participants.enter_door(_AT_THE_DOOR)
            try:
                settle_beside_holder(self._participants, self._lock)
            finally:
                for _ in leaving:
                    break
            return NO
        if any(phase == INSIDE for phase, *_ in dead.values()):
            return self._succeed(own, dead, AFTER_DEATH)
        if dead:
            return self._look_for_token(own, token, dead, rest, patient=patient)
        return NO

    def _survey(self) -> tuple[_Phases, _Phases]:
        """Phases and entries of the other participants: the dead at the lock, and the rest."""
        dead: _Phases = {}
        rest: _Phases = {}
        table = self._participants
        words, own_place = table.words, table.own_place()
        leaving = table.enter_door(_AT_THE_DOOR)  # no newcomer takes a place meanwhile
        try:
            for at, lives in table.phases(self._lock):
                if not own_place <= at < own_place + LINE_WORDS:
                    # Entries are read before and after the phase: only equal ones belong to it. The
                    # phase is read again after `lives`: a dead participant's does not change.
                    entries = words[at + ENTRIES]
                    died = words[at] != IDLE and not lives() and words[at] != IDLE
                    (dead if died else rest)[at] = words[at], entries, words[at + ENTRIES]
        finally:
            for _ in leaving:
                break
        return dead, rest

    def _succeed(self, own: memoryview[int], dead: _Phases, how: Acquired) -> Acquired:
        # In this order: a kill in between leaves two INSIDE, one of them dead, and later rescuers
        # take the two for one holder. The other order would leave none, and lose the token.
        self._vain = 0
        own[PHASE] = INSIDE  # step: mutex.inside
        own[ENTRIES] = own[ENTRIES] + 1 & COUNTER  # step: mutex.count
        for at in dead:
            self._participants.words[at] = IDLE  # step: mutex.clear
        return how

    def _look_for_token(
        self,
        own: memoryview[int],
        token: Semaphore,
        dead: _Phases,
        rest: _Phases,
        *,
        patient: bool,
    ) -> Acquired:
        """Some died ENTERING or LEAVING: does a live participant have the token?"""
        words = self._participants.words
        # That one has the token, or is about to post it.
        if any(phase in (INSIDE, LEAVING) for phase, *_ in rest.values()):
            return NO
        if token.try_wait():  # step: mutex.try
            return self._succeed(own, dead, YES)
        noted = {at: words[at + TICKS] for at, (phase, *_) in rest.items() if phase == ENTERING}
        if noted and not patient:
            return NO  # that takes time; the waiters themselves find out
        deadline = Deadline(2 * SLICE)
        while any(
            words[at] == ENTERING and words[at + TICKS] == tick for at, tick in noted.items()
        ):
            # The wait is on the token itself: should it turn up, it is ours.
            if token.wait(_POLL):  # step: mutex.try
                return self._succeed(own, dead, YES)
            if deadline.expired():
                return NO  # one of them is stopped, perhaps with the token: it is waited for
        # After any change the token may have moved meanwhile: the next look begins anew.
        if self._survey() != (dead, rest):
            return NO
        if token.try_wait():  # step: mutex.try
            return self._succeed(own, dead, YES)
        # The token is nowhere: it went with one of the dead.
        return self._succeed(own, dead, AFTER_DEATH)


def settle_beside_holder(participants: Participants, lock: int) -> None:
    """Settle the pending places of a lock, if a participant is INSIDE.

    Called alone at the door, and with the lock's rescue byte.
    """
    pending = _pending(participants, lock)
    if _is_held(participants, lock):
        _settle(participants, pending)


def settle_by_token(participants: Participants, lock: int, token: Semaphore) -> None:
    """Settle the pending places of a lock, if a participant is INSIDE or the token is there.

    Called alone at the door, and with the lock's rescue byte.

    Args:
        participants: the segment's table.
        lock: index of the lock.
        token: its semaphore.
    """
    pending = _pending(participants, lock)
    if pending and (_is_held(participants, lock) or _is_there(token)):
        _settle(participants, pending)


def _pending(participants: Participants, lock: int) -> list[int]:
    """Indices of the phases of participants that died ENTERING or LEAVING."""
    words = participants.words
    return [
        phase
        for phase, lives in participants.phases(lock)
        # Read again after the question: the phase of a dead one does not change any more.
        if words[phase] and not lives() and words[phase] in (ENTERING, LEAVING)
    ]


def _is_held(participants: Participants, lock: int) -> bool:
    # Alive or dead: one that died INSIDE has kept the token, one that died elsewhere has not.
    return any(participants.words[phase] == INSIDE for phase, _ in participants.phases(lock))


def _is_there(token: Semaphore) -> bool:
    if not token.try_wait():  # step: settle.take
        return False
    # Back before anything is settled: after a kill in between a rescuer finds it lost.
    token.post()  # step: settle.post
    return True


def _settle(participants: Participants, pending: Iterable[int]) -> None:
    for phase in pending:
        participants.words[phase] = IDLE  # step: settle.clear
