"""PagedFile: a file of any size, through a few pages of memory."""

from __future__ import annotations

import errno
import operator
import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex, overload

from shmkit.errors import ClosedError
from shmkit.memory.creation import Opened
from shmkit.memory.files import File, file_url, is_path, open_given
from shmkit.memory.mapping import size_to_map
from shmkit.memory.opening import kind_of
from shmkit.memory.paged.pages import PagedStatistics, Pages
from shmkit.memory.searchable import Searchable, bounds
from shmkit.memory.told import told
from shmkit.memory.views import as_bytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from shmkit.memory.searchable import Index, Way

__all__ = ["PagedFile"]


class PagedFile(Searchable, Sequence[int]):
    """The bytes of a file, of which never more than `max_pages * page_size` are in memory.

    With access "rw" items and slices are written; the file has them after `flush` or `close`, or
    when their page has to go for another. Only bytes that were written are ever written back.
    Threads may share it; a forked child has it, too, and begins with what the file has.

    Args:
        path: of a file or a block device, as open() takes it, or as a "file:" URL. Or a descriptor,
            or an open file, which may then be closed.
        page_size: bytes that are read at a time.
        max_pages: pages in memory at any time.
        access: "r" to read, "rw" to read and write.

    Raises:
        FileNotFoundError: there is no file.
        OSError: it cannot be opened; ESPIPE: it has no size (a pipe, a device); ELOOP: a symbolic
            link that others may have planted, and access "rw"; EBADF: a descriptor that is not
            open for this access.
        TypeError: this is no file, or not an integer.
        ValueError: an argument that cannot be.
    """

    def __init__(
        self,
        path: File,
        page_size: SupportsIndex = 64 * 1024,
        max_pages: SupportsIndex = 16,
        access: str = "r",
    ) -> None:
        if access not in ("r", "rw"):
            raise ValueError(
                f"'access' must be 'r' (read) or 'rw' (read and write), not {access!r}"
            )
        each, most = operator.index(page_size), operator.index(max_pages)
        for name, value in (("page_size", each), ("max_pages", most)):
            if value < 1:
                raise ValueError(f"{name!r} must be at least 1, not {value}")
        with _opened(path, access) as opened:
            name = opened.url.name
            size = size_to_map(opened.fd)
            if size is None:
                raise _no_positions(name)
            self._pages = Pages(opened.fd, size, each, most, name)
            opened.keep_fd()
        self._size = size
        self._page_size = each
        self._access = access
        self._name = name
        self._finalizer = weakref.finalize(self, _abandoned, self._pages, repr(self))

    name: str = told("_name", "Path of the file.")
    size: int = told("_size", "Bytes of the file, as it was when it was opened.")
    page_size: int = told("_page_size", "Bytes that are read at a time.")
    max_pages: int = told("_pages.most", "Pages in memory at any time.")
    access: str = told("_access", 'What may be done: "r" or "rw".')

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._pages.fd < 0

    def stats(self) -> PagedStatistics:
        """How often a page was there, was read, had to go; what is in memory. Also when closed."""
        return self._pages.statistics()

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: SupportsIndex | slice) -> int | bytes:
        with self._pages.lock:
            self._check_open()
            if isinstance(key, slice):
                start, stop, step = key.indices(self._size)
                if step == 1:
                    return self._read(start, max(start, stop))
                return bytes([self[at] for at in range(start, stop, step)])
            number, at = divmod(self._place(key), self._page_size)
            return self._pages.get(number)[at]

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self._size, self._page_size):
            yield from self[start : start + self._page_size]

    @overload
    def __setitem__(self, key: SupportsIndex, value: SupportsIndex) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: Buffer) -> None: ...
    def __setitem__(self, key: SupportsIndex | slice, value: Any) -> None:
        with self._pages.lock:
            self._check_open()
            if self._access != "rw":
                raise TypeError(f"{self!r} is read-only: open it with access='rw'")
            if not isinstance(key, slice):
                self._write(self._place(key), memoryview(bytes((operator.index(value),))))
                return
            places, source = range(*key.indices(self._size)), as_bytes(value)
            if len(places) != len(source):
                raise ValueError(
                    f"{len(source)} bytes do not replace {len(places)}: a file keeps its size here"
                )
            if places.step == 1:
                self._write(places.start, source)
                return
            for at, byte in zip(places, source.tobytes(), strict=True):
                self[at] = byte

    def flush(self) -> None:
        """Write all changes to the disk, and return when they are there.

        Raises:
            ClosedError: it was closed.
            OSError: the disk failed, or is full; ESTALE: the file has shrunk. Changes that are not
                in the file stay in memory.
        """
        with self._pages.lock:
            self._check_open()
            if self._access == "rw":
                self._pages.flush(to_disk=True)

    def close(self) -> None:
        """Write all changes to the file and let go of it. Closing again does nothing.

        Raises:
            OSError: they could not be written; they are lost.
        """
        self._pages.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except OSError as failure:
            if error is None:
                raise
            error.add_note(f"and changes of {self._name} could not be written: {failure}")

    def __del__(self) -> None:
        pages = getattr(self, "_pages", None)
        if pages is not None and pages.fd >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            pages.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {self!r}: send its path, and open it there")

    def __repr__(self) -> str:
        state = "closed" if self.closed else self._access
        return (
            f"<PagedFile {self._name} size={self._size} pages={self.max_pages}*{self._page_size} "
            f"{state}>"
        )

    def _find(self, way: Way, needle: bytes, start: Index, end: Index) -> int:
        self._check_open()
        part = bounds(start, end, self._size)
        if part is None:
            return -1
        if not needle:
            return part[0] if way == "find" else part[1]
        search = _find_first if way == "find" else _find_last
        return search(self._slice, needle, *part, self._page_size)

    def _count(self, needle: bytes, start: Index, end: Index) -> int:
        self._check_open()
        part = bounds(start, end, self._size)
        if part is None:
            return 0
        if not needle:
            return part[1] - part[0] + 1
        return _count(self._slice, needle, *part, self._page_size)

    def _slice(self, start: int, stop: int) -> bytes:
        return self[start:stop]

    def _read(self, start: int, stop: int) -> bytes:
        number, at = divmod(start, self._page_size)
        if at + stop - start <= self._page_size:
            return bytes(memoryview(self._pages.get(number))[at : at + stop - start])
        result = bytearray()
        while start < stop:
            number, at = divmod(start, self._page_size)
            count = min(self._page_size - at, stop - start)
            result += memoryview(self._pages.get(number))[at : at + count]
            start += count
        return bytes(result)

    def _write(self, start: int, source: memoryview) -> None:
        done = 0
        while done < len(source):
            number, at = divmod(start + done, self._page_size)
            count = min(self._page_size - at, len(source) - done)
            data = self._pages.get(number)
            self._pages.will_change(number, at, at + count)
            data[at : at + count] = source[done : done + count]
            done += count

    def _place(self, key: SupportsIndex) -> int:
        at = operator.index(key)
        if at < 0:
            at += self._size
        if not 0 <= at < self._size:
            raise IndexError(f"byte {operator.index(key)} is outside of {self!r}")
        return at

    def _check_open(self) -> None:
        if self._pages.fd < 0:
            raise ClosedError(f"{self!r} was closed: open it again")


def _opened(path: File, access: str) -> Opened:
    if is_path(path):
        # Not opened, if it is something else: its other end would notice.
        url = file_url(path)
        kind = kind_of(os.stat(url.name).st_mode)  # noqa: PTH116
        if kind and kind != "a directory":
            raise _no_positions(url.name)
    opened = open_given(path, writable=access == "rw", streams=False)
    if opened is None:
        raise _no_positions(getattr(path, "name", repr(path)))
    return opened


def _no_positions(name: object) -> OSError:
    return OSError(errno.ESPIPE, "has no size and no positions; open_bytes() reads it", str(name))


def _abandoned(pages: Pages, what: str) -> None:
    """At the end of the interpreter, with the file still open."""
    if pages.fd >= 0:
        warnings.warn(f"unclosed {what}", ResourceWarning, stacklevel=1)
        pages.close()


# Searching bytes that come page by page, as if they were in one piece.

_Read = Callable[[int, int], bytes]  # gives the bytes from a start to a stop


def _find_first(read: _Read, needle: bytes, first: int, last: int, page_size: int) -> int:
    """Where a needle of at least one byte begins for the first time between two bytes; or -1."""
    # An occurrence may reach over the end of a page by so many bytes.
    more = len(needle) - 1
    window, at = b"", first  # `at` is where the next page's bytes begin
    while at < last:
        stop = min(last, at - at % page_size + page_size)
        window += read(at, stop)
        found = window.find(needle)
        if found >= 0:
            return stop - len(window) + found
        window = window[-more:] if more else b""
        at = stop
    return -1


def _find_last(read: _Read, needle: bytes, first: int, last: int, page_size: int) -> int:
    """Where it begins for the last time; or -1."""
    more = len(needle) - 1
    window, at = b"", last  # `at` is where the last page's bytes began
    while at > first:
        begin = max(first, (at - 1) - (at - 1) % page_size)
        window = read(begin, at) + window
        found = window.rfind(needle)
        if found >= 0:
            return begin + found
        window = window[:more]
        at = begin
    return -1


def _count(read: _Read, needle: bytes, first: int, last: int, page_size: int) -> int:
    """How often it is between two bytes without overlapping itself."""
    more = len(needle) - 1
    done, window, at = 0, b"", first  # `at` is where the next page's bytes begin
    while at < last:
        stop = min(last, at - at % page_size + page_size)
        pieces = (window + read(at, stop)).split(needle)
        done += len(pieces) - 1
        window = pieces[-1][-more:] if more else b""  # another needle may begin in it
        at = stop
    return done
