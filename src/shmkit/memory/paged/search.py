"""Searching what comes page by page, as if it were in one piece."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, SupportsIndex

from shmkit.memory.buffer.content import needle_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PageSearching"]

Index = SupportsIndex | None


class PageSearching:
    """Bytes that are sliced and read by pages, and searched through a window of two."""

    _size: int
    _page_size: int

    def __getitem__(self, key: slice) -> bytes:
        raise NotImplementedError

    def _check_open(self) -> None:
        raise NotImplementedError

    def __contains__(self, sub: object) -> bool:
        return self.find(sub) >= 0  # type: ignore[arg-type]

    def find(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """Where `sub` begins for the first time in `[start:end]`; -1 if nowhere.

        Args:
            sub: bytes, or the value of one.
            start: first byte that counts, as in a slice.
            end: where it ends, as in a slice.

        Raises:
            ClosedError: it was closed.
            OSError: the file cannot be read; ESTALE: its size has changed.
        """
        needle, first, last = self._wanted(sub, start, end)
        if first < 0 or not needle:
            return first
        more = len(needle) - 1
        window, at = b"", first  # `at` is where the next page's bytes begin
        while at < last:
            stop = min(last, at - at % self._page_size + self._page_size)
            window += self[at:stop]
            found = window.find(needle)
            if found >= 0:
                return stop - len(window) + found
            window = window[-more:] if more else b""
            at = stop
        return -1

    def rfind(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """Where `sub` begins for the last time in `[start:end]`; -1 if nowhere.

        Args:
            sub: bytes, or the value of one.
            start: first byte that counts, as in a slice.
            end: where it ends, as in a slice.

        Raises:
            ClosedError: it was closed.
            OSError: the file cannot be read; ESTALE: its size has changed.
        """
        needle, first, last = self._wanted(sub, start, end)
        if first < 0 or not needle:
            return -1 if first < 0 else last
        more = len(needle) - 1
        window, at = b"", last  # `at` is where the last page's bytes began
        while at > first:
            begin = max(first, (at - 1) - (at - 1) % self._page_size)
            window = self[begin:at] + window
            found = window.rfind(needle)
            if found >= 0:
                return begin + found
            window = window[:more]
            at = begin
        return -1

    def index(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """Where `sub` begins for the first time in `[start:end]`.

        Args:
            sub: bytes, or the value of one.
            start: first byte that counts, as in a slice.
            end: where it ends, as in a slice.

        Raises:
            ClosedError: it was closed.
            OSError: the file cannot be read; ESTALE: its size has changed.
            ValueError: nowhere.
        """
        found = self.find(sub, start, end)
        if found < 0:
            raise ValueError(f"{sub!r} is not in {self!r}")
        return found

    def count(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """How often `sub` is in `[start:end]` without overlapping itself.

        Args:
            sub: bytes, or the value of one.
            start: first byte that counts, as in a slice.
            end: where it ends, as in a slice.

        Raises:
            ClosedError: it was closed.
            OSError: the file cannot be read; ESTALE: its size has changed.
        """
        needle, first, last = self._wanted(sub, start, end)
        if first < 0 or not needle:
            return 0 if first < 0 else last - first + 1
        more = len(needle) - 1
        done, window, at = 0, b"", first  # `at` is where the next page's bytes begin
        while at < last:
            stop = min(last, at - at % self._page_size + self._page_size)
            pieces = (window + self[at:stop]).split(needle)
            done += len(pieces) - 1
            window = pieces[-1][-more:] if more else b""  # what another may begin in
            at = stop
        return done

    def _wanted(self, sub: Buffer | int, start: Index, end: Index) -> tuple[bytes, int, int]:
        """What is looked for, from where and to where; from -1 where nothing can be."""
        self._check_open()
        needle = needle_of(sub)
        first, last, _ = slice(start, end).indices(self._size)
        if last < first or (start is not None and operator.index(start) > self._size):
            return needle, -1, -1
        return needle, first, last
