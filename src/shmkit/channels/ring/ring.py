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

import operator
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, ClassVar, Final, Self

from shmkit.channels.frame import DISCARD, HEADER, LOW, PAD
from shmkit.channels.handle import BUSY, STATES
from shmkit.channels.ring.consumer import Consuming
from shmkit.channels.ring.producer import Producing
from shmkit.channels.roles import Side
from shmkit.channels.turn import SharedTurn, Turn
from shmkit.errors import Empty, Full
from shmkit.memory.url import Url
from shmkit.segment.header import (
    CUT,
    DATA_BELL,
    DROPPED,
    HEAD,
    LEAST_DATA,
    READY,
    SHUT,
    SPACE_BELL,
    STATE,
    TAIL,
)
from shmkit.segment.presence import CONSUMER_BYTE, PRODUCER_BYTE
from shmkit.segment.segment import PARTICIPANTS, Segment
from shmkit.segment.semaphores import TokenOf
from shmkit.sync.doorbell import NO_WORDS, Doorbell
from shmkit.sync.mutex import Mutex

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.memory.url import Where
    from shmkit.segment.semaphores import Counts

__all__ = ["Ring", "RingStatistics"]

# Flags; bits 4 and 5 are an index into _POLICIES.
_CHECKED: Final = 1  # frames carry a checksum
_MANY_PRODUCERS: Final = 2
_MANY_CONSUMERS: Final = 4
_POLICIES: Final = ("block", "raise", "drop-new", "drop-oldest")


@dataclass(frozen=True)
class RingStatistics:
    """What a ring looked like at one moment.

    Attributes:
        capacity: bytes of its data.
        used: bytes committed and not yet released, headers included.
        frames: how many frames those are.
        committed: bytes committed since it was created.
        released: bytes released since it was created.
        dropped: frames that were not taken, or thrown out, because the ring was full.
        state: "open", "shut down", "shut down at once" or "corrupt".
        producers: pids of those who put.
        consumers: pids of those who get.
        participants: pids of all who are attached.
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


class Ring(Producing, Consuming):
    """One process puts, one process gets, in the same order; put blocks while it is full.

    Made by `create`, `attach` and `ensure`. The first put of a handle makes it the producer, the
    first get the consumer; one handle may be both. Any number of threads may use a handle: they
    take turns (but not under a trace function written in Python, as a debugger has: there each
    thread needs a handle of its own). A handle pickles, and in a forked child it is a handle of the
    child's own, without a role.

    On a file a ring is durable: frames carry a checksum, and whoever attaches after everybody
    stopped, or was killed, goes on where the last one was.
    """

    __slots__ = ()

    # What a subclass may want otherwise.
    _KIND = 1
    _NOUN = "ring"
    _FLAGS = 0x30 | _MANY_CONSUMERS | _MANY_PRODUCERS | _CHECKED
    _SEMAPHORES: ClassVar[Counts] = {
        "data": 0,
        "space": 0,
        "put": TokenOf(0),
        "get": TokenOf(1),
    }
    _WARNING: ClassVar = "unclosed ring {}"  # of a handle that is dropped open; "" for none

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make a ring."""
        super().__init__(segment)
        flags, words = segment.header.flags, segment.words
        self._data_word = segment.data_word
        self._size = segment.header.data_size
        self._mask = self._size - 1
        self._most = min(self._size - HEADER, LOW)
        self._span_of_most = self._most & -16
        self._checked = bool(flags & _CHECKED)
        self._policy = _POLICIES[flags >> 4]
        self._notes_puts = self._notes_gets = False
        many_put, many_get = bool(flags & _MANY_PRODUCERS), bool(flags & _MANY_CONSUMERS)
        membership = segment.membership
        bells = membership.semaphores
        self._data = Doorbell(words, DATA_BELL, STATE, bells, "data", shared=many_get)
        self._space = Doorbell(words, SPACE_BELL, STATE, bells, "space", shared=many_put)
        self._producer = Side(segment, "producer", 0, None if many_put else PRODUCER_BYTE)
        self._consumer = Side(segment, "consumer", 1, None if many_get else CONSUMER_BYTE)
        self._put_mutex = Mutex(membership, words, 0) if many_put else None
        # A producer that drops the oldest gets, too.
        locks_gets = many_get or self._policy == "drop-oldest"
        self._get_mutex = Mutex(membership, words, 1) if locks_gets else None
        self._begin()
        membership.presence.call_after_fork(self._begin)
        membership.watch(self, self._closer(segment), self._WARNING.format(self._name))

    def _closer(self, segment: Segment) -> Callable[[], None]:
        """What closes the memory of a handle that was dropped; it does not lead to the handle."""
        return segment.close

    def _begin(self) -> None:
        """Without a role, and with nothing seen: at first, and anew in a forked child."""
        for mutex in self._put_mutex, self._get_mutex:
            if mutex is not None:
                mutex.start_anew()
        self._put_turn = self._turn_with(self._put_mutex, Full, "put")
        self._get_turn = self._turn_with(self._get_mutex, Empty, "get")
        self._is_producer = self._is_consumer = False
        self._put_quick = self._get_quick = False
        self._limit = self._seen = self._put_at = self._get_at = -1
        self._put_lap = self._get_lap = 0
        self._tail, self._room, self._ahead = 0, -1, False
        self._head = self._known = 0
        self._unpack, self._unpack_size = Struct("").unpack_from, -1
        self._tail_seen = self._head_seen = 0

    def _turn_with(self, mutex: Mutex | None, error: type[Exception], what: str) -> Turn:
        message = f"another {what} on ring {self._name} did not end in time"
        late = partial(error, message)
        return Turn(late) if mutex is None else SharedTurn(late, mutex)

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
        participants: int = PARTICIPANTS,
        keep: bool = False,
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

        Raises:
            FileExistsError: there is something of that name.
            ValueError: a bad name, capacity, or policy.
            OSError: ENOSPC, no room for it.
        """
        flags, size = _checked_options(where, capacity, producers, consumers, when_full)
        return cls._create(where, size, flags=flags, participants=participants, keep=keep)

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
    ) -> Self:
        """Join the ring of that name, or create it, also in place of one left half-made.

        Args:
            where: as in `create`.
            capacity: as in `create`; a ring that exists keeps its own, also of what follows.
            producers: as in `create`.
            consumers: as in `create`.
            when_full: as in `create`.
            participants: as in `create`.
            keep: as in `create`.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
            ValueError, OSError: as `create`.
        """
        flags, size = _checked_options(where, capacity, producers, consumers, when_full)
        return cls._create(
            where, size, flags=flags, participants=participants, keep=keep, ensure=True
        )

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more frames in; consumers take what is there, then get ShutDown. Idempotent.

        A put that another process has begun may still go in; it is taken like those before it.

        Args:
            immediate: consumers get ShutDown at once; what is there is lost.

        Raises:
            CorruptSegment: the ring was found broken before.
            ClosedError: this handle was closed.
        """
        self._check_open()
        self._segment.membership.register()  # in a forked child, for the bells that others hear
        state = self._checked_state(self._words)
        if state == READY or (immediate and state == SHUT):
            self._words[STATE] = CUT if immediate else SHUT  # step: shut.state
        self._data.ring_always()  # step: shut.data
        self._space.ring_always()  # step: shut.space

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
        self._put_turn.end()
        self._get_turn.end()
        self._await_fast_path(lambda: BUSY not in (self._limit, self._seen))
        self._limit = self._seen = self._get_at = -1
        if self._is_producer:
            self._producer.release()
        if self._is_consumer:
            self._consumer.release()
        self._segment.close()
        self._data.close()
        self._space.close()
        self._words, self._map = NO_WORDS, self._segment.map

    # -- looking ---------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Bytes of data."""
        return self._size

    def qsize(self) -> int:
        """How many frames are committed and not released; a moment later it may be another number.

        Raises:
            CorruptSegment: an index or a frame's length is impossible.
            ClosedError: this handle was closed.
        """
        words, mask = self._open_words(), self._mask
        at, tail = self._glimpse(words)
        frames = 0
        while at < tail:
            word = words[self._data_word + ((at & mask) >> 3)]
            head = words[HEAD]
            if head > at:  # released meanwhile: what was read is void, and what was counted
                at, frames = head, 0
                continue
            frames += not word & (PAD | DISCARD)
            at += ((word & LOW) + HEADER + 15) & -16
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
        return tail - start + HEADER > self._size

    def statistics(self) -> RingStatistics:
        """The ring at this moment.

        Raises:
            CorruptSegment: an index or a frame's length is impossible.
            ClosedError: this handle was closed.
        """
        words = self._open_words()
        start, tail = self._glimpse(words)
        return RingStatistics(
            capacity=self._size,
            used=tail - start,
            frames=self.qsize(),
            committed=words[TAIL],
            released=words[HEAD],
            dropped=words[DROPPED],
            state=STATES.get(words[STATE], "corrupt"),
            producers=tuple(self._producer.holders()),
            consumers=tuple(self._consumer.holders()),
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
        words = self._words
        state = STATES.get(words[STATE], "corrupt")
        return (
            f"<Ring {self._name} {state}, {words[TAIL] - words[HEAD]} of {self._size} bytes used, "
            f"{' and '.join(roles) or 'no role'} here>"
        )


def _checked_options(
    where: Where | Url, capacity: int, producers: str, consumers: str, when_full: str
) -> tuple[int, int]:
    """Flags and data size of a ring, or ValueError."""
    for name, value, choices in (
        ("producers", producers, ("one", "many")),
        ("consumers", consumers, ("one", "many")),
        ("when_full", when_full, _POLICIES),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: it is one of {', '.join(map(repr, choices))}")
    capacity = operator.index(capacity)
    if not 0 < capacity <= 1 << 46:
        raise ValueError(f"capacity={capacity}: a ring has 1 byte or more, and fits into memory")
    size = max(LEAST_DATA, 1 << (capacity - 1).bit_length())
    flags = _POLICIES.index(when_full) << 4
    if Url.parse(where).scheme == "file":
        flags |= _CHECKED
    if producers == "many":
        flags |= _MANY_PRODUCERS
    if consumers == "many":
        flags |= _MANY_CONSUMERS
    return flags, size
