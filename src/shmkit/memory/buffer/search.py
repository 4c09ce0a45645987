"""Searching and replacing on the memory itself: nothing is read into a copy of all first.

Each function works on the `Content` of a handle, and is a method of SharedBuffer.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Final, SupportsIndex

from shmkit.memory.mapping import checked_range
from shmkit.memory.searchable import Index, Way, bounds
from shmkit.memory.views import some_bytes

if TYPE_CHECKING:
    import mmap
    import os
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from shmkit.memory.buffer.content import Content

__all__ = ["count", "find", "find_matches", "move", "replace", "replace_into", "split"]

_COUNTED: Final = 1 << 18  # bytes copied at a time: they stay in the processor's cache
_SPLIT: Final = 1 << 16  # the same
_LONG: Final = 256  # bytes; longer needles are found one by one


def find(content: Content, way: Way, needle: bytes, start: Index, end: Index) -> int:
    """Where a needle begins in `[start:end]`, for the first or for the last time; -1 if nowhere."""
    exact, size = content._map, content._size
    if exact is not None and needle:
        try:
            begin, stop = 0 if start is None else start, size if end is None else end
            found: int = getattr(exact, way)(needle, begin, stop)
        except (ValueError, OverflowError):
            pass  # another thread closed or resized it; or the bounds are beyond all indices
        else:
            return found
    while True:
        region = content._open_region()
        part = bounds(start, end, content._size)
        if part is None:
            return -1
        memory = region.memory if region.memory is not None else region.whole.obj
        base = region.start
        try:
            at: int = getattr(memory, way)(needle, base + part[0], base + part[1])
        except ValueError:
            if content._region is region:
                raise
            continue  # another thread closed or resized it in between
        return at - base if at >= 0 else -1


def count(content: Content, needle: bytes, start: Index, end: Index) -> int:
    """How often a needle is in `[start:end]` without overlapping itself."""
    memory, base, view = content._pin("count()")
    with view:
        part = bounds(start, end, len(view))
        if part is None:
            return 0
        first, last = part
        if not needle:
            return last - first + 1
        if _overlaps_itself(needle):
            return sum(1 for _ in _places(memory, needle, base + first, base + last))
        # It cannot overlap itself: every occurrence counts, wherever the bytes are cut.
        more = len(needle) - 1
        return sum(
            view[at : min(at + _COUNTED + more, last)].tobytes().count(needle)
            for at in range(first, last, _COUNTED)
        )


def find_matches(
    content: Content, pattern: bytes | re.Pattern[bytes], start: Index, end: Index
) -> Iterator[re.Match[bytes]]:
    """Matches of a regular expression; the iterator and each match keep the memory."""
    compiled = re.compile(pattern)
    _, _, view = content._pin("finditer()")
    first, last, _ = slice(start, end).indices(len(view))
    return compiled.finditer(view, first, last)


def replace(content: Content, old: Buffer, new: Buffer, count: SupportsIndex) -> int:
    """Write `new` over each `old` in place; returns how often."""
    before, after, most = some_bytes(old), some_bytes(new), operator.index(count)
    if len(before) != len(after):
        raise ValueError(
            f"{len(after)} bytes do not replace {len(before)} in place: a buffer keeps its size; "
            "replace_into(path) writes the result to a file"
        )
    _refuse_empty(before)
    content._check_writable()
    memory, base, view = content._pin("replace()")
    done, size = 0, len(before)
    with view:
        for start, pieces in split(view, before, most):
            at = base + start
            pieces.pop()
            for piece in pieces:
                at += len(piece)
                memory[at : at + size] = after  # type: ignore[index]
                at += size
            done += len(pieces)
            if done == most:
                break
    return done


def replace_into(
    content: Content,
    path: str | os.PathLike[str],
    old: Buffer,
    new: Buffer,
    count: SupportsIndex,
    mode: int,
) -> int:
    """Write the bytes to a file, with `new` for each `old`; returns how often."""
    from shmkit.memory.buffer.replacing import write_new

    before, after, most = some_bytes(old), some_bytes(new), operator.index(count)
    _refuse_empty(before)
    _, _, view = content._pin("replace_into()")
    done = 0

    def changed() -> Iterator[bytes]:
        nonlocal done
        for _, pieces in split(view, before, most):
            yield after.join(pieces)
            done += len(pieces) - 1

    with view:
        write_new(path, changed(), mode)
    return done


def move(content: Content, dest: SupportsIndex, src: SupportsIndex, count: SupportsIndex) -> None:
    """Copy bytes within the memory; the ranges may overlap."""
    content._check_writable()
    _, _, view = content._pin("move()")
    with view:
        source, length = checked_range(src, count, len(view), repr(content))
        target, length = checked_range(dest, length, len(view), repr(content))
        view[target : target + length] = view[source : source + length]


def split(view: memoryview, old: bytes, most: int) -> Iterator[tuple[int, list[bytes]]]:
    """Consecutive parts of the bytes, each split at every `old` in it, as `bytes.split` does.

    That is the fastest way to find many small needles, twice as fast as one by one.

    Args:
        view: the bytes.
        old: at least one byte.
        most: how often to split; negative for no limit.

    Returns:
        Where each part begins, and its pieces.
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


def _refuse_empty(old: bytes) -> None:
    if not old:
        raise ValueError("'old' is empty: there is nothing to look for")


def _places(
    memory: mmap.mmap | bytes | bytearray, needle: bytes, start: int, end: int
) -> Iterator[int]:
    """Where the needle is, from the left, without overlaps."""
    find, size = memory.find, len(needle)
    at = find(needle, start, end)
    while at >= 0:
        yield at
        at = find(needle, at + size, end)


def _overlaps_itself(needle: bytes) -> bool:
    """Whether two occurrences can share bytes: a beginning of the needle is also its end."""
    if len(needle) > _LONG:
        return True  # it may; to find out takes the square of its length
    return any(needle.endswith(needle[:size]) for size in range(1, len(needle)))
