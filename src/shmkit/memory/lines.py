"""Lines of bytes that come in pieces."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["lines_of"]


def lines_of(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    r"""All lines, each with the b"\n" at its end; the last may have none."""
    begun: list[bytes] = []  # pieces of a line that is not at its end
    for piece in pieces:
        lines = io.BytesIO(piece).readlines()
        if begun and lines:
            begun.append(lines[0])
            if not lines[0].endswith(b"\n"):
                continue
            lines[0] = b"".join(begun)
            begun = []
        if lines and not lines[-1].endswith(b"\n"):
            begun.append(lines.pop())
        yield from lines
    if begun:
        yield b"".join(begun)
