"""Segment: shared memory that describes itself, and the handshake of those who make and join it.

Its bytes are drawn in header.py. Creation: exclusive create, reserve, lock the creation byte,
fields, semaphores, magic, unlock. The lock is the kernel's, so an attacher that finds no magic
knows whether to wait for it or to report a corpse; and who takes a corpse away does it under the
same lock.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final

from shmkit.deadline import Deadline
from shmkit.errors import CorruptSegment, IncompatibleSegment
from shmkit.memory.backends.base import identity_of
from shmkit.memory.buffer import SharedBuffer
from shmkit.memory.ownership import await_tracker
from shmkit.segment import header
from shmkit.segment.header import LEAST_DATA, MAGIC, PAGE, POISONED, READY, STATE
from shmkit.segment.membership import Membership
from shmkit.segment.presence import CREATION_BYTE
from shmkit.segment.semaphores import OWNERSHIP
from shmkit.sync.doorbell import NO_WORDS

if TYPE_CHECKING:
    import mmap

    from shmkit.memory.url import Url, Where
    from shmkit.segment.header import Header
    from shmkit.segment.semaphores import Counts

__all__ = ["PARTICIPANTS", "Segment"]

_NO_MAP: Final[Any] = None
PARTICIPANTS: Final = 24  # what fits into the first page
_TAKEOVER: Final = 5.0  # seconds that ensure waits for a live creator
_POLL: Final = 0.001  # seconds
_GRACE: Final = 0.2  # seconds a creator may take from "the name is there" to "the lock is held"


class Segment:
    """One handle's part in a segment: the memory behind a header that was made or checked.

    Made by `create`, `attach`, `ensure` or `join`.

    Attributes:
        buffer: the memory; the segment closes it.
        membership: this handle among the participants, and its semaphores.
        header: the fixed fields.
        words: the segment as 8-byte words.
        map: the mmap of the memory, for hot paths that slice bytes.
        base: index in `map` of the first byte of the data.
        data_word: index in `words` of the same.
    """

    header: Header
    words: memoryview[int]
    map: mmap.mmap
    base: int
    data_word: int

    def __init__(self, buffer: SharedBuffer, kind: int, semaphores: Counts) -> None:
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
        semaphores: Counts,
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
        size = header.data_offset(participants) + data_size
        buffer = SharedBuffer.create(where, size=size, keep=keep)
        try:
            try:
                self = cls(buffer, kind, semaphores)
            except FileNotFoundError as error:
                raise _taken_over(buffer) from error
            try:
                self._make(header.pack(kind, flags, data_size, participants))
            except BaseException:
                self.membership.close()
                raise
        except BaseException:
            buffer.unlink()  # while it is mapped: nobody can get an inode of the same number
            buffer.close()
            raise
        return self

    @classmethod
    def attach(
        cls,
        where: Where | Url,
        kind: int,
        semaphores: Counts,
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
        while not buffer.size and not deadline.expired():
            buffer.close()  # a file between its creation and its first byte
            time.sleep(_POLL)
            buffer = SharedBuffer.attach(where, timeout=deadline.remaining())
        return cls.join(buffer, kind, semaphores, deadline)

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        kind: int,
        data_size: int,
        semaphores: Counts,
        *,
        flags: int = 0,
        participants: int = PARTICIPANTS,
        keep: bool = False,
    ) -> Segment:
        """Join the one that exists, or make it, also in place of one that a dead creator left.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
            OSError: as `create`.
        """
        deadline = Deadline(_TAKEOVER)
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
                if deadline.expired():
                    raise
            try:
                # Not even a size is as half-made as it gets: ensure gives it one, to look at.
                buffer = SharedBuffer.ensure(where, 1)
            except (FileNotFoundError, IncompatibleSegment):
                if deadline.expired():
                    raise
                time.sleep(_POLL)  # it was unlinked meanwhile, or somebody is just making it
                continue
            if buffer.size == 1 and not buffer.created and not deadline.expired():
                buffer.close()
                time.sleep(_POLL)  # somebody else is at this point, and about to remove it
                continue
            with ExitStack() as undo:
                undo.callback(buffer.close)
                try:
                    if cls._remove_corpse(buffer, semaphores):
                        continue
                    joined = cls.join(buffer, kind, semaphores, deadline)
                except FileNotFoundError:
                    continue  # unlinked meanwhile: it is ours to make after all
                undo.pop_all()
                return joined

    @classmethod
    def join(
        cls,
        buffer: SharedBuffer,
        kind: int,
        semaphores: Counts,
        deadline: Deadline,
    ) -> Segment:
        """Join the segment in a buffer that is attached already; closes the buffer on failure.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
        """
        try:
            if buffer.size < PAGE + LEAST_DATA:
                raise IncompatibleSegment(
                    f"segment {str(buffer.url)!r} is {buffer.size} bytes, a channel needs at least "
                    f"{PAGE + LEAST_DATA}: unlink it or take another name",
                    where=str(buffer.url),
                )
            self = cls(buffer, kind, semaphores)
            try:
                self._await_magic(deadline)
                self._bind()
                self._enter()
            except BaseException:
                self.close()
                raise
        except BaseException:
            buffer.close()
            raise
        return self

    def _make(self, fixed: bytes) -> None:
        with self.membership.entering():
            if self.buffer.url.scheme != "anon":
                try:
                    os.close(self.buffer.descriptor())
                except FileNotFoundError as error:
                    raise _taken_over(self.buffer) from error
            view = self.buffer.buf
            view[8 : 8 + len(fixed)] = fixed  # step: make.fields
            self.buffer.buf[STATE * 8] = READY  # step: make.state
            self._bind()
            self.words[OWNERSHIP] = self.membership.ownership()  # step: make.ownership
            self.membership.enter(self.words, self.header.participants, self.header.incarnation)
            view[:8] = MAGIC  # step: make.magic

    def _enter(self) -> None:
        participants, incarnation = self.header.participants, self.header.incarnation

        def enter() -> None:
            if self.buffer.url.scheme != "anon":
                # Whoever is alone makes semaphores: not for memory that nobody else can find.
                os.close(self.buffer.descriptor())
            self.membership.enter(self.words, participants, incarnation)

        self.membership.admit(enter)

    @staticmethod
    def _remove_corpse(buffer: SharedBuffer, semaphores: Counts) -> bool:
        """Unlink what a creator left half-made; whether it was that."""

        def is_corpse() -> bool:
            return buffer.created or header.is_half_made(bytes(buffer.buf[:PAGE]), buffer.size)

        grace = Deadline(0 if buffer.created else _GRACE)
        while is_corpse() and not grace.expired():
            time.sleep(_POLL)  # its creator may be on the way to the lock
        if not is_corpse():
            return False
        with closing(Membership(buffer, semaphores)) as membership, membership.entering():
            # Looked at again, now that no creator can be at it.
            if not is_corpse():
                return False
            incarnation = header.incarnation(bytes(buffer.buf[:PAGE]))
            if incarnation is not None:
                membership.discard_semaphores(incarnation)
            if not buffer.created:
                status = os.fstat(membership.presence.descriptor)
                await_tracker(buffer.url, identity_of(status))
            buffer.unlink()
            return True

    def _await_magic(self, deadline: Deadline) -> None:
        view, where = self.buffer.buf, str(self.buffer.url)
        grace = Deadline(_GRACE)
        while (found := bytes(view[:8])) != MAGIC:
            if any(found):
                raise IncompatibleSegment(
                    f"{where!r} begins with {found!r}, a shmkit segment with {MAGIC!r}: it is not "
                    "ours, or of another layout version",
                    where=where,
                )
            being_made = self.membership.presence.others(CREATION_BYTE)
            if not being_made and grace.expired() and bytes(view[:8]) != MAGIC:
                raise IncompatibleSegment(
                    f"segment {where!r} is half-made and its creator is gone: unlink it, or let "
                    "ensure() take it over",
                    where=where,
                )
            if being_made and deadline.expired() and grace.expired():
                raise IncompatibleSegment(
                    f"segment {where!r} is still being made: give attach a timeout", where=where
                )
            time.sleep(_POLL)  # waiting for the creation lock would mean to take it from them

    def _bind(self) -> None:
        """Check the header, and take from it what the hot paths use."""
        where, size = str(self.buffer.url), self.buffer.size
        self.header = header.unpack(bytes(self.buffer.buf[:PAGE]), self.kind, size, where)
        self.map, start = self.buffer.raw
        if start:
            raise ValueError(f"segment {where!r} is not attached from its first byte on")
        self.base = self.header.data_offset
        self.words = memoryview(self.map)[: self.header.total].cast("Q")
        self.data_word = self.header.data_offset // 8

    # -- being there, and going out --------------------------------------------------------------

    def poison(self, detail: str) -> CorruptSegment:
        """Mark the segment as broken for everybody, and give the error to raise."""
        self.words[STATE] = POISONED
        return self.corrupt(detail)

    def corrupt(self, detail: str) -> CorruptSegment:
        """The error that says what is broken."""
        return self.membership.corrupt(detail)

    def close(self) -> None:
        """Leave; the memory goes with the last view of it. Idempotent."""
        self.membership.close()
        self.words, self.map = NO_WORDS, _NO_MAP
        self.buffer.close()

    def unlink(self) -> None:
        """Remove the name: nobody can attach any more, who is there goes on."""
        self.buffer.unlink()
        self.membership.unlink_semaphores()


def _taken_over(buffer: SharedBuffer) -> FileExistsError:
    return FileExistsError(
        f"{str(buffer.url)!r} was taken for a dead creator's, and taken over by another process"
    )
