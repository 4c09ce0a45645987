"""Subscription: one reader of a broadcast, which keeps its position and counts what it lost.

A reader only reads: it copies a frame out, and then looks whether `oldest` has passed it. If so the
copy may be torn: it is thrown away, and reading goes on at `oldest`, whose header tells its number
and so how many frames lie between. broadcast.py draws the bytes and the order of steps.

Threads may share a subscription: each frame goes to one of them. Nothing is taken from the memory,
so a thread may copy first and then see whether the frame is still its to deliver: the position is
compared and moved in a run of bytecode that nothing interrupts (ordering.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from shmkit.channels.frame import HEADER, LOW, PAD
from shmkit.channels.turn import Turn
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment, Empty, ShutDown
from shmkit.segment.fences import ATOMIC_RUNS, STRONG_ORDER, fence
from shmkit.segment.header import CUT, READY, STATE, TAIL
from shmkit.sync.doorbell import NO_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from shmkit.channels.fanout.broadcast import Broadcast

__all__ = ["OLDEST", "Subscription", "SubscriptionStatistics"]

OLDEST: Final = TAIL + 1
_QUICK: Final = STRONG_ORDER and ATOMIC_RUNS


@dataclass(frozen=True)
class SubscriptionStatistics:
    """What a subscription looked like at one moment.

    Attributes:
        received: how many frames it got.
        lost: how many it was too slow for.
        behind: how many were published that it has not come to; some of them may be lost.
        sleeps: how often it slept.
    """

    received: int
    lost: int
    behind: int
    sleeps: int


class Subscription:
    """One reader of a broadcast: every frame in order, but for those it is too slow for.

    Made by `Broadcast.subscribe`. Threads that share it get each frame once between them. It does
    not pickle: hand the broadcast on, and subscribe there. In a forked child it is a reader of the
    child's own, at the same position.
    """

    __slots__ = (
        "__weakref__",
        "_bell",
        "_broadcast",
        "_closed",
        "_data_word",
        "_first",
        "_head",
        "_lost",
        "_map",
        "_mask",
        "_number",
        "_payload",
        "_publisher",
        "_seen",
        "_tail_seen",
        "_turn",
        "_words",
    )

    def __init__(self, broadcast: Broadcast, start: str) -> None:
        """Begin to read; `Broadcast.subscribe` is the way to make one."""
        segment = broadcast._segment
        self._broadcast = broadcast
        self._closed = False
        self._map: Any = segment.map
        self._words = segment.words
        self._data_word = segment.data_word
        self._mask = segment.header.data_size - 1
        self._payload = segment.base + HEADER
        self._bell = broadcast._new_bell()
        self._publisher = broadcast._new_side()
        self._head, self._number = broadcast._at(OLDEST if start == "oldest" else TAIL)
        self._first = self._number  # what counts as lost comes after it
        self._seen = self._head  # how far the fast path may read: never past the end of the data
        self._tail_seen = self._head
        self._lost = 0
        self._begin()

    def _begin(self) -> None:
        """At first, and in a forked child."""
        self._turn = Turn(lambda: Empty("another get on this subscription did not end in time"))

    def get(self, timeout: float | None = None) -> bytes:
        """The next frame, waiting while there is none.

        Args:
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Returns:
            The frame's bytes, a copy. `lost` tells whether some before it were lost.

        Raises:
            Empty: none came in time.
            ShutDown: the broadcast was shut down, and everything in it has been read.
            PeerDied: everything has been read and the publisher was killed; told once per death.
            CorruptSegment: an index or a frame's length in the memory is impossible.
            ClosedError: this subscription or its broadcast was closed.
        """
        words = self._words
        # No call from here until _number is stored.
        head = self._head
        seen = self._seen
        if head < seen and words[STATE] < CUT:
            at = head & self._mask
            size = words[self._data_word + (at >> 3)]
            if size <= seen - head - 16:
                at += self._payload
                frame: bytes = self._map[at : at + size]  # step: read.copy
                # The copy is whole if it was not overtaken; and ours, if no other thread took it.
                if words[OLDEST] <= head and self._head == head:
                    self._head = head + ((size + 31) & -16)
                    self._number += 1
                    return frame
        return self._get_carefully(timeout)

    def get_nowait(self) -> bytes:
        """`get`, or Empty at once."""
        return self.get(0)

    def __iter__(self) -> Iterator[bytes]:
        """Frame after frame, until the broadcast is shut down and everything was read.

        Raises:
            PeerDied, CorruptSegment, ClosedError: as `get`.
        """
        while True:
            try:
                frame = self.get()
            except ShutDown:
                return
            yield frame

    def _get_carefully(self, timeout: float | None) -> bytes:
        deadline = Deadline(timeout)
        broadcast, turn = self._broadcast, self._turn
        self._check_open()
        while True:
            frame = turn.run(deadline, self._take)
            if frame is not None:
                return frame
            if not broadcast._wait(
                self._bell, self._publisher, TAIL, self._tail_seen, deadline, self._check_open
            ):
                raise Empty(f"broadcast {broadcast._name} has nothing new")

    def _take(self) -> bytes | None:
        """The next frame, or None if there is none, or none any more for this thread."""
        words, data, broadcast = self._words, self._map, self._broadcast
        self._check_open()  # after they were taken: they are not the empty ones
        state = broadcast._checked_state(words)  # before the tail: who shut it had published before
        if state == CUT:
            raise ShutDown(f"broadcast {broadcast._name} was shut down at once")
        while True:
            head, number = self._head, self._number  # a pair: no call between
            tail = self._tail_seen = words[TAIL]
            fence()
            if words[OLDEST] > head:
                self._skip_lost(head, number)
                continue
            if head >= tail:
                break
            bound = min(tail, (head | self._mask) + 1)
            at = head & self._mask
            word = words[self._data_word + (at >> 3)]
            size = word & LOW
            fits = size <= bound - head - HEADER and word >> 32 in (0, PAD >> 32)
            frame: bytes | None = None
            if fits and word < PAD:
                at += self._payload
                frame = data[at : at + size]  # step: read.copy
            fence()
            if words[OLDEST] > head:
                continue
            if not fits:
                raise self._corrupt(f"frame header {word:#x} at {head}, and frames until {bound}")
            if self._head == head:
                self._head = head + ((size + 31) & -16)
                self._seen = bound if _QUICK else 0
                if frame is not None:
                    self._number += 1
                    return frame
        if head > tail:
            raise self._corrupt(f"tail {tail}, where it was {head} before")
        if state != READY:
            raise ShutDown(f"broadcast {broadcast._name} was shut down and is read")
        return None

    def _skip_lost(self, head: int, number: int) -> None:
        """From frame `number` at `head`, go to the oldest whole one, and count those between."""
        oldest, first = self._broadcast._at(OLDEST)
        lost = first - number
        if not 0 <= lost <= (oldest - head) // HEADER:
            raise self._corrupt(f"frame {first} at {oldest}, but frame {number} at {head}")
        if self._head == head:
            self._head = self._seen = oldest
            self._number = first
            self._lost += lost

    def _corrupt(self, detail: str) -> CorruptSegment:
        return self._broadcast._corrupt(detail)

    def _check_open(self) -> None:
        if self._closed or self._broadcast._closed:
            raise ClosedError(f"this subscription to broadcast {self._broadcast._name} was closed")

    # -- coming and going ------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading. Idempotent; the broadcast stays open."""
        if not self._closed:
            self._closed = True
            self._seen = 0
            self._bell.close()
            self._words, self._map = NO_WORDS, None

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Subscription does not pickle: pickle its broadcast, and subscribe in the process "
            "that reads"
        )

    # -- looking ---------------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """How many frames this reader was too slow for, of those before the next `get` knows of.

        They are counted when `get` comes to the gap.
        """
        return self._lost

    @property
    def broadcast(self) -> Broadcast:
        """What it reads."""
        return self._broadcast

    @property
    def closed(self) -> bool:
        """Whether it was closed, or its broadcast was."""
        return self._closed or self._broadcast._closed

    def statistics(self) -> SubscriptionStatistics:
        """The subscription at this moment.

        Raises:
            CorruptSegment: an index is impossible.
            ClosedError: it was closed.
        """
        self._check_open()
        number = self._number
        return SubscriptionStatistics(
            received=number - self._first - self._lost,
            lost=self._lost,
            behind=max(0, self._broadcast._at(TAIL)[1] - number),
            sleeps=self._bell.sleeps,
        )

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"at frame {self._number}"
        return f"<Subscription to {self._broadcast._name} {state}, {self._lost} lost>"
