"""The header of a segment: what its creator writes once, and the checks an attacher makes of it.

Its bytes are drawn in words.py.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shmkit.errors import CorruptSegment, IncompatibleSegment
from shmkit.segment.participants import start_time
from shmkit.segment.words import (
    ARRAY_KIND,
    BROADCAST_KIND,
    CALLS_KIND,
    CHECKSUM,
    CHECKSUM_AT,
    DICT_KIND,
    EVENT_KIND,
    FIXED,
    FIXED_AT,
    JOINABLE_QUEUE_KIND,
    KINDS,
    LATEST_KIND,
    LEAST_DATA,
    LINE,
    LOCK_KIND,
    MAGIC,
    MOST_PARTICIPANTS,
    OBJECT_RING_KIND,
    ONCE_KIND,
    PAGE,
    PARTICIPANTS_AT,
    POISONED,
    QUEUE_KIND,
    READY,
    RESULTS_KIND,
    RING_KIND,
    SEMAPHORE_KIND,
    STATE,
    VERSION,
)

if TYPE_CHECKING:
    from shmkit.segment.words import Kind

__all__ = ["Header", "corrupt", "data_offset", "fill", "read", "read_fixed", "write"]

_FIXED: Final = struct.Struct(FIXED)
_CHECKSUM: Final = struct.Struct(CHECKSUM)
_WORD: Final = struct.Struct("<Q")
# For each kind, how a user gets at it.
_USED_BY: Final = {
    RING_KIND.number: "Ring.attach",
    BROADCAST_KIND.number: "Broadcast.attach",
    LATEST_KIND.number: "Latest.attach",
    OBJECT_RING_KIND.number: "the program that made it",
    QUEUE_KIND.number: "Queue.attach",
    JOINABLE_QUEUE_KIND.number: "JoinableQueue.attach",
    CALLS_KIND.number: "the executor that made it",
    RESULTS_KIND.number: "the executor that made it",
    LOCK_KIND.number: "Lock.attach",
    EVENT_KIND.number: "Event.attach",
    SEMAPHORE_KIND.number: "Semaphore.attach",
    ONCE_KIND.number: "once(name, build)",
    ARRAY_KIND.number: "SharedArray.attach",
    DICT_KIND.number: "SharedDict.attach",
}


class Header(NamedTuple):
    """What the fixed fields say, checked."""

    kind: int
    flags: int
    total: int
    data_offset: int
    data_size: int
    participants: int
    incarnation: str


def data_offset(participants: int) -> int:
    """Where the data begins behind a table of so many participants, in bytes.

    Raises:
        ValueError: too few or too many participants.
    """
    if not 0 < participants <= MOST_PARTICIPANTS:
        raise ValueError(
            f"participants={participants}: a segment has 1 to {MOST_PARTICIPANTS} of them"
        )
    header = PARTICIPANTS_AT * 8 + participants * LINE
    return -(-header // PAGE) * PAGE


def fill(view: memoryview, kind: Kind, flags: int, data_size: int, participants: int) -> None:
    """Write the header of a new segment with participants, into memory of zeros."""
    write(view, kind, flags, data_offset(participants), data_size, participants)


def write(
    view: memoryview, kind: Kind, flags: int, offset: int, data_size: int, participants: int = 0
) -> None:
    """Write a header of this process's making into memory that no other process knows yet."""
    _FIXED.pack_into(
        view,
        FIXED_AT,
        VERSION,
        kind.number,
        flags,
        offset + data_size,
        offset,
        data_size,
        participants,
        os.urandom(16),
        _boot(),
        os.getpid(),
        start_time(),
        time.time_ns(),
    )
    _CHECKSUM.pack_into(view, CHECKSUM_AT, zlib.crc32(view[FIXED_AT:CHECKSUM_AT]))
    _WORD.pack_into(view, STATE * 8, READY)
    # Last: in memory that has its name already, the magic says that the rest is there.
    view[: len(MAGIC)] = MAGIC


def read(memory: Any, kind: Kind, size: int, where: str) -> Header:
    """Read the header of a segment with participants, and check what the code will believe of it.

    Args:
        memory: the map; of PAGE bytes at least.
        kind: what has to live there.
        size: bytes of the memory.
        where: url, for messages.

    Raises:
        IncompatibleSegment: no segment, or another layout version or kind.
        CorruptSegment: a field that can not be.
    """
    header = read_fixed(memory, kind, where)
    total, offset, data_size, participants = header[2:6]
    sound = (
        total <= size
        and total == offset + data_size
        and data_size >= (0 if kind.control else LEAST_DATA)
        and data_size & (data_size - 1) == 0
        and 0 < participants <= MOST_PARTICIPANTS
        and offset == data_offset(participants)
    )
    if not sound:
        raise corrupt(
            f"segment {where!r}",
            f"total {total}, data offset {offset}, data size {data_size} and {participants} "
            f"participants do not fit each other or the {size} bytes there are",
            where,
        )
    state = _WORD.unpack_from(memory, STATE * 8)[0]
    # A control page is never shut down: it has one state only.
    if not READY <= state <= (READY if kind.control else POISONED):
        allowed = f"none of {READY} to {POISONED}" if not kind.control else f"and always {READY}"
        raise corrupt(f"segment {where!r}", f"state {state} is {allowed}", where)
    return header


def read_fixed(memory: Any, kind: Kind, where: str) -> Header:
    """Read the fields of any header; whether they fit each other is for the caller to check.

    Args:
        memory: as bytes.
        kind: what has to live there.
        where: url, for messages.

    Raises:
        IncompatibleSegment: no segment, or another layout version or kind.
        CorruptSegment: it was cut off or overwritten.
    """
    what = f"{kind.noun} {where!r}"
    magic = bytes(memory[: len(MAGIC)])
    if magic != MAGIC:
        raise IncompatibleSegment(
            f"{where!r} holds no {kind.noun}, and nothing else of this library: it begins with "
            f"{magic!r}, and not with {MAGIC!r}. Take another name, or what made it",
            where=where,
        )
    if len(memory) < PAGE:
        raise corrupt(what, f"it has {len(memory)} bytes, less than its header", where)
    version, found, *fields = _FIXED.unpack_from(memory, FIXED_AT)
    if version != VERSION:
        raise IncompatibleSegment(
            f"segment {where!r} has layout version {version}, this shmkit reads {VERSION}",
            where=where,
        )
    if _CHECKSUM.unpack_from(memory, CHECKSUM_AT)[0] != zlib.crc32(memory[FIXED_AT:CHECKSUM_AT]):
        raise corrupt(what, "the checksum of the header does not fit its fields", where)
    if found != kind.number:
        raise _another_kind(found, kind, where)
    flags, total, offset, data_size, participants, random, *_ = fields
    return Header(found, flags, total, offset, data_size, participants, random.hex())


def _another_kind(found: int, wanted: Kind, where: str) -> IncompatibleSegment:
    if found in KINDS:
        there = _with_article(KINDS[found].noun)
        remedy = f"use {_USED_BY[found]}, or take another name"
    else:
        there = f"something of a newer shmkit (number {found})"
        remedy = "use that, or take another name"
    return IncompatibleSegment(
        f"{where!r} is {there}, not {_with_article(wanted.noun)}: {remedy}", where=where
    )


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def corrupt(what: str, detail: str, where: str) -> CorruptSegment:
    """The error for a segment whose header breaks a rule."""
    return CorruptSegment(
        f"{what} is corrupt: {detail}; it was cut off or overwritten: unlink it and create it anew",
        where=where,
        detail=detail,
    )


_boot_id = 0  # the same for all processes of a machine until it starts again


def _boot() -> int:
    global _boot_id
    if not _boot_id:
        try:
            with open("/proc/sys/kernel/random/boot_id", "rb") as file:  # noqa: PTH123
                _boot_id = int.from_bytes(file.read(8), "little") or 1
        except OSError:
            _boot_id = 1  # not Linux: it is for people only
    return _boot_id
