"""Frames: a header of two 8-byte words, and the payload. Drawn in segment/words.py.

A payload never goes around the end of the ring, so that it can be read and written in place.
"""

from __future__ import annotations

import reprlib
import zlib
from typing import Any

from shmkit.memory.views import view_of
from shmkit.segment.words import FRAME_HEADER as HEADER
from shmkit.segment.words import KIND_SHIFT, PAD
from shmkit.segment.words import SIZE_MASK as LOW

__all__ = ["HEADER", "LOW", "PAD", "as_bytes", "second_word", "step_of", "writable"]


def step_of(size: int) -> int:
    """Bytes from one frame to the next, for a payload of `size` bytes."""
    # Header and payload, rounded up to 16 bytes: so every header is aligned.
    return (size + 2 * HEADER - 1) & -HEADER


def as_bytes(data: Any) -> bytes | memoryview:
    """See any contiguous buffer as plain bytes, without a copy.

    Raises:
        TypeError: it has no buffer, or the buffer is not contiguous.
    """
    if type(data) is bytes:  # the exact type: a subclass may override __len__
        return data
    try:
        view = view_of(data)
    except TypeError:
        kind = type(data).__name__
        remedy = "encode it, as with data.encode()" if isinstance(data, str) else "use a Queue"
        raise TypeError(
            f"bytes go in, or an object with a buffer, not {reprlib.repr(data)} of type {kind}: "
            f"{remedy}"
        ) from None
    if not view.c_contiguous:
        raise TypeError("a frame needs contiguous bytes: copy the slice first, as with bytes(data)")
    # cast() refuses a view with a zero in its shape.
    return view.cast("B") if view.nbytes else memoryview(b"")


def writable(buffer: Any) -> memoryview:
    """The memory of a caller that a frame is copied into, as bytes."""
    try:
        target = view_of(buffer)
    except TypeError:
        target = None
    if target is None or target.readonly or not target.c_contiguous:
        raise TypeError(
            f"get_into needs a writable, contiguous buffer, as a bytearray or an array is, not "
            f"{reprlib.repr(buffer)} of type {type(buffer).__name__}"
        )
    # cast() refuses an empty view.
    return target.cast("B") if target.nbytes else target


def second_word(word: int, position: int, payload: bytes | memoryview) -> int:
    """The second word of a frame's header in a checked ring.

    Args:
        word: the first word.
        position: where the frame begins; 16 bytes each.
        payload: the frame's bytes.

    Returns:
        The low bits of position / 16, and above them a CRC-32 of the payload and of all that the
        header says.
    """
    # The position is in the sum: a frame left over from an earlier lap does not pass.
    start = (word ^ (word >> KIND_SHIFT) ^ (position >> 4)) & LOW
    return position >> 4 & LOW | zlib.crc32(payload, start) << KIND_SHIFT
