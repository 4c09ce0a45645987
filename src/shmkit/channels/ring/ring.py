"""Ring: byte frames from a producer to a consumer, through any shared memory.

         put, put_many, reserve                                    get, get_many, get_into, peek
      producer ------------------>  +----------------------+  ------------------> consumer
                                    |  .... frames ....    |
                   stores tail -->  ^ tail            head ^  <-- stores head
                                    +----------------------+

Both positions only grow; what lies between them is committed and not released. Each is stored as
one aligned 8-byte word, and that store is the commit point.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from shmkit import compiled
from shmkit.channels.frame import as_bytes, step_of
from shmkit.channels.handle import (
    STATES,
    Handle,
    checked_shutdown,
    checked_state,
    deadline_of,
    until_shut_down,
)
from shmkit.channels.ring import batch, in_place, lending
from shmkit.channels.ring.lending import Parts
from shmkit.channels.ring.options import ALL_FLAGS, stored
from shmkit.channels.ring.read import Reader
from shmkit.channels.ring.write import Writer
from shmkit.channels.roles import Side
from shmkit.channels.watch import Watch
from shmkit.compiled import twin
from shmkit.core import IMPOSSIBLE, PATIENCE
from shmkit.deadline import Deadline
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.segment import PARTICIPANTS, Segment
from shmkit.segment.words import (
    CHECKED,
    CONSUMER_BYTE,
    CUT,
    DATA_BELL,
    DROPPED,
    FRAME_HEADER,
    HEAD,
    MANY_CONSUMERS,
    MANY_PRODUCERS,
    PAD,
    POLICIES,
    POLICY_SHIFT,
    PRODUCER_BYTE,
    READER_ROLE,
    READY,
    RING_KIND,
    SHUT,
    SIZE_MASK,
    SKIP,
    SPACE_BELL,
    STATE,
    TAIL,
    WRITER_ROLE,
)
from shmkit.sync.doorbell import Doorbell
from shmkit.sync.mutex import Mutex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from shmkit.channels.ring.in_place import Frame
    from shmkit.memory.url import Url, Where

__all__ = ["Ring", "RingStatistics"]


class RingStatistics(NamedTuple):
    """What a ring looked like at one moment.

    Attributes:
        capacity: bytes of its data.
        used: bytes committed and not yet released, headers included.
        frames: how many frames these bytes hold.
        committed: bytes committed since it was created.
        released: bytes released since it was created.
        dropped: frames that were not taken, or thrown out, because the ring was full.
        state: "open", "shut down", "shut down at once" or "corrupt".
        producers: pids of the producers.
        consumers: pids of the consumers.
        participants: pids of all that are attached.
        sleeps: how often this handle slept: for data, for space.
    """

    capacity: int
    used: int
    frames: int
    committed: int
    released: int
    dropped: int
    state: str
    producers: tuple[int, ...]
    consumers: tuple[int, ...]
    participants: tuple[int, ...]
    sleeps: tuple[int, int]


@twin(compiled.RingCore)
class Ring(compiled.RingCore, Handle):
    """One process puts, one process gets, in the same order; put blocks while it is full.

    Made by `create`, `attach` and `ensure`. The first put of a handle makes it the producer, the
    first get the consumer; one handle may be both. Any number of threads may use a handle: one at a
    time on each side. A signal handler or finalizer that calls into a side which its own thread is
    inside of gets a RuntimeError. A handle pickles, and in a forked child it is a handle of the
    child's own, without a role.

    On a file a ring is durable: frames carry a checksum, and a process that attaches after all
    participants stopped, or were killed, goes on where the last one was.
    """

    # A subclass may override these.
    _KIND: ClassVar[int] = RING_KIND.number
    _NOUN: ClassVar[str] = RING_KIND.noun
    _FLAGS = ALL_FLAGS
    _READER: ClassVar[type[Reader]] = Reader
    _TELLS_DEATHS: ClassVar[bool] = True
    _WARNING: ClassVar[str] = "unclosed ring {}"  # of a handle that is dropped open; "" for none

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make a ring."""
        super().__init__(segment)
        membership, words = segment.membership, segment.words
        flags = segment.header.flags
        many_put, many_get = bool(flags & MANY_PRODUCERS), bool(flags & MANY_CONSUMERS)
        policy = POLICIES[flags >> POLICY_SHIFT]
        bells = membership.semaphores
        self._data_bell = Doorbell(words, DATA_BELL, STATE, bells, "data", shared=many_get)
        self._space_bell = Doorbell(words, SPACE_BELL, STATE, bells, "space", shared=many_put)
        self._producers = Side(
            segment, "producer", WRITER_ROLE, None if many_put else PRODUCER_BYTE
        )
        self._consumers = Side(
            segment, "consumer", READER_ROLE, None if many_get else CONSUMER_BYTE
        )
        parts = Parts(
            self._title,
            segment,
            self._data_bell,
            self._space_bell,
            self._producers,
            self._consumers,
            policy=policy,
            checked=bool(flags & CHECKED),
            tells_deaths=self._TELLS_DEATHS,
        )
        drops = policy == "drop-oldest"
        # A producer that drops the oldest frame is on the consumers' side, too.
        many_get = many_get or drops
        self._writer = Writer(parts, Mutex(membership, words, 0) if many_put else None)
        self._reader = self._READER(parts, Mutex(membership, words, 1) if many_get else None)
        if drops:
            self._writer.drop_one = self._reader.drop_one
        self._unwatch: Callable[[], object] = _nothing
        membership.presence.call_after_fork(self._start_anew)
        membership.watch(self, self._closer(segment), self._WARNING.format(self._name))

    def _closer(self, segment: Segment) -> Callable[[], None]:
        """The function that closes a dropped handle's memory; it has no reference to the handle."""
        return segment.close

    def _start_anew(self) -> None:
        self._unwatch()  # its thread is the parent's
        self._reader.watch, self._unwatch = None, _nothing
        self._writer.start_anew()
        self._reader.start_anew()

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        *,
        capacity: int = 1 << 20,
        producers: str = "one",
        consumers: str = "one",
        when_full: str = "block",
        participants: int = PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Make a new ring.

        Args:
            where: the memory: None (anonymous), "NAME", "shm:NAME", "file:PATH" or a Path.
            capacity: bytes of data; rounded up to a power of two, at least 4096. The largest frame
                is 16 bytes smaller.
            producers: "one" or "many".
            consumers: "one" or "many".
            when_full: what a put to a full ring does: "block", "raise" (Full at once), "drop-new"
                (the frame is not put) or "drop-oldest" (frames at the other end give way).
            participants: how many handles may be attached at a time, of all processes.
            keep: leave a named segment in place when its creator goes; files always stay.
            mode: permissions of a segment or file, less the umask; a process of another user has
                to say `trust_owner=True` as well.

        Raises:
            FileExistsError: there is something of that name.
            ValueError: a bad name, capacity, or policy.
            OSError: ENOSPC, no room for it.
        """
        flags, size = stored(where, capacity, producers, consumers, when_full)
        return cls._create(
            where, size, flags=flags, participants=participants, keep=keep, mode=mode
        )

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        *,
        capacity: int = 1 << 20,
        producers: str = "one",
        consumers: str = "one",
        when_full: str = "block",
        participants: int = PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
        trust_owner: bool = False,
    ) -> Self:
        """Join the ring of that name, or create it.

        Args:
            where: as in `create`.
            capacity: as in `create`; a ring that exists keeps its own, also of what follows.
            producers: as in `create`.
            consumers: as in `create`.
            when_full: as in `create`.
            participants: as in `create`.
            keep: as in `create`.
            mode: as in `create`.
            trust_owner: as in `attach`.

        Raises:
            IncompatibleSegment, CorruptSegment, PermissionError: as `attach`.
            ValueError, OSError: as `create`.
        """
        flags, size = stored(where, capacity, producers, consumers, when_full)
        return cls._create(
            where,
            size,
            ensure=True,
            flags=flags,
            participants=participants,
            keep=keep,
            mode=mode,
            trust_owner=trust_owner,
        )

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more frames in; consumers take what is there, then get ShutDown. Idempotent.

        A put that another process has begun may still go in; it is taken like earlier frames.

        Args:
            immediate: consumers get ShutDown at once; what is there is lost.

        Raises:
            CorruptSegment: the ring was found broken before.
            ClosedError: this handle was closed.
        """
        checked_shutdown(immediate)
        words = self._open_words()
        # A forked child opens the semaphores here: the bells must reach other processes.
        self._segment.membership.register()
        state = checked_state(self._segment, words)
        # A shutdown never goes back: SHUT may become CUT, and CUT stays.
        if state == READY or (immediate and state == SHUT):
            words[STATE] = CUT if immediate else SHUT  # step: shut.state
        # Both bells: consumers and producers may sleep, and both have to see the new state.
        self._data_bell.ring_always()  # step: shut.data
        self._space_bell.ring_always()  # step: shut.space

    def flush(self) -> None:
        """Make what was put survive a loss of power, where the ring is on a file.

        Raises:
            OSError: the file system could not write.
            ClosedError: this handle was closed.
        """
        self._segment.buffer.flush()

    def close(self) -> None:
        """Leave the ring, and give the roles of this handle back. Idempotent.

        It is no end for the other processes: a successor may attach. `shutdown` is the end. A frame
        that another thread has reserved, or peeks at, is waited for, a second at most.

        Raises:
            RuntimeError: this thread is inside a call on this handle, and a signal handler or
                finalizer calls this.
        """
        if self._closed:
            return
        writer, reader = self._writer, self._reader
        for cursor in writer, reader:
            if cursor.is_inside():
                raise cursor.nested()
        self._closed = True
        for cursor in writer, reader:
            lending.close(cursor)
        self._unwatch()
        self._segment.close()
        self._data_bell.close()
        self._space_bell.close()
        for cursor in writer, reader:
            # A call that comes late finds no words: an IndexError, not a crash.
            cursor.words, cursor.data = NO_WORDS, None
        self._words, self._map = NO_WORDS, self._segment.map

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
            RuntimeError: this thread is inside a put on this handle, or has a frame reserved.
            TypeError: `data` has no contiguous buffer.
        """
        if type(data) is not bytes:
            data = as_bytes(data)
        is_bool = isinstance(timeout, bool)  # an error, whether or not it has to wait
        # The common case never waits, so it needs no deadline.
        if is_bool or not self._writer.put(data):
            self._writer.put_carefully(data, deadline_of(timeout))

    def put_nowait(self, data: Any) -> None:
        """`put`, or Full at once."""
        self.put(data, 0)

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
            ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError, RuntimeError: as `put`.
        """
        return batch.put_many(self._writer, frames, timeout)

    def reserve(self, size: int, timeout: float | None = None) -> AbstractContextManager[Frame]:
        """Write a frame in place: `with ring.reserve(n) as frame: frame[:] = ...` commits it.

        An exception inside the `with` discards it. Other threads' puts on this handle wait for the
        end of the `with`.

        Args:
            size: bytes to reserve; `frame.truncate(n)` commits fewer.
            timeout: seconds to wait for room; None for ever, 0 not at all.

        Returns:
            A context manager that gives a `Frame`; using that after the `with` is a ValueError.

        Raises:
            ValueError: a negative size.
            RuntimeError: this thread has a frame reserved already, or it left the `with` in a
                forked child.
            Full, FrameTooLarge, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as
                `put`.
        """
        return in_place.reserve(self._writer, size, timeout)

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
            RuntimeError: this thread is inside a get on this handle, or peeks at a frame.
        """
        is_bool = isinstance(timeout, bool)  # as in `put`
        frame = None if is_bool else self._reader.get()
        if frame is None:
            frame = self._reader.get_carefully(deadline_of(timeout))
        return frame

    def get_nowait(self) -> bytes:
        """`get`, or Empty at once."""
        return self.get(0)

    def get_many(self, max_frames: int | None = None, timeout: float | None = None) -> list[bytes]:
        """Take out every frame there is, waiting while there is none.

        If a signal handler raises while this runs, the batch may have been taken already, and be
        gone with the exception. `peek_many` keeps the frames in the ring until they are used.

        Args:
            max_frames: at most this many; None for all.
            timeout: seconds to wait for the first; None for ever, 0 not at all.

        Returns:
            One frame or more, the oldest first.

        Raises:
            ValueError: `max_frames` below 1.
            Empty, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError, RuntimeError: as
                `get`.
        """
        return batch.get_many(self._reader, max_frames, timeout)

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
            Empty, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError, RuntimeError: as
                `get`.
        """
        return in_place.get_into(self._reader, buffer, timeout)

    def peek(self, timeout: float | None = None) -> AbstractContextManager[memoryview]:
        """Read the oldest frame in place; leaving the `with` releases it.

        An exception inside the `with` leaves the frame in the ring. Other threads' gets on this
        handle wait for the end of the `with`.

        Args:
            timeout: seconds to wait for a frame; None for ever, 0 not at all.

        Returns:
            A context manager that gives a read-only view of the frame; using that after the `with`
            is a ValueError.

        Raises:
            RuntimeError: this thread is peeking already, or left the `with` in a forked child.
            Empty, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `get`.
        """
        return in_place.peek(self._reader, timeout)

    def peek_many(
        self, max_frames: int | None = None, timeout: float | None = None
    ) -> AbstractContextManager[list[memoryview]]:
        """Read every frame there is in place; leaving the `with` releases all of them at once.

        An exception inside the `with` leaves them in the ring, whatever raises it: so nothing is
        lost that was not used, as it can be with `get_many`. Other threads' gets on this handle
        wait for the end of the `with`.

        Args:
            max_frames: at most this many; None for all.
            timeout: seconds to wait for the first; None for ever, 0 not at all.

        Returns:
            A context manager that gives a list of read-only views, the oldest frame first; using
            one after the `with` is a ValueError.

        Raises:
            ValueError: `max_frames` below 1.
            RuntimeError: this thread is peeking already, or left the `with` in a forked child.
            Empty, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `get`.
        """
        return in_place.peek_many(self._reader, max_frames, timeout)

    def skip_damaged(self) -> int:
        """Go on behind damage in a ring on a file: release it, up to the next whole frame.

        A get raises CorruptSegment where the oldest frame is damaged; the frames behind it are
        there still. Each call skips one such place.

        Returns:
            How many bytes were lost, headers included; 0 if the oldest frame is whole, or there is
            none.

        Raises:
            ValueError: the ring is not on a file: its frames have no checksums.
            CorruptSegment: a position is impossible: what is a frame can not be told.
            ShutDown: the ring was shut down at once: everything in it is lost.
            RoleTaken, ClosedError, RuntimeError: as `get`.
        """
        reader = self._reader
        if not reader.checked:
            raise ValueError(
                f"{self._title} is not on a file: its frames have no checksums, so that damage can "
                "not be told from frames; unlink it and create it anew"
            )
        lost = lending.attempt(reader, reader.skip_damaged, Deadline(PATIENCE))
        reader.give_room()
        return lost

    def fileno(self) -> int:
        """A descriptor for `select`, `poll` and event loops: readable when a get would not wait.

        Where it is readable nothing may be there, as with a socket that several read: get with a
        timeout of 0. Only an `Empty` makes it unreadable again. It is the handle's: do not read
        from it or close it. A thread of its own waits for it; `shmkit.wait` waits for several.

        Raises:
            ClosedError: this handle was closed.
        """
        self._check_open()
        watch = self._reader.watch
        return self._armed_fileno() if watch is None else watch.fileno()

    def _armed_fileno(self) -> int:
        """The descriptor, unreadable unless something is there."""
        words, reader = self._open_words(), self._reader
        if reader.watch is None:
            self._segment.membership.register()  # opens the semaphores
            peer = self._producers if self._TELLS_DEATHS else None
            reader.watch = Watch(self._data_bell, TAIL, peer)
            self._unwatch = weakref.finalize(self, reader.watch.close)
        reader.watch.arm(words[HEAD])
        return reader.watch.fileno()

    def _is_ready(self) -> bool:
        """Whether a get would not wait."""
        words = self._open_words()
        if words[TAIL] != words[HEAD] or words[STATE] != READY:
            return True
        return self._TELLS_DEATHS and self._producers.has_news()

    def __iter__(self) -> Iterator[bytes]:
        """Frame after frame, until the ring is shut down and empty.

        Raises:
            PeerDied, RoleTaken, CorruptSegment, ClosedError: as `get`.
        """
        return until_shut_down(self.get)

    @property
    def capacity(self) -> int:
        """Bytes of data."""
        return self._writer.size

    def qsize(self) -> int:
        """How many frames are committed and not released; a moment later it may be another number.

        Raises:
            CorruptSegment: an index or a frame's length is impossible.
            ClosedError: this handle was closed.
        """
        words, copied = self._open_words(), None
        first, tail = self._glimpse(words)
        at, frames = first, 0
        while at < tail:
            word = words[self._word_at(at)] if copied is None else copied[(at - first) >> 3]
            if copied is None and words[HEAD] > at:
                # Released meanwhile: word and count are stale. Consumers may be faster than this
                # loop, but not than a copy.
                first, tail, copied, at = self._copy_frames(words)
                frames = 0
                continue
            frames += not word & PAD
            at += step_of(word & SIZE_MASK)
        # Past the tail, and no consumer went there: the lengths are wrong.
        if at > tail and words[HEAD] <= tail:
            raise self._segment.corrupt(f"the last frame before {tail} ends at {at}")
        return frames

    def empty(self) -> bool:
        """Whether nothing is committed and not released.

        Raises:
            ClosedError: this handle was closed.
        """
        words = self._open_words()
        return words[HEAD] == words[TAIL]

    def full(self) -> bool:
        """Whether not even an empty frame would go in.

        Raises:
            ClosedError: this handle was closed.
        """
        start, tail = self._glimpse(self._open_words())
        return tail - start + FRAME_HEADER > self.capacity

    def statistics(self) -> RingStatistics:
        """The ring at this moment.

        Raises:
            CorruptSegment: an index or a frame's length is impossible.
            ClosedError: this handle was closed.
        """
        with self._open_all_along() as words:
            start, tail = self._glimpse(words)
            return RingStatistics(
                capacity=self.capacity,
                used=tail - start,
                frames=self.qsize(),
                committed=words[TAIL],
                released=words[HEAD],
                dropped=words[DROPPED],
                state=STATES.get(words[STATE], "corrupt"),
                producers=tuple(self._producers.holders()),
                consumers=tuple(self._consumers.holders()),
                participants=tuple(self._segment.membership.members()),
                sleeps=(self._data_bell.sleeps, self._space_bell.sleeps),
            )

    def __repr__(self) -> str:
        if self._closed:
            return f"<Ring {self._name} closed>"
        roles = [
            cursor.role.role for cursor in (self._writer, self._reader) if lending.has_role(cursor)
        ]
        words = self._words
        state = STATES.get(words[STATE], "corrupt")
        return (
            f"<Ring {self._name} {state}, {words[TAIL] - words[HEAD]} of {self.capacity} bytes "
            f"used, {' and '.join(roles) or 'no role'} here>"
        )

    def _copy_frames(self, words: memoryview[int]) -> tuple[int, int, memoryview[int], int]:
        """What is in the ring, while other processes go on.

        Returns:
            The positions between which it was copied, the copy as words, and the position from
            which on it is whole: there the oldest frame was afterwards.
        """
        while True:
            first, tail = self._glimpse(words)
            start, size = self._base + (first & self._writer.mask), tail - first
            before_end = self._map[start : min(start + size, self._base + self.capacity)]
            after_it = self._map[self._base : self._base + size - len(before_end)]
            oldest, _ = self._glimpse(words)
            # Else this process was held up, and all of it passed meanwhile.
            if oldest < tail or first == tail:
                return first, tail, memoryview(before_end + after_it).cast("Q"), oldest

    def _word_at(self, position: int) -> int:
        """Index of the first word of the frame at a position."""
        return (self._base + (position & self._writer.mask)) >> 3

    def _glimpse(self, words: memoryview[int]) -> tuple[int, int]:
        """Where the oldest frame begins and the newest ends, while other processes go on.

        Raises:
            CorruptSegment: the positions are impossible. The ring is not marked as broken.
        """
        while True:
            tail = words[TAIL]
            head = words[HEAD]
            if head >= tail:
                return tail, tail  # head was read later, and may have passed this tail
            skip = words[SKIP]
            if words[HEAD] == head:  # else the skip may be of a later lap
                break
        start = (head | self._writer.mask) + 1 if head == skip else head
        if (head | tail) & IMPOSSIBLE or not 0 <= tail - start <= self.capacity:
            raise self._segment.corrupt(
                f"tail {tail} and head {head} in a ring of {self.capacity} bytes"
            )
        return start, tail


def _nothing() -> None:
    pass
