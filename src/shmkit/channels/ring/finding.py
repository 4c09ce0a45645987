"""Finding: what a consumer does in its turn, from "is there a frame?" to the stored head.

    find     open, the role, a frame?  ->  stand at it, past whatever only fills
    check    its header, in checked rings its checksum
    release  store head

A frame that was found is whole and lies inside; `_known` is how far that is certain without another
look at the tail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from shmkit.channels.frame import DISCARD, HEADER, LOW, PAD, checksum
from shmkit.channels.handle import BUSY
from shmkit.channels.ring.half import SHARED, Half
from shmkit.errors import Empty, ShutDown
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.header import CUT, DROPPED, HEAD, READY, SKIP, TAIL

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.deadline import Deadline

__all__ = ["Finding"]

_T = TypeVar("_T")


class Finding(Half):
    """The careful half of `Consuming`."""

    __slots__ = ()

    _head: int
    _seen: int
    _known: int
    _tail_seen: int
    _get_at: int  # index in the map of the frame at _head, on the fast path
    _get_lap: int  # what makes a position of it
    _get_quick: bool
    _is_consumer: bool

    def _get_in_turn(
        self,
        attempt: Callable[[], _T | None],
        deadline: Deadline,
        attempt_soon: Callable[[], _T | None],
    ) -> _T:
        """Attempt something in turn until there is a frame for it; after a wait first without."""
        self._check_open()
        turn = self._get_turn
        while (taken := turn.run(deadline, attempt)) is None:
            self._await_frame(deadline)
            taken = attempt_soon()
            if taken is not None:
                return taken
        self._give_room()
        return taken

    # -- in turn -----------------------------------------------------------------------------------

    def _find(self) -> bool:
        """Stand at the next frame to deliver, checked; whether there is one."""
        words = self._open_words()
        # Before the tail: whoever shut the ring down had put before.
        state = self._checked_state(words)
        if state == CUT:
            raise ShutDown(f"ring {self._name} was shut down at once")
        if not self._is_consumer:
            self._consumer.claim()
            self._is_consumer = True
            self._get_quick = self._joins_fast_path(self._get_mutex)
        if self._stand_at_frame():
            return True
        if state != READY:
            raise ShutDown(f"ring {self._name} was shut down and is empty")
        self._stand_ready()
        return False

    def _stand_at_frame(self) -> bool:
        if self._seen == BUSY:
            self._await_fast_path(lambda: self._seen != BUSY)
        self._seen = self._get_at = -1
        head = self._head = self._words[HEAD]  # another consumer may have gone on
        if self._words[SKIP] == head:
            self._known = head  # what was known may be of the next lap, and between is nothing
        return self._go_on()

    def _go_on(self) -> bool:
        """From `_head` to the next frame, over what only fills; whether there is one."""
        words = self._words
        while True:
            if not 0 < self._known - self._head <= self._size and not self._see_more():
                return False
            head = self._head
            index = self._data_word + ((head & self._mask) >> 3)
            word = words[index]
            size = word & LOW
            if size > self._known - head - HEADER:
                raise self._corrupt(
                    f"a frame of {size} bytes at {head}, with {self._known - head} left there"
                )
            flags = word & (PAD | DISCARD)
            if word >> 48 != flags >> 48:
                raise self._corrupt(f"frame header {word:#x} at {head}")
            if not flags:
                if self._checked:
                    self._check(index, word, head)
                return True
            self._head = head + ((size + 31) & -16)

    def _see_more(self) -> bool:
        words, head = self._words, self._head
        tail = self._tail_seen = words[TAIL]
        if not STRONG_ORDER:
            fence()
        if tail == head:
            return False
        head, tail = self._span(head, tail, words[SKIP])
        self._head = head
        self._known = min(tail, (head | self._mask) + 1)
        return head != tail

    def _drop_oldest(self, deadline: Deadline) -> bool:
        """Throw one frame out, for a producer in its turn; False if there is none to throw."""

        def drop() -> bool:
            if not self._stand_at_frame():
                return False
            self._words[DROPPED] += 1  # step: get.drop
            self._throw_out()
            return True

        try:
            return self._get_turn.run(deadline, drop)
        except Empty:
            return False  # whoever has the turn to get takes too long

    def _throw_out(self) -> None:
        self._advance(self._current()[1])

    def _check(self, index: int, word: int, head: int) -> None:
        at, size = self._current()
        payload = memoryview(self._map)[at : at + size]
        expected = head >> 4 & LOW | checksum(word, head, payload) << 32
        if self._words[index + 1] != expected:
            raise self._corrupt(
                f"the checksum of the frame of {size} bytes at {head} does not fit it"
            )

    def _current(self) -> tuple[int, int]:
        """Where in the map the payload at `_head` begins, and how many bytes it has."""
        at = self._head & self._mask
        return self._base + at + HEADER, self._words[self._data_word + (at >> 3)] & LOW

    def _advance(self, size: int) -> None:
        self._release(self._head + ((size + 31) & -16))

    def _release(self, head: int) -> None:
        self._head = self._words[HEAD] = head  # step: get.head
        self._stand_ready()

    def _stand_ready(self) -> None:
        """Let the fast path go on from here."""
        head = self._head
        if self._get_quick:
            at = self._base + (head & self._mask)
            self._get_lap = lap = head - at
            self._get_at = at
            self._seen = self._known - lap if self._known > head else at
        elif self._get_mutex is not None and not self._checked:
            self._seen = SHARED

    # -- out of turn -------------------------------------------------------------------------------

    def _give_room(self) -> None:
        fence()  # step: get.bell
        self._space.ring()
        if self._consumer.shared and self._words[TAIL] != self._words[HEAD]:
            self._data.ring()  # something is left for others that sleep  # step: get.ring_on

    def _await_frame(self, deadline: Deadline) -> None:
        if deadline.is_now:
            raise Empty(f"ring {self._name} is empty")
        if not self._wait(self._data, TAIL, self._tail_seen, deadline, self._producer):
            raise Empty(f"ring {self._name} stayed empty until the timeout")
