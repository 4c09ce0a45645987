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

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from shmkit.channels.frame import HEADER
from shmkit.channels.objects.object_ring import ObjectRing
from shmkit.channels.ring.half import SHARED
from shmkit.deadline import Deadline
from shmkit.errors import Empty
from shmkit.segment.header import HEAD, TAIL

if TYPE_CHECKING:
    from shmkit.channels.objects.codec import Received
    from shmkit.segment.segment import Segment

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
        self._notes_gets = True

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
        words = self._words
        if self._seen == SHARED and words[TAIL] - words[HEAD] < HEADER:
            self._data.glance(TAIL, words[TAIL])  # before the lock, which others want
        frame = self._get_shared()
        return self._get_carefully(timeout) if frame is None else frame

    def _note_get(self, head: int, end: int) -> None:  # noqa: ARG002
        if self._line is not None:
            self._line[TAKEN] = end  # step: call.taken

    def _release(self, head: int) -> None:
        self._note_get(self._head, head)
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
