"""AsyncRing and AsyncQueue: a ring and a queue, awaited.

    try without waiting -> look again between other tasks for 0.1 ms -> have a thread sleep
            ^                                                                   |
            +-------------------------------------------------------------------+

The thread comes from the loop's own executor. It sleeps on the doorbell for 50 ms at most, wakes
the loop and is given back. One thread sleeps for all tasks of a loop that wait for the same side.
The thread never takes a frame out: the task does, and returns it in the same step. So a task that
is cancelled while it waits has taken nothing, and leaves only the rest of a slice behind. While the
executor has no thread to spare, the loop looks again every millisecond.

The common case, room or a small frame there, is one call of the ring's cursor, and nothing is
awaited. Unlike tasks of one loop, another process can keep a queue full or empty for ever; so one
call in some hundred lets the other tasks run. It does that before its attempt: a task that is
cancelled there has taken nothing, too.

Calls of the wrapped object itself, and calls that do not wait, take as long as the copying does.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from shmkit.channels.objects.codec import encode, load
from shmkit.channels.objects.queue import JoinableQueue, Queue
from shmkit.core import yield_cpu
from shmkit.deadline import Deadline
from shmkit.errors import Empty, Full, ShutDown
from shmkit.segment.semaphores import SLICE
from shmkit.segment.words import HEAD, JOIN_NEWS, READY, STATE, TAIL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from shmkit.channels.objects.queue import Queue
    from shmkit.channels.ring import Ring
    from shmkit.channels.roles import Side
    from shmkit.sync.doorbell import Doorbell

__all__ = ["AsyncQueue", "AsyncRing"]

T = TypeVar("T")
R = TypeVar("R")

_GLANCE: Final = 1e-4  # seconds of looking between other tasks, before a thread sleeps
_POLL: Final = 1e-3  # seconds: the shortest sleep of an event loop
_TURN: Final = 128  # calls without a wait, some 0.2 ms of them, before other tasks get a turn


class _Waiting:
    """One side of a ring, for the tasks that wait until it moves.

    Args:
        ring: an open ring.
        bell: where its thread sleeps.
        word: index of the position that moves.
        peer: the side that moves it, whose death is told; None where deaths are not told.
        ends: whether a shutdown ends the wait.
    """

    def __init__(
        self, ring: Ring, bell: Doorbell, word: int, peer: Side | None = None, *, ends: bool = True
    ) -> None:
        self._ring = ring
        self._bell = bell
        self._word = word
        self._peer = peer
        self._ends = ends
        self._slices: WeakKeyDictionary[asyncio.AbstractEventLoop, _Slice] = WeakKeyDictionary()

    def position(self) -> int:
        """Where the side stands; to be read before the attempt that may fail."""
        return self._ring._open_words()[self._word]

    def _moved(self, seen: int) -> bool:
        words = self._ring._open_words()
        return words[self._word] != seen or (self._ends and words[STATE] != READY)

    async def until(self, attempt: Callable[[], R], again: type[Exception]) -> R:
        """Attempt it until it does not raise `again`; the side moves in between."""
        while True:
            # Before the attempt: a move during it is then not slept through.
            seen = self.position()
            try:
                return attempt()
            except again:
                pass
            await self.move(seen)

    async def move(self, seen: int) -> None:
        """Wait until the side may have moved, or the ring is shut down.

        Raises:
            PeerDied: as the ring tells it.
            ClosedError: the ring was closed.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + _GLANCE
        while loop.time() < end:
            await asyncio.sleep(0)
            yield_cpu()  # to a peer that was just woken, perhaps on this core
            if self._moved(seen):
                return
        # One thread for all tasks of this loop that wait for this side.
        current = self._slices.get(loop)
        if current is None or current.done():
            current = self._slices[loop] = _Slice(loop, self, seen)
        await current.wait()
        if not self._moved(seen) and self._peer is not None:
            self._peer.raise_if_dead(self._ring._title, self._word, seen)

    def sleep(self, seen: int) -> None:
        """In a thread: sleep on the doorbell, for a slice at most."""
        try:
            self._bell.wait(self._word, seen, Deadline(SLICE), _nothing)
        except IndexError:
            return  # the ring was closed: its words are gone


class _Slice:
    """One sleep of a thread, and the tasks that wait for its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, side: _Waiting, seen: int) -> None:
        self._started = False
        self._future = loop.run_in_executor(None, self._run, side, seen)

    def _run(self, side: _Waiting, seen: int) -> None:
        self._started = True
        side.sleep(seen)

    def done(self) -> bool:
        """Whether it is over."""
        return self._future.done()

    async def wait(self) -> None:
        """Wait for its end; or a millisecond, if it has not begun by then."""
        # wait() does not cancel the future with this task: other tasks wait for it, too.
        await asyncio.wait([self._future], timeout=_POLL)
        # It began: wait for its end. If not, no thread is free, and the task looks by itself.
        if self._started:
            await asyncio.wait([self._future])
        if self._future.done():
            self._future.result()


def _nothing() -> None:
    pass


class _Fair:
    """Calls that seldom wait, and still let other tasks run."""

    _left = _TURN

    async def _let_others_run(self) -> None:
        self._left = _TURN
        await asyncio.sleep(0)


class AsyncRing(_Fair):
    """A ring, awaited; several tasks, loops and threads may use it.

    Args:
        ring: it stays the caller's, to look at, to shut down and to close.
    """

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self._readable = _Waiting(ring, ring._data_bell, TAIL, ring._producers)
        self._writable = _Waiting(ring, ring._space_bell, HEAD, ring._consumers)
        self._put, self._get = ring._writer.put, ring._reader.get

    async def put(self, data: Any) -> None:
        """`Ring.put`, waiting while the ring is full. A cancelled one has put nothing.

        Raises:
            Full: only of a ring made with `when_full="raise"`.
            FrameTooLarge, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError, TypeError: as
                `Ring.put`.
        """
        self._left -= 1
        if self._left < 0:
            await self._let_others_run()
        if type(data) is bytes and self._put(data):
            return
        if self.ring._writer.policy == "raise":
            # Such a ring never waits, so neither does this.
            self.ring.put(data, 0)
        else:
            await self._writable.until(partial(self.ring.put, data, 0), Full)

    async def get(self) -> bytes:
        """`Ring.get`, waiting while there is no frame. A cancelled one has taken nothing.

        Raises:
            ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `Ring.get`.
        """
        self._left -= 1
        if self._left < 0:
            await self._let_others_run()
        frame = self._get()
        if frame is None:
            frame = await self._readable.until(partial(self.ring.get, 0), Empty)
        return frame

    async def get_many(self, max_frames: int | None = None) -> list[bytes]:
        """`Ring.get_many`, waiting while there is no frame. A cancelled one has taken nothing.

        Raises:
            ValueError: `max_frames` below 1.
            ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `Ring.get_many`.
        """
        self._left -= 1
        if self._left < 0:
            await self._let_others_run()
        return await self._readable.until(partial(self.ring.get_many, max_frames, 0), Empty)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Frame after frame, until the ring is shut down and empty."""
        while True:
            try:
                frame = await self.get()
            except ShutDown:
                return
            yield frame

    def __repr__(self) -> str:
        return f"<AsyncRing {self.ring!r}>"


class AsyncQueue(_Fair, Generic[T]):
    """A queue, awaited; several tasks, loops and threads may use it.

    Args:
        queue: it stays the caller's, to look at, to shut down and to close.
    """

    def __init__(self, queue: Queue[T]) -> None:
        self.queue = queue
        ring = queue._ring
        # Without a peer: a queue does not tell deaths.
        self._readable = _Waiting(ring, ring._data_bell, TAIL)
        self._writable = _Waiting(ring, ring._space_bell, HEAD)
        writer, reader = ring.cursors
        self._put, self._get = writer.put, reader.get

    async def put(self, obj: T) -> None:
        """`Queue.put`, waiting while the queue is full. A cancelled one has put nothing.

        The object is pickled at the first try: what is large in it must not change before the end.

        Raises:
            ShutDown, ValueError, OSError, Exception: as `Queue.put`.
        """
        self._left -= 1
        if self._left < 0:
            await self._let_others_run()
        content = encode(obj)
        # As in `Queue.put`: the common case is one call.
        if type(content) is not bytes or not self._put(content):
            attempt = partial(self.queue._ring.put_encoded, content, 0)
            await self._writable.until(attempt, Full)

    async def get(self) -> T:
        """`Queue.get`, waiting while the queue is empty. A cancelled one has taken nothing.

        Raises:
            ShutDown, ValueError, Exception: as `Queue.get`.
        """
        self._left -= 1
        if self._left < 0:
            await self._let_others_run()
        frame = self._get()
        if frame is None:
            return await self._readable.until(self.get_nowait, Empty)
        obj: T = load(frame)
        return obj

    def task_done(self) -> None:
        """`JoinableQueue.task_done`."""
        self._joinable().task_done()

    async def join(self) -> None:
        """`JoinableQueue.join`.

        Raises:
            TypeError: the queue is not a JoinableQueue.
            ValueError: it was closed.
        """
        ring = self._joinable()._ring
        news = _Waiting(ring, ring._done, JOIN_NEWS, ends=False)
        while True:
            seen = news.position()
            if ring.unfinished() <= 0:
                return
            await news.move(seen)

    def _joinable(self) -> JoinableQueue[T]:
        if not isinstance(self.queue, JoinableQueue):
            raise TypeError(f"{self.queue!r} does not count tasks: take a JoinableQueue")
        return self.queue

    def put_nowait(self, obj: T) -> None:
        """`Queue.put_nowait`."""
        self.queue.put(obj, False)

    def get_nowait(self) -> T:
        """`Queue.get_nowait`."""
        return self.queue.get(False)

    async def __aiter__(self) -> AsyncIterator[T]:
        """Object after object, until the queue is shut down and empty."""
        while True:
            try:
                obj = await self.get()
            except ShutDown:
                return
            yield obj

    def __repr__(self) -> str:
        return f"<AsyncQueue {self.queue!r}>"
