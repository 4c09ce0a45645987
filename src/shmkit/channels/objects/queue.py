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
  and once out (codec.py), larger objects than the queue has room for get room of their own
  (overflow.py).
- `put_many`, `get_many` and iteration until a shutdown; `attach` and `ensure` by a name.

A task of a JoinableQueue that was taken by a process that is then killed stays unfinished, as in
the standard library: the supervisor of the processes puts it in again, and calls `task_done`.
"""

from __future__ import annotations

import math
import reprlib
import sys
from collections import deque
from numbers import Real
from operator import index
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from shmkit.channels.handle import until_shut_down
from shmkit.channels.objects.codec import encode, load
from shmkit.channels.objects.queue_ring import PARTICIPANTS, JoinableRing, QueueRing, make_ring
from shmkit.deadline import Deadline
from shmkit.errors import Full, ShmkitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
        participants: how many handles may have it at a time, of all processes.
        keep: leave the name of a named one in place when its creator goes; files always stay.
        mode: permissions of a named one or a file, less the umask. Only its own user can use it in
            any case.

    Raises:
        FileExistsError: there is something of that name: `attach` to it, or use `ensure`.
        TypeError: a number that is none, or a `where` of another type.
        ValueError: a bad name, capacity or number of participants.
        OSError: ENOSPC, no room for it.
    """

    _RING: type[ObjectRing] = QueueRing
    _ring: ObjectRing

    def __init__(
        self,
        maxsize: int = 0,
        *,
        where: Where | Url = None,
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
                keep=keep,
                mode=mode,
                participants=participants,
            )
        )

    def _take(self, ring: ObjectRing) -> None:
        self._ring = ring
        self._writer = ring.cursors[0]
        self._reader: Any = ring.cursors[1]  # or frames that were taken: _Kept

    @classmethod
    def attach(cls, where: Where | Url, *, timeout: float | None = 0) -> Self:
        """Join a queue of the same user that exists.

        Args:
            where: its memory: "NAME", "shm:NAME", "file:PATH" or a Path.
            timeout: seconds to wait for it to be there; None for ever, 0 or less not at all.

        Raises:
            FileNotFoundError: there is none of that name.
            IncompatibleSegment: it is no queue of this class.
            CorruptSegment: its header is broken.
            PermissionError: it is another user's: it holds pickles, and pickles are code.
            TypeError: `timeout` is no number.
            ValueError: `timeout` is NaN; or `where` is anonymous memory, which has no name.
        """
        self = cls._over(cls._RING.attach(where, timeout=_seconds(True, timeout)))
        # A killed process may have left objects outside of the ring's data.
        self._ring.sweep()
        return self

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        maxsize: int = 0,
        *,
        capacity: int = 8 << 20,
        participants: int = PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Join the queue of that name, or make it: for programs that are started again.

        What is in a queue that exists stays in, as do its own size and limits.

        Args:
            where: as of `Queue`.
            maxsize: as of `Queue`; a queue that exists keeps its own, also of what follows.
            capacity: as of `Queue`.
            participants: as of `Queue`.
            keep: as of `Queue`.
            mode: as of `Queue`.

        Raises:
            IncompatibleSegment, CorruptSegment, PermissionError: as `attach`.
            TypeError, ValueError, OSError: as `Queue`.
        """
        ring = make_ring(
            cls._RING,
            where,
            maxsize,
            capacity,
            ensure=True,
            keep=keep,
            mode=mode,
            participants=participants,
        )
        ring.sweep()
        return cls._over(ring)

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
            timeout: seconds to wait at most; None for ever, 0 or less not at all.

        Raises:
            Full: no room came free in time; a `queue.Full`.
            ShutDown: the queue was shut down.
            ValueError: this handle was closed (`ClosedError`), or `timeout` is NaN.
            TypeError: `timeout` is no number.
            OSError: ENOSPC: it is larger than the queue, and there is no room for it elsewhere,
                nor will getting what is in the queue make any.
            Exception: it does not pickle, for whatever reason; a note names it. The queue is as
                before.
        """
        try:
            content = encode(obj)
        except BaseException as error:
            _note(error, obj)
            raise
        # The common case is one call: a small pickle, and room for it.
        if type(content) is not bytes or not self._writer.put(content):
            self._ring.put_encoded(content, _seconds(block, timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest object out.

        Args:
            block: wait while the queue is empty.
            timeout: seconds to wait at most; None for ever, 0 or less not at all.

        Raises:
            Empty: none came in time; a `queue.Empty`.
            ShutDown: the queue was shut down, and everything in it has been taken.
            ValueError: this handle was closed (`ClosedError`), or `timeout` is NaN.
            TypeError: `timeout` is no number.
            CorruptSegment: what was in is damaged. It is out of the queue: the next call gets the
                next object.
            OSError: the file with a large object is not there now, or this process may not open it.
                The object stays in.
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

    def put_many(self, objs: Iterable[T], timeout: float | None = None) -> int:
        """Put in object after object.

        Args:
            objs: each one anything that pickles.
            timeout: seconds for all of them together; None for ever, 0 or less only what fits now.

        Returns:
            How many went in, from the first on: fewer than all if the time was up, or an error
            came after the first went in; the next call raises that.

        Raises:
            ShutDown, OSError, TypeError, ValueError: as `put`.
            Exception: one of them does not pickle; then none goes in.
        """
        deadline = Deadline(_seconds(True, timeout))
        if not hasattr(objs, "__iter__"):
            raise TypeError(f"put_many takes several objects, not {objs!r}: put() takes one")
        contents = []
        for obj in objs:
            try:
                contents.append(encode(obj))
            except BaseException as error:
                _note(error, obj)
                raise
        done = 0
        put, writer = self._ring.put_encoded, self._writer
        try:
            for content in contents:
                if type(content) is not bytes or not writer.put(content):
                    left = deadline.remaining()
                    put(content, left if left < math.inf else None)
                done += 1
        except Full:
            return done
        except (ShmkitError, OSError):
            if not done:
                raise
        return done

    def get_many(self, max_objects: int | None = None, timeout: float | None = None) -> list[T]:
        """Take out every object there is, the oldest first, waiting while there is none.

        A process that is killed inside of it has taken nothing, unless it was about to return; of a
        queue that counts (`maxsize`, JoinableQueue) it may have taken some. As after a `get`, what
        was taken goes with the process. An exception from a signal handler loses nothing: this
        handle's next call gets what was out already.

        Args:
            max_objects: at most this many; None for all.
            timeout: seconds to wait for the first; None for ever, 0 or less not at all.

        Returns:
            One object or more.

        Raises:
            Empty, ShutDown, CorruptSegment, OSError: as `get`.
            TypeError: one of the numbers is none.
            ValueError: `max_objects` is below 1, `timeout` is NaN, or this handle was closed.
            Exception: one does not unpickle. It is out of the queue; the others are what this
                handle gets next.
        """
        seconds = _seconds(True, timeout)
        most = sys.maxsize if max_objects is None else _count(max_objects)
        frames: list[Any] = []
        objs: list[T] = []
        own = False
        try:
            self._take_frames(frames, most, seconds)
            for frame in frames:
                try:
                    obj: T = load(frame) if type(frame) is bytes else frame.load()
                except Exception as error:
                    own = _fails_again(frame, type(error))
                    raise
                objs.append(obj)
        except BaseException:
            at = len(objs)
            self._keep(frames[:at] + frames[at + own :])
            raise
        return objs

    def _take_frames(self, frames: list[Any], most: int, seconds: float | None) -> None:
        """Append frames, first of all those that an earlier call left with this handle."""
        while len(frames) < most and type(self._reader) is _Kept:
            kept = self._reader.get()
            if kept is not None:
                frames.append(kept)
        if not frames:
            self._ring.get_frames(frames, most, seconds)

    def _keep(self, frames: list[Any]) -> None:
        """Have frames that are out of the queue got by this handle's next calls."""
        if frames:
            self._reader = _Kept(self, frames)

    def __iter__(self) -> Iterator[T]:
        """Object after object, until the queue is shut down and empty.

        Raises:
            CorruptSegment, OSError, ValueError, Exception: as `get`.
        """
        return until_shut_down(self.get)

    def qsize(self) -> int:
        """How many objects are in; a moment later it may be another number."""
        return self._ring.qsize()

    def empty(self) -> bool:
        """Whether there is nothing in."""
        return self._ring.empty()

    def full(self) -> bool:
        """Whether there are `maxsize` objects in, or no room for the smallest."""
        return self._ring.full()

    def fileno(self) -> int:
        """A descriptor for `select`, `poll` and event loops: as `Ring.fileno`."""
        return self._ring.fileno()

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


class _Kept:
    """In the place of a reader: frames that are out of the queue, and were not delivered."""

    def __init__(self, queue: Queue[Any], frames: list[Any]) -> None:
        self._queue = queue
        self._frames = deque(frames)
        self._next: Any = queue._reader

    def get(self) -> Any:
        """The oldest; as a reader's own `get` once there is none left."""
        try:
            if not self._queue.closed:
                return self._frames.popleft()
        except IndexError:
            pass  # another thread got the last one
        if self._queue._reader is self:
            self._queue._reader = self._next
        return self._next.get()


def _seconds(block: bool, timeout: Any) -> float | None:
    """Seconds to wait, as the rings below take them."""
    if timeout is None:
        return None if block else 0
    if not isinstance(timeout, Real):
        raise TypeError(f"timeout={timeout!r}: it is a number of seconds, or None for ever")
    seconds = float(timeout)
    if math.isnan(seconds):
        raise ValueError("timeout=nan: it is a number of seconds, or None for ever")
    return max(0.0, seconds) if block else 0


def _count(most: int) -> int:
    try:
        number = index(most)
    except TypeError:
        raise TypeError(
            f"max_objects={most!r}: it is a number of objects, or None for all"
        ) from None
    if number < 1:
        raise ValueError(f"max_objects={number}: ask for 1 object or more")
    return number


def _fails_again(frame: Any, error: type[Exception]) -> bool:
    """Whether a frame does not load; else it was a signal handler that raised."""
    try:
        load(frame) if type(frame) is bytes else frame.load()
    except error:
        return True
    return False


def _note(error: BaseException, obj: object) -> None:
    """Add a note to an error of pickling that names the object that was put."""
    try:
        text = reprlib.repr(obj)
    except Exception:  # noqa: BLE001 - its own code raised again
        text = object.__repr__(obj)
    error.add_note(f"raised by a put of {text}, a {type(obj).__qualname__}: does all of it pickle?")
