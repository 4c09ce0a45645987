"""Placing: what a producer does in its turn, from "is there room?" to the stored tail.

    admit    open, the role, room at the end or behind the lap's end?  ->  or what the policy says
    write    payload -> frame header
    publish  store tail

Everything before the last store is invisible: `_tail` is where this handle writes, the tail in the
memory is what others see. A lap's end that is passed for a frame is taken back if the frame does
not come (`_rewind`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmkit.channels.frame import HEADER, LOW, PAD, checksum
from shmkit.channels.handle import BUSY
from shmkit.channels.ring.half import SHARED, Half
from shmkit.errors import FrameTooLarge, Full
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.header import DROPPED, HEAD, SKIP, TAIL

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.deadline import Deadline

__all__ = ["Placing"]

NO_SKIP: Final = (1 << 64) - 1


class Placing(Half):
    """The careful half of `Producing`."""

    __slots__ = ()

    _tail: int
    _limit: int
    _room: int
    _head_seen: int
    _put_at: int  # index in the map of the next frame, on the fast path
    _put_lap: int  # what makes a position of it
    _put_quick: bool
    _is_producer: bool
    _ahead: bool  # _tail is past a lap's end that is not published

    def _put_in_turn(self, attempt: Callable[[], bool | None], deadline: Deadline) -> bool:
        """Attempt something in turn until there is room for it; False if the policy drops it."""
        self._check_open()
        turn = self._put_turn
        while (is_in := turn.run(deadline, attempt)) is False:
            self._await_room(deadline)
        return bool(is_in)

    # -- in turn -----------------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        limit = self._most
        if size > limit:
            remedy = f"create it with a capacity of {size + HEADER} or more, or send it in parts"
            raise FrameTooLarge(
                f"a frame of {size} bytes, this ring takes {limit} at most: "
                + (remedy if limit < LOW else "send it in parts"),
                size=size,
                limit=limit,
            )

    def _admit(self, size: int, deadline: Deadline) -> bool | None:
        """Whether a frame goes in now; None if it is dropped, as the policy has it."""
        if self._make_room(size):
            return True
        if self._policy == "drop-new":
            self._words[DROPPED] += 1  # step: put.drop
            return None
        while self._policy == "drop-oldest" and self._drop_oldest(deadline):
            if self._make_room(size):
                return True
        return False

    def _make_room(self, size: int) -> bool:
        """Look again at all that the fast path takes for granted; whether `size` bytes fit."""
        if self._limit == BUSY:
            self._await_fast_path(lambda: self._limit != BUSY)
        self._limit = -1
        words = self._words_for_putting()
        self._check_size(size)
        if not self._is_producer:
            self._producer.claim()
            self._is_producer = True
            self._put_quick = self._joins_fast_path(self._put_mutex)
        tail = words[TAIL]
        if tail != self._tail or self._ahead or words[SKIP] == tail:
            self._rewind(tail)
        step = (size + 31) & -16
        if tail + step <= self._room:
            return True
        head = self._head_seen = words[HEAD]
        head, tail = self._span(head, tail, words[SKIP])
        lap_end = (tail | self._mask) + 1
        if tail + step > lap_end:
            if tail == head:
                # Empty: nothing to fill up to the end, the consumer is told to go on behind it.
                words[SKIP] = tail  # step: put.skip
                head = lap_end
            elif lap_end + step <= head + self._size:
                index = self._data_word + ((tail & self._mask) >> 3)
                words[index] = lap_end - tail - HEADER | PAD  # step: put.pad
            else:
                return False
            # Not published: the frame that follows takes it along.
            self._tail = tail = lap_end
            self._ahead = True
            lap_end += self._size
        self._room = min(head + self._size, lap_end)
        return tail + step <= self._room

    def _rewind(self, tail: int) -> None:
        """Begin at the published tail.

        It is further where others have put, and nearer where a lap's end was passed for a frame
        that then did not come.
        """
        if self._words[SKIP] == tail:
            self._words[SKIP] = NO_SKIP  # step: put.unskip
        if self._ahead:
            self._room = -1  # it was reckoned with the lap's end passed
        self._tail, self._ahead = tail, False

    def _write(self, data: bytes | memoryview, size: int, *, in_place: bool = False) -> None:
        tail = self._tail
        at = tail & self._mask
        index = self._data_word + (at >> 3)
        if not in_place:
            at += self._base + HEADER
            self._map[at : at + size] = data  # step: put.payload
        self._words[index] = size  # step: put.header
        if self._checked:  # step: put.checksum
            self._words[index + 1] = tail >> 4 & LOW | checksum(size, tail, data) << 32
        self._tail = tail + ((size + 31) & -16)

    def _publish(self) -> None:
        if not STRONG_ORDER:
            fence()
        self._words[TAIL] = tail = self._tail  # step: put.tail
        self._ahead = False
        if self._put_quick:
            at = self._base + (tail & self._mask)
            self._put_at, self._put_lap = at, tail - at
            self._limit = min(self._room, tail + self._span_of_most) - self._put_lap
        elif self._put_mutex is not None and not self._checked:
            self._limit = SHARED

    if TYPE_CHECKING:

        def _drop_oldest(self, deadline: Deadline) -> bool:
            """Of `Finding`."""

    # -- out of turn -------------------------------------------------------------------------------

    def _announce(self) -> None:
        fence()  # step: put.bell
        self._data.ring()
        if self._producer.shared:
            self._space.ring()  # there may be room for others that sleep, too  # step: put.ring_on

    def _await_room(self, deadline: Deadline) -> None:
        if self._policy == "raise" or deadline.is_now:
            raise Full(f"ring {self._name} is full")
        if not self._wait(self._space, HEAD, self._head_seen, deadline, self._consumer):
            raise Full(f"ring {self._name} stayed full until the timeout")
