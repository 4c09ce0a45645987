"""Frames: what a ring's data is made of.

A frame is a header of two 8-byte words and its payload, at a multiple of 16:

    bits of word 0    0-31 length of the payload in bytes
                      32-47 kind, free for the layer above
                      48-63 flags: PAD (fills the ring up to its end), DISCARD (skip it)
    bits of word 1    in checked rings; in others it is whatever was there
                      0-31 position / 16, low bits
                      32-63 CRC-32 of the payload and of the rest of the header

A payload never wraps around the end of the ring, so that it can be read and written in place.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DISCARD", "HEADER", "LOW", "PAD", "Frame", "as_bytes", "checksum"]

HEADER: Final = 16
LOW: Final = 0xFFFFFFFF  # the length in word 0
PAD: Final = 1 << 48
DISCARD: Final = 2 << 48


def as_bytes(data: Any) -> bytes | memoryview:
    """See any contiguous buffer as plain bytes, without a copy.

    Raises:
        TypeError: it has no buffer, or the buffer is not contiguous.
    """
    if type(data) is bytes:  # a subclass may lie about its length
        return data
    view = memoryview(data)
    if not view.c_contiguous:
        raise TypeError("a frame needs contiguous bytes: copy the slice first, as with bytes(data)")
    return view.cast("B") if view.nbytes else memoryview(b"")


def checksum(word: int, position: int, payload: bytes | memoryview) -> int:
    """CRC-32 of a payload, begun with what its header says of length, flags and position."""
    start = (word ^ (word >> 32) ^ (position >> 4)) & 0xFFFFFFFF
    return zlib.crc32(payload, start)


class Frame:
    """Room for one frame inside the ring: write into it; leaving the `with` commits it.

    It is indexed and sliced as a writable `memoryview` of bytes; `buf` is that view.
    """

    __slots__ = ("_truncate", "buf")

    def __init__(self, buf: memoryview, truncate: Callable[[int], None]) -> None:
        self.buf = buf
        self._truncate = truncate

    def truncate(self, size: int) -> None:
        """Commit only the first `size` bytes.

        Raises:
            ValueError: more than were reserved, or fewer than 0.
        """
        if not 0 <= size <= len(self.buf):
            raise ValueError(f"{size} bytes of a frame of {len(self.buf)}: reserve more")
        self._truncate(size)
        self.buf = self.buf[:size]

    def __len__(self) -> int:
        return len(self.buf)

    def __getitem__(self, index: Any) -> Any:
        return self.buf[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.buf[index] = value

    def __bytes__(self) -> bytes:
        return bytes(self.buf)

    if sys.version_info >= (3, 12):

        def __buffer__(self, flags: int) -> memoryview:
            return self.buf

    def __repr__(self) -> str:
        return f"<Frame of {len(self.buf)} bytes>"
