"""Lines: what the participants of a segment write about themselves, each into 128 bytes of its own.

Whose line it is, and whether that one is alive, is told by a lock byte (liveness.py), not by what
is written there: that is for people, and for the others after its death. The line of one that died
outside of all locks goes to the next who comes. That of one that died at a lock is evidence, until
somebody knows where the lock's token is (mutex.py, evidence.py).
"""

from __future__ import annotations

import errno
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmkit.segment.presence import PARTICIPANT_BYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.segment.presence import Presence

__all__ = [
    "DEATHS",
    "ENTERING",
    "ENTRIES",
    "IDLE",
    "INSIDE",
    "LEAVING",
    "LINE_ATTACHED",
    "LINE_PHASES",
    "LINE_PID",
    "LINE_ROLES",
    "LINE_WORDS",
    "LOCKS",
    "LOCK_WORDS",
    "PARTICIPANT_LINE",
    "PHASE",
    "TICKS",
    "Lines",
    "NoFreeLine",
    "start_time",
]

# Indices of 8-byte words.
# For each of two roles, of the line of the dead that was used again last: attached, pid.
DEATHS: Final = 0x100 // 8
PARTICIPANT_LINE: Final = 0x400 // 8  # the first of the lines
LINE_WORDS: Final = 128 // 8

# Words of a line.
LINE_PID: Final = 0
LINE_START: Final = 1
LINE_ATTACHED: Final = 2  # ns; tells one owner of a line from the next
LINE_ROLES: Final = 3  # bits: what the owner does; in a line of the dead, what it died doing
LINE_PHASES: Final = 4  # from there on words for each of the locks in the segment:
LOCKS: Final = 2
LOCK_WORDS: Final = 3
PHASE: Final = 0
TICKS: Final = 1
ENTRIES: Final = 2

# Phases, see mutex.py.
IDLE: Final = 0
ENTERING: Final = 1
INSIDE: Final = 2
LEAVING: Final = 3


class NoFreeLine(OSError):
    """EUSERS: every line is a live participant's, or evidence.

    Attributes:
        evidence: how many are evidence, and may be free in a moment.
    """

    def __init__(self, where: str, lines: int, evidence: int) -> None:
        held, remedy = "", "close a handle; what takes `participants` can be created with more"
        if evidence:
            held = f", {evidence} of them by some that died at a lock and may have its token"
            remedy = f"acquire that lock by a handle that is open, which clears them; or {remedy}"
        text = f"all {lines} lines for participants are in use{held}: {remedy}"
        super().__init__(errno.EUSERS, text, where)
        self.evidence = evidence


class Lines:
    """The lines of a segment, as one handle sees them.

    Args:
        words: the segment as 8-byte words.
        participants: how many lines there are.
        presence: the lock bytes of the handle.
    """

    def __init__(self, words: memoryview[int], participants: int, presence: Presence) -> None:
        self.words = words
        self.participants = participants
        self._presence = presence

    def at(self, slot: int) -> int:
        """Index of the first word of a line."""
        return PARTICIPANT_LINE + slot * LINE_WORDS

    def everybody(self) -> Iterator[tuple[int, Callable[[], bool]]]:
        """Index of each line, and a question to the kernel whether its owner is alive."""
        for slot in range(self.participants):
            yield self.at(slot), partial(self._presence.is_held, PARTICIPANT_BYTE + slot)

    def phases(self, lock: int) -> Iterator[tuple[int, Callable[[], bool]]]:
        """Index of the phase at a lock in each line, and the same question."""
        for line, lives in self.everybody():
            yield line + LINE_PHASES + LOCK_WORDS * lock, lives

    def lock_free_one(self) -> int | None:
        """Lock the byte of a line that is nobody's, nor evidence; gives its slot.

        What the dead leave in their lines is news for some time: the oldest goes first.
        """
        slots = range(self.participants)
        for slot in sorted(slots, key=lambda slot: self.words[self.at(slot) + LINE_ATTACHED]):
            if self._presence.try_lock(PARTICIPANT_BYTE + slot):
                if not self._is_in_a_lock(slot):
                    return slot
                self._presence.unlock(PARTICIPANT_BYTE + slot)
        return None

    def count_evidence(self) -> int:
        """How many lines are those of somebody who died at a lock."""
        return sum(
            self._is_in_a_lock(slot) and not self._presence.is_held(PARTICIPANT_BYTE + slot)
            for slot in range(self.participants)
        )

    def _is_in_a_lock(self, slot: int) -> bool:
        first = self.at(slot) + LINE_PHASES
        return any(
            self.words[phase] for phase in range(first, first + LOCK_WORDS * LOCKS, LOCK_WORDS)
        )

    def sign(self, slot: int) -> None:
        """Write this process into a line whose byte is held."""
        line = self.at(slot)
        self._bury(line)
        self.words[line + LINE_PID] = os.getpid()  # step: line.pid
        self.words[line + LINE_START] = start_time(os.getpid())
        self.words[line + LINE_ATTACHED] = time.time_ns()  # step: line.attached

    def wipe(self) -> set[int]:
        """Empty them all, for one that is alone and makes the semaphores anew.

        Returns:
            The locks that somebody died INSIDE: the first line is left to say so, and whoever
            acquires one of them next is to be told. Where there is only one line, none.
        """
        inside = {
            lock
            for lock in range(LOCKS if self.participants > 1 else 0)
            if any(self.words[phase] == INSIDE for phase, _ in self.phases(lock))
        }
        kept = {self.at(0) + LINE_PHASES + LOCK_WORDS * lock for lock in inside}
        for phase in kept:  # first: should it be killed here, the next one finds it, too
            self.words[phase] = INSIDE  # step: line.inside
        for slot in range(self.participants):
            line = self.at(slot)
            self._bury(line)
            for word in range(line, line + LINE_WORDS):
                if word not in kept:
                    self.words[word] = 0
        return inside

    def _bury(self, line: int) -> None:
        """Write down elsewhere what a line of the dead says of roles, before it is used again."""
        roles = self.words[line + LINE_ROLES]
        for role in range(2):
            if roles >> role & 1:
                self.words[DEATHS + 2 * role + 1] = self.words[line + LINE_PID]
                self.words[DEATHS + 2 * role] = self.words[line + LINE_ATTACHED]
        self.words[line + LINE_ROLES] = 0


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])
