"""What queues are made of: object rings that know how many objects there may be, and tasks done.

A death does not end a wait: like the standard library's queues, they wait for processes that may
still come.
"""

from __future__ import annotations

from operator import index
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, TypeVar

from shmkit.channels.objects.object_ring import ObjectRing
from shmkit.channels.ring import attempt, stored
from shmkit.core import COUNTER
from shmkit.deadline import Deadline
from shmkit.segment.fences import fence
from shmkit.segment.words import (
    ALWAYS_OPEN,
    CUT,
    DONE_BELL,
    JOIN_NEWS,
    JOINABLE_QUEUE_KIND,
    MAXSIZE,
    QUEUE_KIND,
    STATE,
    TASKS_DONE,
)
from shmkit.sync.doorbell import Doorbell

if TYPE_CHECKING:
    from shmkit.memory.url import Url, Where
    from shmkit.segment.segment import Segment

__all__ = ["PARTICIPANTS", "JoinableRing", "QueueRing", "make_ring"]

PARTICIPANTS: Final = 256
"""How many handles a queue may have at a time, unless its creator says otherwise."""

_OVERHEAD: Final = 4096  # more than an object's frame has around it
_MOST: Final = 1 << 40  # bytes

R = TypeVar("R", bound=ObjectRing)


def make_ring(
    kind: type[R],
    where: Where | Url,
    maxsize: int,
    capacity: int,
    *,
    ensure: bool = False,
    keep: bool,
    mode: int,
    participants: int,
) -> R:
    """Make a new ring for a queue, with room for an object of `capacity` bytes.

    Raises:
        TypeError: a number that is none.
        ValueError: a bad name, capacity or number of participants.
    """
    hint = f"; for a queue of this name, Queue(where={maxsize!r})" if _is_place(maxsize) else ""
    most = max(0, _number("maxsize", maxsize, f"of objects{hint}"))
    _number("participants", participants, "of handles")
    _number("mode", mode, "of permission bits, such as 0o600")
    if not 0 < _number("capacity", capacity, "of bytes") <= _MOST:
        raise ValueError(
            f"capacity={capacity}: the bytes of the largest object that goes through the queue's "
            f"own memory, 1 to {_MOST}"
        )

    def fill(words: memoryview[int]) -> None:
        words[MAXSIZE] = most
        # The state word of the bell for `join`, which waits on after a shutdown.
        words[ALWAYS_OPEN] = 1

    flags, size = stored(where, capacity + _OVERHEAD, "many", "many", "block")
    return kind._create(
        where,
        size,
        ensure=ensure,
        fill=fill,
        flags=flags,
        participants=participants,
        keep=keep,
        mode=mode,
    )


def _number(name: str, value: Any, unit: str) -> int:
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: it is a number {unit}") from None


def _is_place(value: object) -> bool:
    return isinstance(value, (str, PathLike))


class QueueRing(ObjectRing):
    """What a Queue is made of."""

    _KIND = QUEUE_KIND.number
    _NOUN = QUEUE_KIND.noun
    _TELLS_DEATHS = False
    _WARNING = ""

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `make_ring` and `attach` are the ways to it."""
        super().__init__(segment)
        maxsize = segment.words[MAXSIZE]
        if maxsize:
            self.count(maxsize)


class JoinableRing(ObjectRing):
    """What a JoinableQueue is made of: it counts tasks done, too."""

    _KIND = JOINABLE_QUEUE_KIND.number
    _NOUN = JOINABLE_QUEUE_KIND.noun
    _TELLS_DEATHS = False
    _WARNING = ""

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `make_ring` and `attach` are the ways to it."""
        super().__init__(segment)
        self.count(segment.words[MAXSIZE])
        bells = segment.membership.semaphores
        self._put_seen = 0
        self._done = Doorbell(segment.words, DONE_BELL, ALWAYS_OPEN, bells, "done", shared=True)

    def unfinished(self) -> int:
        """Objects put that no `task_done` was called for.

        Raises:
            ClosedError: this handle was closed.
        """
        words = self._open_words()
        done = words[TASKS_DONE]  # read first: if nothing is left, that was true at this moment
        tally = self._tally
        assert tally is not None, "this ring counts"
        return (tally.taken() if words[STATE] == CUT else tally.put()) - done

    def task_done(self) -> None:
        """Say of an object that was taken that its task is done.

        Raises:
            ValueError: called more often than objects were put.
            ClosedError: this handle was closed.
        """
        # Under the consumers' lock, because consumers call this.
        if attempt(self._reader, self._note_done, Deadline(None)) == 0:
            fence()
            self._done.ring()

    def _note_done(self) -> int:
        words = self._open_words()
        done = words[TASKS_DONE]
        # As of the last look at the puts; a new look is needed only when few are left.
        left = self._put_seen - done
        if left <= 1 or words[STATE] == CUT:
            left = self.unfinished()
            self._put_seen = done + left
            if left <= 0:
                raise ValueError("task_done() called too many times")
        words[TASKS_DONE] = done + 1  # step: task.done
        if left == 1:
            words[JOIN_NEWS] = words[JOIN_NEWS] + 1 & COUNTER  # step: task.news
        return left - 1

    def join(self) -> None:
        """Wait until as many tasks are done as objects were put.

        Raises:
            ClosedError: this handle was closed.
        """
        self._open_words()
        # A forked child is a participant from here on: else the semaphores could be made anew under
        # its wait.
        self._segment.membership.register()
        while True:
            seen = self._open_words()[JOIN_NEWS]
            if self.unfinished() <= 0:
                self._done.ring()  # a bell wakes one joiner: it wakes the next
                return
            # Not for ever: the process that did the last task may have been killed before the bell.
            self._done.wait(JOIN_NEWS, seen, Deadline(0.5), self._check_open)

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more objects in; with `immediate`, what is in is lost, and counts as done."""
        super().shutdown(immediate)
        if immediate:
            attempt(self._reader, self._note_news, Deadline(None))
            fence()
            self._done.ring()

    def _note_news(self) -> None:
        words = self._words
        words[JOIN_NEWS] = words[JOIN_NEWS] + 1 & COUNTER

    def close(self) -> None:
        """Leave, as `Ring.close`."""
        super().close()
        self._done.close()
