"""An outside ledger: what was put, and what came, in memory that has nothing to do with a ring.

Frames know who put them, as the how-many-eth, and whether they are whole. Producers note a frame
before they put it and after; consumers note each one that they get. Whoever is killed in between
leaves at most one frame (of a batch: the batch) that is known only to have begun.
"""

from __future__ import annotations

import mmap
import random
import struct
import zlib
from typing import Final, NamedTuple

__all__ = ["Account", "Ledger", "make_frame", "read_frame"]

_HEADER: Final = struct.Struct("<HHII")  # producer, size of the filling, number, crc of all
PRODUCERS: Final = 8
CONSUMERS: Final = 8
_BEGUN, _DONE, _CONSUMED, _TORN, _STOP = 0, PRODUCERS, 2 * PRODUCERS, 3 * PRODUCERS, 4 * PRODUCERS
_COUNTS: Final = 4096


def make_frame(producer: int, number: int, size: int) -> bytes:
    """Frame `number` of a producer, with `size` bytes of filling that can be checked."""
    filling = random.Random(producer << 32 | number).randbytes(size)
    bare = _HEADER.pack(producer, size, number, 0)
    return _HEADER.pack(producer, size, number, zlib.crc32(bare + filling)) + filling


def read_frame(frame: bytes | memoryview) -> tuple[int, int] | None:
    """Producer and number of a frame, None if it is torn."""
    if len(frame) < _HEADER.size:
        return None
    producer, size, number, crc = _HEADER.unpack_from(frame)
    filling = bytes(frame[_HEADER.size :])
    bare = _HEADER.pack(producer, size, number, 0)
    if len(filling) != size or zlib.crc32(bare + filling) != crc:
        return None
    return producer, number


class Account(NamedTuple):
    """What came of all that was put."""

    lost: list[tuple[int, int]]
    torn: int
    unknown: list[tuple[int, int]]
    again: list[tuple[int, int]]
    delivered: int


class Ledger:
    """Counts that forked children share with the test.

    Args:
        frames: how many a producer may put at most.
    """

    def __init__(self, frames: int = 50_000) -> None:
        self.frames = frames
        self._map = mmap.mmap(-1, _COUNTS + PRODUCERS * CONSUMERS * frames)
        self._view = memoryview(self._map)
        self._words = self._view[:_COUNTS].cast("Q")

    # -- by producers ------------------------------------------------------------------------------

    def begin(self, producer: int, count: int = 1) -> int:
        """Note that frames are about to be put; gives the number of the first."""
        number = self._words[_DONE + producer]
        assert number + count <= self.frames, "more frames than the ledger has room for"
        self._words[_BEGUN + producer] = number + count
        return number

    def end(self, producer: int, count: int = 1) -> None:
        """Note that the first `count` of what was begun are in."""
        self._words[_DONE + producer] += count

    def done(self, producer: int) -> int:
        """How many frames a producer has put."""
        return self._words[_DONE + producer]

    # -- by consumers ------------------------------------------------------------------------------

    def note(self, consumer: int, frame: bytes | memoryview) -> None:
        """Note a frame that came."""
        found = read_frame(frame)
        if found is None or found[0] >= PRODUCERS or found[1] >= self.frames:
            self._words[_TORN + consumer] += 1
            return
        at = self._at(consumer, *found)
        self._view[at] = min(self._view[at] + 1, 255)
        self._words[_CONSUMED + consumer] += 1

    def consumed(self) -> int:
        """How many frames came so far, to all."""
        return sum(self._words[_CONSUMED : _CONSUMED + CONSUMERS])

    # -- by the test -------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether the test wants its children to come to an end."""
        return bool(self._words[_STOP])

    def stop(self) -> None:
        """Let the children come to an end."""
        self._words[_STOP] = 1

    def account(self) -> Account:
        """Compare what was put with what came."""
        lost, unknown, again = [], [], []
        delivered = 0
        for producer in range(PRODUCERS):
            done, begun = self._words[_DONE + producer], self._words[_BEGUN + producer]
            for number in range(self.frames):
                came = sum(
                    self._view[self._at(consumer, producer, number)]
                    for consumer in range(CONSUMERS)
                )
                delivered += came > 0
                if number < done and not came:
                    lost.append((producer, number))
                if number >= max(begun, done) and came:
                    unknown.append((producer, number))
                if came > 1:
                    again.append((producer, number))
                if number >= begun and not came:
                    break
        torn = sum(self._words[_TORN : _TORN + CONSUMERS])
        return Account(lost, torn, unknown, again, delivered)

    def close(self) -> None:
        """Give the memory back."""
        self._words.release()
        self._view.release()
        self._map.close()

    def _at(self, consumer: int, producer: int, number: int) -> int:
        return _COUNTS + (consumer * PRODUCERS + producer) * self.frames + number
