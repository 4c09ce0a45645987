r"""The header of a segment: every byte before the data, and the checks an attacher makes of them.

One page (more when there are many participants), then the data. Little-endian, one writer per
128-byte line; a field is one aligned 8-byte word unless it says otherwise.

    offset  field                                                  written by      read by
    0x000   magic "SHMKIT\x01\0", stored last                      creator         who attaches
    0x008   layout version, kind, flags (u16 each), 2 bytes zero   creator         who attaches
    0x010   total size in bytes                                    creator         who attaches
    0x018   data offset in bytes                                   creator         who attaches
    0x020   data size in bytes, a power of two                     creator         who attaches
    0x028   participants: how many lines there are                 creator         who attaches
    0x030   incarnation: 16 random bytes                           creator         who attaches
    0x040   hash of the boot id                                    creator         people
    0x048   creator's pid, its start time (ticks), created (ns)    creator         people
    0x060   CRC-32 of 0x008-0x05f (u32), 4 bytes zero              creator         who attaches
    0x068   state: READY, SHUT, CUT, POISONED                      anybody         everybody, always
    0x070   whose the semaphores are (sync/semaphores.py)          creator         who leaves
    0x078   epoch: how often the semaphores were made              who enters      who enters
    0x080   producer side: tail, skip, dropped                     producer        consumer
            (of a Ring; others have their own words: broadcast.py, latest.py)
    0x0c0   free for the layer above, like 0x1c0 and 0x200-0x27f
    0x100   deaths: for each role, attached and pid of one whose   who enters      the other side
            line was used again
    0x180   consumer side: head                                    consumer        producer
    0x280   "data" doorbell: someone may be asleep                 both            producer
    0x288   of a gong: how often it was rung (sync/gong.py)        who rings       sleepers
    0x300   "space" doorbell: someone may be asleep                both            consumer
    0x400   participants, 128 bytes each:                          that one
            pid, start time, attached (ns), roles                                  the other side
            phase, ticks and entries, for each of the two sides' locks             waiters
    data offset: the data
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shmkit.errors import CorruptSegment, IncompatibleSegment
from shmkit.segment.participants import PARTICIPANT_LINE, start_time
from shmkit.sync.doorbell import OPEN

__all__ = [
    "CUT",
    "DATA_BELL",
    "DROPPED",
    "HEAD",
    "LEAST_DATA",
    "MAGIC",
    "PAGE",
    "POISONED",
    "READY",
    "SHUT",
    "SKIP",
    "SPACE_BELL",
    "STATE",
    "TAIL",
    "Header",
    "data_offset",
    "incarnation",
    "is_half_made",
    "pack",
    "unpack",
]

MAGIC: Final = b"SHMKIT\x01\0"
VERSION: Final = 1
PAGE: Final = 4096
LEAST_DATA: Final = 4096

# Indices of 8-byte words.
STATE: Final = 0x068 // 8
TAIL: Final = 0x080 // 8
SKIP: Final = TAIL + 1  # an empty ring's consumer at this position goes on at the next lap
DROPPED: Final = TAIL + 2  # frames that a full ring did not take, or threw out
HEAD: Final = 0x180 // 8
DATA_BELL: Final = 0x280 // 8
SPACE_BELL: Final = 0x300 // 8

# The states, as stored. 0 is a header still being written.
READY: Final = OPEN
SHUT: Final = 2  # no more puts; what is there is read
CUT: Final = 3  # no more puts, no more gets
POISONED: Final = 4  # an invariant was seen broken

_FIXED = struct.Struct("<HHHxxQQQQ16sQQQQ")  # 0x008 to 0x05f
_CRC = struct.Struct("<Ixxxx")
_END: Final = 0x068  # of what the creator writes once


@dataclass(frozen=True)
class Header:
    """What the fixed fields say, checked."""

    kind: int
    flags: int
    total: int
    data_offset: int
    data_size: int
    participants: int
    incarnation: str


def data_offset(participants: int) -> int:
    """Where the data begins behind so many lines for participants, in bytes.

    Raises:
        ValueError: too few or too many participants.
    """
    if not 0 < participants <= 1 << 16:
        raise ValueError(f"participants={participants}: a segment has 1 to {1 << 16} of them")
    header = PARTICIPANT_LINE * 8 + participants * 128
    return -(-header // PAGE) * PAGE


def pack(kind: int, flags: int, data_size: int, participants: int) -> bytes:
    """The bytes 0x008 to 0x067 of a new segment made by this process."""
    offset = data_offset(participants)
    pid = os.getpid()
    fixed = _FIXED.pack(
        VERSION,
        kind,
        flags,
        offset + data_size,
        offset,
        data_size,
        participants,
        os.urandom(16),
        _boot_hash(),
        pid,
        start_time(pid),
        time.time_ns(),
    )
    return fixed + _CRC.pack(zlib.crc32(fixed))


def unpack(head: bytes, kind: int, size: int, where: str) -> Header:
    """Read the header of a segment, and check that the rest of the code may believe it.

    Args:
        head: its first page, magic and all.
        kind: what it has to be.
        size: bytes of the memory it is in.
        where: url, for messages.

    Raises:
        IncompatibleSegment: another layout version or kind.
        CorruptSegment: a field that can not be.
    """
    version, found, flags, total, offset, data_size, participants, random, *_ = _FIXED.unpack_from(
        head, 8
    )
    if version != VERSION:
        raise IncompatibleSegment(
            f"segment {where!r} has layout version {version}, this shmkit reads {VERSION}",
            where=where,
        )
    if _CRC.unpack_from(head, 0x60)[0] != zlib.crc32(head[8:0x60]):
        raise _corrupt(where, "the checksum of the header does not fit its fields")
    if found != kind:
        raise IncompatibleSegment(
            f"segment {where!r} holds a channel of kind {found}, not {kind}: attach with the class "
            "that created it",
            where=where,
        )
    sound = (
        total <= size
        and total == offset + data_size
        and data_size >= LEAST_DATA
        and data_size & (data_size - 1) == 0
        and 0 < participants <= 1 << 16
        and offset == data_offset(participants)
    )
    if not sound:
        raise _corrupt(
            where,
            f"total {total}, data offset {offset}, data size {data_size} and {participants} "
            f"participants do not fit each other or the {size} bytes there are",
        )
    state = struct.unpack_from("<Q", head, STATE * 8)[0]
    if not READY <= state <= POISONED:
        raise _corrupt(where, f"state {state} is none of {READY} to {POISONED}")
    return Header(found, flags, total, offset, data_size, participants, random.hex())


def is_half_made(head: bytes, size: int) -> bool:
    """Whether a first page is what a creator leaves that is killed before it stores the magic."""
    if any(head[:8]) or 0 < len(head) < PAGE:
        return False
    if any(head[8:_END]):
        return bool(_CRC.unpack_from(head, 0x60)[0] == zlib.crc32(head[8:0x60]))
    if any(head):
        return False
    # Nothing but zeros may be anybody's: believe it of the sizes that only segments have.
    data = size % PAGE == 0 and any(
        (rest := size - pages * PAGE) >= LEAST_DATA and rest & (rest - 1) == 0
        for pages in range(1, 9)
    )
    return size == 0 or bool(data)


def incarnation(head: bytes) -> str | None:
    """The incarnation in a first page whose fixed fields are complete, or None."""
    if (
        len(head) < PAGE
        or not any(head[8:_END])
        or _CRC.unpack_from(head, 0x60)[0] != zlib.crc32(head[8:0x60])
    ):
        return None
    return head[0x30:0x40].hex()


def _corrupt(where: str, detail: str) -> CorruptSegment:
    return CorruptSegment(
        f"segment {where!r} is corrupt: {detail}; it was cut off or overwritten: unlink it and "
        "create it anew",
        where=where,
        detail=detail,
    )


def _boot_hash() -> int:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        boot = b"unknown"  # not Linux
    return int.from_bytes(hashlib.blake2b(boot, digest_size=8).digest(), "little")
