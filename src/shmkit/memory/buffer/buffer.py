"""SharedBuffer: bytes that processes share, over anonymous memory, named segments and files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self, SupportsIndex

from shmkit.memory import creation as opening
from shmkit.memory.allocation import checked_size, reserve
from shmkit.memory.buffer.resizing import RESIZING, locked, refuse_if_mapped
from shmkit.memory.buffer.search import Searching
from shmkit.memory.buffer.stream import Streaming
from shmkit.memory.creation import Opened
from shmkit.memory.mapping import (
    Access,
    Region,
    attach_region,
    checked_access,
    checked_range,
    map_region,
)
from shmkit.memory.records.records import Structured
from shmkit.memory.url import Url, Where

__all__ = ["SharedBuffer"]


class SharedBuffer(Searching, Streaming, Structured):
    """Bytes that processes share: the same calls on anonymous, named and file memory.

    `SharedBuffer.create(where, size)` makes memory, `attach(where)` maps it in another process,
    `ensure(where, size)` does what is needed. Threads may share a handle.
    """

    __slots__ = ()

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        size: SupportsIndex | None = None,
        *,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Make memory that was not there, filled with zeros, its room reserved.

        A segment goes with its creator, also when that is killed; then one whose name is not of
        ASCII alone, or has a colon or a line break in it, stays.

        Args:
            where: None or "anon:", "shm:NAME" or "NAME" ("shm:" for a fresh name), "file:PATH" or
                a path object.
            size: bytes, at least 1.
            keep: leave the name of a segment in place when its creator goes. Files always stay.
            mode: permissions of a segment or file, less the umask.

        Raises:
            FileExistsError: it is there.
            ValueError: a name or size that cannot be; nothing was made.
            OSError: ENOSPC: no room; nothing stays behind.
        """
        url, size = Url.parse(where), checked_size(size)
        return cls._create_filled(url, size, None, keep=keep, mode=mode)

    @classmethod
    def attach(
        cls,
        where: Where | Url | SharedBuffer,
        *,
        access: str = "rw",
        offset: SupportsIndex = 0,
        length: SupportsIndex | None = None,
        timeout: float | None = 0,
    ) -> Self:
        """Map memory that is there. It is never resized, never registered, never unlinked.

        Args:
            where: as in `create`; or another buffer, for a second handle on its memory (with
                `offset` and `length` counted in that buffer).
            access: "r" to read, "rw" to read and write, "cow" for private changes that nobody
                else sees and that are lost at the end.
            offset: first byte; any.
            length: bytes; None for all there are.
            timeout: seconds to wait for it to be made; None for ever.

        A file that cannot be mapped (a pipe, a file of /proc) is read instead if access is "r":
        `mapped` tells. A pipe is read to its end, however long its writer takes.

        Raises:
            FileNotFoundError: it is not there.
            IncompatibleSegment: a segment without a size: its creator is not done, or died.
            PermissionError: it is not for this user, or not for writing.
            ValueError: `offset` and `length` reach outside; anonymous memory by name.
        """
        mode = checked_access(access)
        if isinstance(where, SharedBuffer):
            return cls._second(where, mode, offset, length)
        opened = opening.open_existing(Url.parse(where), writable=mode == "rw", timeout=timeout)
        with opened:
            return cls._attached_from(opened, mode, offset, length)

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        size: SupportsIndex,
        *,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Create memory, or attach to all of it if it is there; `created` tells.

        Of several processes that call this at the same time exactly one creates. What is there is
        never changed or resized.

        Args:
            where: as in `create`.
            size: bytes, at least 1; what is there may have more.
            keep: as in `create`.
            mode: as in `create`.

        Raises:
            IncompatibleSegment: what is there has fewer bytes than asked for.
            ValueError: a name or size that cannot be.
            OSError: ENOSPC: no room.
        """
        return cls._ensure_filled(Url.parse(where), checked_size(size), None, keep=keep, mode=mode)

    def resize(self, size: SupportsIndex) -> None:
        """Give the memory another size, and this handle all of it.

        Views made before stay valid, on the bytes they had. Other handles and processes keep
        their maps of the old size; they attach again, or resize to the same size, to see more.

        Shrinking is refused while others map the memory, but whoever attaches between this look
        and the cut, some milliseconds later, is not seen: it is killed by SIGBUS when it touches
        what was cut off. Let nobody attach meanwhile, and no other thread use this handle.

        Resizes of the same memory wait for each other, with its lock of `flock` in hand: who holds
        that himself waits for ever. Other programs must not change a file's size meanwhile: if
        there is no room, it gets back the size that it had.

        Args:
            size: bytes, at least 1. New bytes are zero, and their room is reserved.

        Raises:
            BufferError: it would shrink, and views of this handle are in use, or another handle
                or process maps the memory: it would be killed at the pages cut off.
            ClosedError: the handle was closed.
            FileNotFoundError: the name is gone, or leads to other memory by now.
            OSError: ENOSPC: no room; ENOTSUP: this system cannot resize such memory, or does not
                tell who maps it.
            ValueError: the handle is not of access "rw", or not on all of the memory.
        """
        wanted = checked_size(size)
        self._bytes()
        if self._access != "rw" or not self._complete:
            raise ValueError(
                f"{self!r} cannot be resized: that takes a handle with access='rw' on all of the "
                "memory"
            )
        opened = Opened(self._url, self.descriptor(), self._identity)
        with opened, locked(opened.fd), RESIZING:
            present = os.fstat(opened.fd).st_size
            if wanted > present:
                reserve(opened.fd, wanted, self._url, start=present)
            elif wanted < present:
                self._shrink(opened.fd, wanted)
                return
            old = self._move(map_region(opened.fd, "rw", 0, wanted))
            if not old.close() and old.memory is not None:
                self._loans.give(old.memory, "a view of the memory before it was resized")

    def _shrink(self, fd: int, size: int) -> None:
        before = self._size
        old = self._move(map_region(fd, "rw", 0, size))  # more, if others made it longer
        try:
            if not old.close():
                raise BufferError(
                    f"{self!r} cannot shrink: views of it are in use: {self._views_in_use()}"
                )
            private = self._url.scheme == "anon" or not os.fstat(fd).st_mode & 0o077
            refuse_if_mapped(self._identity[:2], private=private, what=str(self._url))
            os.truncate(fd, size)
        except BaseException:
            self._move(map_region(fd, "rw", 0, before)).close()
            raise

    def _move(self, region: Region) -> Region:
        """Go to another map of the memory, and return the one before."""
        before = self._open_region()
        self._stand_on(region)
        self._size = len(region.whole)
        self._buf = None  # last, as whoever sets it looks at _whole
        if before.left:  # closed by another thread meanwhile, and open again by the lines above
            region.left = True
            self._stand_nowhere()
            region.close()
            raise self._closed_error()
        return before

    @classmethod
    def _create_filled(
        cls,
        url: Url,
        size: int,
        fill: Callable[[memoryview], None] | None,
        *,
        keep: bool,
        mode: int = 0o600,
    ) -> Self:
        """Make memory that has its content before it has its name.

        Args:
            url: where.
            size: bytes, checked.
            fill: called with a writable view of all the bytes, zeros; None to leave them so. An
                exception of it leaves nothing behind. Where memory is made in two steps, the first
                8 bytes it wrote come last.
            keep: as in `create`.
            mode: as in `create`.
        """
        with opening.create(url, size, fill, keep=keep, mode=mode) as opened:
            return cls._created_from(opened)

    @classmethod
    def _ensure_filled(
        cls,
        url: Url,
        size: int,
        fill: Callable[[memoryview], None] | None,
        *,
        keep: bool,
        mode: int = 0o600,
    ) -> Self:
        """Attach to memory of at least `size` bytes, or make it; `created` tells.

        Where memory is made in two steps, this waits a while for the first 8 bytes of what is
        there. The caller checks them.

        Args:
            url: where.
            size: bytes, checked.
            fill: as in `_create_filled`.
            keep: as in `create`.
            mode: as in `create`.
        """
        with opening.ensure(url, size, fill, keep=keep, mode=mode) as opened:
            if opened.created:
                return cls._created_from(opened)
            self = cls._attached_from(opened, "rw")
        if fill is not None:
            pauses = opening.Pauses(opening.PATIENCE)
            while opening.may_be_unfinished(url, self._bytes()) and pauses.take():
                pass
        return self

    @classmethod
    def _attach_filled(
        cls, where: Where | Url | SharedBuffer, *, access: str = "rw", timeout: float | None = 0
    ) -> Self:
        """Attach to memory that begins with a magic; the caller checks it.

        Where memory is made in two steps, the timeout is also for the magic to come.

        Args:
            where: as in `attach`.
            access: as in `attach`.
            timeout: seconds; None for ever.
        """
        pauses = opening.Pauses(timeout)
        while True:
            self = cls.attach(where, access=access, timeout=pauses.remaining())
            if not opening.may_be_unfinished(self._url, self._bytes()):
                return self
            # Its size may come as well: attach again.
            try:
                if not pauses.take():
                    return self
            except BaseException:
                self.close()
                raise
            self.close()

    @classmethod
    def _created_from(cls, opened: Opened) -> Self:
        region = opened.region
        assert region is not None
        return cls._make(opened, "rw", region, 0, complete=True)

    @classmethod
    def _attached_from(
        cls,
        opened: Opened,
        access: Access,
        offset: SupportsIndex = 0,
        length: SupportsIndex | None = None,
    ) -> Self:
        region, first, complete = attach_region(opened.fd, access, offset, length, str(opened.url))
        return cls._make(opened, access, region, first, complete=complete)

    @classmethod
    def _second(
        cls,
        other: SharedBuffer,
        access: Access,
        offset: SupportsIndex,
        length: SupportsIndex | None,
    ) -> Self:
        first, count = checked_range(offset, length, other.size, repr(other))
        opened = Opened(other.url, other.descriptor(access), other._identity)
        with opened:
            return cls._attached_from(opened, access, other._offset + first, count)

    @classmethod
    def _received(cls, opened: Opened, access: Access, offset: int, length: int) -> Self:
        """A handle that another process sent."""
        self = cls._attached_from(opened, access, offset, length)
        self._pid = 0
        return self
