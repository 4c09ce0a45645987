"""The life of a handle on shared memory: create, attach, ensure, close, unlink."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import warnings
import weakref
from types import TracebackType
from typing import Any, Self, SupportsIndex

from shmkit.errors import ClosedError, IncompatibleSegment
from shmkit.memory import opening
from shmkit.memory.backends.base import Identity
from shmkit.memory.loans import Loans
from shmkit.memory.mapping import (
    Access,
    Region,
    checked_access,
    checked_range,
    map_anonymous,
    map_region,
    memory_size,
    read_region,
)
from shmkit.memory.opening import Opened
from shmkit.memory.ownership import Ownership, remove
from shmkit.memory.reserve import checked_size
from shmkit.memory.url import Url, Where

__all__ = ["Handle"]

# What mmap says of things that have bytes but no pages.
_NOT_MAPPABLE = {errno.ENODEV, errno.EACCES, errno.EINVAL, errno.EPERM}


class Handle:
    """One process's hold on a range of shared memory.

    Closing is always safe: memory stays as long as a view of it is in use. The creator of a named
    segment owns the name: it is removed when the creator's `with` ends, or its process.
    """

    __slots__ = (
        "__weakref__",
        "_access",
        "_created",
        "_descriptors",
        "_identity",
        "_loans",
        "_memory_size",
        "_offset",
        "_owner",
        "_pid",
        "_region",
        "_size",
        "_unlinked",
        "_url",
        "_whole",
    )

    _url: Url
    _access: Access
    _created: bool
    _offset: int
    _size: int
    _identity: Identity
    _owner: Ownership | None
    _unlinked: bool
    _loans: Loans
    _region: Region | None
    _whole: memoryview | None  # _region.whole, one step closer to the hot paths
    _descriptors: list[int]  # of anonymous memory: the memfd; a list, for its atomic pop
    _pid: int  # that has to close this handle; 0: nobody has to

    def __init__(self) -> None:
        raise TypeError(
            f"{type(self).__name__} has no constructor: use {type(self).__name__}.create(), "
            ".attach() or .ensure()"
        )

    # ------------------------------------------------------------------ getting hold

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
        with opening.create(url, size, keep=keep, mode=mode) as opened:
            return cls._created_from(opened, size)

    @classmethod
    def attach(
        cls,
        where: Where | Url | Handle,
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
        if isinstance(where, Handle):
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

        Of several processes that call this at the same time exactly one creates. What a creator
        left without a size when it was killed is taken over.

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
        url, wanted = Url.parse(where), checked_size(size)
        with opening.ensure(url, wanted, keep=keep, mode=mode) as opened:
            if opened.created:
                return cls._created_from(opened, wanted)
            found = os.fstat(opened.fd).st_size
            if found < wanted and stat.S_ISREG(os.fstat(opened.fd).st_mode):
                raise IncompatibleSegment(
                    f"{url} has {found} bytes, and {wanted} are asked for: unlink it, ask for "
                    "less, or take another name",
                    where=str(url),
                )
            return cls._attached_from(opened, "rw", 0, None)

    @classmethod
    def _created_from(cls, opened: Opened, size: int) -> Self:
        region = map_anonymous(size) if opened.fd < 0 else map_region(opened.fd, "rw", 0, size)
        return cls._make(opened, "rw", region, 0, size)

    @classmethod
    def _attached_from(
        cls,
        opened: Opened,
        access: Access,
        offset: SupportsIndex,
        length: SupportsIndex | None,
    ) -> Self:
        what = str(opened.url)
        size = memory_size(opened.fd)
        if size is None and access == "r":
            region = read_region(opened.fd, offset, length, what)
            return cls._make(opened, access, region, int(offset), len(region.whole))
        if size is None and not stat.S_ISREG(os.fstat(opened.fd).st_mode):
            raise OSError(
                errno.ENODEV, "cannot be mapped; with access='r' it would be read instead", what
            )
        first, count = checked_range(offset, length, size or 0, what)
        try:
            region = map_region(opened.fd, access, first, count)
        except OSError as error:
            if access != "r" or error.errno not in _NOT_MAPPABLE:
                raise
            region = read_region(opened.fd, first, count, what)
        return cls._make(opened, access, region, first, count)

    @classmethod
    def _second(
        cls, other: Handle, access: Access, offset: SupportsIndex, length: SupportsIndex | None
    ) -> Self:
        first, count = checked_range(offset, length, other.size, repr(other))
        fd = other.descriptor(access)
        with Opened(other.url, fd, other._identity) as opened:
            return cls._attached_from(opened, access, other._offset + first, count)

    @classmethod
    def _make(cls, opened: Opened, access: Access, region: Region, offset: int, size: int) -> Self:
        self = cls.__new__(cls)
        self._url = opened.url
        self._access = access
        self._created = opened.created
        self._offset = offset
        self._size = size
        self._identity = opened.identity
        self._owner = opened.owner
        self._region = region
        self._whole = region.whole
        self._loans = Loans()
        self._unlinked = False
        self._pid = os.getpid()
        keeps_fd = opened.url.scheme == "anon" and opened.fd >= 0
        self._descriptors = [opened.keep_fd()] if keeps_fd else []
        if self._owner is not None:
            self._owner.before_exit(weakref.WeakMethod(self._warn_if_open))
        return self

    # ------------------------------------------------------------------ what it is

    @property
    def url(self) -> Url:
        """Where the memory is; `str()` of it is a `where`."""
        return self._url

    @property
    def name(self) -> str:
        """Name of the segment, path of the file, "" for anonymous memory."""
        return self._url.name

    @property
    def size(self) -> int:
        """Bytes of this buffer."""
        return self._size

    @property
    def access(self) -> Access:
        """What may be done: "r", "rw" or "cow" (private changes)."""
        return self._access

    @property
    def created(self) -> bool:
        """Whether this handle made the memory."""
        return self._created

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._region is None

    @property
    def mapped(self) -> bool:
        """False if the bytes were read instead of mapped: a copy, of access "r"."""
        return self._open_region().mapped

    @property
    def raw(self) -> tuple[mmap.mmap, int]:
        """The map, and the index in it of this buffer's byte 0: for hot paths.

        The map is this handle's: do not close or resize it.

        Raises:
            ClosedError: the handle was closed.
            ValueError: nothing is mapped: the buffer is empty, or was read.
        """
        region = self._open_region()
        if region.memory is None:
            raise ValueError(f"{self!r} has no map")
        return region.memory, region.start

    def descriptor(self, access: Access | None = None) -> int:
        """A new descriptor of the memory, with an open file description of its own.

        Args:
            access: as of a handle; None for this handle's.

        Returns:
            A descriptor, not inherited over exec; the caller closes it.

        Raises:
            ClosedError: the handle was closed.
            FileNotFoundError: the name is gone, or leads to other memory by now.
            OSError: ENOTSUP: anonymous memory has no descriptors on this system.
        """
        self._open_region()
        writable = (access or self._access) == "rw"
        if self._url.scheme != "anon":
            opened = opening.open_existing(self._url, writable=writable, timeout=0)
            if opened.identity == self._identity:
                return opened.keep_fd()
            os.close(opened.fd)
            raise FileNotFoundError(
                errno.ENOENT, "was unlinked, and the name leads to other memory now", str(self._url)
            )
        if not self._descriptors:
            raise OSError(
                errno.ENOTSUP,
                "anonymous memory has no descriptor on this system: hand it on by fork, or use "
                "'shm:NAME' or 'file:PATH'",
            )
        flags = os.O_RDWR if writable else os.O_RDONLY
        return os.open(f"/proc/self/fd/{self._descriptors[0]}", flags | os.O_CLOEXEC)

    # ------------------------------------------------------------------ letting go

    def close(self, *, strict: bool = False) -> None:
        """Let go of the memory; it goes away with its last view. Closing again does nothing.

        Args:
            strict: refuse while views of this handle are in use.

        Raises:
            BufferError: `strict`, and views are in use; the handle stays open. With
                SHMKIT_DEBUG=1, or `python -X dev`, the message tells where each was made.
        """
        region = self._region
        if region is None:
            return
        if not region.close() and strict:
            self._use(region.reopened())
            views = self._loans.describe() or ["a view of a view that it gave out"]
            raise BufferError(
                f"{self!r} has views in use: {'; '.join(views)}. Delete them first, or close "
                "without strict=True: the memory then stays until the last is gone"
            )
        self._region = self._whole = None
        self._close_descriptors()

    def unlink(self) -> None:
        """Remove the name, whoever made it; afterwards it does not lead to this memory.

        Those who have it mapped keep it. A name that is gone already, or leads to other memory, is
        left as it is, and anonymous memory has none: then nothing happens. Works after `close`.

        Raises:
            PermissionError: the name is another user's.
        """
        if self._unlinked or self._url.scheme == "anon":
            return
        remove(self._url, self._identity)
        self._unlinked = True
        if self._owner is not None:
            self._owner.drop()

    def __enter__(self) -> Self:
        self._open_region()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if self._owner is None:
            return
        try:
            self._owner.fulfil()
        except OSError as failure:
            if error is None:
                raise
            error.add_note(f"and {self._url} could not be unlinked: {failure}")

    def __del__(self) -> None:
        # A handle whose making failed has not all of its attributes.
        if getattr(self, "_region", None) is None:
            return
        try:
            self._warn_if_open()
        finally:
            self._close_descriptors()

    def _warn_if_open(self, warn: Any = warnings.warn, getpid: Any = os.getpid) -> None:
        # Handles that came by fork or pickle were not opened by this process's own code.
        if self._region is not None and self._pid == getpid():
            self._pid = 0  # once
            warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def _close_descriptors(self) -> None:
        while True:
            try:
                fd = self._descriptors.pop()
            except IndexError:
                return
            os.close(fd)

    # ------------------------------------------------------------------ for subclasses

    def _use(self, region: Region) -> None:
        self._region, self._whole = region, region.whole

    def _open_region(self) -> Region:
        if self._region is None:
            raise self._closed_error()
        return self._region

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self!r} was closed: attach() again")

    def __repr__(self) -> str:
        state = "closed" if self._region is None else self._access
        return f"<{type(self).__name__} {self._url} size={self._size} {state}>"
