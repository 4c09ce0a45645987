"""Writing: one writer at a time, and one store that commits.

    put         tail -> entry -> slot (the commit) -> counts -> bell
    delete      slot (the commit) -> counts -> bell
    compaction  room -> copies of the live entries -> fields -> root (the commit) -> counts

A writer that is killed anywhere leaves the old value or the new one, at worst with bytes of the log
that nothing names. What it was to count is counted anew by the next one: `unsettled` says so.

A reader may have views of a generation. It pins it, in its own line of the participants, as a
hazard pointer does (Michael, "Hazard Pointers", 2004): it stores the pin, fences, and looks at the
root again. A writer that has switched the root fences, and then looks at the pins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from shmkit.channels.mapping.generation import (
    DELETED,
    HEAD,
    Broken,
    Entry,
    Generation,
    checksum,
    hash_of,
    room_of,
    slot_word,
)
from shmkit.deadline import Deadline
from shmkit.errors import Full
from shmkit.segment.acquired import NO
from shmkit.segment.fences import STRONG_ORDER, fence, join_fence_all
from shmkit.segment.words import (
    DICT_CAPACITY,
    DICT_COMPACTIONS,
    DICT_DEAD,
    DICT_LIVE,
    DICT_UNSETTLED,
    DICT_USED,
    DICT_WRITES,
    GENERATIONS,
    GROWS,
    PAGE,
    PINNED,
    READERS_BELL,
    STATE,
)
from shmkit.sync.eventcount import EventCount
from shmkit.sync.mutex import Mutex
from shmkit.sync.threads import ThreadGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.channels.mapping.store import Store

__all__ = ["Writer", "slots_for"]

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
        self.bell = EventCount(
            segment.words, READERS_BELL, STATE, segment.membership.semaphores, names
        )
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
            BaseException: what the method raises; the lock was given back.
        """
        guard = self._guard
        if guard.is_mine():
            raise RuntimeError(
                f"a call inside another one on {self._title}: a signal handler or a finalizer "
                "needs a handle of its own"
            )
        try:
            try:
                guard.take(Deadline(None))
                if self._mutex.acquire() is NO:
                    raise AssertionError("a wait without end ended")
                if not self._joined:
                    # Where every sleeper fences for the writer, too, a write needs none.
                    self._fenced, self._joined = not join_fence_all(), True
                if self._words[DICT_UNSETTLED]:
                    self._settle()
                return act(*args)
            finally:
                self._leave()
        except BaseException:
            self._leave()  # again: a handler may have raised as the first began
            raise

    def _leave(self) -> None:
        if self._guard.is_mine():
            try:
                if self._mutex.held:
                    self._mutex.release()
            finally:
                self._guard.leave()

    def retire(self) -> None:
        """Make it unusable for this handle, which is to leave."""
        self._mutex.retire()
        self.bell.close()

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
        tail = words[store.tail_word(generation)]
        is_new = not generation.slots[slot]
        if tail + room > generation.end or (is_new and words[DICT_USED] >= generation.most):
            generation = self._compact(room)
            slot, old = self._place(generation, key, hashed)
            tail = words[store.tail_word(generation)]
            is_new = not generation.slots[slot]
        version = words[DICT_WRITES] + 1
        words[DICT_UNSETTLED] = 1
        words[store.tail_word(generation)] = tail + room  # step: dict.tail
        rest = key + content
        total = checksum(version, kind, rest, len(key))
        HEAD.pack_into(generation.memory, tail, version, len(key), len(content), total, kind)
        generation.memory[tail + HEAD.size : tail + HEAD.size + len(rest)] = (
            rest  # step: dict.entry
        )
        if not STRONG_ORDER:
            fence()
        generation.slots[slot] = slot_word(hashed, tail - generation.start)  # step: dict.slot
        words[DICT_WRITES] = version  # step: dict.writes
        if old is None:
            words[DICT_LIVE] += 1
            words[DICT_USED] += is_new
        else:
            words[DICT_DEAD] += _size(old)
        words[DICT_UNSETTLED] = 0  # step: dict.settled
        self._ring()
        return version

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
        words, generation = self._words, self._store.current()
        slot, old = self._place(generation, key, hash_of(key))
        if old is None or (expected is not None and expected != old.version):
            return False
        words[DICT_UNSETTLED] = 1
        generation.slots[slot] = DELETED  # step: dict.delete
        words[DICT_WRITES] += 1
        words[DICT_LIVE] -= 1
        words[DICT_DEAD] += _size(old)
        words[DICT_UNSETTLED] = 0  # step: dict.settled
        self._ring()
        return True

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

    def _settle(self) -> None:
        """Count anew: a writer died, or was interrupted, before it had counted."""
        store, words = self._store, self._words
        generation = store.current()
        try:
            entries = list(generation.entries())
        except Broken as error:
            raise store.corrupt(str(error)) from error
        log = words[store.tail_word(generation)] - generation.log
        words[DICT_LIVE] = len(entries)
        words[DICT_USED] = sum(map(bool, generation.slots.tolist()))
        words[DICT_DEAD] = max(0, log - sum(map(_size, entries)))
        words[DICT_WRITES] = max([words[DICT_WRITES], *(each.version for each in entries)])
        words[DICT_UNSETTLED] = 0  # step: dict.settled

    # -- compaction --------------------------------------------------------------------------------

    def _compact(self, room: int, *, keep: bool = True) -> Generation:
        """Have a fresh generation, with what is live and `room` bytes for one entry more."""
        store, words, old = self._store, self._words, self._store.current()
        try:
            entries = sorted(old.entries()) if keep else []
        except Broken as error:
            raise store.corrupt(str(error)) from error
        capacity, slots = self._size_for(entries, room)
        start = self._find_place(capacity, old)
        store.make_room(start, start + capacity)
        new = store.open_new(old.number + 1, start, capacity, slots)  # step: dict.compact
        tail = new.log
        for entry in entries:
            size = _size(entry)
            new.memory[tail : tail + size] = old.memory[entry.at : entry.at + size]
            key = old.key_of(entry)
            hashed = hash_of(key)
            new.slots[new.place(key, hashed)[0]] = slot_word(hashed, tail - start)
            tail += size
        words[DICT_UNSETTLED] = 1
        words[DICT_CAPACITY] = capacity
        if not STRONG_ORDER:
            fence()
        store.publish(new, tail)
        words[DICT_COMPACTIONS] += 1
        if not keep:
            words[DICT_WRITES] += 1
        self._settle()
        self._give_back(old)
        return new

    def _size_for(self, entries: list[Entry], room: int) -> tuple[int, int]:
        """Bytes and slots of the next generation."""
        live = sum(map(_size, entries))
        capacity = self._words[DICT_CAPACITY]
        slots = slots_for(capacity, len(entries) + 1)
        if self._store.segment.header.flags & GROWS:
            # Half of it free: so a write moves no more than two entries, over time.
            while 8 * slots + 2 * live + room > capacity:
                capacity *= 2
                slots = slots_for(capacity, len(entries) + 1)
        if 8 * slots + live + room > capacity:
            raise Full(
                f"{self._title} is full: {len(entries)} entries take {live} bytes, {room} more are "
                f"wanted, and its capacity is {capacity} with {8 * slots} for the index: delete "
                "some, or create it with a larger capacity or grow=True"
            )
        return capacity, slots

    def _find_place(self, size: int, old: Generation) -> int:
        """Where a region fits: before the current one, or behind all that are in use."""
        store = self._store
        oldest = min([old.number, *self._pins()])
        first = store.segment.header.data_offset
        if oldest <= old.number - GENERATIONS:  # where that one is, is not known any more
            return store.size() + -store.size() % PAGE
        used = [store.region(number) for number in range(oldest, old.number + 1)]
        if min(start for start, _ in used) - first >= size:
            return first
        return max(end for _, end in used)

    def _pins(self) -> list[int]:
        """The oldest generation that each live participant has views of."""
        words = self._words
        return [
            words[line + PINNED] - 1
            for line, lives in self._membership.lines()
            if words[line + PINNED] and lives()
        ]

    def _give_back(self, old: Generation) -> None:
        fence()  # between the root's store and the look at the pins
        if all(pin > old.number for pin in self._pins()):
            self._store.give_back(old.start, old.end)


def _size(entry: Entry) -> int:
    size = entry.end - entry.at
    return size + -size % 8
