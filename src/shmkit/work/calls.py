r"""Calls on their way to a worker, and the note each worker keeps of the one it has.

A call is known by the position in the ring at which its frame ends: the producer sees it in the
tail after the put, the worker in the head that it stores. Every worker has a line of its own:

    0x00    ready: 1 once the initializer is done           worker      parent
    0x08    taken: the call it has, or had last             worker      parent
    0x10    started: the same, once its code may run        worker      parent

    worker      lock -> taken = id -> copy -> head = id -> unlock -> started = id -> run -> result

So whoever has the lock can tell of every call that is out of the ring who has it: nobody changes
`taken` or the head meanwhile. Killed before the head is stored, a worker leaves the call in the
ring, and another takes it; after it, `started` tells whether the call may run again.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from shmkit.channels.half import SHARED
from shmkit.channels.header import CUT, HEAD, SKIP, SPACE_BELL, STATE, TAIL
from shmkit.channels.objects import ObjectRing
from shmkit.channels.turn import PATIENCE
from shmkit.deadline import Deadline
from shmkit.errors import Empty

if TYPE_CHECKING:
    from shmkit.channels.codec import Received
    from shmkit.channels.segment import Segment

__all__ = ["LINE", "READY", "STARTED", "TAKEN", "CallRing", "ResultRing", "Seen"]

LINE: Final = 16  # words
READY: Final = 0
TAKEN: Final = 1
STARTED: Final = 2


class Seen(NamedTuple):
    """What was seen at one moment.

    Attributes:
        head: calls up to this one are out of the ring.
        taken: what each line says of the call its worker has.
    """

    head: int
    taken: dict[int, int]


class ResultRing(ObjectRing):
    """Any number of workers put results, one collector gets them."""

    __slots__ = ()

    _KIND = 12
    _WARNING: ClassVar = ""


class CallRing(ObjectRing):
    """One process puts calls; any number of workers take them, one at a time each."""

    __slots__ = ("_line",)

    _KIND = 11
    _WARNING: ClassVar = ""

    def __init__(self, segment: Segment) -> None:
        """Take over a segment, as any ring."""
        super().__init__(segment)
        self._line: memoryview[int] | None = None

    def note_in(self, line: memoryview[int]) -> None:
        """Give this handle the line in which it notes what it takes."""
        self._line = line

    @property
    def position(self) -> int:
        """What the call that was put last is known by; for the one who put it."""
        return self._words[TAIL]

    def take(self, timeout: float | None = None) -> bytes | Received:
        """Take the oldest call, noted in this worker's line.

        Raises:
            Exception: it is damaged; it is taken, and out of the ring.
            Empty, ShutDown, PeerDied, CorruptSegment, ClosedError: as `get`.
        """
        frame = self._take_shared()
        return self._get_carefully(timeout) if frame is None else frame

    def _take_shared(self) -> bytes | None:
        """The fast path: lock, look, note, get; None: take the careful one."""
        mutex, words = self._get_mutex, self._words
        line, me = self._line, get_ident()
        assert mutex is not None
        assert line is not None
        if self._seen != SHARED or mutex.owner == me:
            return None
        if words[TAIL] - words[HEAD] < 16:
            self._data.glance(TAIL, words[TAIL])  # before the lock, which others want
        if not mutex.acquire(True, PATIENCE, me):
            return None
        try:
            head = words[HEAD]
            known = words[TAIL]
            if words[SKIP] == head or not 16 <= known - head <= self._size or words[STATE] >= CUT:
                mutex.release()
                return None
            at = head & self._mask
            size = words[self._data_word + (at >> 3)]
            if size > min(known - head, self._size - at) - 16:
                mutex.release()
                return None  # a flag, a kind, or broken
            at += self._base + 16
            frame: bytes = self._map[at : at + size]
            head += (size + 31) & -16
            line[TAKEN] = head  # step: call.taken
            self._head = words[HEAD] = head  # step: call.head
            mutex.release()
        except BaseException:
            mutex.leave(me)
            raise
        if words[SPACE_BELL]:
            self._space.ring()
        return frame

    def _release(self, head: int) -> None:
        if self._line is not None:
            self._line[TAKEN] = head  # step: call.taken
        super()._release(head)

    def look(self, lines: memoryview[int], of: list[int]) -> Seen | None:
        """See who has what.

        Args:
            lines: all lines.
            of: the indices of those to look at.

        Returns:
            None when a worker that is stopped holds the lock.
        """

        def see() -> Seen:
            return Seen(self._words[HEAD], {index: lines[index * LINE + TAKEN] for index in of})

        try:
            return self._get_turn.run(Deadline(0), see)
        except Empty:
            return None
