"""CountedRing: an object ring that knows exactly how many objects went in and came out.

A count next to the tail is two stores where a kill may come between. So before each commit a note
is made, under the side's lock: "when the tail stood here, so many had gone in". Every commit moves
the tail by one object, so whoever comes next reads the count off: the note's, and one more if the
tail stands elsewhere by now. A note is written beside the last one, and then pointed at:

    0x0c0   put side: which of the two notes holds (0 or 1)         producer
    0x0c8   note 0: tail, objects put before it
    0x0d8   note 1: the same
    0x1c0   get side: the same with head, and objects taken         consumer
    0x200   the most objects there may be; 0: no limit but room     creator
    0x208   1, once the line above holds                            creator
    0x210   tasks done                                              under the put side's lock
    0x218   how often joiners had reason to look again              under the put side's lock
    0x240   "done" doorbell: a joiner may be asleep                 both
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Final, Self

from shmkit.channels.header import CUT, HEAD, STATE, TAIL
from shmkit.channels.objects import ObjectRing
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, IncompatibleSegment
from shmkit.sync.ordering import STRONG_ORDER, fence
from shmkit.sync.waiting import Doorbell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shmkit.channels.segment import Segment
    from shmkit.channels.side import Side
    from shmkit.memory.url import Where

__all__ = ["CountedRing", "JoinableRing"]

_PUTS: Final = 0x0C0 // 8
_GETS: Final = 0x1C0 // 8
_MAXSIZE: Final = 0x200 // 8
_SET: Final = 0x208 // 8
_DONE: Final = 0x210 // 8
_NEWS: Final = 0x218 // 8
_DONE_BELL: Final = 0x240 // 8

PARTICIPANTS: Final = 256
_OVERHEAD: Final = 4096  # more than an object's frame has around it


class CountedRing(ObjectRing):
    """What a Queue is made of: an object ring with a limit to the number of objects.

    Deaths are not told: like the standard library's queues it waits for whoever may still come.
    """

    __slots__ = ("_counts", "_maxsize")

    _KIND = 9
    _WARNING = ""
    _JOINABLE = False

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `make` and `attach` are the ways to it, and `learn`."""
        super().__init__(segment)
        self._maxsize = 0
        self._counts = self._JOINABLE

    @classmethod
    def make(cls, where: Where, maxsize: int, capacity: int) -> Self:
        """Make a new one, with room for an object of `capacity` bytes."""
        self = cls.create(where, capacity=capacity + _OVERHEAD, participants=PARTICIPANTS)
        self._words[_MAXSIZE] = max(0, maxsize)
        self._words[_SET] = 1
        self.learn()
        return self

    def learn(self) -> None:
        """Take over what the creator decided.

        Raises:
            IncompatibleSegment: it decided nothing.
        """
        deadline = Deadline(5)
        while not self._words[_SET]:
            if deadline.expired():
                where = str(self.url)
                self.close()
                raise IncompatibleSegment(
                    f"queue {where!r} is half-made: unlink it and create it anew", where=where
                )
            time.sleep(0.001)  # its creator is two stores away, or dead
        self._maxsize = self._words[_MAXSIZE]
        self._counts = self._JOINABLE or self._maxsize > 0

    @property
    def maxsize(self) -> int:
        """The most objects there may be; 0 for no limit but room."""
        return self._maxsize

    def qsize(self) -> int:
        """How many objects are in; as `Ring.qsize`."""
        if not self._counts:
            return super().qsize()
        return max(0, self._put(self._open_words()) - self._taken(self._open_words()))

    def full(self) -> bool:
        """Whether a put would have to wait."""
        return super().full() or 0 < self._maxsize <= self.qsize()

    # -- counting --------------------------------------------------------------------------------

    @staticmethod
    def _note(words: memoryview[int], notes: int, position: int) -> None:
        holds = words[notes]
        at = notes + 1 + 2 * holds
        count = words[at + 1] + (words[at] != position)
        at = notes + 3 - 2 * holds
        words[at] = position
        words[at + 1] = count
        words[notes] = 1 - holds

    @staticmethod
    def _count(words: memoryview[int], notes: int, position: int) -> int:
        """Objects that passed a side; while others are at it, how many there were a moment ago."""
        while True:
            holds = words[notes]
            at = notes + 1 + 2 * holds
            noted, count = words[at], words[at + 1]
            now = words[position]
            if words[notes] == holds and words[at] == noted:
                return count + (noted != now)

    def _put(self, words: memoryview[int]) -> int:
        return self._count(words, _PUTS, TAIL)

    def _taken(self, words: memoryview[int]) -> int:
        return self._count(words, _GETS, HEAD)

    def _admit(self, size: int, deadline: Deadline) -> bool | None:
        fits = super()._admit(size, deadline)
        if fits and self._maxsize:
            words = self._words
            head = words[HEAD]  # before the count: what is taken afterwards ends the wait
            if self._put(words) - self._taken(words) >= self._maxsize:
                self._head_seen = head
                return False
        return fits

    def _publish(self) -> None:
        if not self._counts:
            super()._publish()
            return
        words = self._words
        self._note(words, _PUTS, words[TAIL])
        if not STRONG_ORDER:
            fence()
        words[TAIL] = self._tail

    def _release(self, head: int) -> None:
        if not self._counts:
            super()._release(head)
            return
        words = self._words
        self._note(words, _GETS, words[HEAD])
        self._head = self._seen = words[HEAD] = head

    # -- as the standard library has it ----------------------------------------------------------

    def _look_for(self, peer: Side, word: int, seen: int) -> Callable[[], None]:  # noqa: ARG002
        def look() -> None:
            if self._closed:
                raise self._closed_error()

        return look

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"Queue {self._name} is closed: this handle was, in this process")

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more objects in; as `Ring.shutdown`. With `immediate` what is in is lost."""
        super().shutdown(immediate)
        if immediate:
            self._parcels.sweep(lambda _: False)


class JoinableRing(CountedRing):
    """What a JoinableQueue is made of: it counts tasks done, too."""

    __slots__ = ("_done",)

    _KIND = 10
    _SEMAPHORES: ClassVar[Mapping[str, int]] = {**CountedRing._SEMAPHORES, "done": 0}
    _JOINABLE = True

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `make` and `attach` are the ways to it, and `learn`."""
        super().__init__(segment)
        bells = segment.membership.semaphores
        self._done = Doorbell(segment.words, _DONE_BELL, _SET, bells, "done", shared=True)

    def _unfinished(self) -> int:
        words = self._open_words()
        expected = self._taken(words) if words[STATE] == CUT else self._put(words)
        return expected - words[_DONE]

    def unfinished(self) -> int:
        """Objects put that no `task_done` was called for.

        Raises:
            ClosedError: this handle was closed.
        """
        self._enter_puts(Deadline(None))
        try:
            return self._unfinished()
        finally:
            self._put_turn.leave()

    def task_done(self) -> None:
        """Say of an object that was taken that its task is done.

        Raises:
            ValueError: called more often than objects were put.
            ClosedError: this handle was closed.
        """
        self._enter_puts(Deadline(None))
        try:
            left = self._unfinished()
            if left <= 0:
                raise ValueError("task_done() called too many times")
            words = self._words
            words[_NEWS] += left == 1  # first: a kill before the next store leaves it to be done
            words[_DONE] += 1
        finally:
            self._put_turn.leave()
        if left == 1:
            fence()
            self._done.ring()

    def join(self) -> None:
        """Wait until as many tasks are done as objects were put.

        Raises:
            ClosedError: this handle was closed.
        """
        while True:
            seen = self._open_words()[_NEWS]
            if self.unfinished() <= 0:
                self._done.ring()  # for the next joiner
                return
            self._done.wait(_NEWS, seen, Deadline(1), self._look_for(self._producer, 0, 0))

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more objects in; with `immediate`, what is in is lost, and counts as done."""
        super().shutdown(immediate)
        if immediate:
            self._enter_puts(Deadline(None))
            try:
                self._words[_NEWS] += 1
            finally:
                self._put_turn.leave()
            fence()
            self._done.ring()

    def close(self) -> None:
        """Leave, as `Ring.close`."""
        super().close()
        self._done.close()
