"""AsyncRing and AsyncQueue: a ring and a queue, awaited.

    try without waiting -> look again between other tasks for 0.1 ms -> have a watch tell
            ^                                                                   |
            +-------------------------------------------------------------------+

A watch (watch.py) has a thread that sleeps on the doorbell, and a descriptor that the loop waits
for. One watch serves all tasks of a loop that wait for the same side. Its thread never takes a
frame out: the task does, and returns it in the same step. So a task that is cancelled while it
waits has taken nothing.

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
from weakref import WeakKeyDictionary, finalize

from shmkit.channels.objects.codec import encode, load
from shmkit.channels.objects.queue import JoinableQueue, Queue
from shmkit.channels.watch import Watch
from shmkit.core import yield_cpu
from shmkit.errors import Empty, Full, ShutDown
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

_GLANCE: Final = 1e-4  # seconds of looking between other tasks, before a watch is armed
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
        self._moves: WeakKeyDictionary[asyncio.AbstractEventLoop, _Moves] = WeakKeyDictionary()

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
        moves = self._moves.get(loop)
        if moves is None:
            moves = self._moves[loop] = _Moves(Watch(self._bell, self._word, self._peer))
        await moves.next(loop, seen)
        if not self._moved(seen) and self._peer is not None:
            self._peer.raise_if_dead(self._ring._title, self._word, seen)


class _Moves:
    """The moves of one side of a ring, for the tasks of one loop.

    Args:
        watch: it is closed with this.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._next: asyncio.Future[None] | None = None
        self._waiters = 0
        finalize(self, watch.close)

    async def next(self, loop: asyncio.AbstractEventLoop, seen: int) -> None:
        """Wait until the side is not where it was seen, or the watch has other news."""
        if self._next is None:
            self._watch.arm(seen)
            self._next = loop.create_future()
            loop.add_reader(self._watch.fileno(), self._wake, loop)
        self._waiters += 1
        try:
            # wait() does not cancel the future with this task: other tasks wait for it, too.
            await asyncio.wait([self._next])
        finally:
            self._waiters -= 1
            if not self._waiters and self._next is not None:
                loop.remove_reader(self._watch.fileno())
                self._next = None

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._watch.fileno())
        now, self._next = self._next, None
        if now is not None and not now.done():
            now.set_result(None)


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
