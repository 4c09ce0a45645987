"""Reading: the consumers' side of a ring, from "is there a frame?" to the stored head.

    find      open? the role? a frame, behind what only fills the lap?
    check     its header; in checked rings its checksum
    release   store head

A consumer killed before the head is stored has taken nothing: the frame is there for the next one.

The common case is `ReadCursor.get` in core.py; this is every other case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.frame import second_word, step_of
from shmkit.channels.handle import checked_state
from shmkit.channels.ring.lending import Wait, attempt, check_loan, take_role, wait
from shmkit.compiled import copied
from shmkit.core import COUNTER, FREE, IMPOSSIBLE, LARGE_COPY, ReadCursor
from shmkit.errors import CorruptSegment, Empty, ShutDown
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.words import (
    CUT,
    DROPPED,
    FRAME_HEADER,
    HEAD,
    KIND_MASK,
    PAD,
    POISONED,
    READY,
    SIZE_MASK,
    SKIP,
    STATE,
    TAIL,
)

if TYPE_CHECKING:
    from shmkit.channels.ring.lending import Parts
    from shmkit.channels.watch import Watch
    from shmkit.deadline import Deadline
    from shmkit.sync.mutex import Mutex

__all__ = ["Reader"]


class Reader(ReadCursor):
    """The cursor with which a ring's handle gets frames.

    Args:
        ring: what it is made of.
        mutex: the lock between consumers; None where there is one.

    Attributes:
        watch: what the ring's descriptor belongs to, once it was asked for.
    """

    # What this side waits for, and what its errors say.
    verb: Final = "get"
    why: Final = "empty"
    refusal: Final = Empty
    moves: Final = TAIL
    never_waits: Final = False

    def __init__(self, ring: Parts, mutex: Mutex | None) -> None:
        segment = ring.segment
        size = segment.header.data_size
        super().__init__(
            ring.title, segment.words, segment.map, segment.base, size, mutex, ring.space_bell
        )
        self.segment = segment
        self.data_bell = self.sleeps_at = ring.data_bell
        self.role, self.peer = ring.consumers, ring.producers
        self.checked, self.tells_deaths = ring.checked, ring.tells_deaths
        self.watch: Watch | None = None

    def get_carefully(self, deadline: Deadline) -> Any:
        """Take the oldest frame out, waiting while there is none."""
        # A frame may be microseconds away: look that long before the locks and a sleep.
        frame = None if deadline.is_now else self._glance()
        while frame is None:
            taken = attempt(self, self._take_one, deadline)
            if not isinstance(taken, Wait):
                self.give_room()
                return taken
            wait(self, taken.seen, deadline)
            frame = self.get()  # most waits end here, without a second loan
        if self.role.shared:
            self.give_room()  # other consumers may sleep on the same bell
        return frame

    def _glance(self) -> bytes | None:
        """Look for a frame for some microseconds, without the locks, and take it."""
        words = self.words
        tail = words[TAIL]
        if self.state != FREE or words[HEAD] != tail or not self.data_bell.glance(TAIL, tail):
            return None
        return self.get()

    def _take_one(self) -> Any:
        at = self.find()
        return at if isinstance(at, Wait) else self.take(at)

    def find(self) -> int | Wait:
        """The position of the oldest frame, checked.

        Raises:
            ShutDown: there is none, and none will come.
            RoleTaken, CorruptSegment, ClosedError: as `Ring.get`.
        """
        # Read before the tail: whatever was put before the shutdown is then found below.
        state = checked_state(self.segment, self.words)
        if state == CUT:
            raise ShutDown(f"{self.title} was shut down at once")
        take_role(self)
        at = self.next_frame(self.words[HEAD])
        if isinstance(at, Wait) and state != READY:
            raise ShutDown(f"{self.title} was shut down and is empty")
        return at

    def next_frame(self, head: int) -> int | Wait:
        """The position of the first frame from `head` on, past what only fills the lap.

        Raises:
            CorruptSegment: a position, a frame's header or its checksum is impossible.
        """
        words = self.words
        tail = words[TAIL]
        # The tail is read before the frames that it shows.
        if not STRONG_ORDER:
            fence()
        while head != tail:
            # Behind `skip` the rest of the lap holds nothing: the next frame begins the next lap.
            start = (head | self.mask) + 1 if words[SKIP] == head else head
            if (head | tail) & IMPOSSIBLE or not 0 <= tail - start <= self.size:
                raise self.corrupt(head, tail)
            if start == tail:
                break
            self.seen = tail
            word = self.word_at(start)
            size, left = word & SIZE_MASK, self.bound(start) - start
            # The header is checked before it is used: damage must not lead out of the ring.
            if size > left - FRAME_HEADER:
                raise self._damaged(f"a frame of {size} bytes at {start}, with {left} left there")
            if word & ~(SIZE_MASK | KIND_MASK | PAD):
                raise self._damaged(f"frame header {word:#x} at {start}")
            if not word & PAD:
                if self.checked:
                    self._check_sum(start, word)
                return start
            # A pad frame: go on behind it.
            head = start + step_of(size)
        return Wait(tail)

    def bound(self, position: int) -> int:
        """Where frames from a position on end: at the tail as seen, or at the end of the lap."""
        return min(self.seen, (position | self.mask) + 1)

    def word_at(self, position: int) -> int:
        """The first word of the frame at a position."""
        return self.words[(self.base + (position & self.mask)) >> 3]

    def payload_of(self, at: int) -> tuple[int, int]:
        """First byte, as an index in `data`, and size of the frame at a position."""
        return self.base + (at & self.mask) + FRAME_HEADER, self.word_at(at) & SIZE_MASK

    def _check_sum(self, at: int, word: int) -> None:
        if not self._fits_sum(at, word):
            raise self._damaged(
                f"the checksum of the frame of {word & SIZE_MASK} bytes at {at} does not fit it"
            )

    def _fits_sum(self, at: int, word: int) -> bool:
        start, size = self.payload_of(at)
        stored = self.words[(start >> 3) - 1]
        # The position is in it in plain, too: most of what is no frame is told without a sum.
        if stored & SIZE_MASK != at >> 4 & SIZE_MASK:
            return False
        with memoryview(self.data) as data, data[start : start + size] as payload:
            return stored == second_word(word, at, payload)

    def _damaged(self, detail: str) -> Exception:
        """The error for a frame that is not as it was put."""
        if not self.checked:
            return self.segment.poison(detail)
        # The positions are sound: the ring goes on behind the frame, and is not marked as broken.
        where = str(self.segment.buffer.url)
        return CorruptSegment(
            f"{self.title} is damaged: {detail}; skip_damaged() goes on behind it",
            where=where,
            detail=detail,
        )

    def skip_damaged(self) -> int:
        """Release what is damaged at the head, up to the next whole frame; how many bytes."""
        words = self.words
        if checked_state(self.segment, words, damaged=True) == CUT:
            raise ShutDown(f"{self.title} was shut down at once")
        take_role(self)
        head, tail = words[HEAD], words[TAIL]
        start = (head | self.mask) + 1 if words[SKIP] == head != tail else head
        if (head | tail) & IMPOSSIBLE or not 0 <= tail - start <= self.size:
            raise self.corrupt(head, tail)
        self.seen, at = tail, start
        # Frames are 16-aligned. A sum has the position in it: no older frame passes.
        while at < tail and not self._is_whole(at):
            if self._is_pad(at):
                if at == start:
                    start = (at | self.mask) + 1  # sound: it holds nothing
                at = (at | self.mask) + 1
            else:
                at += FRAME_HEADER
        if at != head:
            self.release(at)
        if words[STATE] == POISONED:
            words[STATE] = READY
        return max(at - start, 0)

    def _is_whole(self, at: int) -> bool:
        word, left = self.word_at(at), self.bound(at) - at
        if word & ~(SIZE_MASK | KIND_MASK) or word & SIZE_MASK > left - FRAME_HEADER:
            return False
        return self._fits_sum(at, word)

    def _is_pad(self, at: int) -> bool:
        lap_end = (at | self.mask) + 1
        return self.word_at(at) == lap_end - at - FRAME_HEADER | PAD and lap_end <= self.seen

    def corrupt(self, head: int, tail: int) -> Exception:
        """The error for positions that can not be."""
        return self.segment.poison(f"tail {tail} and head {head} in a ring of {self.size} bytes")

    def take(self, at: int) -> Any:
        """Copy the frame at a position out and release it, in this order: a kill loses nothing."""
        start, size = self.payload_of(at)
        if size < LARGE_COPY:
            frame: bytes = self.data[start : start + size]  # step: get.copy
        else:
            with memoryview(self.data) as whole, whole[start : start + size] as view:
                frame = copied(view)  # step: get.copy
        self.release(at + step_of(size))
        return frame

    def void(self, at: int) -> None:
        """Have the frame at a position skipped, as if it only filled the lap.

        One that is the oldest is released.
        """
        words, index = self.words, (self.base + (at & self.mask)) >> 3
        words[index] = words[index] & SIZE_MASK | PAD  # step: get.void
        first = self.next_frame(words[HEAD])
        end = first.seen if isinstance(first, Wait) else first
        if end != words[HEAD]:
            self.release(end)

    def release(self, end: int) -> None:
        """Let the producers have everything up to `end`."""
        words = self.words
        # The note before the head: it says what the next store of the head counts.
        if self.notes:
            self.note(words[HEAD])
        if self.mark is not None:
            self.mark[0] = end  # step: get.mark
        # A handler may have closed or forked meanwhile: then the frame is not ours to release.
        check_loan(self, self.loan)
        # The copy is read before producers may write over it.
        if not STRONG_ORDER:
            fence()
        words[HEAD] = end  # step: get.head

    def drop_one(self, deadline: Deadline) -> bool:
        """Throw the oldest frame out, for a producer that needs its room.

        Returns:
            False if there is none, or a consumer takes too long with it.
        """
        try:
            return attempt(self, self._throw_out_one, deadline)
        except Empty:
            return False

    def _throw_out_one(self) -> bool:
        at = self.next_frame(self.words[HEAD])
        if isinstance(at, Wait):
            return False
        # A kill between the count and the release counts one drop too many; no frame is lost.
        self.words[DROPPED] = self.words[DROPPED] + 1 & COUNTER  # step: get.drop
        self.throw_out(at)
        return True

    def throw_out(self, at: int) -> None:
        """Release the frame at a position unread."""
        self.release(at + step_of(self.payload_of(at)[1]))

    def give_room(self) -> None:
        """Wake a producer, and another consumer if something is left for it."""
        if not STRONG_ORDER:
            fence()  # with strong order, giving the guard back was a fence, as in core.py
        self.bell.ring()  # step: get.bell
        # A bell wakes one consumer: it wakes the next one while frames are left.
        if self.role.shared and self.words[TAIL] != self.words[HEAD]:
            self.data_bell.ring()  # step: get.ring_on
