"""From a descriptor to addresses: any byte range, mapped aligned underneath."""

from __future__ import annotations

import errno
import math
import mmap
import operator
import os
import select
import stat
import sys
from typing import Any, Final, Literal, SupportsIndex, TypeAlias

from shmkit.memory.checks import number_of
from shmkit.memory.untracked import forget_descriptor

__all__ = [
    "Access",
    "Region",
    "attach_region",
    "checked_access",
    "checked_range",
    "map_anonymous",
    "map_region",
    "read_region",
    "size_to_map",
]

Access: TypeAlias = Literal["r", "rw", "cow"]

_ACCESS: Final = {"r": mmap.ACCESS_READ, "rw": mmap.ACCESS_WRITE, "cow": mmap.ACCESS_COPY}
_READ_AT_ONCE: Final = 1 << 20
_OURS: Final = 2  # references to a map: of its region, and of the call that counts them
# A map needs no descriptor to live; see untracked.py for the time before 3.13.
_NO_DESCRIPTOR: Final[dict[str, Any]] = (
    {"trackfd": False} if sys.version_info >= (3, 13) and sys.platform != "win32" else {}
)
# What mmap says of files that have bytes but no pages.
_NOT_MAPPABLE: Final = {errno.ENODEV, errno.EINVAL}


class Region:
    """Bytes at addresses; they stay until the last view of them is gone."""

    __slots__ = ("_others", "left", "mapped", "memory", "start", "whole")

    def __init__(
        self, memory: mmap.mmap | None, start: int, whole: memoryview, *, mapped: bool = True
    ) -> None:
        self.memory = memory  # None: no bytes, or a copy; `whole` is then all of a bytes object
        self.start = start  # index in the map of this region's byte 0
        self.whole = whole  # not handed out
        self.mapped = mapped  # False: a copy that was read
        self.left = False  # its handle was closed while on it: no thread may move the handle on
        self._others = 0  # references to a copy that are not of its views; 0: not counted yet

    def close(self) -> bool:
        """Unmap; False if a view or the map is in use: it goes with the last of them."""
        if self.memory is None:
            return self._close_copy()
        try:
            self.whole.release()
            # numpy.ndarray(buffer=view) keeps the map below the view, and the map does not know:
            # only its reference count tells. The map then goes with the last reference.
            if sys.getrefcount(self.memory) > _OURS:
                return False
            self.memory.close()
        except BufferError:
            return False
        return True

    def _close_copy(self) -> bool:
        try:
            content: Any = self.whole.obj
        except ValueError:
            return True  # closed before
        # All views have one reference to the bytes, which goes with the last of them.
        self._others = self._others or sys.getrefcount(content) - 1
        self.whole.release()
        if len(content) < 2 or sys.getrefcount(content) <= self._others:  # shorter ones never go
            return True
        self.whole = memoryview(content)
        return False

    def reopen(self) -> None:
        """Have the bytes again, after a `close` that was not to happen."""
        if self.memory is not None:
            self.whole = memoryview(self.memory)[self.start :]


def checked_access(access: object) -> Access:
    """An `access` argument; a ValueError if it is not "r", "rw" or "cow"."""
    if not isinstance(access, str) or access not in _ACCESS:
        raise ValueError(
            f"'access' must be 'r' (read), 'rw' (read and write) or 'cow' (private changes), "
            f"not {access!r}"
        )
    return access  # type: ignore[return-value]


def checked_range(
    offset: SupportsIndex, length: SupportsIndex | None, size: int, what: str
) -> tuple[int, int]:
    """The offset and length of a part of `size` bytes; a length of None is all from there.

    Raises:
        TypeError: not integers.
        ValueError: they reach outside of `what`.
    """
    first = number_of(offset, "offset")
    if not 0 <= first <= size:
        raise ValueError(f"'offset' {first} is outside of {what}, which has {size} bytes")
    if length is None:
        return first, size - first
    count = number_of(length, "length")
    if count < 0:
        raise ValueError(f"'length' must not be negative, and is {count}")
    if first + count > size:
        raise ValueError(
            f"bytes {first} to {first + count} reach outside of {what}, which has {size} bytes"
        )
    return first, count


def map_region(fd: int, access: Access, offset: int, length: int) -> Region:
    """Map `length` bytes from byte `offset` of an open descriptor, which may be closed afterwards.

    Raises:
        OSError: the system does not map this (ENODEV), or has no addresses left (ENOMEM).
    """
    if length == 0:
        return Region(None, 0, memoryview(b"" if access == "r" else bytearray()))
    # The system maps from whole pages on: the bytes before `offset` are mapped along.
    start = offset % mmap.ALLOCATIONGRANULARITY
    memory = mmap.mmap(
        fd, start + length, access=_ACCESS[access], offset=offset - start, **_NO_DESCRIPTOR
    )
    if not _NO_DESCRIPTOR:
        forget_descriptor(memory)
    whole = memoryview(memory)
    return Region(memory, start, whole[start:] if start else whole)


def map_anonymous(size: int) -> Region:
    """Map memory without a descriptor, which only forked children share."""
    memory = mmap.mmap(-1, size)
    return Region(memory, 0, memoryview(memory))


def attach_region(
    fd: int,
    access: Access,
    offset: SupportsIndex,
    length: SupportsIndex | None,
    what: str,
    timeout: float | None = 0,
) -> tuple[Region, int, bool]:
    """Map what is behind a descriptor, or read it if it cannot be mapped and access is "r".

    A pipe is waited for up to `timeout` seconds if it has no writer, and then read to its end.

    Returns:
        The region, its first byte, whether it is all there is.

    Raises:
        OSError: it cannot be mapped, and not be read instead.
        TypeError, ValueError: as `checked_range`.
    """
    size = size_to_map(fd)
    if size is not None:
        first, count = checked_range(offset, length, size, what)
        try:
            return map_region(fd, access, first, count), first, count == size
        except OSError as error:
            if access != "r" or error.errno not in _NOT_MAPPABLE:
                raise
    if access != "r":
        raise OSError(errno.ENODEV, "cannot be mapped; access 'r' would read it instead", what)
    return _read_region(fd, offset, length, what, timeout), operator.index(offset), False


def read_region(content: bytes) -> Region:
    """Bytes that were read instead of mapped."""
    return Region(None, 0, memoryview(content), mapped=False)


def size_to_map(fd: int) -> int | None:
    """Bytes behind a descriptor; None if only reading tells (a pipe, a file of /proc)."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return os.lseek(fd, 0, os.SEEK_END)
    if not stat.S_ISREG(status.st_mode):
        return None
    # A file of /proc says that it has no bytes, and gives some.
    if status.st_size == 0 and os.pread(fd, 1, 0):
        return None
    return status.st_size


def _read_region(
    fd: int,
    offset: SupportsIndex,
    length: SupportsIndex | None,
    what: str,
    timeout: float | None,
) -> Region:
    for name, value in (("offset", offset), ("length", length)):
        if value is not None and number_of(value, name) < 0:
            raise ValueError(f"{name!r} must not be negative, and is {number_of(value, name)}")
    wanted = None
    if length is not None:
        # The bytes before `offset` are read, too: a pipe cannot seek.
        wanted = operator.index(offset) + operator.index(length)
    content = read_stream(fd, wanted, what, timeout)
    first, count = checked_range(offset, length, len(content), what)
    return read_region(content[first : first + count])


def read_stream(fd: int, wanted: int | None, what: str, timeout: float | None = 0) -> bytes:
    """Read what cannot be mapped: at most `wanted` bytes, or all to the end.

    Args:
        fd: a pipe, a device, a file of /proc; with or without O_NONBLOCK.
        wanted: bytes; None for all there are.
        what: whose bytes, for messages.
        timeout: seconds to wait for the writer of a pipe that has none.

    Raises:
        OSError: ENXIO: the pipe has no writer; ENODEV: a device without an end, or without bytes.
    """
    mode = os.fstat(fd).st_mode
    # What is open already, and waits in its reads, has a writer or a user at its other end.
    may_lack_writer = stat.S_ISFIFO(mode) and not _is_blocking(fd)
    is_endless = stat.S_ISCHR(mode) and wanted is None and not os.isatty(fd)
    parts: list[bytes] = []
    left = sys.maxsize if wanted is None else wanted
    while left:
        try:
            part = os.read(fd, min(left, _READ_AT_ONCE))
        except BlockingIOError:
            if stat.S_ISCHR(mode):
                raise OSError(
                    errno.ENODEV, "is a device that has no bytes now: give the open file", what
                ) from None
            may_lack_writer = False
            _wait_for_bytes(fd, None)
            continue
        if not part and may_lack_writer:
            # A pipe that never had a writer seems to be at its end.
            may_lack_writer = False
            if _wait_for_bytes(fd, timeout):
                continue
            raise OSError(
                errno.ENXIO,
                "is a pipe that has no writer: start the writer first, or wait for it with "
                "timeout=",
                what,
            )
        if not part:
            break
        if is_endless:
            raise OSError(errno.ENODEV, "is a device, which has no end: give a length", what)
        may_lack_writer = False
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _is_blocking(fd: int) -> bool:
    return not hasattr(os, "get_blocking") or os.get_blocking(fd)


def _wait_for_bytes(fd: int, timeout: float | None) -> bool:
    """Wait for the bytes of a pipe, or its end; False if none came within so many seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    milliseconds = None if timeout is None or timeout == math.inf else math.ceil(timeout * 1000)
    return bool(poll.poll(milliseconds))
