"""Store: the memory of a dict, as one process has it mapped, and the generation that counts.

The memory grows behind the segment's own bytes. A process that finds a generation beyond its map
maps the memory anew. Views of the old map stay valid, for both show the same pages.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, Any, Final

from shmkit.channels.mapping.generation import Generation
from shmkit.memory.allocation import reserve
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.words import (
    DICT_GENERATIONS,
    DICT_ROOT,
    GENERATION_WORDS,
    GENERATIONS,
    PAGE,
)

if TYPE_CHECKING:
    from shmkit.errors import CorruptSegment
    from shmkit.segment.segment import Segment

__all__ = ["NOTHING", "Store", "fields_at"]

NOTHING: Final = 0
"""The root of a closed handle; generations count from 1."""

_NO_MAP: Final[Any] = bytes(8)
_START, _SIZE, _SLOTS, _TAIL = range(GENERATION_WORDS)
_NO_HOLES: Final = {errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES, errno.ENOSYS}


def fields_at(number: int) -> int:
    """Index of the first word that says where a generation is."""
    return DICT_GENERATIONS + number % GENERATIONS * GENERATION_WORDS


class Store:
    """The memory of one dict, as one handle sees it.

    Args:
        segment: the segment.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.words = segment.words
        self._map = segment.map
        self._now = self._open_generation(self.words[DICT_ROOT])

    def current(self) -> Generation:
        """The generation that counts.

        Raises:
            CorruptSegment: what says where it is can not be.
            OSError: the memory grew, and can not be mapped.
        """
        now, root = self._now, self.words[DICT_ROOT]
        while now.number != root:
            now = self._open_generation(root)
            if self.is_current(now):
                self._now = now
                return now
            root = self.words[DICT_ROOT]  # another one followed meanwhile
        return now

    def is_current(self, generation: Generation) -> bool:
        """Whether a generation still counts: then what was read of it before is sound."""
        return self.words[DICT_ROOT] == generation.number

    def region(self, number: int) -> tuple[int, int]:
        """Where one of the last generations begins and ends, in bytes of the memory."""
        at = fields_at(number)
        return self.words[at + _START], self.words[at + _START] + self.words[at + _SIZE]

    def tail_word(self, generation: Generation) -> int:
        """Index of the word that says where the next entry of a generation begins."""
        return fields_at(generation.number) + _TAIL

    def _open_generation(self, number: int) -> Generation:
        at = fields_at(number)
        start, size, slots, tail = self.words[at : at + GENERATION_WORDS].tolist()
        first = self.segment.header.data_offset
        sound = (
            number > NOTHING
            and start >= first
            and start % PAGE == size % PAGE == 0
            and slots > 0
            and slots & (slots - 1) == 0
            and start + 8 * slots <= tail <= start + size
        )
        if sound and start + size > len(self._map):
            sound = start + size <= self.size()
            if sound:
                self._map = mmap.mmap(self.descriptor, start + size)
        if not sound and self.words[DICT_ROOT] == number:
            raise self.corrupt(
                f"generation {number} begins at byte {start}, has {size} bytes, {slots} slots and "
                f"its tail at {tail}"
            )
        if not sound:
            return self._now  # its fields are those of a later one by now
        return Generation(self._map, number, start, size, slots)

    def close(self) -> None:
        """Let go of the memory: what is left is an empty generation, number NOTHING."""
        self.words, self._map = NO_WORDS, _NO_MAP
        self._now = Generation(_NO_MAP, NOTHING, 0, 8, 1)

    # -- the memory --------------------------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """The memory's descriptor; not to be closed."""
        return self.segment.membership.presence.descriptor

    def size(self) -> int:
        """Bytes of the memory, with what it grew by."""
        return os.fstat(self.descriptor).st_size

    def make_room(self, start: int, end: int) -> None:
        """Have memory that is there, and may be written, from one byte to another.

        Raises:
            OSError: ENOSPC: there is no room; nothing was changed.
        """
        url, present = self.segment.buffer.url, self.size()
        if start < present and url.scheme != "anon" and hasattr(os, "posix_fallocate"):
            # Pages that were given back have no room any more: a store would be a SIGBUS.
            os.posix_fallocate(self.descriptor, start, min(end, present) - start)
        if end > present:
            reserve(self.descriptor, end, url, start=present)

    def open_new(self, number: int, start: int, size: int, slots: int) -> Generation:
        """A generation to be filled: with empty slots, and known to no other process."""
        if start + size > len(self._map):
            self._map = mmap.mmap(self.descriptor, start + size)
        generation = Generation(self._map, number, start, size, slots)
        # Bytes of a generation from long ago may be there.
        self._map[start : generation.log] = bytes(8 * slots)
        return generation

    def publish(self, generation: Generation, tail: int) -> None:
        """Have a generation count in place of the one before it."""
        words, at = self.words, fields_at(generation.number)
        words[at + _START] = generation.start
        words[at + _SIZE] = generation.end - generation.start
        words[at + _SLOTS] = generation.mask + 1
        words[at + _TAIL] = tail  # step: dict.fields
        words[DICT_ROOT] = generation.number  # step: dict.root
        self._now = generation

    def give_back(self, start: int, end: int) -> None:
        """Let the system have the pages of a region that no process needs."""
        try:
            self._map.madvise(mmap.MADV_REMOVE, start, end - start)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_HOLES:
                raise

    def flush(self) -> None:
        """Write what was changed to the disk, for files."""
        self._map.flush()

    def corrupt(self, detail: str) -> CorruptSegment:
        """The error that says what is broken."""
        return self.segment.corrupt(detail)
