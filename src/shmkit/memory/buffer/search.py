"""Searching and replacing on the memory itself: nothing is read into a copy first."""

from __future__ import annotations

import mmap
import operator
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, SupportsIndex

from shmkit.memory.buffer.content import Content, needle_of, some_bytes
from shmkit.memory.buffer.replacing import replaced_into, split
from shmkit.memory.mapping import checked_range

if TYPE_CHECKING:
    import os

    from typing_extensions import Buffer

__all__ = ["Searching"]

_COUNTED: Final = 1 << 18  # bytes copied at a time: they stay in the processor's cache
_LONG: Final = 256  # bytes; what is longer is found one by one

Index = SupportsIndex | None


class Searching(Content):
    """Bytes that are searched as those of a bytearray are, where they lie."""

    __slots__ = ()

    def find(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """Where `sub` begins for the first time in `[start:end]`; -1 if nowhere.

        Args:
            sub: bytes, or the value of one.
            start: first byte that counts, as in a slice.
            end: where it ends, as in a slice.

        Raises:
            ClosedError: the handle was closed.
        """
        return self._search("find", sub if type(sub) is bytes else needle_of(sub), start, end)

    def rfind(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """Where `sub` begins for the last time in `[start:end]`; -1 if nowhere.

        Args:
            sub: bytes, or the value of one.
            start: first byte that counts, as in a slice.
            end: where it ends, as in a slice.

        Raises:
            ClosedError: the handle was closed.
        """
        return self._search("rfind", sub if type(sub) is bytes else needle_of(sub), start, end)

    def count(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """How often `sub` is in `[start:end]` without overlapping itself.

        Args:
            sub: bytes, or the value of one.
            start: first byte that counts, as in a slice.
            end: where it ends, as in a slice.

        Raises:
            ClosedError: the handle was closed.
        """
        needle = needle_of(sub)
        memory, base, view = self._pin("count()")
        with view:
            first, last, _ = slice(start, end).indices(len(view))
            if not needle:
                beyond = start is not None and operator.index(start) > len(view)
                return 0 if beyond or last < first else last - first + 1
            if _overlaps_itself(needle):
                return sum(1 for _ in _places(memory, needle, base + first, base + last))
            # Every occurrence counts, wherever chunks are cut.
            more = len(needle) - 1
            return sum(
                view[at : min(at + _COUNTED + more, last)].tobytes().count(needle)
                for at in range(first, last, _COUNTED)
            )

    def finditer(
        self, pattern: bytes | re.Pattern[bytes], start: Index = None, end: Index = None
    ) -> Iterator[re.Match[bytes]]:
        """Matches of a regular expression, one after the other, as `re.finditer` has them.

        The iterator and each match keep the memory, as a view does.

        Args:
            pattern: of bytes, or compiled from such.
            start: first byte that counts, as in a slice; "^" still means the beginning of all.
            end: where it ends, as in a slice.

        Raises:
            ClosedError: the handle was closed.
            TypeError: a pattern of str.
        """
        compiled = re.compile(pattern)
        view = self._loans.give(self._on_bytes(lambda whole: whole[:]), "finditer()")
        first, last, _ = slice(start, end).indices(len(view))
        return compiled.finditer(view, first, last)

    def replace(self, old: Buffer, new: Buffer, count: SupportsIndex = -1) -> int:
        """Write `new` over each `old`, from the left, in place; only these bytes are written.

        Args:
            old: at least one byte.
            new: as many bytes.
            count: how often at most; negative for all.

        Returns:
            How many were replaced.

        Raises:
            ClosedError: the handle was closed.
            TypeError: the access is "r", or an argument has no bytes.
            ValueError: the lengths differ (`replace_into` can do that), or `old` is empty.
        """
        before, after, most = some_bytes(old), some_bytes(new), operator.index(count)
        if len(before) != len(after):
            raise ValueError(
                f"{len(after)} bytes do not replace {len(before)} in place: a buffer keeps its "
                "size; replace_into(path) writes the result to a file"
            )
        if not before:
            raise ValueError("'old' is empty: there is nothing to look for")
        self._check_writable()
        memory, base, view = self._pin("replace()")
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
        self,
        path: str | os.PathLike[str],
        old: Buffer,
        new: Buffer,
        count: SupportsIndex = -1,
        *,
        mode: int = 0o600,
    ) -> int:
        """Write the bytes to a file, with `new` for each `old`; the file appears when it is whole.

        What was at `path` is replaced at once, and keeps its permissions. If that is this buffer's
        own file, the buffer stays on the old content.

        Args:
            path: of the file; its directory takes the new file while it is made.
            old: at least one byte.
            new: any number of bytes.
            count: how often at most; negative for all.
            mode: permissions of a file that was not there, less the umask.

        Returns:
            How many were replaced.

        Raises:
            ClosedError: the handle was closed.
            OSError: the file cannot be written; what was there is untouched.
            TypeError: an argument has no bytes.
            ValueError: `old` is empty.
        """
        before, after, most = some_bytes(old), some_bytes(new), operator.index(count)
        if not before:
            raise ValueError("'old' is empty: there is nothing to look for")
        _, _, view = self._pin("replace_into()")
        with view:
            return replaced_into(path, view, before, after, most, mode)

    def move(self, dest: SupportsIndex, src: SupportsIndex, count: SupportsIndex) -> None:
        """Copy `count` bytes from `src` to `dest` within the buffer; they may overlap.

        Raises:
            ClosedError: the handle was closed.
            TypeError: the access is "r".
            ValueError: they reach outside.
        """
        self._check_writable()
        _, _, view = self._pin("move()")
        with view:
            source, length = checked_range(src, count, len(view), repr(self))
            target, length = checked_range(dest, length, len(view), repr(self))
            view[target : target + length] = view[source : source + length]

    def __contains__(self, sub: object) -> bool:
        return self.find(sub) >= 0  # type: ignore[arg-type]

    def _search(self, way: str, needle: bytes, start: Index, end: Index) -> int:
        exact, size = self._map, self._size
        if exact is not None and needle:
            try:
                begin, stop = 0 if start is None else start, size if end is None else end
                found: int = getattr(exact, way)(needle, begin, stop)
            except (ValueError, OverflowError):
                pass  # closed or resized meanwhile by another thread; or beyond all indices
            else:
                return found
        while True:
            region = self._open_region()
            first, last = 0, self._size
            if start is not None or end is not None:
                first, last, _ = slice(start, end).indices(last)
                if last < first or (start is not None and operator.index(start) > self._size):
                    return -1  # where even nothing is not found
            memory = region.memory if region.memory is not None else region.whole.obj
            base = region.start
            try:
                at: int = getattr(memory, way)(needle, base + first, base + last)
            except ValueError:
                if self._region is region:
                    raise
                continue  # another thread closed or resized it meanwhile
            return at - base if at >= 0 else -1


def _places(
    memory: mmap.mmap | bytes | bytearray, needle: bytes, start: int, end: int
) -> Iterator[int]:
    """Where the needle is, from the left, without overlaps; each is looked for when asked for."""
    find, size = memory.find, len(needle)
    at = find(needle, start, end)
    while at >= 0:
        yield at
        at = find(needle, at + size, end)


def _overlaps_itself(needle: bytes) -> bool:
    """Whether two occurrences can share bytes: a beginning of the needle is also its end."""
    if len(needle) > _LONG:
        return True  # it may; it is not worth the squares to find out
    return any(needle.endswith(needle[:size]) for size in range(1, len(needle)))
