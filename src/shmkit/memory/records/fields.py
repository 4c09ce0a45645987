"""One field of a record: where it is, and how its value becomes bytes and back.

What each kind keeps:

    number     one item of a `struct` code: one assignment of its 1 to 8 bytes
    tuple      several items of one code
    raw        "c" and "Ns": exactly N bytes come back; a shorter value is filled up with NULs
    pascal     "Np": one byte with the length, then up to N - 1 bytes (255 at most)
    text       two bytes with the length, then up to N bytes: str is stored as UTF-8
    nested     a record in the record

Where the length is stored, a value comes back as it was, with its trailing NULs.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from shmkit.errors import CorruptSegment

__all__ = ["ITEM", "Field", "alignment_of", "field_of", "nested_of", "text_of"]

ITEM: Final = re.compile(r"(\d*)([cbB?hHiIlLqQnNefdPsp])")
_LENGTH: Final = struct.Struct("<H")
_LITTLE: Final = sys.byteorder == "little"
# Codes whose standard size has another native letter here.
_NATIVE: Final = {"l": "i", "L": "I"}


def alignment_of(code: str) -> int:
    """Bytes that an item of a native code is aligned to in C."""
    return struct.calcsize(f"@b0{code}")


@dataclass(slots=True, eq=False)
class Field:
    """A part of each record.

    Args:
        name: "" if it only has a number.
        offset: bytes from the beginning of the record.
        size: bytes.
        encode: the bytes of a value; ValueError or TypeError if the field cannot hold it.
        unpack: the value whose bytes begin at a byte of a view.
        dtype: what numpy calls it.
        format: of the `struct` that copies numbers.
        nested: the layout of a record in the record.
    """

    name: str
    offset: int
    size: int
    encode: Callable[[Any], bytes]
    unpack: Callable[[memoryview, int], Any]
    dtype: Any
    format: str = ""
    nested: Any = None  # a Layout, which is made of these

    def pieces(self, value: Any) -> list[tuple[int, bytes]]:
        """The bytes of a value, in pieces without the gaps, each with its offset in the record."""
        if self.nested is None:
            return [(self.offset, self.pack(value))]
        return [(self.offset + at, data) for at, data in self.nested.packed(value)]

    def pack(self, value: Any) -> bytes:
        """The bytes of a value; TypeError or ValueError if the field cannot hold it."""
        try:
            return self.encode(value)
        except (struct.error, OverflowError, ValueError, _WrongType) as error:
            label = self.name or f"at byte {self.offset}"
            kind = TypeError if isinstance(error, _WrongType) else ValueError
            raise kind(
                f"field {label} of {self.size} bytes cannot hold {value!r:.80}: {error}"
            ) from error


class _WrongType(Exception):
    """A value of a type that the field does not take. Numbers are checked by `struct`."""


def _refuse_wrong(value: Any, most: int) -> None:
    if not isinstance(value, bytes | bytearray):
        raise _WrongType("it takes bytes")
    if len(value) > most:
        raise ValueError(f"{len(value)} bytes, {most} fit")


def field_of(name: str, offset: int, order: str, code: str, count: int | None) -> Field:
    """A field of `count` items (None: one, not in a tuple) of a code of `struct`, in an order."""
    number = 1 if count is None else count
    if code in "sp" or (code == "c" and count is None):
        return _raw(name, offset, code, number)
    size = struct.calcsize(order + code)
    kind = {"c": "S", "?": "b", "e": "f", "f": "f", "d": "f"}.get(code)
    kind = kind or ("i" if code.islower() else "u")
    sign = {"<": "<", ">": ">", "!": ">"}.get(order, "=")
    item = "?" if kind == "b" else f"{sign}{kind}{size}"
    # Native codes copy all bytes at once; other codes copy byte by byte.
    if order in "@=" or (order == "<") == _LITTLE:
        order, code = "@", _NATIVE.get(code, code) if order != "@" else code
    packer = struct.Struct(f"{order}{number}{code}")
    if count is None:
        one = packer.unpack_from
        return Field(
            name, offset, size, packer.pack, lambda view, at: one(view, at)[0], item, packer.format
        )
    return Field(
        name,
        offset,
        size * count,
        lambda values: packer.pack(*values),
        packer.unpack_from,
        (item, (count,)),
        packer.format,
    )


def _raw(name: str, offset: int, code: str, size: int) -> Field:
    """Bytes of a fixed number ("c", "Ns"), or with their length in front ("Np")."""
    packer = struct.Struct(f"{size}{'s' if code == 'c' else code}")
    most = min(max(size - 1, 0), 255) if code == "p" else size

    def encode(value: Any) -> bytes:
        _refuse_wrong(value, most)
        if code == "c" and not value:
            raise ValueError("it takes one byte")
        return packer.pack(value)

    # For numpy "V": "S" would lose trailing NULs.
    return Field(
        name, offset, size, encode, lambda view, at: packer.unpack_from(view, at)[0], f"V{size}"
    )


def text_of(name: str, offset: int, room: int, *, is_str: bool) -> Field:
    """Up to `room` bytes after their length; str as UTF-8."""

    def encode(value: Any) -> bytes:
        if is_str and isinstance(value, str):
            value = value.encode()
        elif is_str:
            raise _WrongType("it takes str")
        _refuse_wrong(value, room)
        return _LENGTH.pack(len(value)) + bytes(value).ljust(room, b"\0")

    def unpack(view: memoryview, at: int) -> str | bytes:
        (length,) = _LENGTH.unpack_from(view, at)
        if length > room:
            detail = f"field {name} says that it holds {length} bytes, and has {room}"
            raise CorruptSegment(f"a record is corrupt: {detail}", detail=detail)
        data = view[at + 2 : at + 2 + length].tobytes()
        return data.decode() if is_str else data

    dtype = [("length", "<u2"), ("bytes", f"V{room}")]
    return Field(name, offset, _LENGTH.size + room, encode, unpack, dtype)


def nested_of(name: str, layout: Any) -> Field:
    """A record in the record."""
    make, dtype = layout.item(readonly=False), layout.dtype
    return Field(name, 0, layout.size, _whole, make, dtype, nested=layout)


def _whole(value: Any) -> bytes:
    raise NotImplementedError  # a nested record is written in pieces
