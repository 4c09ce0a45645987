"""From a descriptor to addresses: any byte range, mapped aligned underneath."""

from __future__ import annotations

import errno
import mmap
import operator
import os
import stat
import sys
from typing import Any, Final, Literal, SupportsIndex, TypeAlias

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
# What mmap says of files that have bytes but no pages.
_NOT_MAPPABLE: Final = {errno.ENODEV, errno.EINVAL}


class Region:
    """Bytes at addresses.

    Args:
        memory: the map; None if nothing is mapped (no bytes, or bytes that were read instead):
            then `whole` is all of a bytes or bytearray.
        start: index in `memory` of the region's byte 0.
        whole: all bytes of the region, in a view that is not handed out.
        mapped: False if the bytes are a copy that was read.

    Attributes:
        left: whether its handle was closed while on it: then no thread may move the handle on.
    """

    __slots__ = ("_others", "left", "mapped", "memory", "start", "whole")

    def __init__(
        self, memory: mmap.mmap | None, start: int, whole: memoryview, *, mapped: bool = True
    ) -> None:
        self.memory = memory
        self.start = start
        self.whole = whole
        self.mapped = mapped
        self.left = False
        self._others = 0  # references to a copy that are not of its views; 0: not counted yet

    def close(self) -> bool:
        """Unmap; if a view of the memory or its map is in use, that is left to the last of them.

        Returns:
            False if one is in use.
        """
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


def checked_access(access: str) -> Access:
    """An `access` argument.

    Raises:
        ValueError: it is not "r", "rw" or "cow".
    """
    if access not in _ACCESS:
        raise ValueError(
            f"'access' must be 'r' (read), 'rw' (read and write) or 'cow' (private changes), "
            f"not {access!r}"
        )
    return access  # type: ignore[return-value]


def checked_range(
    offset: SupportsIndex, length: SupportsIndex | None, size: int, what: str
) -> tuple[int, int]:
    """The bytes that `offset` and `length` name in memory of `size` bytes.

    Args:
        offset: first byte.
        length: bytes from there, None for all.
        size: bytes there are.
        what: name for messages.

    Returns:
        offset, length.

    Raises:
        TypeError: not integers.
        ValueError: they reach outside.
    """
    first = operator.index(offset)
    if not 0 <= first <= size:
        raise ValueError(f"'offset' {first} is outside of {what}, which has {size} bytes")
    if length is None:
        return first, size - first
    count = operator.index(length)
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
    start = offset % mmap.ALLOCATIONGRANULARITY
    if sys.version_info >= (3, 13) and sys.platform != "win32":
        # A map needs no descriptor to live; before 3.13 mmap keeps one for its resize() anyway.
        memory = mmap.mmap(
            fd, start + length, access=_ACCESS[access], offset=offset - start, trackfd=False
        )
    else:
        memory = mmap.mmap(fd, start + length, access=_ACCESS[access], offset=offset - start)
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
) -> tuple[Region, int, bool]:
    """Map what is behind a descriptor, or read it if it cannot be mapped and access is "r".

    Args:
        fd: descriptor; it may be closed afterwards.
        access: "r", "rw" or "cow".
        offset: first byte.
        length: bytes, None for all there are.
        what: name for messages.

    Returns:
        The region, its first byte, whether it is all there is.

    Raises:
        OSError: it cannot be mapped, and not be read instead.
        TypeError, ValueError: `offset` or `length` is no integer, or reaches outside.
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
    region = _read_region(fd, offset, length, what)
    return region, operator.index(offset), False


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
    if status.st_size == 0 and os.read(fd, 1):
        os.lseek(fd, 0, os.SEEK_SET)
        return None
    return status.st_size


def _read_region(fd: int, offset: SupportsIndex, length: SupportsIndex | None, what: str) -> Region:
    for name, value in (("offset", offset), ("length", length)):
        if value is not None and operator.index(value) < 0:
            raise ValueError(f"{name!r} must not be negative, and is {operator.index(value)}")
    if length is None and stat.S_ISCHR(os.fstat(fd).st_mode):
        raise OSError(errno.ENODEV, "is a device, which has no end: give a length", what)
    parts: list[bytes] = []
    wanted = sys.maxsize
    if length is not None:
        wanted = operator.index(offset) + operator.index(length)
    while wanted and (part := os.read(fd, min(wanted, _READ_AT_ONCE))):
        parts.append(part)
        wanted -= len(part)
    content = b"".join(parts)
    first, count = checked_range(offset, length, len(content), what)
    return read_region(content[first : first + count])
