"""Generation: an index and a log of entries, in one region of the memory.

    start   slots    one word each: 0 empty, 1 deleted, else tag << 40 | offset of the entry / 8
    ...     entries  in the order in which they were written; never changed; the next begins at tail

A key is looked for from the slot that its hash names, one slot after the other, up to an empty one
(linear probing: Knuth, "The Art of Computer Programming" 3, 6.4, algorithm L). The log is that of a
log-structured store (Bitcask). Reading needs no lock: an entry is there before its slot names it,
stays as it is, and is overwritten only by a later generation: the root tells of that.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from shmkit.segment.words import DICT_ENTRY_HEAD

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

__all__ = ["DELETED", "HEAD", "Broken", "Entry", "Generation", "hash_of", "room_of", "slot_word"]

HEAD: Final = struct.Struct(DICT_ENTRY_HEAD)
DELETED: Final = 1
_TAG_SHIFT: Final = 40
_OFFSET: Final = (1 << _TAG_SHIFT) - 1
_AFTER_CHECKSUM: Final = struct.Struct("<QIII")


class Broken(Exception):
    """What is there can not be: it was overwritten, or belongs to a later generation."""


class Entry(NamedTuple):
    """One entry of the log: where it is, and what its head says."""

    at: int
    version: int
    key_size: int
    value_size: int
    checksum: int
    kind: int

    @property
    def value_at(self) -> int:
        """Where in the map its value begins."""
        return self.at + HEAD.size + self.key_size

    @property
    def end(self) -> int:
        """Where in the map it ends."""
        return self.value_at + self.value_size


def hash_of(key: bytes) -> int:
    """32 bits of a key, the same in every process."""
    return zlib.crc32(key)


def room_of(key: bytes, content: bytes) -> int:
    """Bytes that an entry takes in the log."""
    size = HEAD.size + len(key) + len(content)
    return size + -size % 8


def slot_word(hashed: int, offset: int) -> int:
    """What a slot says of an entry at an offset in its generation."""
    return hashed >> 8 << _TAG_SHIFT | offset >> 3


class Generation:
    """One generation, as one process sees it.

    Args:
        memory: the map.
        number: which one it is.
        start: byte of the map where it begins.
        size: its bytes.
        slots: how many slots it has, a power of two.
    """

    def __init__(self, memory: mmap.mmap, number: int, start: int, size: int, slots: int) -> None:
        self.memory = memory
        self.number = number
        self.start = start
        self.end = start + size
        self.log = start + 8 * slots
        self.mask = slots - 1
        self.slots = memoryview(memory)[start : self.log].cast("Q")

    @property
    def most(self) -> int:
        """How many slots may be in use: beyond that, looking for a key takes long."""
        return (self.mask + 1) * 3 // 4

    def find(self, key: bytes, hashed: int) -> Entry | None:
        """The entry of a key.

        Raises:
            Broken: see there.
        """
        slots, mask = self.slots, self.mask
        tag, at = hashed >> 8, hashed & mask
        for _ in range(mask + 1):
            word = slots[at]
            if word == 0:
                return None
            if word >> _TAG_SHIFT == tag and word != DELETED:
                entry = self.entry(word)
                if self.key_of(entry) == key:
                    return entry
            at = at + 1 & mask
        raise Broken("no slot is empty")

    def place(self, key: bytes, hashed: int) -> tuple[int, Entry | None]:
        """The slot for a key: its own, or one to be used for it.

        Raises:
            Broken: see there.
        """
        slots, mask = self.slots, self.mask
        tag, at, free = hashed >> 8, hashed & mask, -1
        for _ in range(mask + 1):
            word = slots[at]
            if word == 0:
                return at if free < 0 else free, None
            if word == DELETED:
                free = at if free < 0 else free
            elif word >> _TAG_SHIFT == tag:
                entry = self.entry(word)
                if self.key_of(entry) == key:
                    return at, entry
            at = at + 1 & mask
        raise Broken("no slot is empty")

    def entry(self, word: int) -> Entry:
        """The entry that a slot names.

        Raises:
            Broken: it is not within the log.
        """
        at = self.start + ((word & _OFFSET) << 3)
        if not self.log <= at <= self.end - HEAD.size:
            raise Broken(f"a slot names byte {at - self.start} of {self.end - self.start}")
        entry = Entry(at, *HEAD.unpack_from(self.memory, at))
        if entry.end > self.end:
            raise Broken(f"the entry at byte {at - self.start} is longer than the log")
        return entry

    def key_of(self, entry: Entry) -> bytes:
        """The spelled key of an entry."""
        at = entry.at + HEAD.size
        return self.memory[at : at + entry.key_size]

    def content_of(self, entry: Entry) -> bytes:
        """The bytes of an entry's value."""
        return self.memory[entry.value_at : entry.end]

    def is_whole(self, entry: Entry) -> bool:
        """Whether the bytes of an entry fit its checksum."""
        return entry.checksum == checksum(
            entry.version, entry.kind, self.memory[entry.at + HEAD.size : entry.end], entry.key_size
        )

    def words(self) -> list[int]:
        """The slots in use, at one moment each."""
        return [word for word in self.slots.tolist() if word > DELETED]

    def entries(self) -> Iterator[Entry]:
        """Every entry that a slot names.

        Raises:
            Broken: as `entry`.
        """
        return map(self.entry, self.words())


def checksum(version: int, kind: int, rest: bytes, key_size: int) -> int:
    """CRC-32 of an entry: of its key and value, and of what its head says of them."""
    head = _AFTER_CHECKSUM.pack(version, key_size, len(rest) - key_size, kind)
    return zlib.crc32(rest, zlib.crc32(head))
