"""Producing: the half of a ring that puts frames in.

    put    room? -> payload -> frame header -> store tail -> ring the bell if a consumer may sleep

Killed before the tail is stored, nothing happened; after it, the frame will be delivered.

`put` has a fast path and a careful one. The fast path is a run of bytecode without a call, which no
other thread and no signal interrupts (ordering.py), so it needs no lock; that is a third of its
time. `_limit` is how far a frame may reach there: what the consumer was seen to have released, and
never past the end of the data, so that one comparison decides. It is -1 whenever there is something
to see to first: no role yet, a frame is reserved, another thread is on the careful path, the handle
was closed. The careful path has a lock for its threads, and keeps its own bound in `_room`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shmkit.channels.frame import HEADER, PAD, Frame, as_bytes, checksum
from shmkit.channels.half import BUSY, Half
from shmkit.channels.segment import CONSUMER_LINE, DATA_BELL, PRODUCER_LINE, READY, STATE
from shmkit.deadline import Deadline
from shmkit.errors import FrameTooLarge, Full, ShutDown
from shmkit.sync.ordering import STRONG_ORDER, fence

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator

__all__ = ["Producing"]

TAIL = PRODUCER_LINE
SKIP = PRODUCER_LINE + 1  # an empty ring's consumer at this position goes on at the next lap
NO_SKIP = (1 << 64) - 1
HEAD = CONSUMER_LINE
LOW = 0xFFFFFFFF


class Producing(Half):
    """What a ring offers to whoever puts. See `Ring`, which is made of this and `Consuming`."""

    __slots__ = ()

    _put_lock: threading.RLock
    _tail: int
    _limit: int
    _is_producer: bool
    _room: int
    _reserved: bool

    def put(self, data: Any, timeout: float | None = None) -> None:
        """Copy `data` in as one frame, waiting while the ring is full.

        Args:
            data: bytes, or any object with a contiguous buffer; it may be empty.
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Raises:
            Full: no room came free in time, or there is none and the ring was made with
                `when_full="raise"`.
            FrameTooLarge: it would not fit into this ring if it were empty.
            ShutDown: the ring was shut down.
            PeerDied: the ring is full and its consumer was killed; told once per death.
            RoleTaken: another live handle is the one producer.
            CorruptSegment: an index in the memory is impossible.
            ClosedError: this handle was closed.
            TypeError: `data` has no contiguous buffer.
        """
        if type(data) is not bytes:
            data = as_bytes(data)
        size = len(data)
        words = self._words
        # No call from here until _limit is stored.
        tail = self._tail
        end = tail + ((size + 31) & -16)
        limit = self._limit
        if end <= limit and words[STATE] == READY:
            self._limit = BUSY
            at = tail & self._mask
            words[self._data_word + (at >> 3)] = size
            at += self._base + 16
            self._map[at : at + size] = data
            self._tail = words[TAIL] = end
            self._limit = limit
            if words[DATA_BELL]:
                self._data.ring()
        else:
            self._put_slowly(data, size, timeout)

    def put_nowait(self, data: Any) -> None:
        """`put`, or Full at once."""
        self.put(data, 0)

    def _put_slowly(self, data: bytes | memoryview, size: int, timeout: float | None) -> None:
        deadline = Deadline(timeout)
        while True:
            with self._put_lock:
                if self._make_room(size):
                    self._write(data, size)
                    self._publish()
                    break
                seen = self._words[HEAD]
            self._await_room(seen, deadline, wait=timeout != 0)
        self._announce()

    def put_many(self, frames: Iterable[Any], timeout: float | None = None) -> int:
        """Copy in frame after frame, and publish as many at a time as there is room for.

        Args:
            frames: any number of what `put` takes.
            timeout: seconds for all of them together; None for ever, 0 only what fits now.

        Returns:
            How many went in, from the first on: fewer than all only if the time was up.

        Raises:
            FrameTooLarge, TypeError: one of them can not go in; then none does.
            ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `put`.
        """
        batch = list(frames)
        if set(map(type, batch)) - {bytes}:
            batch = [as_bytes(frame) for frame in batch]
        self._check_size(max(map(len, batch), default=0))
        deadline = Deadline(timeout)
        done = 0
        while done < len(batch):
            with self._put_lock:
                before = done
                if self._make_room(len(batch[done])):
                    done = self._write_run(batch, done)
                    self._publish()
                seen = self._words[HEAD]
            if done > before:
                self._announce()
                continue
            try:
                self._await_room(seen, deadline, wait=timeout != 0)
            except Full:
                break
        return done

    def _write_run(self, batch: list[bytes | memoryview], done: int) -> int:
        """Write frames from `done` on until the next would reach the limit; the loop of `put`."""
        if self._checked:
            self._write(batch[done], len(batch[done]))
            return done + 1
        words, data, room, tail = (
            self._words,
            self._map,
            self._room,
            self._tail,
        )  # No frame of a run
        # wraps around: in the map and in the words a position is off by a constant.
        lap = tail & ~self._mask
        byte, word = self._base + HEADER - lap, self._data_word - (lap >> 3)
        for frame in batch[done:] if done else batch:
            size = len(frame)
            end = tail + ((size + 31) & -16)
            if end > room:
                break
            words[word + (tail >> 3)] = size
            at = byte + tail
            data[at : at + size] = frame
            tail = end
            done += 1
        self._tail = tail
        return done

    @contextmanager
    def reserve(self, size: int, timeout: float | None = None) -> Iterator[Frame]:
        """Write a frame in place: `with ring.reserve(n) as frame: frame[:] = ...` commits it.

        An exception inside the `with` discards it. Other threads' puts on this handle wait for the
        end of the `with`.

        Args:
            size: bytes to reserve; `frame.truncate(n)` commits fewer.
            timeout: seconds to wait for room; None for ever, 0 not at all.

        Yields:
            A `Frame`; it must not be used after the `with`.

        Raises:
            ValueError: a negative size.
            RuntimeError: this thread has a frame reserved already.
            Full, FrameTooLarge, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as
                `put`.
        """
        if size < 0:
            raise ValueError(f"a frame of {size} bytes: reserve 0 or more")
        deadline = Deadline(timeout)
        while True:
            with self._put_lock:
                if self._make_room(size):
                    yield from self._fill(size)
                    break
                seen = self._words[HEAD]
            self._await_room(seen, deadline, wait=timeout != 0)
        self._announce()

    def _fill(self, size: int) -> Iterator[Frame]:
        start = self._base + (self._tail & self._mask) + HEADER
        committed = size

        def truncate(shorter: int) -> None:
            nonlocal committed
            committed = shorter

        view = memoryview(self._map)[start : start + size]
        self._reserved = True
        try:
            yield Frame(view, truncate)
            if self._closed:
                raise self._closed_error()
            self._write(view[:committed], committed, in_place=True)
            self._publish()
        finally:
            self._reserved = False

    # -- under the lock --------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        limit = min(self._size - HEADER, LOW)
        if size > limit:
            raise FrameTooLarge(
                f"a frame of {size} bytes, this ring takes {limit} at most: create it with a "
                f"capacity of {size + HEADER} or more, or send it in parts",
                size=size,
                limit=limit,
            )

    def _make_room(self, size: int) -> bool:
        """Look again at everything the fast path takes for granted; whether `size` bytes fit now."""
        if self._limit == BUSY:
            self._await_turn(lambda: self._limit == BUSY)
        self._limit = -1
        words = self._open_for_puts()
        self._check_size(size)
        if not self._is_producer:
            self._become_producer()
        step = (size + 31) & -16
        tail = self._tail
        if tail + step <= self._room:
            return True
        head = words[HEAD]
        if head == words[SKIP] and head != tail:
            head = (head | self._mask) + 1  # where the consumer will go on
        if not 0 <= tail - head <= self._size:
            raise self._corrupt(f"tail {tail} and head {head} in a ring of {self._size}")
        lap_end = (tail | self._mask) + 1
        if tail + step > lap_end:
            if tail == head:
                # Empty: nothing to fill up to the end, the consumer is told to go on behind it.
                words[SKIP] = tail
                head = lap_end
            elif lap_end + step <= head + self._size:
                index = self._data_word + ((tail & self._mask) >> 3)
                words[index] = lap_end - tail - HEADER | PAD
            else:
                return False
            # Not published: the frame that follows takes it along.
            self._tail = tail = lap_end
            lap_end += self._size
        self._room = min(head + self._size, lap_end)
        return tail + step <= self._room

    def _open_for_puts(self) -> memoryview[int]:
        if self._closed:
            raise self._closed_error()
        if self._reserved:
            raise RuntimeError("this thread has a frame reserved: leave that `with` first")
        state = self._words[STATE]
        self._check_usable(state)
        if state != READY:
            raise ShutDown(f"ring {self._name} was shut down: nothing more goes in")
        return self._words

    def _become_producer(self) -> None:
        self._producer.claim()
        tail = self._words[TAIL]
        if self._words[SKIP] == tail:
            self._words[SKIP] = NO_SKIP  # a predecessor died between the skip and its frame
        self._is_producer, self._quick = True, self._join_fast_path()
        self._tail, self._room = tail, -1

    def _write(self, data: bytes | memoryview, size: int, *, in_place: bool = False) -> None:
        tail = self._tail
        at = tail & self._mask
        index = self._data_word + (at >> 3)
        if not in_place:
            at += self._base + HEADER
            self._map[at : at + size] = data
        self._words[index] = size
        if self._checked:
            self._words[index + 1] = tail >> 4 & LOW | checksum(size, tail, data) << 32
        self._tail = tail + ((size + 31) & -16)

    def _publish(self) -> None:
        if not STRONG_ORDER:
            fence()
        self._words[TAIL] = self._tail
        if self._quick:
            self._limit = self._room

    # -- outside the lock ------------------------------------------------------------------------

    def _announce(self) -> None:
        fence()
        self._data.ring()

    def _await_room(self, seen: int, deadline: Deadline, *, wait: bool) -> None:
        if not wait or self._policy == "raise":
            raise Full(f"ring {self._name} is full")
        if not self._space.wait(HEAD, seen, deadline, self._look_for(self._consumer, HEAD, seen)):
            raise Full(f"ring {self._name} stayed full until the timeout")
