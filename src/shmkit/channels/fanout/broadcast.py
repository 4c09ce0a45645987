r"""Broadcast: one process publishes frames, every reader reads all of them, at its own pace.

        publish                 oldest                     tail
      publisher --->  +-----------v-------------------------v-----------+
                      | written   | whole frames            | being     |
                      | over      |                         | written   |
                      +-----------------------------------------------  +
                                      ^ reader    ^ reader

The publisher never waits. It writes over the oldest frames. A reader that was too slow for them
loses them, is told how many, and goes on at the oldest whole frame. Two words of the header say
where things are, and only the publisher stores them (segment/words.py, BROADCAST):

    tail     bytes published since creation
    oldest   position of the oldest whole frame

Frames are as in frame.py, with one difference: word 1 of a frame's header is the frame's number,
counted from 0. The header at the tail has its number before the frame itself is there. So a reader
that jumps to any frame boundary can tell how many frames it lost.

    publish    oldest -> fence -> frame -> the next one's number -> fence -> tail -> wake readers
    read       tail -> fence -> frame, copied -> fence -> oldest: past the frame? then read again

Bytes before `oldest` may be written over at any time, and no other published bytes. So `oldest`
announces what the publisher is about to write over, and a reader checks its copy against it. It
is also a frame boundary, where a late or a slow reader begins. It moves ahead by a sixteenth of the
data at a time, so that most publishes need not touch it. (This is a sequence lock, as in Linux,
`include/linux/seqlock.h`, with a position for the sequence.)

A publisher that is killed before it stores the tail has published nothing, whatever it wrote after
the tail; one that is killed later has published the frame. A successor starts from the two words,
and walks over the frames of its predecessor.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from shmkit.channels.fanout.one_writer import LARGE, MAY_WRITE, READERS, OneWriter, reentered
from shmkit.channels.fanout.subscription import Subscription
from shmkit.channels.frame import as_bytes
from shmkit.channels.handle import LIMIT, STATES, checked_state
from shmkit.errors import FrameTooLarge
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.words import (
    BROADCAST_KIND,
    FRAME_HEADER,
    OLDEST,
    PAD,
    READERS_BELL,
    READY,
    SIZE_MASK,
    STATE,
    TAIL,
)

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
        frames: how many frames can still be read.
        published: how many frames were published since it was created.
        state: "open", "shut down", "shut down at once" or "corrupt".
        publishers: pid of the publisher, if there is one.
        participants: pids of all attached handles.
    """

    capacity: int
    used: int
    frames: int
    published: int
    state: str
    publishers: tuple[int, ...]
    participants: tuple[int, ...]


class Broadcast(OneWriter):
    """One process publishes, any number of readers get each frame in order; no publish waits.

    Made by `create`, `attach` and `ensure`. The first publish of a handle makes it the publisher;
    reading is done through a `Subscription`. Any number of threads may use a handle. It pickles,
    and in a forked child it is a handle of the child's own, without the role.

    A broadcast keeps what was published last, at least fifteen sixteenths of its capacity less one
    frame of the largest size; a reader that falls further behind loses frames, and is told how
    many.
    """

    _KIND: ClassVar[int] = BROADCAST_KIND.number
    _NOUN: ClassVar[str] = BROADCAST_KIND.noun
    _ROLE: ClassVar[str] = "publisher"
    _SIZE: ClassVar[str] = "capacity"
    _MOST: ClassVar[int] = 1 << 46
    _CELLS: ClassVar[int] = 1

    # Of this handle's last publish, for the next one. They count only while the tail is `_tail`.
    _tail: int
    _number: int  # of the frame that begins there
    _room: int  # position up to which frames may be written

    def __init__(self, segment: Segment) -> None:
        self._data_word = segment.data_word
        self._size = segment.header.data_size
        self._mask = self._size - 1
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        super().__init__(segment)

    def _begin(self) -> None:
        super()._begin()
        self._tail = -1
        self._number = self._room = 0
        for subscription in list(self._subscriptions):
            subscription._begin()

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        capacity: int = 1 << 20,
        *,
        participants: int = READERS,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Make a new broadcast.

        Args:
            where: the memory: None (anonymous), "NAME", "shm:NAME", "file:PATH" or a Path.
            capacity: bytes of data; rounded up to a power of two, at least 4096. The largest frame
                is half of it less 16 bytes; a capacity of several such frames gives readers time.
            participants: how many handles may be attached at a time, of all processes.
            keep: leave a named segment in place when its creator goes; files always stay.
            mode: permissions of a segment or file, less the umask; a process of another user has
                to say `trust_owner=True` as well.

        Raises:
            FileExistsError: there is something of that name.
            ValueError: a bad name or capacity.
            OSError: ENOSPC, no room for it.
        """
        return cls._new(where, capacity, participants=participants, keep=keep, mode=mode)

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        capacity: int = 1 << 20,
        *,
        participants: int = READERS,
        keep: bool = False,
        mode: int = 0o600,
        trust_owner: bool = False,
    ) -> Self:
        """Join the broadcast of that name, or create it.

        Args:
            where: as in `create`.
            capacity: as in `create`; a broadcast that exists keeps all its own options.
            participants: as in `create`.
            keep: as in `create`.
            mode: as in `create`.
            trust_owner: as in `attach`.

        Raises:
            IncompatibleSegment, CorruptSegment, PermissionError: as `attach`.
            ValueError, OSError: as `create`.
        """
        return cls._new(
            where,
            capacity,
            ensure=True,
            participants=participants,
            keep=keep,
            mode=mode,
            trust_owner=trust_owner,
        )

    def close(self) -> None:
        """Leave, close this handle's subscriptions, and give its role back. Idempotent.

        The broadcast goes on for every other handle, and a successor may publish. `shutdown` ends
        it.

        Raises:
            RuntimeError: called from inside a publish of the same thread, by a signal handler or a
                finalizer.
        """
        for subscription in list(self._subscriptions):
            subscription.close()
        super().close()

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
            RuntimeError: called from inside a publish of the same thread, by a signal handler or a
                finalizer.
        """
        if type(data) is not bytes:
            data = as_bytes(data)
        size = len(data)
        if self._is_inside():
            raise reentered(self._NOUN)
        try:
            self._enter()
            words, mask, data_word = self._words, self._mask, self._data_word
            tail, number = words[TAIL], self._number
            end = tail + ((size + 31) & -16)
            # What is unusual (another publisher, no room, a shutdown, no role) goes the slow way.
            if (
                tail != self._tail
                or end > self._room
                or words[STATE] != READY
                or self._state != MAY_WRITE
            ):
                tail, number = self._prepare(size)
                end = tail + ((size + 31) & -16)
            at = tail & mask
            words[data_word + (at >> 3)] = size  # step: publish.header
            at += self._base + FRAME_HEADER
            self._map[at : at + size] = data  # step: publish.payload
            # The next number before the tail: a reader at the tail can tell how many it lost.
            words[data_word + ((end & mask) >> 3) + 1] = number + 1  # step: publish.number
            if self._fenced or size > LARGE:
                fence()
            words[TAIL] = end  # step: publish.tail
            self._number = number + 1
            self._tail = end  # last: number and room hold only for this tail
            if self._fenced:
                fence()
            if words[READERS_BELL]:  # step: publish.bell
                self._bell.ring()
            self._leave()
        except BaseException:
            try:
                self._leave()  # first: another signal handler may raise in any later call
            except RuntimeError:
                pass  # the exception came before the guard was taken, or after
            raise

    def _prepare(self, size: int) -> tuple[int, int]:
        """Check and prepare all that the common case of `publish` leaves out.

        Returns:
            Where the frame begins, and its number.
        """
        words = self._words_for_putting()
        limit = min(self._size // 2 - FRAME_HEADER, SIZE_MASK)
        if size > limit:
            raise FrameTooLarge(
                f"a frame of {size} bytes, this broadcast takes {limit} at most: create it with a "
                f"capacity of {2 * (size + FRAME_HEADER)} or more, better several times that",
                size=size,
                limit=limit,
            )
        self._claim()
        self._tail = -1  # after an exception, come here again; a publish sets it
        tail, oldest = words[TAIL], words[OLDEST]
        if not 0 <= tail - oldest <= self._size or (tail | oldest) & 15 or tail >= LIMIT:
            raise self._corrupt(f"tail {tail} and oldest {oldest} in {self._size} bytes of data")
        number = words[self._data_word + ((tail & self._mask) >> 3) + 1]
        if number >= LIMIT:
            raise self._corrupt(f"frame {number} comes next")
        start = self._make_room((size + 31) & -16, tail, oldest)
        if start != tail:
            index = self._data_word + ((tail & self._mask) >> 3)
            words[index] = start - tail - FRAME_HEADER | PAD  # step: publish.pad
            # The frame moves to the start of the data, and its number with it.
            words[self._data_word + 1] = number  # step: publish.pad_number
            # The tail stays: the frame that follows is published together with the filler.
        return start, number

    def _make_room(self, step: int, tail: int, oldest: int) -> int:
        """Give up the oldest frames until `step` bytes, and what comes soon, may be written.

        Returns:
            Where the next frame begins: at the tail, or at the next lap if it does not fit before.
        """
        size = self._size
        start, lap_end = tail, (tail | self._mask) + 1
        if tail + step > lap_end:
            start, lap_end = lap_end, lap_end + size
        # A sixteenth at a time: most publishes then leave `oldest` alone.
        room = max(start + step, min(start + size // 16, lap_end))
        # The header after the last frame is written, too: it has the number of the next one.
        whole = self._walk(oldest, room + FRAME_HEADER - size, tail)
        if whole != oldest:
            self._words[OLDEST] = whole  # step: publish.oldest
        fence()  # `oldest` before the frame: copying a large one may use unordered stores
        self._room = room
        return start

    def _walk(self, position: int, least: int, tail: int) -> int:
        """From frame to frame to the first that begins at `least` or later."""
        words, mask = self._words, self._mask
        while position < least:
            lap = position & ~mask
            word = self._data_word - (lap >> 3)
            bound = min(tail, lap + mask + 1)
            until = min(least, bound)
            while position < until:
                size = words[word + (position >> 3)]
                # Too large for the lap: a filler, which has a flag in its size, or damage.
                if size > bound - position - FRAME_HEADER:
                    filler = bound - position - FRAME_HEADER | PAD
                    if size != filler:
                        raise self._corrupt(
                            f"frame header {size:#x} at {position}, and frames until {bound}"
                        )
                    size &= SIZE_MASK
                position += (size + 31) & -16
        return position

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more frames in; readers read what is there, then get ShutDown. Idempotent.

        Args:
            immediate: readers get ShutDown at once; what is there is lost.

        Raises:
            CorruptSegment: the broadcast was found broken before.
            ClosedError: this handle was closed.
        """
        self._end(immediate)

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
        checked_state(self._segment, self._open_words())
        subscription = Subscription(self, start)
        self._subscriptions.add(subscription)
        return subscription

    @property
    def capacity(self) -> int:
        """Bytes of data."""
        return self._size

    def _frame_at(self, position: int) -> tuple[int, int]:
        """A frame boundary, and the number of the frame that begins there or will begin there.

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
            # `oldest` last: if it has passed the boundary, the number may be another frame's.
            tail, oldest = words[TAIL], words[OLDEST]
            if oldest <= found <= tail:
                if number >= LIMIT:
                    raise self._corrupt(f"frame {number} at {found}")
                return found, number
            # Nothing moved meanwhile: this is damage, and no race with the publisher.
            if words[OLDEST] == oldest and words[position] == found:
                raise self._corrupt(f"tail {tail} and oldest {oldest}")

    def statistics(self) -> BroadcastStatistics:
        """The broadcast at this moment.

        Raises:
            CorruptSegment: an index is impossible.
            ClosedError: this handle was closed.
        """
        with self._open_all_along() as words:
            oldest, first = self._frame_at(OLDEST)
            tail, published = self._frame_at(TAIL)
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
        return self._describe(f"{self._words[TAIL]} bytes published")
