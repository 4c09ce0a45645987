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

from shmkit.channels.mapping.keys import decode_key
from shmkit.segment.words import DICT_ENTRY_HEAD, DICT_SUMMED, SLOT_DELETED, SLOT_TAG

if TYPE_CHECKING:
    import mmap

__all__ = ["HEAD", "Broken", "Entry", "Generation", "hash_of", "room_of", "slot_word"]

HEAD: Final = struct.Struct(DICT_ENTRY_HEAD)
_OFFSET: Final = (1 << SLOT_TAG) - 1
_SUMMED: Final = struct.Struct(DICT_SUMMED)


class Broken(Exception):
    """What is there can not be: it was overwritten, or belongs to a later generation."""


class Entry(NamedTuple):
    """One entry of the log: where it is, what its head says, and where its value is."""

    at: int
    version: int
    key_size: int
    value_size: int
    checksum: int
    kind: int
    value_at: int
    end: int


def hash_of(key: bytes) -> int:
    """32 bits of a key, the same in every process."""
    return zlib.crc32(key)


def room_of(key: bytes, content: bytes) -> int:
    """Bytes that an entry takes in the log."""
    size = HEAD.size + len(key) + len(content)
    return size + -size % 8


def slot_word(hashed: int, offset: int) -> int:
    """What a slot says of an entry at an offset in its generation."""
    return hashed >> 8 << SLOT_TAG | offset >> 3


class Generation:
    """One generation, as one process sees it.

    Args:
        memory: the map.
        number: which one it is.
        start: byte of the map where it begins.
        size: its bytes.
        slots: how many slots it has, a power of two.
        verified: whether entries have to fit their checksums.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        number: int,
        start: int,
        size: int,
        slots: int,
        *,
        verified: bool = False,
    ) -> None:
        self.verified: bool = verified
        self.memory: mmap.mmap = memory
        self.number: int = number
        self.start: int = start
        self.end: int = start + size
        self.log: int = start + 8 * slots
        self.mask: int = slots - 1
        self.slots: memoryview[int] = memoryview(memory)[start : self.log].cast("Q")

    @property
    def most(self) -> int:
        """How many slots may be in use: beyond that, looking for a key takes long."""
        return (self.mask + 1) * 3 // 4

    def find(self, key: bytes, hashed: int) -> Entry | None:
        """The entry of a key.

        Raises:
            Broken: see there.
        """
        return self.place(key, hashed)[1]

    def place(self, key: bytes, hashed: int) -> tuple[int, Entry | None]:
        """The slot for a key: its own with its entry, or one to be used for it.

        Raises:
            Broken: see there.
        """
        slots, mask = self.slots, self.mask
        tag, at, free = hashed >> 8, hashed & mask, -1
        for _ in range(mask + 1):
            word = slots[at]
            if word == 0:
                return at if free < 0 else free, None
            if word == SLOT_DELETED:
                free = at if free < 0 else free
            elif word >> SLOT_TAG == tag:
                entry = self.entry(word)
                # Another key with the same tag is rare: it may be this one, damaged.
                is_it = self.key_of(entry) == key
                if self.verified and not self.is_whole(entry):
                    raise Broken(f"the entry of slot {at} does not fit its checksum")
                if is_it:
                    return at, entry
            at = at + 1 & mask
        raise Broken("no slot is empty")

    def fill_slot(self, hashed: int, word: int) -> None:
        """Enter a key that is not there, while no process knows this generation."""
        slots, mask = self.slots, self.mask
        at = hashed & mask
        while slots[at]:
            at = at + 1 & mask
        slots[at] = word

    def entry(self, word: int) -> Entry:
        """The entry that a slot names.

        Raises:
            Broken: it is not within the log.
        """
        at = self.start + ((word & _OFFSET) << 3)
        if not self.log <= at <= self.end - HEAD.size:
            raise Broken(f"a slot names byte {at - self.start} of {self.end - self.start}")
        version, key_size, value_size, total, kind = HEAD.unpack_from(self.memory, at)
        value_at = at + HEAD.size + key_size
        entry = Entry(
            at, version, key_size, value_size, total, kind, value_at, value_at + value_size
        )
        if entry.end > self.end:
            raise Broken(f"the entry at byte {at - self.start} is longer than the log")
        if version >> 63:
            raise Broken(f"the entry at byte {at - self.start} has version {version}")
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
        rest = memoryview(self.memory)[entry.at + HEAD.size : entry.end]
        return entry.checksum == checksum(entry.version, entry.kind, rest, entry.key_size)

    def words(self) -> list[tuple[int, int]]:
        """Each slot in use, and what it says; at one moment each."""
        return [(at, word) for at, word in enumerate(self.slots.tolist()) if word > SLOT_DELETED]

    def entries(self, words: list[tuple[int, int]]) -> list[Entry]:
        """The entries that slots name, in the order in which they were written.

        Raises:
            Broken: as `entry`; or one does not fit its checksum.
        """
        entries = []
        for at, word in words:
            entry = self.entry(word)
            if self.verified and not self.is_whole(entry):
                raise Broken(f"the entry of slot {at} does not fit its checksum")
            entries.append(entry)
        return sorted(entries)

    def damaged(self) -> list[int]:
        """The slots whose entries are broken, or have a key that is none."""
        return [at for at, word in self.words() if not self._is_sound(word)]

    def _is_sound(self, word: int) -> bool:
        try:
            entry = self.entry(word)
            decode_key(self.key_of(entry))
        except (Broken, ValueError):
            return False
        return not self.verified or self.is_whole(entry)


def checksum(version: int, kind: int, rest: bytes | memoryview, key_size: int) -> int:
    """CRC-32 of an entry: of its key and value, and of what its head says of them."""
    head = _SUMMED.pack(version, key_size, len(rest) - key_size, kind)
    return zlib.crc32(rest, zlib.crc32(head))
