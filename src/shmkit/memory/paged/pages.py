"""The pages of a file that are in memory: read when missed, written back when they have to go.

Pages are read and written, not mapped. A file that shrinks while it is used is an exception then;
with a map the process would be killed when it touches it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from collections import OrderedDict
from typing import Final, NamedTuple

__all__ = ["PagedStatistics", "Pages"]

_MOST_RANGES: Final = 64  # of a page, before it is written back


class PagedStatistics(NamedTuple):
    """What a PagedFile has done so far.

    Attributes:
        hits: accesses to a page that was in memory.
        faults: pages that were read from the file.
        evictions: pages that had to go for another.
        written: bytes that were written to the file.
        resident: bytes of the file that are in memory.
        dirty: pages whose changes are not yet in the file.
    """

    hits: int
    faults: int
    evictions: int
    written: int
    resident: int
    dirty: int


class _Page:
    __slots__ = ("data", "ranges", "size")

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.size = 0  # bytes of the file that are in it: fewer than data has in the last page
        self.ranges: list[tuple[int, int]] = []  # changed, not yet in the file


class Pages:
    """At most `most` pages of `page_size` bytes; the least recently used one goes first.

    The caller holds the lock: an access is more than one call. `close` closes the descriptor.
    """

    def __init__(self, fd: int, size: int, page_size: int, most: int, name: str) -> None:
        self.lock = threading.RLock()
        self.fd = fd
        self.size = size
        self.page_size = page_size
        self.most = most
        self._name = name
        self._sized = stat.S_ISREG(os.fstat(fd).st_mode)
        self._pages: OrderedDict[int, _Page] = OrderedDict()
        self._hits = self._faults = self._evictions = self._written = 0
        _OPEN.add(self)

    def get(self, number: int) -> bytearray:
        """The bytes of a page; beyond the end of the file they mean nothing.

        Raises:
            OSError: it cannot be read, or another not be written back; ESTALE: the file has shrunk.
        """
        page = self._pages.get(number)
        if page is not None:
            self._hits += 1
            self._pages.move_to_end(number)
        else:
            self.look()
            page = _Page(self._room())
            self._faults += 1
        if page.size < self.page_size:  # it is new, or was the last one of a file that grew
            self._fill(page, number * self.page_size)
        self._pages[number] = page
        return page.data

    def look(self) -> int:
        """How many bytes the file has now; it may have grown.

        Raises:
            OSError: ESTALE: it has shrunk.
        """
        now = os.fstat(self.fd).st_size if self._sized else self.size
        if now < self.size:
            raise self._shrunk(now)
        self.size = now
        return now

    def _fill(self, page: _Page, start: int) -> None:
        """Read what a page does not have yet, up to the end of the file as it is known."""
        size = min(self.page_size, self.size - start)
        view = memoryview(page.data)
        while page.size < size:
            count = _read_into(self.fd, view[page.size : size], start + page.size)
            if not count:
                self.look()
                raise self._shrunk(start + page.size)
            page.size += count

    def will_change(self, number: int, start: int, end: int) -> None:
        """Note that bytes of a page in memory are about to be changed.

        Called before the change, for a signal handler may raise in between. A change that is not
        noted would be lost with its page.
        """
        page = self._pages[number]
        ranges = page.ranges
        if ranges and ranges[-1][0] <= start <= ranges[-1][1]:
            ranges[-1] = ranges[-1][0], max(end, ranges[-1][1])
        else:
            if len(ranges) == _MOST_RANGES:
                self._write_back(number, page)
            ranges.append((start, end))

    def flush(self, *, to_disk: bool) -> None:
        """Write all changes to the file, and wait until the disk has them if asked to."""
        for number, page in self._pages.items():
            self._write_back(number, page)
        if to_disk:
            os.fsync(self.fd)

    def close(self) -> None:
        """Write all changes to the file and let go of it; closing again does nothing."""
        with self.lock:
            if self.fd < 0:
                return
            try:
                self.flush(to_disk=False)
            finally:
                # Closed in any case from here on: the number may soon be another file's.
                fd, self.fd = self.fd, -1
                self._pages.clear()
                os.close(fd)

    def statistics(self) -> PagedStatistics:
        """A snapshot."""
        with self.lock:
            return PagedStatistics(
                self._hits,
                self._faults,
                self._evictions,
                self._written,
                sum(page.size for page in self._pages.values()),
                sum(bool(page.ranges) for page in self._pages.values()),
            )

    def after_fork(self) -> None:
        """In a forked child: the parent writes the changes that were made before."""
        self.lock = threading.RLock()
        self._pages.clear()

    def _room(self) -> bytearray:
        """The memory of another page: that of the one that has to go, if there are enough."""
        if len(self._pages) < self.most:
            return bytearray(self.page_size)
        number, page = next(iter(self._pages.items()))
        self._write_back(number, page)  # if this fails, it stays
        del self._pages[number]
        self._evictions += 1
        return page.data

    def _write_back(self, number: int, page: _Page) -> None:
        if not page.ranges:
            return
        self.look()
        view, base = memoryview(page.data), number * self.page_size
        while page.ranges:
            start, end = page.ranges[-1]
            # Forgotten only once written: what a full disk refuses can be written later.
            done = os.pwrite(self.fd, view[start:end], base + start)
            self._written += done
            if start + done < end:
                page.ranges[-1] = start + done, end
            else:
                page.ranges.pop()

    def _shrunk(self, now: int) -> OSError:
        return OSError(
            errno.ESTALE,
            f"had {self.size} bytes and has {now} now: it has shrunk; close it, and open it again",
            self._name,
        )


def _read_into(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    data = os.pread(fd, len(view), offset)
    view[: len(data)] = data
    return len(data)


_OPEN: Final[weakref.WeakSet[Pages]] = weakref.WeakSet()


def _after_fork() -> None:
    for pages in list(_OPEN):
        pages.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
