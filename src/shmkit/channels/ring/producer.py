"""Producing: the half of a ring that puts frames in.

    put    room? -> payload -> frame header -> store tail -> ring the bell if a consumer may sleep

Killed before the tail is stored, nothing happened; after it, the frame will be delivered.

`put` has a fast path and a careful one. The fast path is a run of bytecode without a call, which no
other thread and no signal interrupts (ordering.py), so it needs no lock; that is a third of its
time. `_limit` is how far a frame may reach there: what the consumer was seen to have released, and
never past the end of the data, so that one comparison decides. It is -1 whenever there is something
to see to first: no role yet, a frame is reserved, another thread is on the careful path, the handle
was closed. The careful path (placing.py) has a lock for its threads, and keeps its own bound in
`_room`.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any

from shmkit.channels.frame import HEADER, Frame, as_bytes
from shmkit.channels.handle import BUSY
from shmkit.channels.ring.half import SHARED
from shmkit.channels.ring.placing import Placing
from shmkit.channels.turn import PATIENCE
from shmkit.deadline import Deadline
from shmkit.errors import Full, PeerDied, ShmkitError
from shmkit.segment.header import DATA_BELL, HEAD, READY, SKIP, STATE, TAIL

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

__all__ = ["Producing"]


class Producing(Placing):
    """What a ring offers to whoever puts. See `Ring`, which is made of this and `Consuming`."""

    __slots__ = ()

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
        if self._put_mutex is not None:
            if not self._put_shared(data, size):
                self._put_carefully(data, size, timeout)
            return
        words = self._words
        # No call from here until _limit is stored.
        at = self._put_at
        end = at + ((size + 31) & -16)
        limit = self._limit
        if end <= limit and words[STATE] == READY:
            self._limit = BUSY
            words[at >> 3] = size  # step: put.header
            at += 16
            self._map[at : at + size] = data  # step: put.payload
            self._put_at = end
            words[TAIL] = end + self._put_lap  # step: put.tail
            self._limit = limit
            if words[DATA_BELL]:  # step: put.bell
                self._data.ring()
        elif end > limit >= 0 and self._see_room(end):
            self.put(data, timeout)
        else:
            self._put_carefully(data, size, timeout)

    def _see_room(self, end: int) -> bool:
        """Look how far the consumer is, for the fast path; whether a frame may reach to `end`."""
        # No call in here, as there.
        at, head = self._put_at, self._words[HEAD]
        room = head - self._put_lap + self._size
        if self._limit < 0 or head & 15 or not at <= room <= at + self._size:
            return False  # for the careful path to see what it is
        data_end = self._base + self._size
        if room > data_end:
            room = data_end
        if room > at + self._span_of_most:
            room = at + self._span_of_most
        self._limit = room
        return end <= room

    def put_nowait(self, data: Any) -> None:
        """`put`, or Full at once."""
        self.put(data, 0)

    def _put_shared(self, data: bytes | memoryview, size: int) -> bool:
        """The fast path of a side that many share; False: take the careful one."""
        mutex, words, me = self._put_mutex, self._words, get_ident()
        assert mutex is not None
        if self._limit != SHARED or mutex.owner == me or not mutex.acquire(True, PATIENCE, me):
            return False
        try:
            tail = words[TAIL]
            end = tail + ((size + 31) & -16)
            if (
                self._limit != SHARED  # any more: the turn before ended half-way
                or size > self._most
                or tail < self._tail
                or tail == words[SKIP]
                or words[STATE] != READY
                or (end > self._room and not self._see_shared_room(tail, end))
                or (self._notes_puts and not self._note_put(tail))
            ):
                mutex.release()
                return False
            at = self._base + (tail & self._mask)
            words[at >> 3] = size  # step: put.header
            at += 16
            self._map[at : at + size] = data  # step: put.payload
            self._tail = words[TAIL] = end  # step: put.tail
            mutex.release()
        except BaseException:
            try:
                mutex.leave(me)  # a handler that raises may have come before the release
            finally:
                mutex.leave(me)  # or another one, before that
            raise
        if words[DATA_BELL]:  # step: put.bell
            self._data.ring()
        return True

    def _see_shared_room(self, tail: int, end: int) -> bool:
        head = self._words[HEAD]
        if not 0 <= tail - head <= self._size or head & 15:
            return False  # for the careful path to see what it is
        room = self._room = min(head + self._size, (tail | self._mask) + 1)
        return end <= room

    def _note_put(self, tail: int) -> bool:
        """Note that a frame is to go in at `tail`, in a ring that `_notes_puts`; or refuse it."""
        raise NotImplementedError

    def _put_carefully(self, data: bytes | memoryview, size: int, timeout: float | None) -> None:
        deadline = Deadline(timeout)

        def attempt() -> bool | None:
            fits = self._admit(size, deadline)
            if fits:
                self._write(data, size)
                self._publish()
            return fits

        self._put_in_turn(attempt, deadline)
        self._announce()

    def put_many(self, frames: Iterable[Any], timeout: float | None = None) -> int:
        """Copy in frame after frame, and publish as many at a time as there is room for.

        Args:
            frames: any number of what `put` takes.
            timeout: seconds for all of them together; None for ever, 0 only what fits now.

        Returns:
            How many went in, from the first on: fewer than all if the time was up, or the ring is
            full and does not wait, or an error came after the first went in; the next call raises
            that.

        Raises:
            FrameTooLarge, TypeError: one of them can not go in; then none does.
            ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `put`.
        """
        batch = list(frames)
        if set(map(type, batch)) - {bytes}:
            batch = [as_bytes(frame) for frame in batch]
        sizes = set(map(len, batch))
        self._check_size(max(sizes, default=0))
        write = self._write_alike if len(sizes) == 1 and not self._checked else self._write_run
        deadline = Deadline(timeout)
        done = 0
        try:
            while done < len(batch):
                done = self._put_run(batch, done, deadline, write)
        except Full:
            return done
        except ShmkitError as error:
            if not done:
                raise
            if isinstance(error, PeerDied):
                self._consumer.untell()
        return done

    def _put_run(
        self,
        batch: list[bytes | memoryview],
        done: int,
        deadline: Deadline,
        write: Callable[[list[bytes | memoryview], int], int],
    ) -> int:
        def attempt() -> bool | None:
            nonlocal done
            fits = self._admit(len(batch[done]), deadline)
            if fits:
                after = write(batch, done)
                self._publish()
                done = after
            elif fits is None:
                done += 1
            return fits

        self._put_in_turn(attempt, deadline)
        self._announce()
        return done

    def _write_alike(self, batch: list[bytes | memoryview], done: int) -> int:
        """Write frames of one size: joined by what stands between them, they are one copy."""
        size, tail = len(batch[done]), self._tail
        step = (size + 31) & -16
        count = min(len(batch) - done, (self._room - tail) // step)
        header = size.to_bytes(HEADER, "little")
        between = bytes(step - size - HEADER) + header
        run = header + between.join(batch if count == len(batch) else batch[done : done + count])
        at = self._base + (tail & self._mask)
        self._map[at : at + len(run)] = run  # step: put.payload
        self._tail = tail + count * step
        return done + count

    def _write_run(self, batch: list[bytes | memoryview], done: int) -> int:
        """Write frames from `done` on until the next would reach the limit; the loop of `put`."""
        if self._checked:
            self._write(batch[done], len(batch[done]))
            return done + 1
        words, data = self._words, self._map
        room, tail = self._room, self._tail
        # No frame of a run wraps around: in the map and in the words a position is off by a
        # constant.
        lap = tail & ~self._mask
        byte, word = self._base + HEADER - lap, self._data_word - (lap >> 3)
        for frame in batch[done:] if done else batch:
            size = len(frame)
            end = tail + ((size + 31) & -16)
            if end > room:
                break
            words[word + (tail >> 3)] = size  # step: put.header
            at = byte + tail
            data[at : at + size] = frame  # step: put.payload
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
            RuntimeError: this thread has a frame reserved already, or it left the `with` in a
                forked child.
            Full, FrameTooLarge, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as
                `put`.
        """
        if size < 0:
            raise ValueError(f"a frame of {size} bytes: reserve 0 or more")
        deadline = Deadline(timeout)
        self._check_open()
        turn = self._put_turn
        while (yield from turn.around(deadline, self._lend(size, deadline))) is False:
            self._await_room(deadline)
        self._announce()

    def _lend(self, size: int, deadline: Deadline) -> Generator[Frame, None, bool | None]:
        fits = self._admit(size, deadline)
        if fits:
            yield from self._fill(size)
        elif fits is None:
            yield Frame(memoryview(bytearray(size)), _ignore)
        return fits

    def _fill(self, size: int) -> Iterator[Frame]:
        turn = self._put_turn
        start = self._base + (self._tail & self._mask) + HEADER
        committed = size

        def truncate(shorter: int) -> None:
            nonlocal committed
            committed = shorter

        view = memoryview(self._map)[start : start + size]
        yield Frame(view, truncate)
        self._check_open()
        if self._put_turn is not turn:
            raise RuntimeError("this frame is reserved by the parent process: only that commits it")
        self._write(view[:committed], committed, in_place=True)
        self._publish()


def _ignore(_: int) -> None:
    pass
