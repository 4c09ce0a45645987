"""Store: the memory of a dict, as one process has it mapped, and the generation that counts.

The memory grows behind the segment's own bytes. A process that finds a generation beyond its map
maps the memory anew. Views of the old map stay valid, for both show the same pages.

Pages are never given back: a reader that is still in an old generation would fault on a hole, and
where the system has no page for it that is a SIGBUS. The next compaction uses them.
"""

from __future__ import annotations

import mmap
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.mapping.generation import Generation
from shmkit.errors import CorruptSegment
from shmkit.memory.allocation import fill_holes, reserve
from shmkit.memory.mapping import map_region
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.words import (
    DICT_GENERATIONS,
    DICT_ROOT,
    GENERATION_WORDS,
    GENERATIONS,
    PAGE,
    VERIFIED,
)

if TYPE_CHECKING:
    from shmkit.segment.segment import Segment

__all__ = ["LIMIT", "NOTHING", "Store", "fields_at"]

LIMIT: Final = 1 << 43
"""No capacity is larger: a slot has 40 bits for an eighth of an entry's offset."""

NOTHING: Final = 0
"""The root of a closed handle; generations count from 1."""

_NO_MAP: Final[Any] = bytes(8)
_CLOSED: Final = Generation(_NO_MAP, NOTHING, 0, 8, 1)
_LAST: Final = 1 << 63  # no number of a generation gets so far
_START, _SIZE, _SLOTS, _TAIL = range(GENERATION_WORDS)


def fields_at(number: int) -> int:
    """Index of the first word that says where a generation is."""
    return DICT_GENERATIONS + number % GENERATIONS * GENERATION_WORDS


class Store:
    """The memory of one dict, as one handle sees it.

    Threads share it: what is assigned here is a later map, or none, and any of them will do.

    Args:
        segment: the segment.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment: Segment = segment
        self.words: memoryview[int] = segment.words
        self._verified = bool(segment.header.flags & VERIFIED)
        self._map = segment.map
        self._now = _CLOSED
        self.start_anew()
        self.current()

    def start_anew(self) -> None:
        """Hold nothing: at first, and in a forked child."""
        # Not a descriptor that was closed meanwhile, and may be another file's.
        self._mapping = threading.RLock()

    def current(self) -> Generation:
        """The generation that counts; an empty one, number NOTHING, if the store is closed.

        Raises:
            CorruptSegment: what says where it is can not be.
            OSError: the memory grew, and can not be mapped.
        """
        while True:
            words = self.words
            now, root = self._now, words[DICT_ROOT]
            if words is NO_WORDS:
                return _CLOSED
            if now.number != root:
                now = self._open_generation(words, root)
                if words[DICT_ROOT] != root:
                    continue  # another one followed meanwhile, and its fields may be here
                self._now = now
                if self.words is NO_WORDS:  # `close` was faster, and the map is to go
                    self._now, self._map = _CLOSED, _NO_MAP
            return now

    def is_current(self, generation: Generation) -> bool:
        """Whether a generation still counts: then what was read of it before is sound."""
        return self.words[DICT_ROOT] == generation.number

    def tail_of(self, generation: Generation) -> int:
        """Where in the map the next entry of a generation begins.

        Raises:
            CorruptSegment: the word was overwritten.
        """
        tail = self.words[self.tail_word(generation)]
        if tail % 8 or not generation.log <= tail <= generation.end:
            raise self.corrupt(f"its tail is at byte {tail}")
        return tail

    def tail_word(self, generation: Generation) -> int:
        """Index of the word that says where the next entry of a generation begins."""
        return fields_at(generation.number) + _TAIL

    def _open_generation(self, words: memoryview[int], number: int) -> Generation:
        at = fields_at(number)
        start, size, slots, tail = words[at : at + GENERATION_WORDS].tolist()
        end = start + size
        sound = (
            NOTHING < number < _LAST
            and start >= self.segment.header.data_offset
            and start % PAGE == size % PAGE == 0
            and 0 < size <= LIMIT
            and 0 < slots < 1 << 40
            and slots & (slots - 1) == 0
            and start + 8 * slots <= tail <= end
        )
        memory = self._map
        if sound and end > len(memory):
            with self._mapping:
                if self.words is NO_WORDS:
                    return _CLOSED
                sound = end <= self.size()
                memory = self._map_to(end) if sound else memory
        if sound:
            return Generation(memory, number, start, size, slots, verified=self._verified)
        if words is self.words and words[DICT_ROOT] == number:
            raise self.corrupt(
                f"generation {number} begins at byte {start}, has {size} bytes, {slots} slots and "
                f"its tail at {tail}"
            )
        return _CLOSED  # not to be used: the root is another one by now

    def _map_to(self, end: int) -> mmap.mmap:
        region = map_region(self.descriptor, "rw", 0, end)
        assert region.memory is not None  # of no bytes only
        self._map = region.memory
        return region.memory

    def close(self) -> None:
        """Let go of the memory: what is left is an empty generation, number NOTHING."""
        with self._mapping:
            self.words = NO_WORDS  # first: see `current`
        self._now, self._map = _CLOSED, _NO_MAP

    # -- the memory --------------------------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """The memory's descriptor; not to be closed."""
        return self.segment.membership.presence.descriptor

    def size(self) -> int:
        """Bytes of the memory, with what it grew by."""
        return os.fstat(self.descriptor).st_size

    def fill_holes(self, start: int, end: int) -> None:
        """Have room for what is there: a copy of a file may have holes, and a store is a SIGBUS.

        Raises:
            OSError: ENOSPC: there is no room; nothing was changed.
        """
        url = self.segment.buffer.url
        if url.scheme != "anon":
            fill_holes(self.descriptor, end, url, start=start)

    def make_room(self, start: int, end: int) -> None:
        """Have memory that is there, and may be written, from one byte to another.

        Raises:
            OSError: ENOSPC: there is no room; nothing was changed.
        """
        present = self.size()
        if start < present:
            self.fill_holes(start, min(end, present))
        if end > present:
            reserve(self.descriptor, end, self.segment.buffer.url, start=present)

    def open_new(self, number: int, start: int, size: int, slots: int) -> Generation:
        """A generation to be filled: with empty slots, and known to no other process."""
        memory = self._map
        if start + size > len(memory):
            memory = self._map_to(start + size)
        generation = Generation(memory, number, start, size, slots, verified=self._verified)
        # Bytes of a generation from long ago may be there.
        memory[start : generation.log] = bytes(8 * slots)
        return generation

    def publish(self, generation: Generation, tail: int) -> None:
        """Have a generation count in place of the one before it."""
        words, at = self.words, fields_at(generation.number)
        if self._verified:  # what was on the disk stays there, if the machine stops
            self._sync(generation, generation.start, generation.end)
        words[at + _START] = generation.start
        words[at + _SIZE] = generation.end - generation.start
        words[at + _SLOTS] = generation.mask + 1
        words[at + _TAIL] = tail  # step: dict.fields
        words[DICT_ROOT] = generation.number  # step: dict.root
        self._now = generation
        if self._verified:  # before the old one is overwritten
            self._sync(generation, 0, PAGE)

    def _sync(self, generation: Generation, start: int, end: int) -> None:
        first = start - start % mmap.PAGESIZE
        generation.memory.flush(first, end - first)

    def flush(self) -> None:
        """Write what was changed to the disk, for files."""
        generation = self.current()
        if generation.number != NOTHING:
            generation.memory.flush()

    def corrupt(self, detail: str) -> CorruptSegment:
        """The error that says what is broken, and what helps."""
        where = str(self.segment.buffer.url)
        return CorruptSegment(
            f"{self.segment.kind.noun} {where!r} is corrupt: {detail}; drop_damaged() removes the "
            "entries that are broken, if that is all; else unlink it and create it anew",
            where=where,
            detail=detail,
        )
