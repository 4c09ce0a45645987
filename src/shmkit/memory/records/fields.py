"""One field of a record: where it is, and how its value becomes bytes and back.

What each kind keeps:

    number     one item of a `struct` code: one assignment of its 1 to 8 bytes
    tuple      several items of one code
    raw        "c" and "Ns": exactly N bytes come back; a shorter value is filled up with NULs
    pascal     "Np": one byte with the length, then up to N - 1 bytes (255 at most)
    text       two bytes with the length, then up to N bytes: str is stored as UTF-8

Where the length is stored, a value comes back as it was, with its trailing NULs.
"""

from __future__ import annotations

import re
import struct
import sys
from typing import Any, Final

from shmkit.errors import CorruptSegment

__all__ = ["ITEM", "Field", "Numbers", "Raw", "Text", "alignment_of", "field_of"]

ITEM: Final = re.compile(r"(\d*)([cbB?hHiIlLqQnNefdPsp])")
_LENGTH: Final = struct.Struct("<H")
_LITTLE: Final = sys.byteorder == "little"
# Codes whose standard size has another native letter here.
_NATIVE: Final = {"l": "i", "L": "I"}


def alignment_of(code: str) -> int:
    """Bytes that an item of a native code is aligned to in C."""
    return struct.calcsize(f"@b0{code}")


class Field:
    """A part of each record.

    Args:
        name: "" if it only has a number.
        offset: bytes from the beginning of the record.
        size: bytes.
    """

    __slots__ = ("name", "offset", "size")

    def __init__(self, name: str, offset: int, size: int) -> None:
        self.name = name
        self.offset = offset
        self.size = size

    def pack(self, value: Any) -> bytes:
        """The bytes of a value.

        Raises:
            TypeError, ValueError: the field cannot hold it.
        """
        raise NotImplementedError

    def unpack(self, view: memoryview, at: int) -> Any:
        """The value whose bytes begin at `at`."""
        raise NotImplementedError

    def dtype(self) -> Any:
        """What numpy calls it."""
        raise NotImplementedError

    def _refusal(self, value: Any, why: object) -> str:
        label = self.name or f"at byte {self.offset}"
        return f"field {label} of {self.size} bytes cannot hold {value!r:.80}: {why}"


class Numbers(Field):
    """Items of one of the codes of `struct`: one as it is, or several as a tuple."""

    __slots__ = ("_count", "_dtype", "_struct", "code")

    def __init__(self, name: str, offset: int, order: str, code: str, count: int | None) -> None:
        size = struct.calcsize(order + code)
        super().__init__(name, offset, size * (1 if count is None else count))
        kind = {"c": "S", "?": "b", "e": "f", "f": "f", "d": "f"}.get(code)
        self._dtype = {"<": "<", ">": ">", "!": ">"}.get(order, "=") + (
            kind or ("i" if code.islower() else "u")
        )
        self._dtype += str(size)
        native = order in "@=" or (order == "<") == _LITTLE
        # Native codes copy all bytes at once; other codes copy byte by byte.
        if native:
            order, code = "@", _NATIVE.get(code, code) if order != "@" else code
        self._struct = struct.Struct(f"{order}{1 if count is None else count}{code}")
        self._count = count
        self.code = code

    def pack(self, value: Any) -> bytes:
        """The bytes of a value."""
        try:
            if self._count is None:
                return self._struct.pack(value)
            return self._struct.pack(*value)
        except (struct.error, OverflowError) as error:
            raise ValueError(self._refusal(value, error)) from error

    def unpack(self, view: memoryview, at: int) -> Any:
        """The value at `at`."""
        values = self._struct.unpack_from(view, at)
        return values[0] if self._count is None else values

    def dtype(self) -> Any:
        """What numpy calls it."""
        kind = "?" if self._dtype[1] == "b" else self._dtype
        return kind if self._count is None else (kind, (self._count,))


class Raw(Field):
    """Bytes of a fixed number ("c", "Ns"), or with their length in front ("Np")."""

    __slots__ = ("_most", "_pad", "_struct")

    def __init__(self, name: str, offset: int, code: str, size: int) -> None:
        super().__init__(name, offset, size)
        self._struct = struct.Struct(f"{size}{'s' if code == 'c' else code}")
        self._most = min(max(size - 1, 0), 255) if code == "p" else size
        self._pad = code != "c"

    def pack(self, value: Any) -> bytes:
        """The bytes of a value."""
        if not isinstance(value, bytes | bytearray):
            raise TypeError(self._refusal(value, "it takes bytes"))
        if len(value) > self._most:
            raise ValueError(self._refusal(value, f"{len(value)} bytes, {self._most} fit"))
        if len(value) < self.size and not self._pad:
            raise ValueError(self._refusal(value, "it takes one byte"))
        return self._struct.pack(value)

    def unpack(self, view: memoryview, at: int) -> bytes:
        """The value at `at`."""
        value: bytes = self._struct.unpack_from(view, at)[0]
        return value

    def dtype(self) -> Any:
        """What numpy calls it."""
        return f"V{self.size}"  # S would lose trailing NULs


class Text(Field):
    """Up to `room` bytes after their length; str as UTF-8."""

    __slots__ = ("_room", "_str")

    def __init__(self, name: str, offset: int, room: int, *, is_str: bool) -> None:
        super().__init__(name, offset, _LENGTH.size + room)
        self._room = room
        self._str = is_str

    def pack(self, value: Any) -> bytes:
        """The bytes of a value."""
        taken: Any = str if self._str else bytes | bytearray
        if not isinstance(value, taken):
            raise TypeError(self._refusal(value, f"it takes {'str' if self._str else 'bytes'}"))
        data = value.encode() if isinstance(value, str) else bytes(value)
        if len(data) > self._room:
            raise ValueError(self._refusal(value, f"{len(data)} bytes, {self._room} fit"))
        return _LENGTH.pack(len(data)) + data.ljust(self._room, b"\0")

    def unpack(self, view: memoryview, at: int) -> str | bytes:
        """The value at `at`."""
        (length,) = _LENGTH.unpack_from(view, at)
        if length > self._room:
            detail = f"field {self.name} says that it holds {length} bytes, and has {self._room}"
            raise CorruptSegment(f"a record is corrupt: {detail}", detail=detail)
        data = view[at + 2 : at + 2 + length].tobytes()
        return data.decode() if self._str else data

    def dtype(self) -> Any:
        """What numpy calls it."""
        return [("length", "<u2"), ("bytes", f"V{self._room}")]


def field_of(name: str, offset: int, order: str, code: str, count: int | None) -> Field:
    """A field of one of the codes of `struct`.

    Args:
        name: "" if it only has a number.
        offset: bytes from the beginning of the record.
        order: "@", "=", "<", ">" or "!".
        code: the letter.
        count: number before it; None for none.
    """
    if code in "sp" or (code == "c" and count is None):
        return Raw(name, offset, code, 1 if count is None else count)
    return Numbers(name, offset, order, code, count)
