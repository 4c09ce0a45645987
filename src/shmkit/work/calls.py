r"""Calls on their way to a worker, and the note in which a worker says which call it has.

A call is known by the position in the ring at which its frame ends. The producer sees that position
in the tail after the put, the worker in the head that it stores. Every worker has a slot, 128 bytes
of shared memory, for its note:

    0x00    ready: 1 once the initializer is done
    0x08    taken: the call it has, or had last
    0x10    started: the same, once its code may run

The worker writes it and the parent reads it. A call goes by, under the lock of the ring's readers:

    worker      lock -> taken = id -> copy -> head = id -> unlock -> started = id -> run -> result

A process that holds the lock can tell for every call that is out of the ring which worker has it:
neither `taken` nor the head changes meanwhile. A worker that is killed before it stores the head
leaves the call in the ring for another worker. After that, `started` tells whether the call may
run again.

In this folder only these classes use the inside of a ring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from shmkit.channels.objects.object_ring import ObjectRing
from shmkit.channels.ring import attempt, take_role
from shmkit.deadline import Deadline
from shmkit.errors import Empty
from shmkit.memory.buffer import SharedBuffer
from shmkit.segment.words import (
    CALLS_KIND,
    HEAD,
    NOTE_READY,
    NOTE_STARTED,
    NOTE_TAKEN,
    NOTE_WORDS,
    PRODUCER_BYTE,
    RESULTS_KIND,
    TAIL,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from shmkit.channels.objects.codec import Received

__all__ = ["CallRing", "Notes", "ResultRing", "Seen"]


class Notes:
    """The notes of the workers of one pool, by slot.

    Args:
        memory: where they are; each process has its own handle of it.
    """

    def __init__(self, memory: SharedBuffer) -> None:
        self.memory = memory
        self._words = memory.view("Q")

    @classmethod
    def create(cls, slots: int) -> Notes:
        """Make the memory for so many slots."""
        return cls(SharedBuffer.create(size=slots * NOTE_WORDS * 8))

    def clear(self, slot: int) -> None:
        """Empty a slot for the worker that gets it next."""
        self._words[slot * NOTE_WORDS : (slot + 1) * NOTE_WORDS] = _EMPTY

    def is_ready(self, slot: int) -> bool:
        """Whether the worker's initializer is done."""
        return bool(self._words[slot * NOTE_WORDS + NOTE_READY])

    def taken(self, slot: int) -> int:
        """Which call the worker has, or had last; 0 if none."""
        return self._words[slot * NOTE_WORDS + NOTE_TAKEN]

    def started(self, slot: int) -> int:
        """Which call the worker has begun, or had begun last; 0 if none."""
        return self._words[slot * NOTE_WORDS + NOTE_STARTED]

    def own(self, slot: int) -> memoryview[int]:
        """The words of one slot, for its worker to write."""
        return self._words[slot * NOTE_WORDS : (slot + 1) * NOTE_WORDS]

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        self._words.release()
        self.memory.close()


_EMPTY: Final = memoryview(bytes(NOTE_WORDS * 8)).cast("Q")


class Seen(NamedTuple):
    """What was seen while the ring of calls was locked.

    Attributes:
        head: calls up to this one are out of the ring.
        taken: the calls that the workers asked about have, or had last.
    """

    head: int
    taken: set[int]


class ResultRing(ObjectRing):
    """Any number of workers put results, one collector gets them."""

    __slots__ = ()

    _KIND = RESULTS_KIND.number
    _NOUN = RESULTS_KIND.noun
    _WARNING: ClassVar = ""

    def claim(self) -> None:
        """Be the process that gets results, before others could wait for its end."""
        take_role(self._reader)


class CallRing(ObjectRing):
    """One process puts calls; any number of workers take them, one at a time each."""

    __slots__ = ()

    _KIND = CALLS_KIND.number
    _NOUN = CALLS_KIND.noun
    _WARNING: ClassVar = ""

    def claim(self) -> None:
        """Be the process that puts calls, before others could wait for its end."""
        take_role(self._writer)

    def is_orphaned(self) -> bool:
        """Whether the process that puts calls is dead or gone; for the others."""
        return not self._segment.membership.presence.others(PRODUCER_BYTE)

    def note_in(self, note: memoryview[int]) -> None:
        """Have this handle note each call it takes in these words, a worker's own."""
        self._reader.mark = note[NOTE_TAKEN : NOTE_TAKEN + 1]

    def is_taken(self, position: int) -> bool:
        """Whether a worker has, or had, the call that is known by a position."""
        return self._words[HEAD] >= position

    def void(self, position: int, before: int) -> bool:
        """Take a call out of the ring, unless a worker has it.

        Args:
            position: what it is known by.
            before: what the call that was put before it is known by.

        Returns:
            False if it is out of the ring, or another process has the lock for too long.
        """
        reader = self._reader

        def act() -> bool:
            if self._words[HEAD] >= position:
                return False
            lap = (before | reader.mask) + 1  # no frame lies across the end of a lap
            reader.void(lap if position > lap else before)
            return True

        try:
            return attempt(reader, act, Deadline(0))
        except Empty:
            return False

    @property
    def position(self) -> int:
        """What the call that was put last is known by; for the process that put it."""
        return self._words[TAIL]

    def take(self, timeout: float | None = None) -> bytes | Received:
        """Take the oldest call, and note it.

        Args:
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Raises:
            Exception: the call is damaged; it is noted as taken, and out of the ring.
            Empty, ShutDown, PeerDied, CorruptSegment, ClosedError: as `get`.
        """
        frame: bytes | Received = self.get(timeout)
        return frame

    def look(self, notes: Notes, slots: Collection[int]) -> Seen | None:
        """See which calls are out of the ring, and which of them these workers have.

        Args:
            notes: of the pool.
            slots: of the workers to ask about.

        Returns:
            None when another process has the lock, such as a worker that is stopped.
        """

        def see() -> Seen:
            return Seen(self._words[HEAD], {notes.taken(slot) for slot in slots})

        try:
            # Without a wait: a stopped worker may have the lock, and results go on coming.
            return attempt(self._reader, see, Deadline(0))
        except Empty:
            return None
