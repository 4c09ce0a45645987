"""Ring: byte frames from a producer to a consumer, through any shared memory.

         put, put_many, reserve                                    get, get_many, get_into, peek
      producer ------------------>  +----------------------+  ------------------> consumer
                                    |  .... frames ....    |
                   stores tail -->  ^ tail            head ^  <-- stores head
                                    +----------------------+

Both positions only grow; what lies between them is committed and not released. Each is one aligned
8-byte
store, and that store is the commit point: producer.py and consumer.py have the order of steps,
frame.py what a frame is, segment.py every byte before the data.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from shmkit.channels.consumer import Consuming
from shmkit.channels.frame import DISCARD, HEADER, PAD
from shmkit.channels.half import BUSY
from shmkit.channels.producer import HEAD, LOW, SKIP, TAIL, Producing
from shmkit.channels.segment import (
    CONSUMER_LINE,
    CUT,
    DATA_BELL,
    LEAST_DATA,
    POISONED,
    PRODUCER_LINE,
    READY,
    SHUT,
    SPACE_BELL,
    STATE,
    Segment,
)
from shmkit.channels.side import Side
from shmkit.deadline import Deadline
from shmkit.memory.url import Url
from shmkit.sync.liveness import CONSUMER_BYTE, PRODUCER_BYTE
from shmkit.sync.waiting import Doorbell

if TYPE_CHECKING:
    from types import TracebackType

    from shmkit.memory.buffer import SharedBuffer
    from shmkit.memory.url import Where

__all__ = ["Ring", "RingStatistics"]

KIND: Final = 1
_CHECKED: Final = 1  # flag: frames carry a checksum
_POLICIES: Final = ("block", "raise")  # bits 4-7 of the flags are an index into this
_SEMAPHORES: Final = ("data", "space")
_STATES: Final = {READY: "open", SHUT: "shut down", CUT: "shut down at once", POISONED: "corrupt"}


@dataclass(frozen=True)
class RingStatistics:
    """What a ring looked like at one moment.

    Attributes:
        capacity: bytes of its data.
        used: bytes committed and not yet released, headers included.
        frames: how many frames those are.
        committed: bytes committed since it was created.
        released: bytes released since it was created.
        state: "open", "shut down", "shut down at once" or "corrupt".
        producer: pid of the producer, None without one.
        consumer: pid of the consumer, None without one.
        participants: pids of all who are attached.
        sleeps: how often this handle slept: for data, for space.
    """

    capacity: int
    used: int
    frames: int
    committed: int
    released: int
    state: str
    producer: int | None
    consumer: int | None
    participants: tuple[int, ...]
    sleeps: tuple[int, int]


class Ring(Producing, Consuming):
    """One process puts, one process gets, in the same order; put blocks while it is full.

    Made by `create`, `attach` and `ensure`. The first put of a handle makes it the producer, the
    first get the consumer; one handle may be both. Any number of threads may use a handle: they
    take turns. A handle pickles, and in a forked child it is a handle of the child's own, without a
    role.

    On a file a ring is durable: frames carry a checksum, and whoever attaches after everybody
    stopped, or was killed, goes on where the last one was.
    """

    __slots__ = ()

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make a ring."""
        self._segment = segment
        self._words = words = segment.words
        self._map = segment.map
        self._base = segment.base
        self._data_word = segment.data_word
        self._size = segment.data_size
        self._mask = segment.data_size - 1
        self._checked = bool(segment.flags & _CHECKED)
        self._policy = _POLICIES[segment.flags >> 4 & 15]
        self._closed = False
        semaphores = segment.membership.semaphores
        self._data = Doorbell(words, DATA_BELL, STATE, semaphores["data"])
        self._space = Doorbell(words, SPACE_BELL, STATE, semaphores["space"])
        self._producer = Side(segment, "producer", PRODUCER_LINE, PRODUCER_BYTE)
        self._consumer = Side(segment, "consumer", CONSUMER_LINE, CONSUMER_BYTE)
        self._begin()
        segment.membership.presence.call_after_fork(self._begin)
        segment.membership.watch(self, segment.close, f"unclosed ring {self._name}")

    def _begin(self) -> None:
        """Without a role, and with nothing seen: at first, and anew in a forked child."""
        self._put_lock, self._get_lock = threading.RLock(), threading.RLock()
        self._is_producer = self._is_consumer = False
        self._reserved = self._peeking = False
        self._quick = False
        self._tail, self._limit, self._room = 0, -1, -1
        self._head = self._seen = self._known = self._tail_seen = 0

    # -- coming and going ------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        *,
        capacity: int = 1 << 20,
        producers: str = "one",
        consumers: str = "one",
        when_full: str = "block",
        keep: bool = False,
    ) -> Ring:
        """Make a new ring.

        Args:
            where: the memory: None (anonymous), "NAME", "shm:NAME", "file:PATH" or a Path.
            capacity: bytes of data; rounded up to a power of two, at least 4096. The largest frame
                is 16 bytes smaller.
            producers: "one" or "many".
            consumers: "one" or "many".
            when_full: what a put to a full ring does: "block", "raise" (Full at once).
            keep: leave a named segment in place when its creator goes; files always stay.

        Raises:
            FileExistsError: there is something of that name.
            ValueError: a bad name, capacity, or policy.
            OSError: ENOSPC, no room for it.
        """
        flags, size = _checked_options(where, capacity, producers, consumers, when_full)
        return cls(Segment.create(where, KIND, size, _SEMAPHORES, flags=flags, keep=keep))

    @classmethod
    def attach(cls, where: Where | Url, *, timeout: float | None = 0) -> Ring:
        """Join a ring that exists.

        Args:
            where: its memory: "NAME", "shm:NAME", "file:PATH" or a Path.
            timeout: seconds to wait for it to be there and complete; None for ever.

        Raises:
            FileNotFoundError: there is none of that name.
            IncompatibleSegment: it is no ring, or of another layout version, or half-made.
            CorruptSegment: it is a ring whose header is broken.
        """
        return cls(Segment.attach(where, KIND, _SEMAPHORES, timeout=timeout))

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        *,
        capacity: int = 1 << 20,
        producers: str = "one",
        consumers: str = "one",
        when_full: str = "block",
        keep: bool = False,
    ) -> Ring:
        """Join the ring of that name, or create it, also in place of one left half-made.

        Args:
            where: as in `create`.
            capacity: as in `create`; a ring that exists keeps its own, also of what follows.
            producers: as in `create`.
            consumers: as in `create`.
            when_full: as in `create`.
            keep: as in `create`.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
            ValueError, OSError: as `create`.
        """
        flags, size = _checked_options(where, capacity, producers, consumers, when_full)
        return cls(Segment.ensure(where, KIND, size, _SEMAPHORES, flags=flags, keep=keep))

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more frames in; consumers take what is there, then get ShutDown. Idempotent.

        A put that another process has begun may still go in; it is taken like those before it.

        Args:
            immediate: consumers get ShutDown at once; what is there is lost.

        Raises:
            CorruptSegment: the ring was found broken before.
            ClosedError: this handle was closed.
        """
        if self._closed:
            raise self._closed_error()
        state = self._words[STATE]
        self._check_usable(state)
        if state == READY or (immediate and state == SHUT):
            self._words[STATE] = CUT if immediate else SHUT
        self._data.ring_always()
        self._space.ring_always()

    def flush(self) -> None:
        """Make what was put survive a loss of power, where the ring is on a file.

        Raises:
            OSError: the file system could not write.
            ClosedError: this handle was closed.
        """
        self._segment.buffer.flush()

    def close(self) -> None:
        """Leave the ring, and give the roles of this handle back. Idempotent.

        It is no end for the others: a successor may attach. `shutdown` is the end.
        """
        if self._closed:
            return
        self._closed = True
        with self._put_lock, self._get_lock:
            self._await_turn(lambda: BUSY in (self._limit, self._seen))
            self._limit, self._seen = -1, self._head
            self._producer.release()
            self._consumer.release()
            self._segment.close()
            self._words = _NOTHING
            self._map = _NO_MAP

    def unlink(self) -> None:
        """Remove the ring's name: nobody can attach any more; who is attached goes on."""
        self._segment.unlink()

    def __enter__(self) -> Self:
        if self._closed:
            raise self._closed_error()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._segment.buffer.owner:
            self.unlink()
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        if self._closed:
            raise self._closed_error()
        return _join, (self._segment.buffer,)

    # -- looking ---------------------------------------------------------------------------------

    @property
    def url(self) -> Url:
        """Where the ring is; `str` of it is what `attach` takes."""
        return self._segment.buffer.url

    @property
    def capacity(self) -> int:
        """Bytes of data."""
        return self._size

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._closed

    @property
    def buffer(self) -> SharedBuffer:
        """The memory the ring is in, header and all: for tools."""
        return self._segment.buffer

    def qsize(self) -> int:
        """How many frames are committed and not released; a moment later it may be another number.

        Raises:
            ClosedError: this handle was closed.
        """
        if self._closed:
            raise self._closed_error()
        while True:
            frames = self._count()
            if frames is not None:
                return frames

    def _count(self) -> int | None:
        """Walk from head to tail; None if the consumer went on meanwhile."""
        words, mask = self._words, self._mask
        head, tail = start, _ = words[HEAD], words[TAIL]
        if words[SKIP] == head != tail:
            head = (head | mask) + 1
        frames = 0
        while head < tail:
            word = words[self._data_word + ((head & mask) >> 3)]
            if words[HEAD] != start:
                return None
            frames += not word & (PAD | DISCARD)
            head += ((word & LOW) + HEADER + 15) & -16
        return frames

    def empty(self) -> bool:
        """Whether nothing is committed and not released."""
        if self._closed:
            raise self._closed_error()
        return self._words[HEAD] == self._words[TAIL]

    def full(self) -> bool:
        """Whether not even an empty frame would go in."""
        if self._closed:
            raise self._closed_error()
        return self._words[TAIL] - self._words[HEAD] + HEADER > self._size

    def statistics(self) -> RingStatistics:
        """The ring at this moment.

        Raises:
            ClosedError: this handle was closed.
        """
        frames, words = self.qsize(), self._words
        released, committed = words[HEAD], words[TAIL]
        return RingStatistics(
            capacity=self._size,
            used=committed - released,
            frames=frames,
            committed=committed,
            released=released,
            state=_STATES.get(words[STATE], "corrupt"),
            producer=self._producer.holder(),
            consumer=self._consumer.holder(),
            participants=tuple(self._segment.membership.members()),
            sleeps=(self._data.sleeps, self._space.sleeps),
        )

    def __repr__(self) -> str:
        if self._closed:
            return f"<Ring {self._name} closed>"
        roles = [
            role
            for role, has in (("producer", self._is_producer), ("consumer", self._is_consumer))
            if has
        ]
        used = self._words[TAIL] - self._words[HEAD]
        state = _STATES.get(self._words[STATE], "corrupt")
        return (
            f"<Ring {self._name} {state}, {used} of {self._size} bytes used, "
            f"{' and '.join(roles) or 'no role'} here>"
        )


_NOTHING: Final = memoryview(b"").cast("Q")
_NO_MAP: Final[Any] = None


def _join(buffer: SharedBuffer) -> Ring:
    return Ring(Segment.join(buffer, KIND, _SEMAPHORES, Deadline(0)))


def _checked_options(
    where: Where | Url, capacity: int, producers: str, consumers: str, when_full: str
) -> tuple[int, int]:
    """Flags and data size of a ring, or ValueError."""
    for name, value, choices in (
        ("producers", producers, ("one",)),
        ("consumers", consumers, ("one",)),
        ("when_full", when_full, _POLICIES),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: it is one of {', '.join(map(repr, choices))}")
    if not 0 < capacity <= 1 << 46:
        raise ValueError(f"capacity={capacity}: a ring has 1 byte or more, and fits into memory")
    size = max(LEAST_DATA, 1 << (capacity - 1).bit_length())
    checked = _CHECKED if Url.parse(where).scheme == "file" else 0
    return checked | _POLICIES.index(when_full) << 4, size
