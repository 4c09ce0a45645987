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
    0x210   tasks done                                              under the get side's lock
    0x218   how often joiners had reason to look again              under the get side's lock
    0x240   "done" doorbell: a joiner may be asleep                 both
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Self

from shmkit.channels.objects.codec import load
from shmkit.channels.objects.object_ring import ObjectRing
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, IncompatibleSegment
from shmkit.segment.fences import fence
from shmkit.segment.header import (
    CUT,
    HEAD,
    READY,
    STATE,
    TAIL,
)
from shmkit.sync.doorbell import Doorbell

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.channels.objects.codec import Encoded
    from shmkit.channels.roles import Side
    from shmkit.memory.url import Where
    from shmkit.segment.segment import Segment

__all__ = ["NEWS", "CountedRing", "JoinableRing"]

_PUTS: Final = 0x0C0 // 8
_GETS: Final = 0x1C0 // 8
_MAXSIZE: Final = 0x200 // 8
_SET: Final = 0x208 // 8
_DONE: Final = 0x210 // 8
NEWS: Final = 0x218 // 8
_DONE_BELL: Final = 0x240 // 8

_COUNT: Final = (1 << 63) - 1  # a number that nobody counted up to is not to overflow its word

PARTICIPANTS: Final = 256
_OVERHEAD: Final = 4096  # more than an object's frame has around it


class CountedRing(ObjectRing):
    """What a Queue is made of: an object ring with a limit to the number of objects.

    Deaths are not told: like the standard library's queues it waits for whoever may still come.
    """

    __slots__ = ("_maxsize", "_taken_seen")

    _KIND = 9
    _WARNING = ""
    _JOINABLE = False

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `make` and `attach` are the ways to it, and `learn`."""
        super().__init__(segment)
        self._maxsize = self._taken_seen = 0
        self._notes_puts = self._notes_gets = self._JOINABLE

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
        self._notes_puts = self._notes_gets = self._JOINABLE or self._maxsize > 0

    @property
    def maxsize(self) -> int:
        """The most objects there may be; 0 for no limit but room."""
        return self._maxsize

    def qsize(self) -> int:
        """How many objects are in; as `Ring.qsize`."""
        words = self._open_words()
        if words[STATE] == CUT:
            return 0
        if not self._notes_puts:
            return super().qsize()
        taken = self._taken(words)  # first: it is not to overtake
        count = self._put(words) - taken
        # More than that were never in at once; some were taken between the two looks.
        return min(count, self._maxsize) if self._maxsize else count

    def empty(self) -> bool:
        """Whether nothing is in that could be got."""
        return self._open_words()[STATE] == CUT or super().empty()

    @property
    def is_shut(self) -> bool:
        """Whether it was shut down."""
        return self._open_words()[STATE] != READY

    def full(self) -> bool:
        """Whether a put would have to wait."""
        return super().full() or 0 < self._maxsize <= self.qsize()

    # -- counting --------------------------------------------------------------------------------

    @staticmethod
    def _note(words: memoryview[int], notes: int, position: int) -> None:
        """Note how many passed up to here; the next store of tail or head is one more."""
        holds = words[notes] & 1
        at = notes + 1 + 2 * holds
        count = (words[at + 1] + (words[at] != position)) & _COUNT
        at = notes + 3 - 2 * holds
        words[at] = position  # step: count.position
        words[at + 1] = count  # step: count.number
        words[notes] = 1 - holds  # step: count.turn

    @staticmethod
    def _count(words: memoryview[int], notes: int, position: int) -> int:
        """Objects that passed a side; while others are at it, how many there were a moment ago."""
        while True:
            holds = words[notes]
            at = notes + 1 + 2 * (holds & 1)
            noted, count = words[at], words[at + 1]
            now = words[position]
            if words[notes] == holds and words[at] == noted:
                return count + (noted != now)

    def _put(self, words: memoryview[int]) -> int:
        return self._count(words, _PUTS, TAIL)

    def _taken(self, words: memoryview[int]) -> int:
        return self._count(words, _GETS, HEAD)

    def _has_place(self, words: memoryview[int], count: int) -> bool:
        """Whether fewer than `maxsize` are in, of which `count` were put."""
        if not self._maxsize or count - self._taken_seen < self._maxsize:
            return True
        self._taken_seen = self._taken(words)
        return count - self._taken_seen < self._maxsize

    def _note_put(self, tail: int) -> bool:
        words = self._words
        at = _PUTS + 1 + 2 * (words[_PUTS] & 1)
        count = words[at + 1] + (words[at] != tail)  # as _count, of what nobody changes now
        if 0 < self._maxsize <= count - self._taken_seen and not self._has_place(words, count):
            return False
        self._note(words, _PUTS, tail)
        return True

    def _note_get(self, head: int, end: int) -> None:  # noqa: ARG002
        self._note(self._words, _GETS, head)

    def _admit(self, size: int, deadline: Deadline) -> bool | None:
        fits = super()._admit(size, deadline)
        if fits and self._notes_puts:
            words = self._words
            head = words[HEAD]  # before the count: what is taken afterwards ends the wait
            if not self._has_place(words, self._put(words)):
                self._head_seen = head
                self._room = -1  # nothing is published: the next put is to look anew
                return False
        return fits

    def _publish(self) -> None:
        if self._notes_puts:
            self._note(self._words, _PUTS, self._words[TAIL])
        super()._publish()

    def _release(self, head: int) -> None:
        if self._notes_gets:
            self._note(self._words, _GETS, self._words[HEAD])
        super()._release(head)

    # -- for Queue -------------------------------------------------------------------------------

    def fast_put(self) -> Callable[[bytes, int], bool]:
        """What puts a plain pickle and its length, if that takes no waiting and nothing unusual.

        It returns whether it did; if not, `put_encoded` is to be called.
        """
        return self._put_shared

    def fast_get(self) -> Callable[[], bytes | None]:
        """What gets a plain pickle, if that takes no waiting and nothing unusual; or None.

        Then `get_frame` is to be called.
        """
        return self._get_shared

    def put_encoded(self, content: bytes | Encoded, timeout: float | None = None) -> None:
        """As `ObjectRing.put_encoded`, on the careful path."""
        if isinstance(content, bytes) and len(content) <= self._most:
            self._put_carefully(content, len(content), timeout)
        else:
            super().put_encoded(content, timeout)

    def get_frame(self, timeout: float | None) -> Any:
        """A plain pickle or something to `load`, on the careful path; see `Queue.get`."""
        return self._get_carefully(timeout)

    def get_object(self, timeout: float | None = None) -> Any:
        """As `ObjectRing.get_object`, on the careful path."""
        frame = self._get_carefully(timeout)
        return load(frame) if type(frame) is bytes else frame.load()

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
            self._overflow.sweep(lambda _: False)


class JoinableRing(CountedRing):
    """What a JoinableQueue is made of: it counts tasks done, too."""

    __slots__ = ("_done", "_put_seen")

    _KIND = 10
    _JOINABLE = True

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `make` and `attach` are the ways to it, and `learn`."""
        super().__init__(segment)
        bells = segment.membership.semaphores
        self._put_seen = 0
        self._done = Doorbell(segment.words, _DONE_BELL, _SET, bells, "done", shared=True)

    def unfinished(self) -> int:
        """Objects put that no `task_done` was called for.

        Raises:
            ClosedError: this handle was closed.
        """
        words = self._open_words()
        done = words[_DONE]  # first: whoever sees nothing left is right, though others go on
        return (self._taken(words) if words[STATE] == CUT else self._put(words)) - done

    def task_done(self) -> None:
        """Say of an object that was taken that its task is done.

        Raises:
            ValueError: called more often than objects were put.
            ClosedError: this handle was closed.
        """
        # In the turn of those who take: they are the ones to call this.
        if self._get_turn.run(Deadline(None), self._note_done) == 0:
            fence()
            self._done.ring()

    def _note_done(self) -> int:
        words = self._open_words()
        done = words[_DONE]
        left = self._put_seen - done
        if left <= 1 or words[STATE] == CUT:
            left = self.unfinished()
            self._put_seen = done + left
            if left <= 0:
                raise ValueError("task_done() called too many times")
        words[_DONE] = done + 1  # step: task.done
        if left == 1:
            words[NEWS] += 1  # step: task.news
        return left - 1

    def join(self) -> None:
        """Wait until as many tasks are done as objects were put.

        Raises:
            ClosedError: this handle was closed.
        """
        while True:
            seen = self._open_words()[NEWS]
            if self.unfinished() <= 0:
                self._done.ring()  # for the next joiner
                return
            # Not for ever: whoever did the last task may have been killed before it told.
            self._done.wait(NEWS, seen, Deadline(0.5), self._look_for(self._producer, 0, 0))

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more objects in; with `immediate`, what is in is lost, and counts as done."""
        super().shutdown(immediate)
        if immediate:
            self._get_turn.run(Deadline(None), self._note_news)
            fence()
            self._done.ring()

    def _note_news(self) -> None:
        self._words[NEWS] += 1

    def close(self) -> None:
        """Leave, as `Ring.close`."""
        super().close()
        self._done.close()
