"""Consuming: the half of a ring that takes frames out.

    get    frame? -> copy it out -> store head -> ring the bell if a producer may sleep

Killed before the head is stored, the frame is there for the next consumer.

`get` has a fast path and a careful one, as `put` has (producer.py). `_seen` is how far there are
frames for the fast path: what the producer was seen to have committed, and never past the end of
the data, so that one comparison proves a frame to lie inside. It equals `_head` whenever there is
something to see to first. The careful path (finding.py) keeps its own bound in `_known`.
"""

from __future__ import annotations

from contextlib import contextmanager
from struct import Struct
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.frame import HEADER
from shmkit.channels.handle import BUSY
from shmkit.channels.ring.finding import Finding
from shmkit.channels.ring.half import SHARED
from shmkit.channels.turn import PATIENCE
from shmkit.deadline import Deadline
from shmkit.errors import Empty, ShutDown
from shmkit.segment.header import CUT, HEAD, SKIP, SPACE_BELL, STATE, TAIL

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

__all__ = ["Consuming"]

RUN: Final = 16  # frames of one size that get_many takes at a time


class Consuming(Finding):
    """What a ring offers to whoever gets. See `Ring`, which is made of this and `Producing`."""

    __slots__ = ()

    _unpack: Callable[..., tuple[Any, ...]]  # RUN frames of _unpack_size bytes
    _unpack_size: int

    def get(self, timeout: float | None = None) -> bytes:
        """Take the oldest frame out, waiting while there is none.

        Args:
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Returns:
            The frame's bytes, a copy.

        Raises:
            Empty: none came in time.
            ShutDown: the ring was shut down, and everything in it has been taken.
            PeerDied: there is none and the producer was killed; told once per death.
            RoleTaken: another live handle is the one consumer.
            CorruptSegment: an index, a frame's length or its checksum is impossible.
            ClosedError: this handle was closed.
        """
        found: bytes | None
        if self._get_mutex is not None:
            found = self._get_shared()
            return self._get_carefully(timeout) if found is None else found
        words = self._words
        # No call from here until _seen is stored.
        at = self._get_at
        seen = self._seen
        if at != seen:
            size = words[at >> 3]
            end = at + ((size + 31) & -16)
            if end <= seen and words[STATE] < CUT:
                self._seen = BUSY
                at += 16
                try:
                    frame: bytes = self._map[at : at + size]  # step: get.copy
                except MemoryError:
                    self._seen = seen
                    raise
                self._get_at = end
                words[HEAD] = end + self._get_lap  # step: get.head
                self._seen = seen
                if words[SPACE_BELL]:  # step: get.bell
                    self._space.ring()
                return frame
        elif self._see_frames(timeout):
            return self.get(timeout)
        found = self._get_carefully(timeout)
        return found

    def _see_frames(self, timeout: float | None) -> bool:
        """Glance at the tail, for the fast path; whether there is a frame for it now."""
        if self._get_at < 0:
            return False
        if timeout is None or timeout > 0:
            self._data.glance(TAIL, self._get_at + self._get_lap)
        # No call from here on, as there.
        at, tail = self._get_at, self._words[TAIL]
        seen = tail - self._get_lap
        if at < 0 or self._seen != at or tail & 15:
            return False  # another thread is on the careful path
        if not at < seen <= self._base + self._size:
            return False  # none, or in the next lap, or for the careful path to see what it is
        self._seen = seen
        return True

    def get_nowait(self) -> bytes:
        """`get`, or Empty at once."""
        return self.get(0)

    def _get_shared(self) -> bytes | None:
        """The fast path of a side that many share: lock, look, get; None: take the careful one."""
        mutex, words, me = self._get_mutex, self._words, get_ident()
        assert mutex is not None
        if self._seen != SHARED or mutex.owner == me or not mutex.acquire(True, PATIENCE, me):
            return None
        try:
            if self._seen != SHARED:  # any more: the turn before ended half-way
                mutex.release()
                return None
            head, known = words[HEAD], self._known
            if not 16 <= known - head <= self._size:
                known = self._see_shared_frames(head)
            at = self._base + (head & self._mask)
            size = words[at >> 3]
            end = head + ((size + 31) & -16)
            if end > known or words[STATE] >= CUT:  # none, or a flag, a kind, or broken
                mutex.release()
                return None
            at += 16
            frame: bytes = self._map[at : at + size]  # step: get.copy
            if self._notes_gets:
                self._note_get(head, end)
            self._head = words[HEAD] = end  # step: get.head
            mutex.release()
        except BaseException:
            try:
                mutex.leave(me)  # a handler that raises may have come before the release
            finally:
                mutex.leave(me)  # or another one, before that
            raise
        if words[SPACE_BELL]:  # step: get.bell
            self._space.ring()
        return frame

    def _see_shared_frames(self, head: int) -> int:
        """How far there are frames for the fast path; `head` if there are none."""
        words = self._words
        tail = words[TAIL]
        # The skip after the tail: it is stored before, and the tail may have come just now.
        if not 16 <= tail - head <= self._size or tail & 15 or words[SKIP] == head:
            return head  # none, or for the careful path to see what it is
        self._known = known = min(tail, (head | self._mask) + 1)
        return known

    def _note_get(self, head: int, end: int) -> None:
        """Note that the frame from `head` to `end` goes out now, in a ring that `_notes_gets`."""
        raise NotImplementedError

    def _get_carefully(self, timeout: float | None) -> Any:
        return self._get_in_turn(self._take_found, Deadline(timeout), self._take_soon)

    def _take_found(self) -> Any:
        return self._take() if self._find() else None

    def _take_soon(self) -> bytes | None:
        """Try the fast path again after a wait: a quarter less from put to get."""
        if self._see_frames(0):
            try:
                return self.get(0)
            except Empty:
                pass  # another thread was faster
        return None

    def _take(self) -> Any:
        """Copy the frame at the head out, and release it, in this order: a kill loses nothing."""
        at, size = self._current()
        frame: bytes = self._map[at : at + size]  # step: get.copy
        self._advance(size)
        return frame

    def get_many(self, max_frames: int | None = None, timeout: float | None = None) -> list[bytes]:
        """Take out every frame there is, waiting while there is none.

        Args:
            max_frames: at most this many; None for all.
            timeout: seconds to wait for the first; None for ever, 0 not at all.

        Returns:
            One frame or more, the oldest first.

        Raises:
            ValueError: `max_frames` below 1.
            Empty, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `get`.
        """
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames={max_frames}: ask for 1 frame or more")

        def attempt() -> list[bytes] | None:
            return self._take_run(max_frames) if self._find() else None

        return self._get_in_turn(attempt, Deadline(timeout), _nothing)

    def _take_run(self, most: int | None) -> list[bytes]:
        """Copy out frame after frame and release them with one store; the loop of `get`."""
        words, data = self._words, self._map
        frames: list[bytes] = []
        append = frames.append
        most = 1 << 62 if most is None else most
        # A tail read once bounds the run: a producer that keeps up does not keep us here.
        tail = words[TAIL]
        while True:
            # At _head stands one that was found, and checked.
            head, known = self._head, self._known
            if not self._checked:
                head = self._take_alike(frames, head, most)
            if head == self._head:
                at, size = self._current()
                append(data[at : at + size])  # step: get.copy
                head += (size + 31) & -16
            lap = head & ~self._mask
            byte, word = self._base + HEADER - lap, self._data_word - (lap >> 3)
            for _ in range(0 if self._checked or head == known else most - len(frames)):
                size = words[word + (head >> 3)]
                if size > known - head - HEADER:
                    break  # a flag, a kind, or broken: for _go_on
                at = byte + head
                append(data[at : at + size])  # step: get.copy
                head += (size + 31) & -16
                if head == known:
                    break
            self._head = head
            if len(frames) == most or head >= tail or not self._go_on():
                break
        self._release(self._head)
        return frames

    def _take_alike(self, frames: list[bytes], head: int, most: int) -> int:
        """Copy out frames of one size, many with one call; where they end."""
        if self._known - head < RUN * HEADER or most - len(frames) < RUN:
            return head
        at = self._base + (head & self._mask)
        size = self._words[at >> 3]
        step = (size + 31) & -16
        runs = min(most - len(frames), (self._known - head) // step) // RUN
        if not runs or self._words[(at + step) >> 3] != size:
            return head  # too few, or of several sizes
        if size != self._unpack_size:
            fill = step - size - HEADER
            self._unpack = Struct("=" + f"Q8x{size}s{fill}x" * RUN).unpack_from
            self._unpack_size = size
        for _ in range(runs):
            run = self._unpack(self._map, at)
            # From the first on: a header that says the size proves where the next one stands.
            if run[::2].count(size) != RUN:
                break
            frames += run[1::2]  # step: get.copy
            at += RUN * step
            head += RUN * step
        return head

    def get_into(self, buffer: Any, timeout: float | None = None) -> int:
        """Copy the oldest frame into memory of the caller's, waiting while there is none.

        Args:
            buffer: writable and contiguous; it may be larger than the frame.
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Returns:
            Bytes written, from the buffer's start on.

        Raises:
            ValueError: the frame is larger than the buffer; it stays in the ring.
            TypeError: the buffer is read-only or not contiguous.
            Empty, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `get`.
        """
        target = memoryview(buffer)
        if target.readonly or not target.c_contiguous:
            raise TypeError("get_into needs a writable, contiguous buffer")
        target = target.cast("B") if target.nbytes else target
        with self.peek(timeout) as frame:
            size = len(frame)
            if size > target.nbytes:
                raise ValueError(
                    f"a frame of {size} bytes into a buffer of {target.nbytes}: it stays"
                )
            if size:
                target[:size] = frame
        return size

    @contextmanager
    def peek(self, timeout: float | None = None) -> Iterator[memoryview]:
        """Read the oldest frame in place; leaving the `with` releases it.

        An exception inside the `with` leaves the frame in the ring. Other threads' gets on this
        handle wait for the end of the `with`.

        Args:
            timeout: seconds to wait for a frame; None for ever, 0 not at all.

        Yields:
            A read-only view of the frame. After the `with` a producer writes over that memory.

        Raises:
            RuntimeError: this thread is peeking already, or left the `with` in a forked child.
            Empty, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `get`.
        """
        deadline = Deadline(timeout)
        self._check_open()
        turn = self._get_turn
        while not (yield from turn.around(deadline, self._lend_found())):
            self._await_frame(deadline)
        self._give_room()

    def _lend_found(self) -> Generator[memoryview, None, bool]:
        found = self._find()
        if found:
            yield from self._show()
        return found

    def _show(self) -> Iterator[memoryview]:
        turn = self._get_turn
        at, size = self._current()
        yield memoryview(self._map)[at : at + size].toreadonly()
        self._check_open()
        if self._get_turn is not turn:
            raise RuntimeError("the parent process is peeking at this frame: only that releases it")
        self._advance(size)

    def __iter__(self) -> Iterator[bytes]:
        """Frame after frame, until the ring is shut down and empty.

        Raises:
            PeerDied, RoleTaken, CorruptSegment, ClosedError: as `get`.
        """
        while True:
            try:
                frame = self.get()
            except ShutDown:
                return
            yield frame


def _nothing() -> None:
    pass
