"""Searching and replacing on the memory itself: nothing is read into a copy of all first.

Each function is a part of SharedBuffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmkit.memory.searchable import Index, Way, bounds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkit.memory.buffer.content import Content

__all__ = ["count", "find", "refuse_empty", "split"]

_COUNTED: Final = 1 << 18  # bytes copied at a time: they stay in the processor's cache
_SPLIT: Final = 1 << 16  # the same
_LONG: Final = 256  # bytes; longer needles are found one by one


def find(self: Content, way: Way, needle: bytes, start: Index, end: Index) -> int:
    """Where a needle begins in `[start:end]`, for the first or for the last time; -1 if nowhere."""
    exact, size = self._map, self._size
    if exact is not None and needle:
        try:
            begin, stop = 0 if start is None else start, size if end is None else end
            found: int = getattr(exact, way)(needle, begin, stop)
        except (ValueError, OverflowError, TypeError):
            pass  # another thread closed or resized it; or the bounds are no indices, or beyond all
        else:
            return found
    while True:
        region = self._open_region()
        part = bounds(start, end, self._size)
        if part is None:
            return -1
        memory = region.memory if region.memory is not None else region.whole.obj
        base = region.start
        try:
            at: int = getattr(memory, way)(needle, base + part[0], base + part[1])
        except ValueError:
            if self._region is region:
                raise
            continue  # another thread closed or resized it in between
        return at - base if at >= 0 else -1


def count(self: Content, needle: bytes, start: Index, end: Index) -> int:
    """How often a needle is in `[start:end]` without overlapping itself."""
    memory, base, view = self._pin("count()")
    with view:
        part = bounds(start, end, len(view))
        if part is None:
            return 0
        first, last = part
        if not needle:
            return last - first + 1
        if _overlaps_itself(needle):
            number, at = 0, base + first
            while (at := memory.find(needle, at, base + last)) >= 0:
                number, at = number + 1, at + len(needle)
            return number
        # It cannot overlap itself: every occurrence counts, wherever the bytes are cut.
        more = len(needle) - 1
        return sum(
            view[at : min(at + _COUNTED + more, last)].tobytes().count(needle)
            for at in range(first, last, _COUNTED)
        )


def split(view: memoryview, old: bytes, most: int) -> Iterator[tuple[int, list[bytes]]]:
    """Consecutive parts of the bytes, each split at every `old` in it, as `bytes.split` does.

    That is the fastest way to find many small needles, twice as fast as one by one. Yields where
    each part begins, and its pieces; it splits `most` times, without limit if that is negative.
    """
    start, size, more = 0, len(view), len(old) - 1
    while start < size:
        cut = min(start + _SPLIT, size)
        data = view[start : min(cut + more, size)].tobytes()
        pieces = data.split(old, most)
        if most > 0:
            most -= len(pieces) - 1
        last = start + len(data) - len(pieces[-1])
        cut = max(cut, last)  # the bytes behind it belong to the next part
        pieces[-1] = pieces[-1][: cut - last]
        yield start, pieces
        start = cut


def refuse_empty(old: bytes) -> None:
    """A ValueError if there is nothing to look for."""
    if not old:
        raise ValueError("'old' is empty: there is nothing to look for")


def _overlaps_itself(needle: bytes) -> bool:
    """Whether two occurrences can share bytes: a beginning of the needle is also its end."""
    if len(needle) > _LONG:
        return True  # it may; to find out takes the square of its length
    return any(needle.endswith(needle[:size]) for size in range(1, len(needle)))
