r"""Segment: shared memory that describes itself, and the handshake of those who make and join it.

One header page (more when there are many participants), then the data. Little-endian, one writer
per 128-byte line; a field is one aligned 8-byte word unless it says otherwise.

    offset  field                                                  written by      read by
    0x000   magic "SHMKIT\x01\0", stored last                      creator         who attaches
    0x008   layout version, kind, flags (u16 each), 2 bytes zero   creator         who attaches
    0x010   total size in bytes                                    creator         who attaches
    0x018   data offset in bytes                                   creator         who attaches
    0x020   data size in bytes, a power of two                     creator         who attaches
    0x028   participants: how many lines there are                 creator         who attaches
    0x030   incarnation: 16 random bytes, the semaphores' name     creator         who attaches
    0x040   hash of the boot id                                    creator         people
    0x048   creator's pid, its start time (ticks), created (ns)    creator         people
    0x060   CRC-32 of 0x008-0x05f (u32), 4 bytes zero              creator         who attaches
    0x068   state: READY, SHUT, CUT, POISONED                      anybody         everybody, always
    0x070   whose the semaphores are, see membership.py            creator         who leaves
    0x080   producer side: tail, skip, claim, pid, death, pid      producer        consumer
    0x180   consumer side: head, cursor, claim, pid, death, pid    consumer        producer
    0x280   "data" doorbell: someone may be asleep                 both            producer
    0x300   "space" doorbell: someone may be asleep                both            consumer
    0x380   locks (kept for the "many" sides)                      holder          waiters
    0x400   participants, 128 bytes each:
            roles, pid, start time, attached (ns)                  that one        people
    data offset: the data

Creation: exclusive create, reserve, lock the creation byte, fields, semaphores, magic, unlock. The
lock is the kernel's, so an attacher that finds no magic knows whether to wait for it or to report a
corpse.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmkit.channels.membership import OWNERSHIP, PARTICIPANT_LINE, Membership, start_time
from shmkit.deadline import Deadline
from shmkit.errors import CorruptSegment, IncompatibleSegment
from shmkit.memory.buffer import SharedBuffer
from shmkit.sync.liveness import CREATION_BYTE

if TYPE_CHECKING:
    import mmap

    from shmkit.memory.url import Url, Where

__all__ = [
    "CONSUMER_LINE",
    "CUT",
    "DATA_BELL",
    "LINE_CLAIM",
    "LINE_DEATH",
    "LINE_DEATH_PID",
    "LINE_PID",
    "POISONED",
    "PRODUCER_LINE",
    "READY",
    "SHUT",
    "SPACE_BELL",
    "STATE",
    "Segment",
]

MAGIC: Final = b"SHMKIT\x01\0"
VERSION: Final = 1
PARTICIPANTS: Final = 24  # what fits into the first page
LEAST_DATA: Final = 4096

# Indices of 8-byte words.
STATE: Final = 0x068 // 8
PRODUCER_LINE: Final = 0x080 // 8
CONSUMER_LINE: Final = 0x180 // 8
DATA_BELL: Final = 0x280 // 8
SPACE_BELL: Final = 0x300 // 8

# Words of a side's line, after its index: tail and skip, or head and cursor.
LINE_CLAIM: Final = 2  # generation * 2, +1 while a handle has the role
LINE_PID: Final = 3  # of whoever claimed last
LINE_DEATH: Final = 4  # generation of the last claim that ended by a death
LINE_DEATH_PID: Final = 5

# The states, as stored. 0 is a header still being written.
READY: Final = 1
SHUT: Final = 2  # no more puts; what is there is read
CUT: Final = 3  # no more puts, no more gets
POISONED: Final = 4  # an invariant was seen broken

_FIXED = struct.Struct("<HHHxxQQQQ16sQQQQ")  # 0x008 to 0x05f
_CRC = struct.Struct("<Ixxxx")
_PAGE: Final = 4096
_TAKEOVER: Final = 5.0  # seconds that ensure waits for a live creator
_GRACE: Final = 0.2  # seconds a creator may take from "the name is there" to "the lock is held"


class Segment:
    """One handle's part in a segment: the memory behind a header that was made or checked.

    Made by `create`, `attach` or `join`. Above it, a channel keeps `words` (the segment as 8-byte
    words), `map` and `base` (the mmap, and the index in it where the data begins) for its hot path.

    Attributes:
        buffer: the memory; the segment closes it.
        membership: this handle among the participants, and its semaphores.
        data_size: bytes of data, a power of two.
        data_word: index of the first word of the data.
    """

    def __init__(
        self,
        buffer: SharedBuffer,
        kind: int,
        semaphores: tuple[str, ...],
    ) -> None:
        self.buffer = buffer
        self.kind = kind
        self.membership = Membership(buffer, semaphores)

    # -- coming in ---------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        where: Where | Url,
        kind: int,
        data_size: int,
        semaphores: tuple[str, ...],
        *,
        flags: int = 0,
        participants: int = PARTICIPANTS,
        keep: bool = False,
    ) -> Segment:
        """Make a new one. Leaves nothing behind when it fails.

        Raises:
            FileExistsError: there is one, or somebody took this one over half-made.
            OSError: ENOSPC, no room for it.
        """
        data_offset = _data_offset(participants)
        buffer = SharedBuffer.create(where, size=data_offset + data_size, keep=keep)
        try:
            self = cls(buffer, kind, semaphores)
            try:
                self._make(data_offset, data_size, flags, participants)
            except BaseException:
                self.close()
                raise
        except BaseException:
            buffer.unlink()
            buffer.close()
            raise
        return self

    @classmethod
    def attach(
        cls,
        where: Where | Url,
        kind: int,
        semaphores: tuple[str, ...],
        *,
        timeout: float | None = 0,
    ) -> Segment:
        """Join one that exists, waiting up to `timeout` seconds for it to be there and finished.

        Raises:
            FileNotFoundError: nothing of that name.
            IncompatibleSegment: not a segment, another kind or version, or half-made by a dead
                creator.
            CorruptSegment: its header breaks a rule.
        """
        deadline = Deadline(timeout)
        buffer = SharedBuffer.attach(where, timeout=timeout)
        return cls.join(buffer, kind, semaphores, deadline)

    @classmethod
    def join(
        cls,
        buffer: SharedBuffer,
        kind: int,
        semaphores: tuple[str, ...],
        deadline: Deadline,
    ) -> Segment:
        """Join the segment in a buffer that is attached already; closes the buffer on failure.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
        """
        try:
            if buffer.size < _PAGE + LEAST_DATA:
                raise IncompatibleSegment(
                    f"segment {str(buffer.url)!r} is {buffer.size} bytes, a channel needs at least "
                    f"{_PAGE + LEAST_DATA}: unlink it or take another name",
                    where=str(buffer.url),
                )
            self = cls(buffer, kind, semaphores)
            try:
                self._await_magic(deadline)
                self._check_header()
                self._bind()
                with self.membership.entering():
                    self.membership.enter(self.words, self.participants, self.incarnation)
            except BaseException:
                self.close()
                raise
        except BaseException:
            buffer.close()
            raise
        return self

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        kind: int,
        data_size: int,
        semaphores: tuple[str, ...],
        *,
        flags: int = 0,
        participants: int = PARTICIPANTS,
        keep: bool = False,
    ) -> Segment:
        """Join the one that exists, or make it, or finish what a dead creator left half-made.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
            OSError: as `create`.
        """
        size = _data_offset(participants) + data_size
        while True:
            try:
                return cls.create(
                    where,
                    kind,
                    data_size,
                    semaphores,
                    flags=flags,
                    participants=participants,
                    keep=keep,
                )
            except FileExistsError:
                pass
            try:
                buffer = SharedBuffer.ensure(where, 1)
            except FileNotFoundError:
                continue  # unlinked between the two: it is ours to make after all
            if buffer.created or buffer.size == size:
                with closing(cls(buffer, kind, semaphores)) as corpse:
                    if corpse._bury():
                        continue
                buffer = SharedBuffer.attach(where)
            return cls.join(buffer, kind, semaphores, Deadline(_TAKEOVER))

    def _bury(self) -> bool:
        """Remove the name of a segment that its creator left half-made; whether it was one."""
        with self.membership.entering():
            header = bytes(self.buffer.buf[:_PAGE])
            if header[:8] == MAGIC or any(header[:8]) or any(header[0x80:]):
                return False
            self.buffer.unlink()
            return True

    def _make(self, data_offset: int, data_size: int, flags: int, participants: int) -> None:
        with self.membership.entering():
            if self.buffer.url.scheme != "anon":
                try:
                    os.close(self.buffer.descriptor())
                except FileNotFoundError as error:
                    raise FileExistsError(
                        f"{str(self.buffer.url)!r} was taken for a dead creator's, and taken over"
                    ) from error
            header = self.buffer.buf[:data_offset]
            header[8:] = bytes(data_offset - 8)
            fixed = _FIXED.pack(
                VERSION,
                self.kind,
                flags,
                data_offset + data_size,
                data_offset,
                data_size,
                participants,
                os.urandom(16),
                _boot_hash(),
                os.getpid(),
                start_time(os.getpid()),
                time.time_ns(),
            )
            header[8:0x60] = fixed
            header[0x60:0x68] = _CRC.pack(zlib.crc32(fixed))
            self._bind()
            self.words[OWNERSHIP] = self.membership.ownership()
            self.membership.enter(self.words, participants, self.incarnation)
            self.words[STATE] = READY
            header[:8] = MAGIC

    def _await_magic(self, deadline: Deadline) -> None:
        view = self.buffer.buf
        grace = Deadline(_GRACE)
        while (found := bytes(view[:8])) != MAGIC:
            if any(found):
                raise IncompatibleSegment(
                    f"{str(self.buffer.url)!r} begins with {found!r}, a shmkit segment "
                    f"with {MAGIC!r}: it is not ours, or of another layout version",
                    where=str(self.buffer.url),
                )
            being_made = self.membership.presence.others(CREATION_BYTE)
            if not being_made and grace.expired() and bytes(view[:8]) != MAGIC:
                raise IncompatibleSegment(
                    f"segment {str(self.buffer.url)!r} is half-made and its creator is gone: "
                    "unlink it, or let ensure() take it over",
                    where=str(self.buffer.url),
                )
            if being_made and deadline.expired() and grace.expired():
                raise IncompatibleSegment(
                    f"segment {str(self.buffer.url)!r} is still being made: give attach a timeout",
                    where=str(self.buffer.url),
                )
            time.sleep(
                0.001
            )  # only the creation lock could wake us, and taking it would hold them up

    def _check_header(self) -> None:
        head = bytes(self.buffer.buf[:_PAGE])
        where = str(self.buffer.url)
        version, kind, _flags, total, offset, size, participants, *_ = _FIXED.unpack_from(head, 8)
        if version != VERSION:
            raise IncompatibleSegment(
                f"segment {where!r} has layout version {version}, this shmkit reads {VERSION}",
                where=where,
            )
        if _CRC.unpack_from(head, 0x60)[0] != zlib.crc32(head[8:0x60]):
            raise CorruptSegment(
                f"segment {where!r}: the checksum of its header does not fit its fields",
                where=where,
                detail="header checksum",
            )
        if kind != self.kind:
            raise IncompatibleSegment(
                f"segment {where!r} holds a channel of kind {kind}, not {self.kind}: "
                "attach with the class that created it",
                where=where,
            )
        sound = (
            total <= self.buffer.size
            and total == offset + size
            and size >= LEAST_DATA
            and size & (size - 1) == 0
            and 0 < participants <= 1 << 16
            and offset == _data_offset(participants)
        )
        if not sound:
            raise CorruptSegment(
                f"segment {where!r}: total {total}, data offset {offset}, data size {size}, "
                f"{participants} participants do not fit each other or the {self.buffer.size} "
                "bytes there are: it was cut off or overwritten",
                where=where,
                detail="sizes",
            )
        state = struct.unpack_from("<Q", head, STATE * 8)[0]
        if not READY <= state <= POISONED:
            raise CorruptSegment(
                f"segment {where!r}: state {state} is none of 1 to 4", where=where, detail="state"
            )

    def _bind(self) -> None:
        """Take what the hot paths use from a header that is known to be sound."""
        _, _, flags, _, offset, size, participants, incarnation, *_ = _FIXED.unpack_from(
            self.buffer.buf, 8
        )
        self.flags: int = flags
        self.data_size: int = size
        self.participants: int = participants
        self.incarnation: str = incarnation.hex()
        mapping, start = self.buffer.raw
        self.map: mmap.mmap = mapping
        self.base: int = start + offset
        self.words: memoryview[int] = memoryview(mapping)[start : start + offset + size].cast("Q")
        self.data_word: int = offset // 8

    # -- being there, and going out --------------------------------------------------------------

    def poison(self, detail: str) -> CorruptSegment:
        """Mark the segment as broken for everybody, and give the error to raise."""
        self.words[STATE] = POISONED
        return self.corrupt(detail)

    def corrupt(self, detail: str) -> CorruptSegment:
        """The error that says what is broken."""
        where = str(self.buffer.url)
        return CorruptSegment(
            f"segment {where!r} is corrupt: {detail}; close it, unlink it and create it anew",
            where=where,
            detail=detail,
        )

    def close(self) -> None:
        """Leave; the memory goes with the last view of it. Idempotent."""
        self.membership.leave()
        self.buffer.close()

    def unlink(self) -> None:
        """Remove the name: nobody can attach any more, who is there goes on."""
        self.buffer.unlink()
        self.membership.unlink_semaphores()


def _data_offset(participants: int) -> int:
    header = PARTICIPANT_LINE * 8 + participants * 128
    return -(-header // _PAGE) * _PAGE


def _boot_hash() -> int:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        boot = b"unknown"  # not Linux
    return int.from_bytes(hashlib.blake2b(boot, digest_size=8).digest(), "little")
