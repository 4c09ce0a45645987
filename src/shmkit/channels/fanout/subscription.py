"""Subscription: one reader of a broadcast. It keeps its own position and counts what it lost.

A reader stores nothing in the shared memory. It copies a frame out, and then looks whether `oldest`
has passed the frame. If so, the copy may be torn: the reader throws it away and goes on at
`oldest`, where the header tells the frame's number, and so how many frames lie between.
broadcast.py draws the bytes and the order of steps.

Threads may share a subscription: a lock lets one of them read at a time, and each frame goes to one
thread. Where it reads, which frame that is and how many were lost change together, in one
assignment, so an exception leaves all three as they were or all three new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias

from shmkit.channels.fanout.one_writer import (
    LARGE,
    check_fits,
    copied_into,
    new_guard,
    reentered,
)
from shmkit.channels.frame import writable
from shmkit.channels.handle import checked_state, deadline_of, until_shut_down
from shmkit.errors import ClosedError, CorruptSegment, Empty, ShutDown
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.words import FRAME_HEADER, OLDEST, PAD, READY, SHUT, SIZE_MASK, STATE, TAIL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkit.channels.fanout.broadcast import Broadcast
    from shmkit.channels.watch import Watch
    from shmkit.memory.views import Buffer

__all__ = ["Start", "Subscription", "SubscriptionStatistics"]

Start: TypeAlias = Literal["now", "oldest"]


@dataclass(frozen=True)
class SubscriptionStatistics:
    """What a subscription looked like at one moment.

    Attributes:
        received: how many frames it got.
        lost: how many it was too slow for.
        behind: published frames that it has not come to; some of them may be lost.
        sleeps: how often it slept.
    """

    received: int
    lost: int
    behind: int
    sleeps: int


class Subscription:
    """One reader of a broadcast: every frame in order, except frames it is too slow for.

    Made by `Broadcast.subscribe`. Threads that share it get each frame once between them. It does
    not pickle: pass the broadcast on, and subscribe there. In a forked child it is a reader of the
    child's own, at the same position.
    """

    _place: tuple[int, int, int]
    """Position of the next frame, its number, and how many frames were lost before it."""

    def __init__(self, broadcast: Broadcast, start: Start) -> None:
        """Begin to read; `Broadcast.subscribe` is the way to make one."""
        segment = broadcast._segment
        self._broadcast = broadcast
        self._closed = False
        self._map: Any = segment.map
        self._words = segment.words
        self._data_word = segment.data_word
        self._mask = segment.header.data_size - 1
        self._end = segment.header.data_size - FRAME_HEADER
        self._payload = segment.base + FRAME_HEADER
        self._bell = broadcast._new_bell()
        self._publisher = broadcast._new_side()
        head, number = broadcast._frame_at(OLDEST if start == "oldest" else TAIL)
        self._place = head, number, 0
        self._first = number
        self._watch: Watch | None = None
        self._begin()

    def fileno(self) -> int:
        """A descriptor for `select`, `poll` and event loops: readable when a get would not wait.

        Where it is readable nothing may be there, as with a socket that several read: get with a
        timeout of 0. Only an `Empty` makes it unreadable again. It is the handle's: do not read
        from it or close it. A thread of its own waits for it; `shmkit.wait` waits for several.

        Raises:
            ClosedError: this subscription or its broadcast was closed.
        """
        self._check_open()
        return self._armed_fileno() if self._watch is None else self._watch.fileno()

    def _armed_fileno(self) -> int:
        """The descriptor, unreadable unless something is there."""
        if self._watch is None:
            self._watch = self._broadcast._new_watch(self, self._bell, self._publisher, TAIL)
        self._watch.arm(self._place[0])
        return self._watch.fileno()

    def _is_ready(self) -> bool:
        """Whether a get would not wait."""
        words = self._words
        self._check_open()  # second: `close` takes the words first
        if words[TAIL] != self._place[0] or words[STATE] != READY:
            return True
        return self._publisher.has_news()

    def _begin(self) -> None:
        """Start without a thread inside: at first, and again in a forked child."""
        if self._watch is not None:  # its thread is the parent's
            self._watch.close()
            self._watch = None
        self._is_inside, self._enter, self._leave = new_guard()

    def get(self, timeout: float | None = None) -> bytes:
        """The next frame, waiting while there is none.

        Args:
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Returns:
            The frame's bytes, a copy. `lost` tells whether frames before it were lost.

        Raises:
            Empty: none came in time.
            ShutDown: the broadcast was shut down, and everything in it has been read.
            PeerDied: everything has been read and the publisher was killed; told once per death.
            CorruptSegment: an index or a frame's length in the memory is impossible.
            ClosedError: this subscription or its broadcast was closed.
            RuntimeError: called from inside a get of the same thread, by a signal handler or a
                finalizer.
        """
        taken = self._take()
        frame: bytes = self._await_frame(timeout) if taken is None else taken
        return frame

    def get_into(self, buffer: Buffer, timeout: float | None = None) -> int:
        """Copy the next frame into memory of the caller's, waiting while there is none.

        Args:
            buffer: writable and contiguous; it may be larger than the frame.
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Returns:
            Bytes written, from the buffer's start on.

        Raises:
            ValueError: the frame is larger than the buffer; it is still the next one.
            TypeError: the buffer is read-only or not contiguous.
            Empty, ShutDown, PeerDied, CorruptSegment, ClosedError, RuntimeError: as `get`.
        """
        target = writable(buffer)
        taken = self._take(target)
        size: int = self._await_frame(timeout, target) if taken is None else taken
        return size

    def get_nowait(self) -> bytes:
        """`get`, or Empty at once."""
        return self.get(0)

    def __iter__(self) -> Iterator[bytes]:
        """Frame after frame, until the broadcast is shut down and everything was read.

        Raises:
            PeerDied, CorruptSegment, ClosedError: as `get`.
        """
        return until_shut_down(self.get)

    def _await_frame(self, timeout: float | None, target: memoryview | None = None) -> Any:
        deadline, broadcast = deadline_of(timeout), self._broadcast
        while True:
            seen = self._place[0]  # while there is no frame, this is the tail
            frame = self._take(target)
            if frame is not None:
                return frame
            if not broadcast._wait(
                self._bell, self._publisher, TAIL, seen, deadline, self._check_open
            ):
                if self._watch is not None:
                    self._watch.arm(seen)
                raise Empty(f"broadcast {broadcast._name} has nothing new")

    def _take(self, target: memoryview | None = None) -> Any:
        """Copy the next frame out and go past it; None if there is none.

        Args:
            target: where to, to get its size; None to get a copy of it.

        Raises:
            ShutDown, CorruptSegment, ClosedError, RuntimeError: as `get`.
        """
        if self._is_inside():
            raise reentered("subscription")
        try:
            self._enter()
            data, words = self._map, self._words  # in this order: `close` takes the words first
            while True:
                state = words[STATE]  # before the tail: a shutdown comes after the last frame
                if state != READY and state != SHUT:
                    self._check_open()
                    checked_state(self._broadcast._segment, words)
                    raise ShutDown(f"broadcast {self._broadcast._name} was shut down at once")
                head, number, lost = self._place
                tail = words[TAIL]
                if not STRONG_ORDER:
                    fence()
                if tail == head:
                    if state == SHUT:
                        raise ShutDown(
                            f"broadcast {self._broadcast._name} was shut down and is read"
                        )
                    frame = None
                    break
                at = head & self._mask
                size = words[self._data_word + (at >> 3)]
                # A frame ends at the tail or before, and so at the end of the data. Both are
                # checked, for the header may be of a frame that was written over.
                if size <= tail - head - FRAME_HEADER and size <= self._end - at:
                    at += self._payload
                    if target is None:
                        frame = data[at : at + size]  # step: read.copy
                    else:
                        frame = copied_into(target, data, at, size)
                    if not STRONG_ORDER or size > LARGE:
                        fence()
                    # Still whole after the copy: the publisher has not begun to write over it.
                    if words[OLDEST] <= head:
                        if target is not None:
                            check_fits(target, size, "frame")
                        self._place = head + ((size + 31) & -16), number + 1, lost
                        break
                self._go_on(words, tail, size)
            self._leave()
        except BaseException:
            try:
                self._leave()  # first: another signal handler may raise in any later call
            except RuntimeError:
                pass  # the exception came before the guard was taken, or after
            raise
        return frame

    def _go_on(self, words: memoryview[int], tail: int, word: int) -> None:
        """Go past what is not a whole frame: frames that were written over, or a lap's filler.

        Args:
            words: the segment as 8-byte words.
            tail: as it was before the header was looked at.
            word: the first word of the header.

        Raises:
            CorruptSegment: it is neither.
        """
        head, number, lost = self._place
        fence()  # keeps the read of the header before the read of `oldest`
        if words[OLDEST] > head:
            oldest, first = self._broadcast._frame_at(OLDEST)
            missed = first - number
            # A frame takes 16 bytes or more: between the two positions there are no more than this.
            if not 0 <= missed <= (oldest - head) // FRAME_HEADER:
                raise self._corrupt(f"frame {first} at {oldest}, but frame {number} at {head}")
            self._place = oldest, first, lost + missed
            return
        if head > tail:
            raise self._corrupt(f"tail {tail}, where it was {head} before")
        bound = min(tail, (head | self._mask) + 1)
        size = word & SIZE_MASK
        if word - size != PAD or size > bound - head - FRAME_HEADER:
            raise self._corrupt(f"frame header {word:#x} at {head}, and frames until {bound}")
        self._place = head + ((size + 31) & -16), number, lost

    def _corrupt(self, detail: str) -> CorruptSegment:
        return self._broadcast._corrupt(detail)

    def _check_open(self) -> None:
        if self._closed or self._broadcast._closed:
            raise ClosedError(f"this subscription to broadcast {self._broadcast._name} was closed")

    def close(self) -> None:
        """Stop reading. Idempotent; the broadcast stays open."""
        self._closed = True
        self._words = NO_WORDS
        self._map = None
        if self._watch is not None:
            self._watch.close()
        self._bell.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Subscription does not pickle: pickle its broadcast, and subscribe in the process "
            "that reads"
        )

    @property
    def lost(self) -> int:
        """How many frames this reader was too slow for; they are counted when `get` passes them."""
        return self._place[2]

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
        _, number, lost = self._place
        return SubscriptionStatistics(
            received=number - self._first - lost,
            lost=lost,
            behind=max(0, self._broadcast._frame_at(TAIL)[1] - number),
            sleeps=self._bell.sleeps,
        )

    def __repr__(self) -> str:
        number, lost = self._place[1:]
        state = "closed" if self.closed else f"at frame {number}"
        return f"<Subscription to {self._broadcast._name} {state}, {lost} lost>"
