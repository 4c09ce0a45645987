"""Lines of bytes that come in pieces."""

from __future__ import annotations

import io
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["lines_of"]


def lines_of(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    r"""All lines, each with the b"\n" at its end; the last may have none."""
    # The lines of a piece are handed out without a call of ours for each.
    return chain.from_iterable(_batches(pieces))


def _batches(pieces: Iterable[bytes | memoryview]) -> Iterator[list[bytes]]:
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
        yield lines
    if begun:
        yield [b"".join(begun)]
