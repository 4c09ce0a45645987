"""A PagedFile as a file object: the buffers of the standard library over its pages."""

from __future__ import annotations

import errno
import io
import operator
import os
from typing import Any, Protocol, SupportsIndex

from shmkit.memory.views import as_bytes

__all__ = ["opened_on"]


class _Paged(Protocol):
    """What is used of a PagedFile."""

    name: str
    access: str
    page_size: int

    @property
    def size(self) -> int: ...
    def __getitem__(self, key: slice, /) -> bytes: ...
    def __setitem__(self, key: slice, value: memoryview, /) -> None: ...


def opened_on(file: Any) -> io.BufferedReader | io.BufferedRandom:
    """What `PagedFile.open` returns."""
    raw = _Raw(file)
    size = file.page_size
    return io.BufferedRandom(raw, size) if raw.writable() else io.BufferedReader(raw, size)


class _Raw(io.RawIOBase):
    def __init__(self, file: _Paged) -> None:
        super().__init__()
        self._file = file
        self._at = 0
        self.name = file.name
        self.mode = "rb+" if file.access == "rw" else "rb"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return self._file.access == "rw"

    def seek(self, offset: SupportsIndex, whence: int = os.SEEK_SET) -> int:
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"'whence' must be 0, 1 or 2, not {whence!r}")
        begin = (0, self._at, self._file.size if whence == os.SEEK_END else 0)[whence]
        to = begin + operator.index(offset)
        if to < 0:
            raise ValueError(f"position {to} is before the beginning")
        self._at = to
        return to

    def readinto(self, into: Any) -> int:
        target = as_bytes(into)
        data = self._file[self._at : self._at + len(target)]
        target[: len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        source = as_bytes(data)
        end = self._at + len(source)
        if source and end > self._file.size:
            raise OSError(
                errno.ENOSPC,
                f"{len(source)} bytes do not fit at position {self._at} of {self._file.size}: a "
                "PagedFile does not make its file longer",
                self.name,
            )
        if source:
            self._file[self._at : end] = source
        self._at = end
        return len(source)

    def __repr__(self) -> str:
        return f"<stream on {self._file!r}>"
