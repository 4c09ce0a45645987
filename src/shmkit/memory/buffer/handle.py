"""The life of a handle on shared memory: made, asked what it is, closed, unlinked."""

from __future__ import annotations

import errno
import mmap
import os
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Never, Self, SupportsIndex

from shmkit.compiled import Exporter
from shmkit.errors import ClosedError, IncompatibleSegment
from shmkit.memory import creation
from shmkit.memory.allocation import reserve_holes
from shmkit.memory.buffer.exports import Exports
from shmkit.memory.checks import named_plainly
from shmkit.memory.identity import Exact, close_if, identity_of
from shmkit.memory.mapping import Access, Region, attach_region, checked_access
from shmkit.memory.ownership import Ownership, remove
from shmkit.memory.process import this_process
from shmkit.memory.told import told
from shmkit.memory.url import Url

if TYPE_CHECKING:
    from shmkit.memory.creation import Opened

__all__ = ["Handle"]


@named_plainly
class Handle(Exporter):
    """One process's hold on a range of shared memory.

    Closing is always safe: memory stays as long as a view of it is in use. The creator of a named
    segment owns the name: it is removed when the creator's `with` ends, or its process.
    """

    __slots__ = (
        "__weakref__",
        "_access",
        "_buf",
        "_complete",
        "_created",
        "_descriptors",
        "_exports",
        "_identity",
        "_map",
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
    _complete: bool  # all of the memory, as it was then
    _identity: Exact
    _owner: Ownership | None
    _unlinked: bool
    _exports: Exports
    _buf: memoryview | None  # what .buf gave out last
    _region: Region | None
    # One step closer to the hot paths: _region.whole, and the map if it is these bytes exactly.
    _whole: memoryview | None
    _map: mmap.mmap | None
    _descriptors: list[int]  # of anonymous memory: the memfd; a list, for its atomic pop
    _pid: int  # the process that has to close this handle; 0: none has to

    def __init__(self, *_: Never, **__: Never) -> None:
        name = type(self).__name__
        raise TypeError(
            f"{name} has no constructor: use {name}.create() for memory that is not there yet, "
            f"{name}.attach() for what is there, {name}.ensure() for either"
        )

    @classmethod
    def _make(
        cls, opened: Opened, access: Access, region: Region, offset: int, *, complete: bool
    ) -> Self:
        """A handle on a region of opened memory, which begins at byte `offset`."""
        self = cls.__new__(cls)
        self._url = opened.url
        self._access = access
        self._created = opened.created
        self._offset = offset
        self._size = len(region.whole)
        self._complete = complete
        self._identity = opened.identity
        self._owner = opened.owner
        self._exports = Exports()
        self._buf = None
        self._unlinked = False
        self._pid = this_process()
        keeps_fd = opened.url.scheme == "anon" and opened.fd >= 0
        self._descriptors = [opened.keep_fd()] if keeps_fd else []
        self._stand_on(region)  # last: from now on __del__ counts
        if self._owner is not None:
            self._owner.handle = weakref.ref(self)
        return self

    @classmethod
    def _created_from(cls, opened: Opened) -> Self:
        """A handle on new memory, which is mapped already."""
        assert opened.region is not None
        return cls._make(opened, "rw", opened.region, 0, complete=True)

    @classmethod
    def _attached_from(
        cls,
        opened: Opened,
        access: Access,
        offset: SupportsIndex = 0,
        length: SupportsIndex | None = None,
        timeout: float | None = 0,
    ) -> Self:
        """A handle on a part of memory that was there; the timeout is for the writer of a pipe."""
        region, first, complete = attach_region(
            opened.fd, access, offset, length, str(opened.url), timeout
        )
        if access == "rw" and opened.url.scheme == "file":
            # A sparse copy of a file has holes: on a full disk, a write into one would be a SIGBUS.
            try:
                reserve_holes(opened.fd, first, len(region.whole), opened.url)
            except BaseException:
                region.close()
                raise
        return cls._make(opened, access, region, first, complete=complete)

    def _stand_on(self, region: Region) -> None:
        is_exact = region.memory is not None and len(region.memory) == len(region.whole)
        self._map = region.memory if is_exact else None
        self._region, self._whole = region, region.whole

    def _stand_nowhere(self) -> None:
        # First: other threads then know why the bytes are released.
        self._region = self._whole = self._map = None
        # Last: `.buf` looks at _whole after it sets _buf. Not released: a user may have it.
        self._buf = None

    def _move(self, region: Region) -> Region:
        """Go to another map of the memory, and return the one before."""
        before = self._open_region()
        self._stand_on(region)
        self._size = len(region.whole)
        self._buf = None  # last, as in _stand_nowhere
        if before.left:  # another thread closed the handle, and the lines above opened it again
            region.left = True
            self._stand_nowhere()
            region.close()
            raise self._closed_error()
        return before

    url: Url = told("_url", "Where the memory is; `str()` of it is a `where`.")
    name: str = told("_url.name", 'Name of the segment, path of the file, "" for anonymous memory.')
    size: int = told("_size", "Bytes of this buffer.")
    offset: int = told("_offset", "Byte of the memory that is this buffer's byte 0.")
    access: Access = told("_access", 'What may be done: "r", "rw" or "cow" (private changes).')
    created: bool = told("_created", "Whether this handle made the memory.")

    @property
    def owner(self) -> bool:
        """Whether this handle, in this process, has the duty to remove the name in the end."""
        return self._owner is not None and self._owner.here

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

        The map is this handle's: do not close or resize it. It counts as a view: it stays valid
        after `close`, and goes with its last reference.

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
            OSError: ENOTSUP: anonymous memory has no descriptors on this system, or the bytes were
                read and not mapped.
        """
        if not self.mapped:
            raise OSError(errno.ENOTSUP, "was read and is not mapped", str(self._url))
        writable = checked_access(access or self._access) == "rw"
        if self._url.scheme == "anon":
            return self._second_descriptor(writable)
        lost = "was unlinked, and the name leads to other memory now"
        try:
            opened = creation.open_existing(self._url, writable=writable, timeout=0)
        except IncompatibleSegment as error:  # other memory, which has no size yet
            raise FileNotFoundError(errno.ENOENT, lost, str(self._url)) from error
        if opened.identity == self._identity:
            return opened.keep_fd()
        os.close(opened.fd)
        raise FileNotFoundError(errno.ENOENT, lost, str(self._url))

    def _second_descriptor(self, writable: bool) -> int:
        """Another descriptor of anonymous memory, opened by way of the one that is kept."""
        try:
            kept = self._descriptors[0]
        except IndexError:
            self._open_region()  # another thread may have closed the handle
            raise OSError(
                errno.ENOTSUP,
                "anonymous memory has no descriptor on this system: hand it on by fork, or use "
                "'shm:NAME' or 'file:PATH'",
            ) from None
        # O_NONBLOCK: another thread may close the descriptor, and a pipe may get its number.
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(f"/proc/self/fd/{kept}", flags)
        except OSError as error:
            self._open_region()
            if not os.path.isdir("/proc/self/fd"):  # noqa: PTH112
                raise OSError(
                    errno.ENOTSUP,
                    "anonymous memory needs /proc, which this system does not show here, for a "
                    "second descriptor: mount it, or use 'shm:NAME' or 'file:PATH'",
                ) from error
            raise
        if identity_of(os.fstat(fd)) == self._identity[:2]:
            return fd
        os.close(fd)
        raise self._closed_error()

    def close(self, *, strict: bool = False) -> None:
        """Let go of the memory; it goes away with its last view. Closing again does nothing.

        Args:
            strict: refuse while views of this handle are in use.

        Raises:
            BufferError: `strict`, and views are in use; the handle stays open. With
                SHMKIT_DEBUG=1, or `python -X dev`, the message tells where each was made.
        """
        while True:
            region = self._region
            if region is None:
                return
            # First: a resize in another thread looks at this after it has moved the handle.
            region.left = True
            if self._region is region:
                break
            # Another thread has resized the memory in between: close the new region.
        self._stand_nowhere()
        done = not (strict and self._exports.has_map()) and region.close()
        if strict and not done:
            region.reopen()
            region.left = False
            self._stand_on(region)
            raise BufferError(
                f"{self!r} has views in use: {self._exports.describe()}. Delete them first, or "
                "close without strict=True: the memory then stays until the last is gone"
            )
        self._close_descriptors()

    def unlink(self) -> None:
        """Remove the name, of whichever process it is; it does not lead to this memory then.

        Processes that have the memory mapped keep it. Nothing happens if the name is gone already,
        or leads to other memory, or the memory is anonymous. Works after `close`.

        On a filesystem that reuses inode numbers and has no generations for them, a new file of the
        name can be taken for this one. overlayfs may be such; ext4, xfs and tmpfs are not.

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

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
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
        # If the making of a handle failed, some of its attributes are missing.
        if getattr(self, "_region", None) is None:
            return
        try:
            self._warn_if_open()
        finally:
            self._close_descriptors()

    def _is_handed(self) -> bool:
        """Whether it came by fork or pickle: this process may drop it open without a warning."""
        return self._pid != this_process()

    def _warn_if_open(self, warn: Any = warnings.warn, process: Any = this_process) -> None:
        # The defaults are bound here because a finalizer at exit finds the globals gone.
        if self._region is not None and self._pid == process():
            self._pid = 0  # once
            warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def _close_descriptors(self, close: Any = close_if) -> None:
        while self._descriptors:
            try:
                fd = self._descriptors.pop()
            except IndexError:
                return  # another thread was faster
            close(fd, self._identity[:2])

    def _open_region(self) -> Region:
        if self._region is None:
            raise self._closed_error()
        return self._region

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self!r} was closed: attach() again")

    def __repr__(self) -> str:
        state = "closed" if self._region is None else self._access
        return f"<{type(self).__name__} {self._url} size={self._size} {state}>"
