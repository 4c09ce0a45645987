"""Participants: the table in which each participant of a segment writes about itself.

As LMDB's reader table: 128 bytes for each handle, and one writer for each. Whether the participant
is alive is told by a lock byte (presence.py), not by what is written: that is for people, and for
its peers after its death. The place of a participant that died outside of all locks goes to the
next newcomer. A participant that died ENTERING or LEAVING a lock may have taken the lock's token
with it. Its place is *pending* (the `list_op_pending` of robust futexes) until it is known where
the token is (recovery.py).
"""

from __future__ import annotations

import errno
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from shmkit.memory.process import this_process
from shmkit.segment.words import (
    ATTACHED,
    DEATHS,
    DOOR_BYTE,
    INSIDE,
    LINE_WORDS,
    LOCK_WORDS,
    LOCKS,
    PAGE,
    PARTICIPANT_BYTE,
    PARTICIPANTS_AT,
    PHASES,
    PID,
    ROLES,
    START,
    TOKENS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.segment.presence import Presence

__all__ = ["NO_WORDS", "NoPlace", "Participants", "start_time"]

NO_WORDS: Final = memoryview(bytearray(b"\1" + bytes(2 * PAGE - 1))).cast("Q")
"""What a closed handle has in place of its segment: not open, and without participants."""


class NoPlace(OSError):
    """EUSERS: every place in the table is a live participant's, or pending.

    Attributes:
        pending: how many are pending, and may be free in a moment.
    """

    def __init__(self, where: str, places: int, pending: int) -> None:
        held, remedy = "", "close a handle; what takes `participants` can be created with more"
        if pending:
            held = f", {pending} of them by processes that died at a lock and may have its token"
            remedy = f"acquire that lock by a handle that is open, which clears them; or {remedy}"
        text = f"all {places} places for participants are in use{held}: {remedy}"
        super().__init__(errno.EUSERS, text, where)
        self.pending = pending


class Participants:
    """The participants of a segment, as one handle sees them.

    Args:
        words: the segment as 8-byte words.
        count: how many there may be.
        presence: the lock bytes of the handle.
        where: url of the segment, for messages.

    Attributes:
        own: the place of this handle; -1 while it has none.
    """

    def __init__(
        self, words: memoryview[int], count: int, presence: Presence, where: str = ""
    ) -> None:
        self.words = words
        self.count = count
        self.presence = presence
        self.where = where
        self.own = -1  # place of this handle

    def own_place(self) -> int:
        """Index of the first word of this handle's place."""
        return self.at(self.own)

    def at(self, place: int) -> int:
        """Index of the first word of a place."""
        return PARTICIPANTS_AT + place * LINE_WORDS

    def enter_door(self, patience: float = 5) -> Iterator[object]:
        """Be alone at the door: no other handle enters or leaves.

            leaving = table.enter_door()
            try:
                ...
            finally:
                for _ in leaving:  # no call: see Presence.unlocks
                    break

        Args:
            patience: seconds to wait for the one at the door.

        Returns:
            An iterator whose step leaves the door.

        Raises:
            TimeoutError: that was not enough.
        """
        leaving = self.presence.unlocks(DOOR_BYTE)
        self.presence.try_door(patience, self.where)
        return leaving

    def are_none(self) -> bool:
        """Whether no other handle is a participant."""
        return not self.presence.others(PARTICIPANT_BYTE, self.count)

    def all(self) -> Iterator[tuple[int, Callable[[], bool]]]:
        """Index of each place, and a question to the kernel whether its participant is alive."""
        for place in range(self.count):
            yield self.at(place), partial(self.presence.is_held, PARTICIPANT_BYTE + place)

    def in_role(self, role: int) -> Iterator[tuple[int, Callable[[], bool]]]:
        """The same of the places that say that they have a role, of live and of dead ones.

        Args:
            role: 0 puts or writes, 1 gets.
        """
        first = self.at(0) + ROLES
        for place, roles in enumerate(
            self.words[first : self.at(self.count) : LINE_WORDS].tolist()
        ):
            if roles >> role & 1:
                yield self.at(place), partial(self.presence.is_held, PARTICIPANT_BYTE + place)

    def phases(self, lock: int) -> Iterator[tuple[int, Callable[[], bool]]]:
        """Index of the phase at a lock in each place, and the same question."""
        for at, lives in self.all():
            yield at + PHASES + LOCK_WORDS * lock, lives

    def take_free_one(self) -> int | None:
        """Lock the byte of a place that is free, and not pending.

        The oldest goes first: so what a dead participant wrote can be read for longest.

        Returns:
            The place; None if there is no such place.
        """
        attached = self.words[self.at(0) + ATTACHED : self.at(self.count) : LINE_WORDS].tolist()
        for place in sorted(range(self.count), key=attached.__getitem__):
            if self.presence.try_lock(PARTICIPANT_BYTE + place):
                if not self._is_at_a_lock(place):
                    return place
                self.presence.unlock(PARTICIPANT_BYTE + place)
        return None

    def count_pending(self) -> int:
        """How many places belong to participants that died at a lock."""
        return sum(
            self._is_at_a_lock(place) and not self.presence.is_held(PARTICIPANT_BYTE + place)
            for place in range(self.count)
        )

    def _is_at_a_lock(self, place: int) -> bool:
        first = self.at(place) + PHASES
        return any(
            self.words[phase] for phase in range(first, first + LOCK_WORDS * LOCKS, LOCK_WORDS)
        )

    def sign(self, place: int) -> None:
        """Write this process into a place whose byte is held."""
        at = self.at(place)
        self._note_death(at)
        self.words[at + PID] = os.getpid()  # step: place.pid
        self.words[at + START] = start_time()
        self.words[at + ATTACHED] = time.time_ns()  # step: place.attached

    def wipe(self) -> set[int]:
        """Empty the table, before the semaphores are made anew.

        Returns:
            The locks that a participant died INSIDE: the first place is left to say so, and the
            next to acquire one of them is told. Empty if there is one place only: it is needed.
        """
        inside = {
            lock
            for lock in range(LOCKS if self.count > 1 else 0)
            if any(self.words[phase] == INSIDE for phase, _ in self.phases(lock))
        }
        kept = {self.at(0) + PHASES + LOCK_WORDS * lock for lock in inside}
        for phase in kept:  # first: after a kill here the next newcomer finds it, too
            self.words[phase] = INSIDE  # step: place.inside
        for place in reversed(range(self.count)):  # the first one last: see is_blank
            at = self.at(place)
            self._note_death(at)
            for word in range(at, at + LINE_WORDS):
                # What a semaphore's dead held comes back later, and what they made stays.
                if word not in kept and word != at + TOKENS:
                    self.words[word] = 0
        return inside

    def is_blank(self) -> bool:
        """Whether no participant has written anything yet: a segment that was just made.

        The first one to do so writes into the first place. The rest, which may be several pages, is
        not touched: a page of memory is not there before its first use.
        """
        return not any(self.words[self.at(0) : self.at(1)].tolist())

    def take_first(self) -> int | None:
        """Lock the byte of the first place, if the table is blank."""
        is_ours = self.is_blank() and self.presence.try_lock(PARTICIPANT_BYTE)
        return 0 if is_ours else None

    def _note_death(self, at: int) -> None:
        """Keep what a dead participant's place says of its roles, before it is used again."""
        roles = self.words[at + ROLES]
        for role in range(2):
            if roles >> role & 1:
                self.words[DEATHS + 2 * role + 1] = self.words[at + PID]
                self.words[DEATHS + 2 * role] = self.words[at + ATTACHED]
        self.words[at + ROLES] = 0


_started: tuple[int, int] = 0, 0  # a process, and when it started


def start_time() -> int:
    """When this process started, in clock ticks since boot; 0 where the system does not say."""
    global _started
    process = this_process()
    if _started[0] != process:
        _started = process, _read_start_time()
    return _started[1]


def _read_start_time() -> int:
    if sys.platform != "linux":
        return 0
    try:
        # Not by the pid: the /proc of another PID namespace has another process under that.
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            stat = file.read()
    except OSError:  # no /proc: it is for people only
        return 0
    # The program's name stands in parentheses, and may have spaces and parentheses in it.
    return int(stat[stat.rindex(b")") + 2 :].split()[19])
