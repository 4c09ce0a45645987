"""The bytes before the items of a shared array, and what an attacher checks of them.

They are drawn in words.py: HEADER and ARRAY. An array has no participants and no semaphores.
"""

from __future__ import annotations

import ast
import os
import struct
import time
import zlib
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shmkit.errors import CorruptSegment, IncompatibleSegment
from shmkit.segment.words import (
    ARRAY_DESCRIPTION,
    ARRAY_KIND,
    ARRAY_TEXT,
    ARRAY_TEXT_LENGTH,
    CHECKSUM_AND_STATE,
    CHECKSUM_AT,
    FIXED,
    FIXED_AT,
    FORTRAN,
    MAGIC,
    PAGE,
    READY,
    VERSION,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ArrayHeader", "pack", "unpack"]

_FIXED: Final = struct.Struct(FIXED)
_CRC: Final = struct.Struct(CHECKSUM_AND_STATE)
_DESCRIPTION: Final = struct.Struct(ARRAY_DESCRIPTION)


class ArrayHeader(NamedTuple):
    """What an array is.

    Args:
        shape: items in each dimension.
        dtype: of fixed size.
        fortran: whether the first index changes fastest.
        offset: byte of the memory that is the first of the items.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the items."""
        return prod(self.shape) * self.dtype.itemsize


def pack(shape: tuple[int, ...], dtype: np.dtype[Any], *, fortran: bool) -> tuple[bytes, int]:
    """All bytes of a header, and the size of the whole segment.

    Raises:
        TypeError: a dtype that cannot be described.
    """
    text = repr((shape, _described(dtype))).encode("ascii", "backslashreplace")
    offset = -(-(ARRAY_TEXT + len(text)) // PAGE) * PAGE
    size = prod(shape) * dtype.itemsize
    fixed = _FIXED.pack(
        VERSION,
        ARRAY_KIND.number,
        FORTRAN if fortran else 0,
        offset + size,
        offset,
        size,
        0,
        os.urandom(16),
        0,
        os.getpid(),
        0,
        time.time_ns(),
    )
    head = MAGIC + fixed + _CRC.pack(zlib.crc32(fixed), READY)
    head = head.ljust(ARRAY_TEXT_LENGTH, b"\0")
    return head + _DESCRIPTION.pack(len(text), zlib.crc32(text)) + text, offset + size


def _described(dtype: np.dtype[Any]) -> Any:
    """A dtype as a literal that means the same dtype to another process."""
    from numpy.lib.format import descr_to_dtype, dtype_to_descr

    description = dtype_to_descr(dtype)
    if descr_to_dtype(description) != dtype:
        raise TypeError(f"dtype {dtype!r} cannot be described to another process: use a plain one")
    return description


def unpack(head: memoryview, size: int, where: str) -> ArrayHeader:
    """Read the header of an array, and check everything that the items' addresses depend on.

    Args:
        head: the memory.
        size: its bytes.
        where: url, for messages.

    Raises:
        IncompatibleSegment: not ours, of another kind, or of another layout version.
        CorruptSegment: a field that cannot be.
    """
    magic = head[: len(MAGIC)].tobytes()
    if magic != MAGIC:
        raise IncompatibleSegment(
            f"{where!r} holds no shared array: it begins with {magic!r}; attach to it with the "
            "class that created it, or take another name",
            where=where,
        )
    if len(head) < PAGE:
        raise _corrupt(where, f"it has {size} bytes, less than its header")
    version, kind, flags, total, offset, length, *_ = _FIXED.unpack_from(head, FIXED_AT)
    if version != VERSION:
        raise IncompatibleSegment(
            f"{where!r} has layout version {version}, this shmkit reads {VERSION}", where=where
        )
    crc, _ = _CRC.unpack_from(head, CHECKSUM_AT)
    if crc != zlib.crc32(head[FIXED_AT:CHECKSUM_AT]):
        raise _corrupt(where, "the checksum of the header does not fit its fields")
    if kind != ARRAY_KIND.number:
        raise IncompatibleSegment(
            f"{where!r} holds something of kind {kind}, and a shared array is of kind "
            f"{ARRAY_KIND.number}: attach with the class that created it",
            where=where,
        )
    if total > size:
        raise _corrupt(where, f"it has {size} bytes, and its header speaks of {total}")
    header = _described_by(head, offset, bool(flags & FORTRAN), where)
    if header.size != length or offset + length != total:
        raise _corrupt(
            where,
            f"{header.size} bytes for {header.shape} of {header.dtype} do not fit a data size of "
            f"{length} at byte {offset} of {total}",
        )
    return header


def _described_by(head: memoryview, offset: int, fortran: bool, where: str) -> ArrayHeader:
    from numpy.lib.format import descr_to_dtype

    length, crc = _DESCRIPTION.unpack_from(head, ARRAY_TEXT_LENGTH)
    text = head[ARRAY_TEXT : ARRAY_TEXT + length].tobytes()
    if offset % PAGE or not ARRAY_TEXT + length <= offset <= len(head):
        raise _corrupt(where, f"a description of {length} bytes before a data offset of {offset}")
    if zlib.crc32(text) != crc:
        raise _corrupt(where, "the checksum of the description does not fit it")
    try:
        shape, description = ast.literal_eval(text.decode("ascii"))
        dtype = descr_to_dtype(description)
        valid = all(type(n) is int and n >= 0 for n in shape) and not dtype.hasobject
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise _corrupt(where, f"a description that means nothing: {text[:80]!r}") from error
    if not valid or type(shape) is not tuple:
        raise _corrupt(where, f"a description that cannot be: {text[:80]!r}")
    return ArrayHeader(shape, dtype, fortran, offset)


def _corrupt(where: str, detail: str) -> CorruptSegment:
    return CorruptSegment(
        f"shared array {where!r} is corrupt: {detail}; it was cut off or overwritten: unlink it "
        "and create it anew",
        where=where,
        detail=detail,
    )
