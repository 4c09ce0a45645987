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
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.frame import HEADER, PAD, Frame, as_bytes, checksum
from shmkit.channels.half import SHARED, Half
from shmkit.channels.handle import BUSY
from shmkit.channels.header import DATA_BELL, DROPPED, HEAD, READY, SKIP, STATE, TAIL
from shmkit.channels.turn import PATIENCE
from shmkit.deadline import Deadline
from shmkit.errors import FrameTooLarge, Full, PeerDied, ShmkitError, ShutDown
from shmkit.sync.ordering import STRONG_ORDER, fence

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

__all__ = ["LOW", "Producing"]

NO_SKIP: Final = (1 << 64) - 1
LOW: Final = 0xFFFFFFFF


class Producing(Half):
    """What a ring offers to whoever puts. See `Ring`, which is made of this and `Consuming`."""

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
        elif self._put_mutex is None or not self._put_shared(data, size):
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
                tail < self._tail
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
            mutex.leave(me)  # a handler that raises may have come before the release
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
        if self._closed:
            raise self._closed_error()
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
        if self._closed:
            raise self._closed_error()
        if self._put_turn is not turn:
            raise RuntimeError("this frame is reserved by the parent process: only that commits it")
        self._write(view[:committed], committed, in_place=True)
        self._publish()

    def _put_in_turn(self, attempt: Callable[[], bool | None], deadline: Deadline) -> None:
        """Attempt something in turn until there is room for it, or the policy drops it."""
        if self._closed:
            raise self._closed_error()
        turn = self._put_turn
        while turn.run(deadline, attempt) is False:
            self._await_room(deadline)

    # -- in turn -----------------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        limit = min(self._size - HEADER, LOW)
        if size > limit:
            raise FrameTooLarge(
                f"a frame of {size} bytes, this ring takes {limit} at most: create it with a "
                f"capacity of {size + HEADER} or more, or send it in parts",
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

    if TYPE_CHECKING:

        def _drop_oldest(self, deadline: Deadline) -> bool:
            """Of `Consuming`."""

    def _make_room(self, size: int) -> bool:
        """Look again at all that the fast path takes for granted; whether `size` bytes fit."""
        if self._limit == BUSY:
            self._await_fast_path(lambda: self._limit != BUSY)
        self._limit = -1
        words = self._open_for_puts()
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

    def _open_for_puts(self) -> memoryview[int]:
        words = self._words
        if self._closed:
            raise self._closed_error()
        if self._checked_state(words) != READY:
            raise ShutDown(f"ring {self._name} was shut down: nothing more goes in")
        return words

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
            self._limit = self._room - self._put_lap
        elif self._put_mutex is not None and not self._checked:
            self._limit = SHARED

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


def _ignore(_: int) -> None:
    pass
