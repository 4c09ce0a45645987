"""The bytes before the items of a shared array, and what an attacher checks of them.

The header is that of every segment. Behind its fixed fields stands a description of shape and
dtype, a Python literal as .npy files have it. The bytes are drawn in words.py: HEADER and ARRAY.
"""

from __future__ import annotations

import ast
import struct
import zlib
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shmkit.errors import CorruptSegment
from shmkit.segment import header
from shmkit.segment.words import (
    ARRAY_DESCRIPTION,
    ARRAY_KIND,
    ARRAY_TEXT,
    ARRAY_TEXT_LENGTH,
    FORTRAN,
    PAGE,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

__all__ = ["ArrayHeader", "plan", "read"]

_DESCRIPTION: Final = struct.Struct(ARRAY_DESCRIPTION)  # length of the text, and its checksum


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


def plan(
    shape: tuple[int, ...], dtype: np.dtype[Any], *, fortran: bool
) -> tuple[ArrayHeader, Callable[[memoryview], None]]:
    """The header of a new array, and what writes it into memory of zeros.

    Raises:
        TypeError: a dtype that cannot be described.
    """
    text = repr((shape, _described(dtype))).encode("ascii", "backslashreplace")
    offset = -(-(ARRAY_TEXT + len(text)) // PAGE) * PAGE
    made = ArrayHeader(shape, dtype, fortran, offset)

    def write(view: memoryview) -> None:
        _DESCRIPTION.pack_into(view, ARRAY_TEXT_LENGTH, len(text), zlib.crc32(text))
        view[ARRAY_TEXT : ARRAY_TEXT + len(text)] = text
        header.write(view, ARRAY_KIND, FORTRAN if fortran else 0, offset, made.size)

    return made, write


def _described(dtype: np.dtype[Any]) -> Any:
    """A dtype as a literal that means the same dtype to another process."""
    from numpy.lib.format import descr_to_dtype, dtype_to_descr

    description = dtype_to_descr(dtype)
    if descr_to_dtype(description) != dtype:
        raise TypeError(f"dtype {dtype!r} cannot be described to another process: use a plain one")
    return description


def read(head: memoryview, where: str) -> ArrayHeader:
    """Read the header of an array, and check everything that the items' addresses depend on.

    Raises:
        IncompatibleSegment: not ours, of another kind, or of another layout version.
        CorruptSegment: a field that cannot be.
    """
    fixed = header.read_fixed(head, ARRAY_KIND, where)
    if fixed.total > len(head):
        raise _corrupt(where, f"it has {len(head)} bytes, and its header speaks of {fixed.total}")
    found = _described_by(head, fixed.data_offset, bool(fixed.flags & FORTRAN), where)
    if found.size != fixed.data_size or found.offset + found.size != fixed.total:
        raise _corrupt(
            where,
            f"{found.size} bytes for {found.shape} of {found.dtype} do not fit a data size of "
            f"{fixed.data_size} at byte {found.offset} of {fixed.total}",
        )
    return found


def _described_by(head: memoryview, offset: int, fortran: bool, where: str) -> ArrayHeader:
    from numpy.lib.format import descr_to_dtype

    length, checksum = _DESCRIPTION.unpack_from(head, ARRAY_TEXT_LENGTH)
    text = head[ARRAY_TEXT : ARRAY_TEXT + length].tobytes()
    if offset % PAGE or not ARRAY_TEXT + length <= offset <= len(head):
        raise _corrupt(where, f"a description of {length} bytes before a data offset of {offset}")
    if zlib.crc32(text) != checksum:
        raise _corrupt(where, "the checksum of the description does not fit it")
    try:
        shape, description = ast.literal_eval(text.decode("ascii"))
        dtype = descr_to_dtype(description)
        # Python objects would be pointers of another process, and crash this one.
        valid = all(type(n) is int and n >= 0 for n in shape) and not dtype.hasobject
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        # What literal_eval and numpy raise for arbitrary text.
        raise _corrupt(where, f"a description that means nothing: {text[:80]!r}") from error
    if not valid or type(shape) is not tuple:
        raise _corrupt(where, f"a description that cannot be: {text[:80]!r}")
    return ArrayHeader(shape, dtype, fortran, offset)


def _corrupt(where: str, detail: str) -> CorruptSegment:
    return header.corrupt(f"shared array {where!r}", detail, where)
