"""CountedRing: an object ring that knows exactly how many objects went in and came out.

A count next to the tail is two stores where a kill may come between. So before each commit a note
is made, under the side's lock: "when the tail stood here, so many had gone in". Every commit moves
the tail by one object, so the next process reads the count off: the note's, and one more if the
tail stands elsewhere by now. A note is written beside the last one, and then pointed at. The words
are drawn in segment/words.py: QUEUE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from shmkit.channels.objects.object_ring import ObjectRing
from shmkit.channels.ring import RingOptions
from shmkit.deadline import Deadline
from shmkit.segment.fences import fence
from shmkit.segment.words import (
    ALWAYS_OPEN,
    CUT,
    DONE_BELL,
    GET_NOTES,
    HEAD,
    JOIN_NEWS,
    JOINABLE_QUEUE_KIND,
    MAXSIZE,
    PUT_NOTES,
    QUEUE_KIND,
    READY,
    STATE,
    TAIL,
    TASKS_DONE,
)
from shmkit.sync.doorbell import NO_WORDS, Doorbell

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.memory.url import Where
    from shmkit.segment.segment import Segment

__all__ = ["CountedRing", "JoinableRing"]

_COUNT: Final = (1 << 63) - 1  # a number that nobody counted up to is not to overflow its word

PARTICIPANTS: Final = 256
_OVERHEAD: Final = 4096  # more than an object's frame has around it


class Tally:
    """The objects that went into a ring and came out, exactly, whatever is killed.

    Args:
        words: the segment as 8-byte words.
        maxsize: the most objects there may be; 0 for no limit but room.
    """

    __slots__ = ("_taken_seen", "_words", "maxsize")

    def __init__(self, words: memoryview[int], maxsize: int) -> None:
        self._words = words
        self.maxsize = maxsize
        self._taken_seen = 0

    def put(self) -> int:
        """How many were put; while other processes put, how many a moment ago."""
        return self._count(PUT_NOTES, TAIL)

    def taken(self) -> int:
        """How many were taken out."""
        return self._count(GET_NOTES, HEAD)

    def note_put(self, tail: int, end: int) -> bool:  # noqa: ARG002
        """Note an object that is about to go in; False if there are enough."""
        if self.maxsize:
            put = self.put()
            if put - self._taken_seen >= self.maxsize:
                self._taken_seen = self.taken()
                if put - self._taken_seen >= self.maxsize:
                    return False
        self._note(PUT_NOTES, tail)
        return True

    def note_get(self, head: int, end: int) -> bool:  # noqa: ARG002
        """Note an object that is about to come out."""
        self._note(GET_NOTES, head)
        return True

    def close(self) -> None:
        """Let go of the memory."""
        self._words = NO_WORDS

    def _note(self, notes: int, position: int) -> None:
        """Note how many passed up to here; the next store of tail or head is one more."""
        words = self._words
        holds = words[notes] & 1
        at = notes + 1 + 2 * holds
        count = (words[at + 1] + (words[at] != position)) & _COUNT
        at = notes + 3 - 2 * holds
        words[at] = position  # step: count.position
        words[at + 1] = count  # step: count.number
        words[notes] = 1 - holds  # step: count.switch

    def _count(self, notes: int, position: int) -> int:
        words = self._words
        while True:
            holds = words[notes]
            at = notes + 1 + 2 * (holds & 1)
            noted, count = words[at], words[at + 1]
            now = words[position]
            if words[notes] == holds and words[at] == noted:
                return count + (noted != now)


class CountedRing(ObjectRing):
    """What a Queue is made of: an object ring with a limit to the number of objects.

    Deaths are not told: like the standard library's queues it waits for processes that may come.
    """

    __slots__ = ("_tally",)

    _KIND = QUEUE_KIND.number
    _NOUN = QUEUE_KIND.noun
    _TELLS_DEATHS = False
    _WARNING = ""
    _JOINABLE = False

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `make` and `attach` are the ways to it, and `learn`."""
        super().__init__(segment)
        self._tally = Tally(segment.words, 0)

    @classmethod
    def make(cls, where: Where, maxsize: int, capacity: int) -> Self:
        """Make a new one, with room for an object of `capacity` bytes."""
        def fill(words: memoryview[int]) -> None:
            words[MAXSIZE] = max(0, maxsize)
            words[ALWAYS_OPEN] = 1

        options = RingOptions(
            capacity + _OVERHEAD, producers="many", consumers="many", participants=PARTICIPANTS
        )
        self = cls._make(where, options, fill=fill)
        self.learn()
        return self

    def learn(self) -> None:
        """Take over what the creator decided."""
        tally = self._tally
        tally.maxsize = self._words[MAXSIZE]
        if self._is_counted:
            self._writer.note, self._reader.note = tally.note_put, tally.note_get

    @property
    def _is_counted(self) -> bool:
        return self._JOINABLE or self._tally.maxsize > 0

    @property
    def maxsize(self) -> int:
        """The most objects there may be; 0 for no limit but room."""
        return self._tally.maxsize

    def qsize(self) -> int:
        """How many objects are in; as `Ring.qsize`."""
        if self._open_words()[STATE] == CUT:
            return 0
        if not self._is_counted:
            return super().qsize()
        taken = self._tally.taken()  # first: it is not to overtake
        count = self._tally.put() - taken
        # More than `maxsize` were never in at once: some were taken between the two looks.
        return min(count, self.maxsize) if self.maxsize else count

    def empty(self) -> bool:
        """Whether nothing is in that could be got."""
        return self._open_words()[STATE] == CUT or super().empty()

    @property
    def is_shut(self) -> bool:
        """Whether it was shut down."""
        return self._open_words()[STATE] != READY

    def full(self) -> bool:
        """Whether a put would have to wait."""
        return super().full() or 0 < self.maxsize <= self.qsize()

    # -- for Queue -------------------------------------------------------------------------------

    def common_put(self) -> Callable[[bytes], bool]:
        """What puts a plain pickle in the common case; if it did not, `put_encoded` is to."""
        return self._writer.put

    def common_get(self) -> Callable[[], bytes | None]:
        """What gets a plain pickle in the common case; if it is None, `get_frame` is to."""
        return self._reader.get

    def get_frame(self, timeout: float | None) -> Any:
        """A plain pickle or something to `load`; see `Queue.get`."""
        return self._reader.get_carefully(Deadline(timeout))

    def close(self) -> None:
        """Leave, as `Ring.close`."""
        super().close()
        self._tally.close()

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more objects in; as `Ring.shutdown`. With `immediate` what is in is lost."""
        super().shutdown(immediate)
        if immediate:
            self._overflow.sweep(lambda _: False)


class JoinableRing(CountedRing):
    """What a JoinableQueue is made of: it counts tasks done, too."""

    __slots__ = ("_done", "_put_seen")

    _KIND = JOINABLE_QUEUE_KIND.number
    _NOUN = JOINABLE_QUEUE_KIND.noun
    _JOINABLE = True

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `make` and `attach` are the ways to it, and `learn`."""
        super().__init__(segment)
        bells = segment.membership.semaphores
        self._put_seen = 0
        self._done = Doorbell(segment.words, DONE_BELL, ALWAYS_OPEN, bells, "done", shared=True)

    def unfinished(self) -> int:
        """Objects put that no `task_done` was called for.

        Raises:
            ClosedError: this handle was closed.
        """
        words = self._open_words()
        done = words[TASKS_DONE]  # first: nothing left is then true, though more may come
        tally = self._tally
        return (tally.taken() if words[STATE] == CUT else tally.put()) - done

    def task_done(self) -> None:
        """Say of an object that was taken that its task is done.

        Raises:
            ValueError: called more often than objects were put.
            ClosedError: this handle was closed.
        """
        # Within the consumers' lock: consumers call this.
        if self._reader.attempt(self._note_done, Deadline(None)) == 0:
            fence()
            self._done.ring()

    def _note_done(self) -> int:
        words = self._open_words()
        done = words[TASKS_DONE]
        left = self._put_seen - done
        if left <= 1 or words[STATE] == CUT:
            left = self.unfinished()
            self._put_seen = done + left
            if left <= 0:
                raise ValueError("task_done() called too many times")
        words[TASKS_DONE] = done + 1  # step: task.done
        if left == 1:
            words[JOIN_NEWS] += 1  # step: task.news
        return left - 1

    def join(self) -> None:
        """Wait until as many tasks are done as objects were put.

        Raises:
            ClosedError: this handle was closed.
        """
        while True:
            seen = self._open_words()[JOIN_NEWS]
            if self.unfinished() <= 0:
                self._done.ring()  # for the next joiner
                return
            # Not for ever: the process that did the last task may have been killed before it told.
            self._done.wait(JOIN_NEWS, seen, Deadline(0.5), self._check_open)

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more objects in; with `immediate`, what is in is lost, and counts as done."""
        super().shutdown(immediate)
        if immediate:
            self._reader.attempt(self._note_news, Deadline(None))
            fence()
            self._done.ring()

    def _note_news(self) -> None:
        self._words[JOIN_NEWS] += 1

    def close(self) -> None:
        """Leave, as `Ring.close`."""
        super().close()
        self._done.close()
