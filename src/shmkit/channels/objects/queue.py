"""Queue and JoinableQueue: the standard library's verbs over a ring of objects.

They promise what `multiprocessing.Queue` and `JoinableQueue` promise, and the `shutdown` of
`queue.Queue`, with these differences:

- There is no feeder thread. `put` pickles and copies in the caller: an object that does not pickle
  raises there, what was put is there for `get_nowait` at once, and stays when the process that put
  it is killed. `join_thread` and `cancel_join_thread` have nothing to do.
- Room is bounded also without `maxsize`: `put` waits while `capacity` bytes are waiting to be got.
- `qsize` works on every system, and `maxsize` counts exactly, whatever is killed.
- What a killed process was doing is finished or undone; its locks pass on. Deaths are not told:
  `get` waits for processes that may still put, with the `timeout` it is given.
- Arrays come out as arrays that own their memory and are writable; large buffers are copied once in
  and once out (codec.py), larger objects than the queue has room for go beside it (overflow.py).

A task of a JoinableQueue that was taken by a process that is then killed stays unfinished, as in
the standard library: the supervisor of the processes puts it in again, and calls `task_done`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from shmkit.channels.objects.codec import encode, load
from shmkit.channels.objects.queue_ring import PARTICIPANTS, JoinableRing, QueueRing, make_ring

if TYPE_CHECKING:
    from shmkit.channels.objects.object_ring import ObjectRing
    from shmkit.channels.ring import RingStatistics
    from shmkit.memory.url import Url, Where

__all__ = ["JoinableQueue", "Queue"]

T = TypeVar("T")


class Queue(Generic[T]):
    """First in, first out, between any number of processes and threads; `put` waits while full.

    Reaches other processes by being passed to them, under every start method, or by its name:
    `Queue.attach(where)`. A handle that is dropped is closed without a warning.

    Args:
        maxsize: the most objects it holds; 0 or less for as many as there is room for.
        where: its memory: None (anonymous), "NAME", "shm:NAME", "file:PATH" or a Path. A named
            one goes with the process that made it; one on a file stays, with what is in it.
        capacity: bytes of the largest object that goes through the queue's own memory, which is
            rounded up to a power of two above this. Larger objects get memory of their own.
        participants: how many handles there may be at a time, of all processes.
        keep: leave a named queue in place when the process that made it goes; files always stay.
        mode: permissions of a segment or file, less the umask. Other users are refused all the
            same: a queue holds pickles, and pickles are code.

    Raises:
        FileExistsError: there is something of that name: `attach` to it.
        ValueError: a bad name or capacity.
        OSError: ENOSPC, no room for it.
    """

    _RING: type[ObjectRing] = QueueRing
    _ring: ObjectRing

    def __init__(
        self,
        maxsize: int = 0,
        *,
        where: Where = None,
        capacity: int = 8 << 20,
        participants: int = PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
    ) -> None:
        self._take(
            make_ring(
                self._RING,
                where,
                maxsize,
                capacity,
                participants=participants,
                keep=keep,
                mode=mode,
            )
        )

    def _take(self, ring: ObjectRing) -> None:
        self._ring = ring
        self._writer, self._reader = ring.cursors

    @classmethod
    def attach(cls, where: Where | Url, *, timeout: float | None = 0) -> Self:
        """Join a queue of the same user that exists.

        Args:
            where: its memory: "NAME", "shm:NAME", "file:PATH" or a Path.
            timeout: seconds to wait for it to be there; None for ever.

        Raises:
            FileNotFoundError: there is none of that name.
            IncompatibleSegment: it is no queue of this class.
            CorruptSegment: its header is broken.
            PermissionError: it is another user's: it holds pickles, and pickles are code.
        """
        self = cls._over(cls._RING.attach(where, timeout=timeout))
        # A killed process may have left objects beside the ring.
        self._ring.sweep()
        return self

    @classmethod
    def _over(cls, ring: ObjectRing) -> Self:
        self = cls.__new__(cls)
        self._take(ring)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._over, (self._ring,)

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an object in.

        Args:
            obj: anything that pickles. It may be changed afterwards.
            block: wait while the queue is full.
            timeout: seconds to wait at most; None for ever.

        Raises:
            Full: no room came free in time; a `queue.Full`.
            ShutDown: the queue was shut down.
            ValueError: this handle was closed (`ClosedError`).
            OSError: ENOSPC: it is larger than the queue, and there is no room for it elsewhere.
            Exception: it does not pickle, for whatever reason. The queue is as before.
        """
        content = encode(obj)
        # The common case is one call: a small pickle, and room for it.
        if type(content) is not bytes or not self._writer.put(content):
            self._ring.put_encoded(content, _seconds(block, timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest object out.

        Args:
            block: wait while the queue is empty.
            timeout: seconds to wait at most; None for ever.

        Raises:
            Empty: none came in time; a `queue.Empty`.
            ShutDown: the queue was shut down, and everything in it has been taken.
            ValueError: this handle was closed (`ClosedError`).
            Exception: it does not unpickle, for whatever reason. It is out of the queue: the next
                call gets the next object.
        """
        frame: Any = self._reader.get()
        if frame is None:
            frame = self._ring.get_frame(_seconds(block, timeout))
        obj: T = load(frame) if type(frame) is bytes else frame.load()
        return obj

    def put_nowait(self, obj: T) -> None:
        """`put`, or Full at once."""
        self.put(obj, False)

    def get_nowait(self) -> T:
        """`get`, or Empty at once."""
        return self.get(False)

    def qsize(self) -> int:
        """How many objects are in; a moment later it may be another number."""
        return self._ring.qsize()

    def empty(self) -> bool:
        """Whether there is nothing in."""
        return self._ring.empty()

    def full(self) -> bool:
        """Whether there are `maxsize` objects in, or no room for the smallest."""
        return self._ring.full()

    @property
    def maxsize(self) -> int:
        """The most objects it holds; 0 for as many as there is room for."""
        return self._ring.maxsize

    @property
    def is_shutdown(self) -> bool:
        """Whether the queue was shut down, by whatever process."""
        return self._ring.is_shut

    @property
    def url(self) -> Url:
        """Where it is; `str` of it is what `attach` takes."""
        return self._ring.url

    @property
    def name(self) -> str:
        """Name of the segment, path of the file, "" for anonymous memory."""
        return self._ring.name

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._ring.closed

    def statistics(self) -> RingStatistics:
        """The queue's memory at this moment: bytes, objects, and the processes that use it."""
        return self._ring.statistics()

    def shutdown(self, immediate: bool = False) -> None:
        """Let nothing more in, for every process; what is in is got, then `get` raises ShutDown.

        Args:
            immediate: `get` raises ShutDown at once; what is in is lost.
        """
        self._ring.shutdown(immediate)

    def close(self) -> None:
        """Close this handle: `put` and `get` raise ValueError from now on. Idempotent.

        What was put stays for the other processes, as long as one of them has the queue.
        """
        self._ring.close()

    def join_thread(self) -> None:
        """Do nothing: there is no thread that would still have to feed."""

    def cancel_join_thread(self) -> None:
        """Do nothing: there is no thread that the process's end would wait for."""

    def unlink(self) -> None:
        """Remove the name of a named queue: no process can attach any more; attached ones go on."""
        self._ring.unlink()

    def __enter__(self) -> Self:
        self._ring.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._ring.__exit__(*error)

    def __repr__(self) -> str:
        ring = self._ring
        name = f"{type(self).__name__} {str(ring.url)!r}"
        if ring.closed:
            return f"<{name} closed>"
        of = f" of {ring.maxsize}" if ring.maxsize else ""
        return f"<{name}, {ring.qsize()}{of} objects>"


class JoinableQueue(Queue[T]):
    """A Queue that knows how many of its objects have been dealt with."""

    _RING = JoinableRing
    _ring: JoinableRing

    @property
    def unfinished_tasks(self) -> int:
        """Objects put that `task_done` was not called for."""
        return self._ring.unfinished()

    def task_done(self) -> None:
        """Say of an object that was got that its task is done.

        Raises:
            ValueError: called more often than objects were put; or this handle was closed.
        """
        self._ring.task_done()

    def join(self) -> None:
        """Wait until every object that was put has been got and its task is done.

        Raises:
            ValueError: this handle was closed.
        """
        self._ring.join()


def _seconds(block: bool, timeout: float | None) -> float | None:
    if not block:
        return 0
    return timeout if timeout is None else max(0, timeout)
