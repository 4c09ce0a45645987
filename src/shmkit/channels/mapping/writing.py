"""Writing: one writer at a time, and one store that commits.

    put         tail -> entry -> slot (the commit) -> counts -> bell
    delete      slot (the commit) -> counts -> bell
    compaction  room -> copies of the live entries -> fields -> root (the commit) -> counts

A writer that is killed anywhere leaves the old value or the new one, at worst with bytes of the log
that nothing names. What it was to count is counted anew by the next one: `unsettled` says so.

A reader may have views of a generation. It pins its bytes, in its own line of the participants: a
hazard pointer (Michael, "Hazard Pointers", 2004). It stores the pin, fences, and looks at the root
again. A writer that has switched the root fences, and then looks at the pins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from shmkit.channels.mapping.generation import (
    HEAD,
    Broken,
    Entry,
    Generation,
    checksum,
    hash_of,
    room_of,
    slot_word,
)
from shmkit.channels.mapping.store import LIMIT
from shmkit.core import COUNTER
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, Full
from shmkit.segment.acquired import NO
from shmkit.segment.fences import STRONG_ORDER, fence, join_fence_all
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.semaphores import SLICE
from shmkit.segment.words import (
    DICT_COMPACTIONS,
    DICT_DEAD,
    DICT_LIVE,
    DICT_UNSETTLED,
    DICT_USED,
    DICT_WRITES,
    GROWS,
    PAGE,
    PINNED,
    PINNED_END,
    PINNED_FIRST,
    READERS_BELL,
    SLOT_DELETED,
    STATE,
)
from shmkit.sync.eventcount import EventCount
from shmkit.sync.mutex import Mutex
from shmkit.sync.threads import ThreadGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.channels.mapping.store import Store

__all__ = ["Writer", "pin_of", "slots_for"]

T = TypeVar("T")
_LEAST_SLOTS: Final = 64
_PER_SLOT: Final = 64  # bytes of a generation for each slot


def slots_for(capacity: int, entries: int = 0) -> int:
    """How many slots a generation gets: for entries of some 85 bytes, and twice what is there."""
    wanted = max(_LEAST_SLOTS, capacity // _PER_SLOT, 2 * entries)
    return 1 << (wanted - 1).bit_length()


class Writer:
    """What a handle does with the lock.

    Args:
        store: the memory.
        title: what messages call the dict.
    """

    def __init__(self, store: Store, title: str) -> None:
        segment = store.segment
        self._store = store
        self._title = title
        self._words = segment.words
        self._membership = segment.membership
        self._mutex = Mutex(segment.membership, segment.words, 0)
        names = ("data", "space")
        self.bell: EventCount = EventCount(
            segment.words, READERS_BELL, STATE, segment.membership.semaphores, names
        )
        self._retired = False
        self.start_anew()

    def start_anew(self) -> None:
        """Hold nothing: at first, and in a forked child."""
        self._mutex.start_anew()
        self._guard = ThreadGuard()
        self._joined = False
        self._fenced = True

    def alone(self, act: Callable[..., T], *args: Any) -> T:
        """Call a method with the lock.

        Raises:
            RuntimeError: from inside another call of this thread: by a signal handler.
            ClosedError: the handle was closed.
            OSError: ENOSPC: the file is a copy with holes, and there is no room to fill them.
            BaseException: what the method raises; the lock was given back.
        """
        self.refuse_inside()
        try:
            try:
                self._guard.take(Deadline(None))
                self._acquire()
                if not self._joined:
                    # Where every sleeper fences for the writer, too, a write needs none.
                    self._fenced, self._joined = not join_fence_all(), True
                    generation = self._store.current()
                    self._store.fill_holes(generation.start, generation.end)
                if self._words[DICT_UNSETTLED]:
                    self._settle()
                    # The dead may have committed what it did not count: a snapshot has to see it.
                    self._words[DICT_WRITES] = self._next_version()
                return act(*args)
            finally:
                self._leave()
        except BaseException:
            self._leave()  # again: a handler may have raised as the first began
            raise

    def _acquire(self) -> None:
        while not self._retired:
            if self._mutex.acquire(timeout=SLICE) is not NO:
                return
        raise ClosedError(f"this handle on {self._title} is closed")

    def refuse_inside(self) -> None:
        """RuntimeError in a signal handler or a finalizer that runs inside of `alone`."""
        if self._guard.is_mine():
            raise RuntimeError(
                f"a call inside another one on {self._title}: a signal handler or a finalizer "
                "needs a handle of its own"
            )

    def _leave(self) -> None:
        if self._guard.is_mine():
            try:
                if self._mutex.held:
                    self._mutex.release()
            finally:
                self._guard.leave()

    def retire(self) -> None:
        """Make it unusable for this handle, which is to leave; a call that is at work ends first.

        Raises:
            RuntimeError: from inside such a call: by a signal handler.
        """
        self.refuse_inside()
        self._retired = True  # a thread that waits for the lock sees it within a slice
        try:
            self._guard.take(Deadline(None))
            self._mutex.retire()
            self.bell.close()
            self._words = NO_WORDS
        finally:
            self._guard.leave()

    # -- with the lock -----------------------------------------------------------------------------

    def put(self, key: bytes, kind: int, content: bytes, expected: int | None = None) -> int:
        """Set a key.

        Args:
            key: spelled.
            kind: of the value.
            content: the value.
            expected: the version that the key has to have, 0 for none; None for any.

        Returns:
            The version it has now; 0 if it had not the version expected, and nothing was done.

        Raises:
            Full: there is no room.
            OSError: ENOSPC: the dict was to grow, or to be compacted, and the system has no room.
            CorruptSegment: it was overwritten.
        """
        store, words, hashed = self._store, self._words, hash_of(key)
        generation = store.current()
        slot, old = self._place(generation, key, hashed)
        if expected is not None and expected != (old.version if old else 0):
            return 0
        room = room_of(key, content)
        tail = store.tail_of(generation)
        is_new = not generation.slots[slot]
        if tail + room > generation.end or (is_new and words[DICT_USED] >= generation.most):
            generation = self._compact(room)
            slot, old = self._place(generation, key, hashed)
            tail = store.tail_of(generation)
            is_new = not generation.slots[slot]
        version = self._next_version()
        words[DICT_UNSETTLED] = 1
        words[store.tail_word(generation)] = tail + room  # step: dict.tail
        self._write_entry(generation, tail, version, key, kind, content)
        if not STRONG_ORDER:
            fence()
        generation.slots[slot] = slot_word(hashed, tail - generation.start)  # step: dict.slot
        words[DICT_WRITES] = version  # step: dict.writes
        if old is None:
            self._count(DICT_LIVE, 1)
            self._count(DICT_USED, is_new)
        else:
            self._count(DICT_DEAD, _size(old))
        words[DICT_UNSETTLED] = 0  # step: dict.settled
        self._ring()
        return version

    def _write_entry(
        self, generation: Generation, at: int, version: int, key: bytes, kind: int, content: bytes
    ) -> None:
        rest = key + content
        total = checksum(version, kind, rest, len(key))
        HEAD.pack_into(generation.memory, at, version, len(key), len(content), total, kind)
        first = at + HEAD.size
        generation.memory[first : first + len(rest)] = rest  # step: dict.entry

    def delete(self, key: bytes, expected: int | None = None) -> bool:
        """Remove a key.

        Args:
            key: spelled.
            expected: the version that it has to have; None for any.

        Returns:
            Whether it was there, with that version.

        Raises:
            CorruptSegment: it was overwritten.
        """
        generation = self._store.current()
        slot, old = self._place(generation, key, hash_of(key))
        if old is None or (expected is not None and expected != old.version):
            return False
        self._empty(generation, slot, old)
        return True

    def delete_at(self, generation: Generation, slot: int, word: int, entry: Entry) -> bool:
        """Remove an entry from its slot; False if the slot says something else by now."""
        is_current = generation.number == self._store.current().number
        if not is_current or generation.slots[slot] != word:
            return False
        self._empty(generation, slot, entry)
        return True

    def _empty(self, generation: Generation, slot: int, old: Entry) -> None:
        words, version = self._words, self._next_version()
        words[DICT_UNSETTLED] = 1
        generation.slots[slot] = SLOT_DELETED  # step: dict.delete
        words[DICT_WRITES] = version
        self._count(DICT_LIVE, -1)
        self._count(DICT_DEAD, _size(old))
        words[DICT_UNSETTLED] = 0  # step: dict.settled
        self._ring()

    def clear(self) -> None:
        """Remove every key, by one commit.

        Raises:
            OSError: ENOSPC, as `put`.
        """
        self._compact(0, keep=False)
        self._ring()

    def _place(self, generation: Generation, key: bytes, hashed: int) -> tuple[int, Entry | None]:
        try:
            return generation.place(key, hashed)
        except Broken as error:
            raise self._store.corrupt(str(error)) from error

    def _ring(self) -> None:
        if self._fenced:
            fence()
        self.bell.ring()

    def _count(self, word: int, change: int) -> None:
        self._words[word] = self._words[word] + change & COUNTER  # a peer may have overwritten it

    def _next_version(self) -> int:
        version = self._words[DICT_WRITES] + 1
        if version >> 63:
            raise self._store.corrupt(f"it has {version - 1} writes")
        return version

    def _settle(self) -> None:
        """Count anew: a writer died, or was interrupted, before it had counted."""
        store, words = self._store, self._words
        generation = store.current()
        entries = []
        for _, word in generation.words():
            try:
                entries.append(generation.entry(word))
            except Broken:
                continue  # who asks for this one is told
        log = store.tail_of(generation) - generation.log
        words[DICT_LIVE] = len(entries)
        words[DICT_USED] = sum(map(bool, generation.slots.tolist()))
        words[DICT_DEAD] = max(0, log - sum(map(_size, entries)))
        words[DICT_WRITES] = max([words[DICT_WRITES], *(each.version for each in entries)])
        words[DICT_UNSETTLED] = 0  # step: dict.settled

    def drop_damaged(self) -> int:
        """Remove the entries that are broken.

        Returns:
            How many.
        """
        generation = self._store.current()
        damaged = generation.damaged()
        if damaged:
            self._words[DICT_UNSETTLED] = 1
            for slot in damaged:
                generation.slots[slot] = SLOT_DELETED
            self._settle()
            self._words[DICT_WRITES] = self._next_version()
            self._ring()
        return len(damaged)

    # -- compaction --------------------------------------------------------------------------------

    def _compact(self, room: int, *, keep: bool = True) -> Generation:
        """Have a fresh generation, with what is live and `room` bytes for one entry more."""
        store, words, old = self._store, self._words, self._store.current()
        try:
            entries = old.entries(old.words()) if keep else []
        except Broken as error:
            raise store.corrupt(str(error)) from error
        live = sum(map(_size, entries))
        if live > old.end - old.log:
            raise store.corrupt(f"its entries take {live} bytes of {old.end - old.log}")
        version = self._next_version()
        capacity, slots = self._size_for(old, len(entries), live, room)
        start = self._find_place(capacity, old)
        store.make_room(start, start + capacity)
        new = store.open_new(old.number + 1, start, capacity, slots)  # step: dict.compact
        tail = new.log
        for entry in entries:
            size = _size(entry)
            new.memory[tail : tail + size] = old.memory[entry.at : entry.at + size]
            hashed = hash_of(old.key_of(entry))
            new.fill_slot(hashed, slot_word(hashed, tail - start))
            tail += size
        words[DICT_UNSETTLED] = 1
        if not STRONG_ORDER:
            fence()
        store.publish(new, tail)
        self._count(DICT_COMPACTIONS, 1)
        if not keep:
            words[DICT_WRITES] = version
        words[DICT_LIVE] = words[DICT_USED] = len(entries)
        words[DICT_DEAD] = 0
        words[DICT_UNSETTLED] = 0  # step: dict.settled
        return new

    def _size_for(self, old: Generation, entries: int, live: int, room: int) -> tuple[int, int]:
        """Bytes and slots of the next generation."""
        capacity = old.end - old.start
        slots = slots_for(capacity, entries + 1)
        if self._store.segment.header.flags & GROWS:
            # Half of it free: so a write moves no more than two entries, over time.
            while 8 * slots + 2 * live + room > capacity and capacity < LIMIT:
                capacity *= 2
                slots = slots_for(capacity, entries + 1)
        if 8 * slots + live + room > capacity:
            raise Full(
                f"{self._title} is full: {entries} entries take {live} bytes, {room} more are "
                f"wanted, and its capacity is {capacity} with {8 * slots} for the index: delete "
                "some, or create it with a larger capacity or grow=True"
            )
        return capacity, slots

    def _find_place(self, size: int, old: Generation) -> int:
        """Where a region fits that overlaps nothing in use: as near to the beginning as can be."""
        fence()  # between the store of the root, by whoever it was, and the look at the pins
        used = [(old.start, old.end), *self._pins()]
        first = self._store.segment.header.data_offset
        ends = sorted(end for _, end in used if end > first)
        for start in first, *ends:
            if all(start + size <= begin or end <= start for begin, end in used):
                return start
        raise AssertionError("there is room behind the last")

    def _pins(self) -> list[tuple[int, int]]:
        """The bytes that each live participant has views of."""
        words, most = self._words, self._store.size()
        pins = []
        for line, lives in self._membership.lines():
            pinned = words[line + PINNED]
            if pinned and lives():
                # No further than the memory, whatever a peer has written there.
                begin, end = pinned >> PINNED_FIRST, pinned & PINNED_END
                pins.append((begin * PAGE, min(end * PAGE, most + -most % PAGE)))
        return pins


def pin_of(start: int, end: int) -> int:
    """What a participant writes to pin bytes of the memory."""
    return start // PAGE << PINNED_FIRST | end // PAGE


def _size(entry: Entry) -> int:
    size = entry.end - entry.at
    return size + -size % 8
