r"""The bytes before the items of a shared array, and what an attacher checks of them.

Little-endian; the common fields lie where every segment of this library has them.

    offset  field
    0x000   magic "SHMKIT\x01\0", stored last
    0x008   layout version, kind (0x41), flags (u16 each; flag 1: Fortran order), 2 bytes zero
    0x010   total size, data offset, data size in bytes, 0 (u64 each)
    0x030   16 random bytes
    0x040   0, creator's pid, 0, created in ns (u64 each)
    0x060   CRC-32 of 0x008-0x05f (u32), 4 bytes zero
    0x068   state: 1, ready
    0x080   description: its length in bytes and its CRC-32 (u32 each)
    0x088   description: shape and dtype, a Python literal in ASCII as .npy files have it
    data offset, a multiple of 4096: the items
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

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MAGIC", "ArrayHeader", "pack", "unpack"]

MAGIC: Final = b"SHMKIT\x01\0"
KIND: Final = 0x41
VERSION: Final = 1
_FORTRAN: Final = 1
_READY: Final = 1
_ALIGNED: Final = 4096

_FIXED = struct.Struct("<HHHxxQQQQ16sQQQQ")  # 0x008 to 0x05f
_CRC = struct.Struct("<IxxxxQ")  # and the state
_DESCRIPTION = struct.Struct("<II")
_FIXED_AT: Final = 0x008
_CRC_AT: Final = 0x060
_DESCRIPTION_AT: Final = 0x080
_TEXT_AT: Final = _DESCRIPTION_AT + _DESCRIPTION.size


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
    offset = -(-(_TEXT_AT + len(text)) // _ALIGNED) * _ALIGNED
    size = prod(shape) * dtype.itemsize
    fixed = _FIXED.pack(
        VERSION,
        KIND,
        _FORTRAN if fortran else 0,
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
    head = MAGIC + fixed + _CRC.pack(zlib.crc32(fixed), _READY)
    head = head.ljust(_DESCRIPTION_AT, b"\0")
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
    if len(head) < _ALIGNED:
        raise _corrupt(where, f"it has {size} bytes, less than its header")
    version, kind, flags, total, offset, length, *_ = _FIXED.unpack_from(head, _FIXED_AT)
    if version != VERSION:
        raise IncompatibleSegment(
            f"{where!r} has layout version {version}, this shmkit reads {VERSION}", where=where
        )
    crc, _ = _CRC.unpack_from(head, _CRC_AT)
    if crc != zlib.crc32(head[_FIXED_AT:_CRC_AT]):
        raise _corrupt(where, "the checksum of the header does not fit its fields")
    if kind != KIND:
        raise IncompatibleSegment(
            f"{where!r} holds something of kind {kind}, and a shared array is of kind {KIND}: "
            "attach with the class that created it",
            where=where,
        )
    if total > size:
        raise _corrupt(where, f"it has {size} bytes, and its header speaks of {total}")
    header = _described_by(head, offset, bool(flags & _FORTRAN), where)
    if header.size != length or offset + length != total:
        raise _corrupt(
            where,
            f"{header.size} bytes for {header.shape} of {header.dtype} do not fit a data size of "
            f"{length} at byte {offset} of {total}",
        )
    return header


def _described_by(head: memoryview, offset: int, fortran: bool, where: str) -> ArrayHeader:
    from numpy.lib.format import descr_to_dtype

    length, crc = _DESCRIPTION.unpack_from(head, _DESCRIPTION_AT)
    text = head[_TEXT_AT : _TEXT_AT + length].tobytes()
    if offset % _ALIGNED or not _TEXT_AT + length <= offset <= len(head):
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
