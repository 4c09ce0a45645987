"""Searching bytes that come page by page, as if they were in one piece."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Match", "count", "find_first", "find_last", "matches"]

# Gives the bytes from a start to a stop.
Read: TypeAlias = Callable[[int, int], bytes]


def find_first(read: Read, needle: bytes, first: int, last: int, page_size: int) -> int:
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


def find_last(read: Read, needle: bytes, first: int, last: int, page_size: int) -> int:
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


def count(read: Read, needle: bytes, first: int, last: int, page_size: int) -> int:
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


class Match:
    """A match in a file: as `re.Match`, with positions that count from the beginning of the file.

    `m[1]`, `group`, `groups`, `groupdict`, `expand`, `lastindex`, `lastgroup` and `re` are those of
    `re.Match`.
    """

    __slots__ = ("_base", "_match")

    def __init__(self, match: re.Match[bytes], base: int) -> None:
        self._match = match
        self._base = base

    def start(self, group: int | str = 0, /) -> int:
        """Where a group begins; -1 if it took no part."""
        return self.span(group)[0]

    def end(self, group: int | str = 0, /) -> int:
        """Where a group ends; -1 if it took no part."""
        return self.span(group)[1]

    def span(self, group: int | str = 0, /) -> tuple[int, int]:
        """Where a group begins and ends; (-1, -1) if it took no part."""
        start, end = self._match.span(group)
        return (start, end) if start < 0 else (start + self._base, end + self._base)

    def __getitem__(self, group: int | str, /) -> Any:
        return self._match[group]

    def __getattr__(self, name: str) -> Any:
        if name not in ("group", "groups", "groupdict", "expand", "lastindex", "lastgroup", "re"):
            raise AttributeError(f"a match in a file has no {name!r}")
        return getattr(self._match, name)

    def __repr__(self) -> str:
        return f"<Match span={self.span()}, match={self._match[0]!r:.50}>"


def matches(
    read: Read, pattern: re.Pattern[bytes], first: int, last: int, window: int
) -> Iterator[Match]:
    """Matches of a regular expression between two bytes, one after the other.

    The pattern sees a window of bytes at a time. A match counts if half a window stands behind it:
    more would not change it. One that comes nearer to the end is looked for again, in a window
    that begins there; if it does already, in one of twice the size.

    Args:
        read: gives bytes.
        pattern: what to look for.
        first: where to begin.
        last: where to end: the pattern sees nothing behind it.
        window: bytes.
    """
    at = first  # matches begin here, or later
    empty_at = -1  # where the last match was, if it was an empty one
    width = window
    while True:
        base = max(0, at - window // 2)  # what stands before a match may matter to it
        stop = min(last, at + width)
        safe = stop if stop == last else stop - width // 2
        begin = safe
        for match in pattern.finditer(read(base, stop), at - base):
            start, end = match.start() + base, match.end() + base
            if end > safe:
                begin = min(start, safe)
                break
            if start == end == empty_at:
                continue
            yield Match(match, base)
            at, empty_at, width = end, end if start == end else -1, window
        else:
            if stop == last:
                return
        width = window if begin > at else 2 * width
        at = max(at, begin)
