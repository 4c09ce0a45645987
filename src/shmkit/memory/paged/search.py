"""Searching bytes that come page by page, as if they were in one piece."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["count_in_pages", "find_first", "find_last"]

# Gives the bytes from a start to a stop.
Read = Callable[[int, int], bytes]


def find_first(read: Read, needle: bytes, first: int, last: int, page_size: int) -> int:
    """Where a needle of at least one byte begins for the first time between two bytes; or -1."""
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


def count_in_pages(read: Read, needle: bytes, first: int, last: int, page_size: int) -> int:
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
