"""Raw: a file read without a handle on it, and the kernel's locks on its bytes.

It is read by `pread`, not by a map: a file that is cut off meanwhile gives fewer bytes, where a map
would end the process by SIGBUS. A hole stays a hole.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, Final, Self

from shmkit.memory.identity import Identity, identity_of, open_flags
from shmkit.segment.presence import locked_range
from shmkit.segment.words import LOCK_BYTES_AT

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NotAFile", "Raw", "resident"]

# Never waits for the other end of a FIFO, and never gets a terminal.
_FLAGS: Final = open_flags("RDONLY", "NONBLOCK", "NOCTTY", "CLOEXEC")
_BLOCK: Final = 512  # what st_blocks counts


class NotAFile(OSError):
    """There is something else than a file: a directory, a pipe, a device."""


class Raw:
    """A file that is open for reading.

    Args:
        path: its path.
        follow: whether a link at the path is followed.

    Raises:
        FileNotFoundError: nothing is there.
        NotAFile: it is no regular file.
        OSError: it cannot be read: another user's, or a link that is not to be followed.
    """

    def __init__(self, path: str, *, follow: bool = False) -> None:
        look = os.stat if follow else os.lstat
        # First: opening a device may do something.
        _check(look(path).st_mode, path)
        self.fd: int = os.open(path, _FLAGS | (0 if follow else open_flags("NOFOLLOW")))
        try:
            self.status: os.stat_result = os.fstat(self.fd)
            _check(self.status.st_mode, path)
        except BaseException:
            os.close(self.fd)
            raise

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.status.st_size

    @property
    def identity(self) -> Identity:
        """Device and inode."""
        return identity_of(self.status)

    def read(self, at: int, size: int) -> bytes:
        """Bytes of the file, fewer at its end."""
        if not 0 <= at < self.size or size <= 0:
            return b""
        return os.pread(self.fd, min(size, self.size - at), at)

    def words(self, at: int, count: int) -> memoryview[int]:
        """8-byte words from a byte on; 0 behind the end of the file."""
        return memoryview(self.read(at, 8 * count).ljust(8 * count, b"\0")).cast("Q")

    def held(self, byte: int, count: int = 1) -> set[int]:
        """Which of `count` lock bytes any process holds, by the kernel's word."""
        found: set[int] = set()
        if sys.platform != "linux":
            return found
        first, end = LOCK_BYTES_AT + byte, LOCK_BYTES_AT + byte + count
        todo = [(first, end)]
        while todo:
            start, stop = todo.pop()
            lock = self._lock_in(start, stop)
            if lock is None:
                continue
            # The kernel tells any one lock of the range: the rest may be on both sides of it.
            low, high = max(start, lock[0]), min(stop, lock[1])
            found.update(range(low - LOCK_BYTES_AT, high - LOCK_BYTES_AT))
            todo += [(a, b) for a, b in ((start, low), (high, stop)) if a < b]
        return found

    def _lock_in(self, start: int, stop: int) -> tuple[int, int] | None:
        try:
            lock = locked_range(self.fd, start, stop - start)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOLCK):
                return None  # this file system has no such locks
            raise
        if lock is None:
            return None
        at, end = lock
        if at == end:
            end = stop  # without a size it goes up to the end of the file, wherever that is
        return (at, end) if end > start else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _check(mode: int, path: str) -> None:
    if not stat.S_ISREG(mode):
        raise NotAFile(errno.EINVAL, f"is {_kind(mode)}, and no file", path)


def _kind(mode: int) -> str:
    kinds: Iterator[tuple[bool, str]] = iter(
        (
            (stat.S_ISLNK(mode), "a link"),
            (stat.S_ISDIR(mode), "a directory"),
            (stat.S_ISFIFO(mode), "a pipe"),
            (stat.S_ISSOCK(mode), "a socket"),
        )
    )
    return next((name for matches, name in kinds if matches), "a device")


def resident(status: os.stat_result) -> int:
    """Bytes of a file that take memory, or room on a disk."""
    page = os.sysconf("SC_PAGE_SIZE")
    # Some filesystems take more blocks than the file has pages.
    return min(status.st_blocks * _BLOCK, -(-status.st_size // page) * page)
