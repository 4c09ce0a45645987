r"""Broadcast: one process publishes frames, everybody reads everything, at their own pace.

        publish                 oldest                     tail
      publisher --->  +-----------v-------------------------v-----------+
                      | written   | whole frames            | being     |
                      | over      |                         | written   |
                      +-----------------------------------------------  +
                                      ^ reader    ^ reader

The publisher never waits. It writes over the oldest frames, and a reader that was too slow for them
loses them, is told how many, and goes on at the oldest that is whole. Bytes of the header:

    offset  field                                                    written by   read by
    0x080   tail: bytes published (u64, monotonic)                   publisher    readers
    0x088   oldest: position of the oldest whole frame (monotonic)   publisher    readers

Frames are as in frame.py, with one difference: word 1 of a frame's header is its number, counted
from 0, and the header at the tail has its number already, before there is a frame. So wherever a
reader is put down, it knows how many frames it lost.

    publish    oldest -> fence -> frame -> the next one's number -> fence -> tail -> ring
    read       tail -> fence -> frame, copied -> fence -> oldest: is it past the frame? read it anew

What is before `oldest` may be written over at any time, nothing else is: so the word is the intent
that a reader checks, and a frame boundary for those who come late or fell behind. It is stored
ahead, for a sixteenth of the data at a time, and then costs a publish nothing. (A sequence lock,
as in Linux, `include/linux/seqlock.h`, whose sequence is a position.)

Killed before the tail is stored, nothing was published, whatever is written behind it; after it,
the frame was. A successor starts from the two words and walks over its predecessor's frames.
"""

from __future__ import annotations

import operator
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from shmkit.channels.fanout.one_writer import READERS, OneWriter, contiguous
from shmkit.channels.fanout.subscription import OLDEST, Subscription
from shmkit.channels.frame import HEADER, LOW, PAD
from shmkit.channels.handle import BUSY, LIMIT, STATES
from shmkit.errors import FrameTooLarge
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.header import DATA_BELL, LEAST_DATA, READY, STATE, TAIL

if TYPE_CHECKING:
    from shmkit.memory.url import Url, Where
    from shmkit.segment.segment import Segment

__all__ = ["Broadcast", "BroadcastStatistics"]


@dataclass(frozen=True)
class BroadcastStatistics:
    """What a broadcast looked like at one moment.

    Attributes:
        capacity: bytes of its data.
        used: bytes of the frames that can still be read, headers included.
        frames: how many frames those are.
        published: how many frames were published since it was created.
        state: "open", "shut down", "shut down at once" or "corrupt".
        publishers: pid of the one who publishes, if there is one.
        participants: pids of all who are attached.
    """

    capacity: int
    used: int
    frames: int
    published: int
    state: str
    publishers: tuple[int, ...]
    participants: tuple[int, ...]


class Broadcast(OneWriter):
    """One process publishes, any number read every frame in order; publishing never waits.

    Made by `create`, `attach` and `ensure`. The first publish of a handle makes it the publisher;
    reading is done through a `Subscription`. Any number of threads may use a handle. It pickles,
    and in a forked child it is a handle of the child's own, without the role.

    A broadcast keeps what was published last, at least fifteen sixteenths of its capacity less one
    frame of the largest size; a reader that falls further behind loses frames, and is told how
    many.
    """

    __slots__ = ("_data_word", "_mask", "_number", "_room", "_size", "_subscriptions", "_tail")

    _KIND: ClassVar[int] = 2
    _NOUN: ClassVar[str] = "broadcast"
    _ROLE: ClassVar[str] = "publisher"

    def __init__(self, segment: Segment) -> None:
        self._data_word = segment.data_word
        self._size = segment.header.data_size
        self._mask = self._size - 1
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        super().__init__(segment)

    def _begin(self) -> None:
        super()._begin()
        self._tail = self._number = 0
        self._room = -1
        for subscription in list(self._subscriptions):
            subscription._begin()

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        capacity: int = 1 << 20,
        keep: bool = False,
        *,
        participants: int = READERS,
    ) -> Self:
        """Make a new broadcast.

        Args:
            where: the memory: None (anonymous), "NAME", "shm:NAME", "file:PATH" or a Path.
            capacity: bytes of data; rounded up to a power of two, at least 4096. The largest frame
                is half of it less 16 bytes; a capacity of several such frames gives readers time.
            keep: leave a named segment in place when its creator goes; files always stay.
            participants: how many handles may be attached at a time, of all processes.

        Raises:
            FileExistsError: there is something of that name.
            ValueError: a bad name or capacity.
            OSError: ENOSPC, no room for it.
        """
        size = _data_size(capacity)
        return cls._create(where, size, participants=participants, keep=keep)

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        capacity: int = 1 << 20,
        keep: bool = False,
        *,
        participants: int = READERS,
    ) -> Self:
        """Join the broadcast of that name, or create it, also in place of one left half-made.

        Args:
            where: as in `create`.
            capacity: as in `create`; a broadcast that exists keeps its own, also of what follows.
            keep: as in `create`.
            participants: as in `create`.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
            ValueError, OSError: as `create`.
        """
        size = _data_size(capacity)
        return cls._create(where, size, participants=participants, keep=keep, ensure=True)

    def close(self) -> None:
        """Leave, close this handle's subscriptions, and give its role back. Idempotent.

        It is no end for the others: a successor may attach. `shutdown` is the end.
        """
        for subscription in list(self._subscriptions):
            subscription.close()
        super().close()

    # -- publishing ------------------------------------------------------------------------------

    def publish(self, data: Any) -> None:
        """Copy `data` in as one frame, over the oldest ones if need be; never waits for a reader.

        Args:
            data: bytes, or any object with a contiguous buffer; it may be empty.

        Raises:
            FrameTooLarge: it has more than half the capacity less 16 bytes.
            ShutDown: the broadcast was shut down.
            RoleTaken: another live handle is the publisher.
            CorruptSegment: an index or a frame's length in the memory is impossible.
            ClosedError: this handle was closed.
            TypeError: `data` has no contiguous buffer.
        """
        if type(data) is not bytes:
            data = contiguous(data)
        size = len(data)
        words = self._words
        # No call from here until _limit is stored.
        tail = self._tail
        end = tail + ((size + 31) & -16)
        limit = self._limit
        if end <= limit and words[STATE] == READY:
            self._limit = BUSY
            mask, data_word = self._mask, self._data_word
            at = tail & mask
            words[data_word + (at >> 3)] = size  # step: publish.header
            at += self._base + 16
            self._map[at : at + size] = data  # step: publish.payload
            number = self._number = self._number + 1
            words[data_word + ((end & mask) >> 3) + 1] = number  # step: publish.number
            self._tail = words[TAIL] = end  # step: publish.tail
            self._limit = limit
            if words[DATA_BELL]:  # step: publish.bell
                self._bell.ring()
        else:
            self._publish_carefully(data, size)

    def _publish_carefully(self, data: bytes | memoryview, size: int) -> None:
        def write(words: memoryview[int]) -> None:
            self._check_size(size)
            if self._claim() or words[TAIL] != self._tail:
                self._resume()
            step = (size + 31) & -16
            if self._tail + step > self._room:
                self._make_room(step)
            self._write(data, size)

        self._write_in_turn(write)
        fence()  # step: publish.bell
        self._bell.ring()

    def _check_size(self, size: int) -> None:
        limit = min(self._size // 2 - HEADER, LOW)
        if size > limit:
            raise FrameTooLarge(
                f"a frame of {size} bytes, this broadcast takes {limit} at most: create it with a "
                f"capacity of {2 * (size + HEADER)} or more, better several times that",
                size=size,
                limit=limit,
            )

    def _resume(self) -> None:
        """Begin at the published tail: where a predecessor stopped, or what was not finished."""
        words = self._words
        tail, oldest = words[TAIL], words[OLDEST]
        if not 0 <= tail - oldest <= self._size or (tail | oldest) & 15 or tail >= LIMIT:
            raise self._corrupt(f"tail {tail} and oldest {oldest} in {self._size} bytes of data")
        number = words[self._data_word + ((tail & self._mask) >> 3) + 1]
        if number >= LIMIT:
            raise self._corrupt(f"frame {number} comes next")
        self._tail, self._number, self._room = tail, number, -1

    def _make_room(self, step: int) -> None:
        """Give up the oldest frames until `step` bytes, and what comes soon, may be written."""
        words, tail, size = self._words, self._tail, self._size
        start, lap_end = tail, (tail | self._mask) + 1
        if tail + step > lap_end:
            start, lap_end = lap_end, lap_end + size
        room = max(start + step, min(start + size // 16, lap_end))
        was = words[OLDEST]
        if not 0 <= tail - was <= size or was & 15:
            raise self._corrupt(f"tail {tail} and oldest {was} in {size} bytes of data")
        # The header behind what is written is written, too.
        oldest = self._walk(was, room + HEADER - size)
        if oldest != was:
            words[OLDEST] = oldest  # step: publish.oldest
        fence()  # the copying of large frames keeps no order
        if start != tail:
            index = self._data_word + ((tail & self._mask) >> 3)
            words[index] = start - tail - HEADER | PAD  # step: publish.pad
            words[self._data_word + 1] = self._number  # step: publish.pad_number
            # Not published: the frame that follows takes it along.
            self._tail = start
        self._room = room

    def _walk(self, position: int, least: int) -> int:
        """From frame to frame to the first at `least` or after."""
        words, mask = self._words, self._mask
        while position < least:
            lap = position & ~mask
            word = self._data_word - (lap >> 3)
            bound = min(self._tail, lap + mask + 1)
            until = min(least, bound)
            while position < until:
                size = words[word + (position >> 3)]
                if size > bound - position - HEADER:
                    if size >> 32 != PAD >> 32 or size & LOW != bound - position - HEADER:
                        raise self._corrupt(
                            f"frame header {size:#x} at {position}, and frames until {bound}"
                        )
                    size &= LOW
                position += (size + 31) & -16
        return position

    def _write(self, data: bytes | memoryview, size: int) -> None:
        words, tail, mask = self._words, self._tail, self._mask
        end = tail + ((size + 31) & -16)
        at = tail & mask
        words[self._data_word + (at >> 3)] = size  # step: publish.header
        at += self._base + HEADER
        self._map[at : at + size] = data  # step: publish.payload
        number = self._number + 1
        words[self._data_word + ((end & mask) >> 3) + 1] = number  # step: publish.number
        if not STRONG_ORDER:
            fence()
        self._number = number
        self._tail = words[TAIL] = end  # step: publish.tail
        self._limit = self._room if self._quick else -1

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more frames in; readers read what is there, then get ShutDown. Idempotent.

        Args:
            immediate: readers get ShutDown at once; what is there is lost.

        Raises:
            CorruptSegment: the broadcast was found broken before.
            ClosedError: this handle was closed.
        """
        self._shut(immediate)

    # -- reading ---------------------------------------------------------------------------------

    def subscribe(self, start: str = "now") -> Subscription:
        """Begin to read.

        Args:
            start: "now", with the next frame that is published; or "oldest", with the oldest that
                is still there.

        Returns:
            A reader of its own, which keeps this handle.

        Raises:
            ValueError: another `start`.
            CorruptSegment: an index in the memory is impossible.
            ClosedError: this handle was closed.
        """
        if start not in ("now", "oldest"):
            raise ValueError(f"start={start!r}: it is 'now' or 'oldest'")
        self._checked_state(self._open_words())
        subscription = Subscription(self, start)
        self._subscriptions.add(subscription)
        return subscription

    # -- looking ---------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Bytes of data."""
        return self._size

    def _at(self, position: int) -> tuple[int, int]:
        """The position in the data, and the number of the frame there or to come there.

        Args:
            position: index of the word that has it, TAIL or OLDEST.
        """
        words = self._open_words()
        while True:
            found = words[position]
            if found & 15 or found >= LIMIT:
                raise self._corrupt(f"position {found}")
            if not STRONG_ORDER:
                fence()
            number = words[self._data_word + ((found & self._mask) >> 3) + 1]
            if not STRONG_ORDER:
                fence()
            # The tail first: the oldest can only have come nearer to it then.
            tail, oldest = words[TAIL], words[OLDEST]
            if oldest <= found <= tail:
                if number >= LIMIT:
                    raise self._corrupt(f"frame {number} at {found}")
                return found, number
            if words[OLDEST] == oldest and words[position] == found:
                raise self._corrupt(f"tail {tail} and oldest {oldest}")

    def statistics(self) -> BroadcastStatistics:
        """The broadcast at this moment.

        Raises:
            CorruptSegment: an index is impossible.
            ClosedError: this handle was closed.
        """
        words = self._open_words()
        oldest, first = self._at(OLDEST)
        tail, published = self._at(TAIL)
        return BroadcastStatistics(
            capacity=self._size,
            used=min(tail - oldest, self._size),
            frames=published - first,
            published=published,
            state=STATES.get(words[STATE], "corrupt"),
            publishers=tuple(self._writer.holders()),
            participants=tuple(self._segment.membership.members()),
        )

    def __repr__(self) -> str:
        return self._story(f"{self._words[TAIL]} bytes published")


def _data_size(capacity: int) -> int:
    capacity = operator.index(capacity)
    if not 0 < capacity <= 1 << 46:
        raise ValueError(
            f"capacity={capacity}: a broadcast has 1 byte or more, and fits into memory"
        )
    return max(LEAST_DATA, 1 << (capacity - 1).bit_length())
