"""Searchable: the methods of a bytearray that search, for bytes that are not in one."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Literal, SupportsIndex

from shmkit.memory.checks import byte_of, named_plainly, number_of
from shmkit.memory.views import view_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Index", "Searchable", "Way", "bounds", "compiled_for_bytes", "needle_of"]

Index = SupportsIndex | None
Way = Literal["find", "rfind"]


@named_plainly
class Searchable:
    """Bytes with the search methods of a bytearray. A subclass has `_find` and `_count`."""

    __slots__ = ()

    def find(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """Where `sub` begins for the first time in `[start:end]`.

        Args:
            sub: bytes, or the value of one byte.
            start: first byte of the part to search, as in a slice.
            end: where the part ends, as in a slice.

        Returns:
            A byte, counted from the beginning of all; -1 if it is nowhere.

        Raises:
            ClosedError: it was closed.
            OSError: a file cannot be read; ESTALE: its size has changed.
        """
        return self._find("find", sub if type(sub) is bytes else needle_of(sub), start, end)

    def rfind(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """Where `sub` begins for the last time in `[start:end]`.

        Args:
            sub: as in `find`.
            start: as in `find`.
            end: as in `find`.

        Returns:
            As `find`.

        Raises:
            ClosedError: it was closed.
            OSError: as `find`.
        """
        return self._find("rfind", sub if type(sub) is bytes else needle_of(sub), start, end)

    def index(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """Where `sub` begins for the first time in `[start:end]`.

        Args:
            sub: as in `find`.
            start: as in `find`.
            end: as in `find`.

        Returns:
            A byte, counted from the beginning of all.

        Raises:
            ClosedError: it was closed.
            OSError: as `find`.
            ValueError: it is nowhere.
        """
        found = self.find(sub, start, end)
        if found < 0:
            raise ValueError(f"{sub!r:.80} is not in {self!r}")
        return found

    def count(self, sub: Buffer | int, start: Index = None, end: Index = None) -> int:
        """How often `sub` is in `[start:end]` without overlapping itself.

        Args:
            sub: as in `find`.
            start: as in `find`.
            end: as in `find`.

        Raises:
            ClosedError: it was closed.
            OSError: as `find`.
        """
        return self._count(needle_of(sub), start, end)

    def __contains__(self, sub: object) -> bool:
        return self.find(sub) >= 0  # type: ignore[arg-type]

    def _find(self, way: Way, needle: bytes, start: Index, end: Index) -> int:
        raise NotImplementedError

    def _count(self, needle: bytes, start: Index, end: Index) -> int:
        raise NotImplementedError


def needle_of(sub: Buffer | int) -> bytes:
    """What to search for: bytes, or the value of one byte; a scalar of numpy is a number."""
    if isinstance(sub, bytes):
        return sub
    if isinstance(sub, str):
        raise TypeError(f"bytes are searched for bytes: encode {sub!r} first")
    try:
        view = view_of(sub)  # type: ignore[arg-type]
    except TypeError:
        if not isinstance(sub, SupportsIndex):
            raise TypeError(
                f"bytes are searched for bytes or one of 0 to 255, not {sub!r}"
            ) from None
    else:
        if view.ndim or not isinstance(sub, SupportsIndex):
            return view.tobytes()
    return bytes((byte_of(sub),))


def compiled_for_bytes(pattern: bytes | re.Pattern[bytes]) -> re.Pattern[bytes]:
    """A regular expression, compiled; a TypeError if it is none of bytes."""
    given = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    if not isinstance(given, bytes):
        raise TypeError(
            "a bytes-like object is searched with a pattern of bytes, as rb'...', not "
            f"{given!r:.80}"
        )
    return re.compile(pattern)


def bounds(start: Index, end: Index, size: int) -> tuple[int, int] | None:
    """The part of `size` bytes that `[start:end]` means; None where even b"" is not found."""
    for name, index in (("start", start), ("end", end)):
        if index is not None:
            number_of(index, name)
    first, last, _ = slice(start, end).indices(size)
    if last < first or (start is not None and operator.index(start) > size):
        return None
    return first, last
