"""Writing: the producers' side of a ring, from "is there room?" to the stored tail.

    room      open? the role? is there room before or behind the end of the lap?
    write     payload -> frame header
    commit    store tail

Nothing of a frame is visible before the last store: a producer killed before it has put nothing. A
frame that does not fit before the end of the lap begins at the next one. What is left of the lap is
filled by a frame with the flag PAD, or, in an empty ring, skipped: `skip` names the position at
which a consumer goes on at the next lap.

The common case is `WriteCursor.put` in core.py; this is every other case.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.frame import as_bytes, second_word, step_of
from shmkit.channels.handle import checked_state
from shmkit.channels.ring.lending import Wait, check_loan, insist, take_role
from shmkit.compiled import copy
from shmkit.core import COUNTER, IMPOSSIBLE, LARGE_COPY, WriteCursor
from shmkit.errors import FrameTooLarge, Full, ShutDown
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.words import (
    DROPPED,
    FRAME_HEADER,
    HEAD,
    KIND_SHIFT,
    PAD,
    READY,
    SIZE_MASK,
    SKIP,
    TAIL,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.channels.ring.lending import Parts
    from shmkit.deadline import Deadline
    from shmkit.sync.mutex import Mutex

__all__ = ["Writer"]

NO_SKIP: Final = (1 << 64) - 1  # no position has this value


class Writer(WriteCursor):
    """The cursor with which a ring's handle puts frames.

    Args:
        ring: what it is made of.
        mutex: the lock between producers; None where there is one.

    Attributes:
        drop_one: throws out the oldest frame, and tells whether there was one; None: frames stay.
    """

    # What this side waits for, and what its errors say.
    verb: Final = "put"
    why: Final = "full"
    refusal: Final = Full
    moves: Final = HEAD
    watch: Final = None

    def __init__(self, ring: Parts, mutex: Mutex | None) -> None:
        segment = ring.segment
        size = segment.header.data_size
        super().__init__(
            ring.title, segment.words, segment.map, segment.base, size, mutex, ring.data_bell
        )
        self.segment = segment
        self.space_bell = ring.space_bell
        self.role, self.peer = ring.producers, ring.consumers
        self.policy, self.checked, self.tells_deaths = ring.policy, ring.checked, ring.tells_deaths
        self.largest = min(size - FRAME_HEADER, SIZE_MASK)
        self.sleeps_at, self.never_waits = ring.space_bell, ring.policy == "raise"
        self.drop_one: Callable[[Deadline], bool] | None = None

    def put_carefully(self, data: Any, deadline: Deadline) -> None:
        """Put a frame, waiting while there is no room for it."""
        frame = as_bytes(data)
        insist(self, partial(self._put_one, frame, deadline), deadline)
        self.announce()

    def _put_one(self, frame: bytes | memoryview, deadline: Deadline) -> Wait | None:
        at = self.admit(len(frame), deadline)
        if isinstance(at, Wait):
            return at
        if at is not None:
            self.write(at, frame)
            self.commit(at, at + step_of(len(frame)))
        return None

    def admit(self, size: int, deadline: Deadline) -> int | Wait | None:
        """The position where a frame goes in now; None if it is dropped, as the policy has it.

        Raises:
            FrameTooLarge: it never fits.
            ShutDown, RoleTaken, CorruptSegment, ClosedError: as `Ring.put`.
        """
        at = self._find_room(size)
        if isinstance(at, Wait):
            if self.policy == "drop-new":
                self.words[DROPPED] = self.words[DROPPED] + 1 & COUNTER  # step: put.drop
                return None
            # One small frame out may not be room enough: repeat.
            while isinstance(at, Wait) and self.drop_one is not None and self.drop_one(deadline):
                at = self._find_room(size)
        return at

    def _find_room(self, size: int) -> int | Wait:
        words = self.words
        if checked_state(self.segment, words) != READY:
            raise ShutDown(f"{self.title} was shut down: nothing more goes in")
        self.check_size(size)
        take_role(self)
        tail = words[TAIL]
        if words[SKIP] == tail:
            # A producer died between skip and tail. A frame may begin here after all.
            words[SKIP] = NO_SKIP  # step: put.unskip
        head = words[HEAD]
        # Twice the size: with a skip between them, the tail may be a lap further on.
        if (head | tail) & IMPOSSIBLE or not 0 <= tail - head <= 2 * self.size:
            raise self.corrupt(head, tail)
        # A consumer that has not passed the skip yet goes on at the next lap.
        start = (head | self.mask) + 1 if head == words[SKIP] != tail else head
        if not 0 <= tail - start <= self.size:
            raise self.corrupt(head, tail)
        self.seen = head
        lap_end = (tail | self.mask) + 1
        step = step_of(size)
        at = tail if tail + step <= lap_end else lap_end
        # An empty ring has room for every frame: its consumer skips what is left of the lap.
        if at + step > start + self.size and not (tail == start and at == lap_end):
            return Wait(head)
        # Last of the checks: a note announces a frame that goes in now.
        if self.notes and not self.note(tail):
            return Wait(head)
        return at

    def check_size(self, size: int) -> None:
        """See that a frame may fit.

        Raises:
            FrameTooLarge: it never does.
        """
        limit = self.largest
        if size > limit:
            least = size + FRAME_HEADER
            remedy = f"create it with a capacity of {least} or more, or send it in parts"
            raise FrameTooLarge(
                f"a frame of {size} bytes, this ring takes {limit} at most: "
                + (remedy if limit < SIZE_MASK else "send it in parts"),
                size=size,
                limit=limit,
            )

    def write(self, at: int, frame: bytes | memoryview) -> None:
        """Write a plain frame at a position."""
        start = self.payload_at(at)
        if len(frame) < LARGE_COPY:
            self.data[start : start + len(frame)] = frame  # step: put.payload
        else:
            with memoryview(self.data) as whole, whole[start : start + len(frame)] as room:
                copy(room, frame)  # step: put.payload
        self.seal(at, frame)

    def payload_at(self, at: int) -> int:
        """Index in `data` of the payload of a frame at a position."""
        return self.base + (at & self.mask) + FRAME_HEADER

    def seal(self, at: int, payload: bytes | memoryview, kind: int = 0) -> None:
        """Write the header of a frame whose payload is in place."""
        words, index = self.words, (self.base + (at & self.mask)) >> 3
        word = len(payload) | kind << KIND_SHIFT
        words[index] = word  # step: put.header
        if self.checked:
            words[index + 1] = second_word(word, at, payload)  # step: put.checksum

    def commit(self, at: int, end: int) -> None:
        """Make everything from `at` to `end` visible with one store."""
        check_loan(self, self.loan)
        words = self.words
        tail = words[TAIL]
        if at != tail:
            if tail & IMPOSSIBLE or at != (tail | self.mask) + 1:
                raise self.corrupt(words[HEAD], tail)  # the tail was overwritten since `admit`
            self._pass_lap_end(tail, at)
        # The frame is written before the tail that shows it.
        if not STRONG_ORDER:
            fence()
        words[TAIL] = end  # step: put.tail

    def _pass_lap_end(self, tail: int, lap_end: int) -> None:
        # In an empty ring a skip takes no room, and the largest frame fits; a pad frame takes some.
        if self.words[HEAD] == tail:
            self.words[SKIP] = tail  # step: put.skip
        else:
            index = (self.base + (tail & self.mask)) >> 3
            self.words[index] = lap_end - tail - FRAME_HEADER | PAD  # step: put.pad

    def corrupt(self, head: int, tail: int) -> Exception:
        """The error for positions that can not be."""
        return self.segment.poison(f"tail {tail} and head {head} in a ring of {self.size} bytes")

    def announce(self) -> None:
        """Wake a consumer, and another producer if there may be room for it, too."""
        if not STRONG_ORDER:
            fence()  # with strong order, giving the guard back was a fence, as in core.py
        self.bell.ring()  # step: put.bell
        # A bell wakes one producer: it wakes the next one, which may find room, too.
        if self.role.shared:
            self.space_bell.ring()  # step: put.ring_on
