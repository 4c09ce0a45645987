"""PagedFile: a file of any size, through a few pages of memory."""

from __future__ import annotations

import errno
import operator
import os
import re
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, SupportsIndex, overload

from shmkit.errors import ClosedError
from shmkit.memory.checks import byte_of, number_of
from shmkit.memory.creation import Opened
from shmkit.memory.files import File, file_url, is_path, open_given
from shmkit.memory.lines import lines_of
from shmkit.memory.mapping import size_to_map
from shmkit.memory.opening import kind_of
from shmkit.memory.paged import search
from shmkit.memory.paged.pages import PagedStatistics, Pages
from shmkit.memory.paged.search import Match
from shmkit.memory.paged.stream import opened_on
from shmkit.memory.searchable import Searchable, bounds, compiled_for_bytes
from shmkit.memory.told import told
from shmkit.memory.views import as_bytes

if TYPE_CHECKING:
    import io

    import numpy as np
    from typing_extensions import Buffer

    from shmkit.memory.searchable import Index, Way

__all__ = ["PagedFile"]

_WINDOW: Final = 1 << 18  # bytes that a regular expression sees at a time


class PagedFile(Searchable, Sequence[int]):
    """The bytes of a file, of which never more than `max_pages * page_size` are in memory.

    A file that grows, as a log does, grows here, too; one that shrinks is an error (ESTALE). With
    access "rw" items and slices are written; the file has them after `flush` or `close`, or when
    their page has to go for another. Only bytes that were written are ever written back. Threads
    may share it; a forked child has it, too, and begins with what the file has.

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
        each, most = number_of(page_size, "page_size"), number_of(max_pages, "max_pages")
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
        self._page_size = each
        self._pid = os.getpid()
        self._access = access
        self._name = name
        self._finalizer = weakref.finalize(self, _abandoned, self._pages, repr(self))

    name: str = told("_name", "Path of the file.")
    page_size: int = told("_page_size", "Bytes that are read at a time.")
    max_pages: int = told("_pages.most", "Pages in memory at any time.")
    access: str = told("_access", 'What may be done: "r" or "rw".')

    @property
    def size(self) -> int:
        """Bytes that the file has now; when closed, that it had when last looked at.

        Raises:
            OSError: ESTALE: it has shrunk.
        """
        with self._pages.lock:
            return self._pages.size if self.closed else self._pages.look()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._pages.fd < 0

    def stats(self) -> PagedStatistics:
        """How often a page was there, was read, had to go; what is in memory. Also when closed."""
        return self._pages.statistics()

    def __len__(self) -> int:
        return self.size

    def __bytes__(self) -> bytes:
        return self[:]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """A copy of all bytes as an array of uint8, for numpy."""
        if copy is False:
            raise ValueError(f"{self!r} is read, not mapped: an array of it is a copy")
        import numpy as np

        array = np.frombuffer(bytearray(self[:]), "u1")
        return array if dtype is None else array.astype(dtype, copy=False)

    @overload
    def __getitem__(self, key: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: SupportsIndex | slice) -> int | bytes:
        with self._pages.lock:
            self._check_open()
            if isinstance(key, slice):
                start, stop, step = key.indices(self._size_for(key.start, key.stop))
                if step == 1:
                    return self._read(start, max(start, stop))
                return bytes([self[at] for at in range(start, stop, step)])
            number, at = divmod(self._place(key), self._page_size)
            return self._pages.get(number)[at]

    def __iter__(self) -> Iterator[int]:
        for piece in self.chunks(self._page_size):
            yield from piece

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
                self._write(self._place(key), memoryview(bytes((byte_of(value),))))
                return
            size = self._size_for(key.start, key.stop)
            places, source = range(*key.indices(size)), as_bytes(value)
            if len(places) != len(source):
                raise ValueError(
                    f"{len(source)} bytes do not replace {len(places)}: a file keeps its size here"
                )
            if places.step == 1:
                self._write(places.start, source)
                return
            for at, byte in zip(places, source.tobytes(), strict=True):
                self[at] = byte

    def chunks(self, size: SupportsIndex) -> Iterator[bytes]:
        """All bytes that the file has now, in pieces of `size` bytes and a last one of the rest.

        Args:
            size: bytes, at least 1.

        Raises:
            ClosedError: it was closed.
            OSError: a page cannot be read; ESTALE: the file has shrunk.
            ValueError: `size` is less than 1.
        """
        step = number_of(size, "size")
        if step < 1:
            raise ValueError(f"'size' must be at least 1 byte, not {step}")
        self._check_open()
        end = self.size
        return (self[at : min(at + step, end)] for at in range(0, end, step))

    def lines(self) -> Iterator[bytes]:
        r"""All lines that the file has now, each with its b"\n"; the last may have none.

        Raises:
            ClosedError: it was closed.
            OSError: as of `chunks`.
        """
        return lines_of(self.chunks(self._page_size))

    def finditer(
        self, pattern: bytes | re.Pattern[bytes], start: Index = None, end: Index = None
    ) -> Iterator[Match]:
        """Matches of a regular expression, one after the other, as `re.finditer` has them.

        The file is read in windows of 256 KiB. A match may be of any length. But what tells that
        there is one, and what the pattern looks at before and behind it, has to be within 128 KiB.

        Args:
            pattern: of bytes, or compiled from bytes.
            start: as in `find`; "^" still means the beginning of all.
            end: as in `find`; None for the end that the file has now.

        Returns:
            Matches with the methods of `re.Match`; positions count from the beginning of the file.

        Raises:
            ClosedError: it was closed.
            OSError: as of `chunks`.
            TypeError: a pattern of str.
        """
        compiled = compiled_for_bytes(pattern)
        with self._pages.lock:
            self._check_open()
            first, last, _ = slice(start, end).indices(self._size_for(start, end))
        return (
            search.matches(self._slice, compiled, first, last, _WINDOW)
            if first <= last
            else iter(())
        )

    def open(self) -> io.BufferedReader | io.BufferedRandom:
        """A file object on the bytes, at position 0: for `csv`, `json`, `zipfile`, `numpy.load`.

        It reads what the file has when it comes there, also what was appended meanwhile. What is
        written stays within the file's size (ENOSPC behind it), and is here after `flush()` or
        `close()` of the file object. Closing it leaves this open. It has no `fileno()`.

        Raises:
            ClosedError: it was closed.
        """
        self._check_open()
        return opened_on(self)

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
            # In a forked child it is the parent's that was left open.
            if self._pid == os.getpid():
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            pages.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {self!r}: send its path, and open it there")

    def __repr__(self) -> str:
        state = "closed" if self.closed else self._access
        return (
            f"<PagedFile {self._name} size={self._pages.size} "
            f"pages={self.max_pages}*{self._page_size} {state}>"
        )

    def _find(self, way: Way, needle: bytes, start: Index, end: Index) -> int:
        part = self._part(start, end)
        if part is None:
            return -1
        if not needle:
            return part[0] if way == "find" else part[1]
        find = search.find_first if way == "find" else search.find_last
        return find(self._slice, needle, *part, self._page_size)

    def _count(self, needle: bytes, start: Index, end: Index) -> int:
        part = self._part(start, end)
        if part is None:
            return 0
        if not needle:
            return part[1] - part[0] + 1
        return search.count(self._slice, needle, *part, self._page_size)

    def _part(self, start: Index, end: Index) -> tuple[int, int] | None:
        with self._pages.lock:
            self._check_open()
            return bounds(start, end, self._size_for(start, end))

    def _size_for(self, *indices: Index) -> int:
        """The size to reckon with; only looked at if an index may be behind the size known."""
        known = self._pages.size
        if all(index is not None and 0 <= operator.index(index) <= known for index in indices):
            return known
        return self._pages.look()

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

    def __delitem__(self, key: object) -> NoReturn:
        raise TypeError(f"{self!r} keeps its size: no byte of it can be deleted")

    def _place(self, key: SupportsIndex) -> int:
        if not isinstance(key, SupportsIndex):
            raise TypeError(
                f"bytes are found by an integer or a slice of integers, not {key!r:.80}"
            )
        at = operator.index(key)
        if at < 0:
            at += self._pages.look()
        if not 0 <= at < self._pages.size and not 0 <= at < self._pages.look():
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
