"""Many frames with one call: they are published, or released, with one store for each run.

A run ends at the end of a lap, where there is no room or no frame, and after one frame in rings
that note every frame (`Cursor.notes`).
"""

from __future__ import annotations

import reprlib
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from shmkit.channels.frame import as_bytes, second_word, step_of
from shmkit.channels.handle import deadline_of, whole_number
from shmkit.channels.ring.lending import Wait, insist
from shmkit.deadline import Deadline
from shmkit.errors import CorruptSegment, Full, PeerDied, ShmkitError
from shmkit.segment.words import FRAME_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shmkit.channels.ring.read import Reader
    from shmkit.channels.ring.write import Writer

__all__ = ["checked_most", "get_many", "intact_frame", "put_many"]


def put_many(writer: Writer, frames: Iterable[Any], timeout: float | None) -> int:
    """As `Ring.put_many`."""
    if isinstance(frames, (str, bytes, bytearray, memoryview)) or not hasattr(frames, "__iter__"):
        raise TypeError(
            f"put_many takes several frames, as a list of them, not {reprlib.repr(frames)}: put() "
            "takes one"
        )
    given = list(frames)
    done = writer.put_many(given, 0)
    if done == len(given):
        return done
    batch = [as_bytes(frame) for frame in given]
    # All sizes first: a frame that never fits must not leave half a batch in the ring.
    writer.check_size(max(map(len, batch), default=0))
    deadline = deadline_of(timeout)
    try:
        while done < len(batch):
            done += writer.put_many(batch, done) or _put_run(writer, batch, done, deadline)
    except Full:
        return done
    except ShmkitError as error:
        if not done:
            raise
        if isinstance(error, PeerDied):
            writer.peer.untell()  # this call returns a count, the next one raises it
    return done


def _put_run(
    writer: Writer, batch: list[bytes | memoryview], first: int, deadline: Deadline
) -> int:
    """Put frames from `first` on while there is room; how many are done with."""
    put = 0

    def attempt() -> int | Wait:
        nonlocal put
        at = writer.admit(len(batch[first]), deadline)
        if isinstance(at, Wait):
            return at
        if at is None:
            return 1  # dropped
        put, end = _write_run(writer, batch, first, at)
        writer.commit(at, end)
        return put

    try:
        done = insist(writer, attempt, deadline)
    finally:
        if put:
            writer.announce()  # also if a signal handler raised after the commit
    return done


def _write_run(
    writer: Writer, batch: list[bytes | memoryview], first: int, at: int
) -> tuple[int, int]:
    """Write frames behind each other, the first of which fits; how many, and where they end."""
    words, data, mask, checked = writer.words, writer.data, writer.mask, writer.checked
    room = min(writer.seen + writer.size, (at | mask) + 1)
    # A note counts one object for each store of the tail.
    last = first + 1 if writer.notes else len(batch)
    number = first
    # The loop of `WriteCursor.put`, without what is the same for all frames of the run.
    while number < last:
        frame = batch[number]
        size = len(frame)
        end = at + ((size + 31) & -16)
        # The first frame was admitted: in an empty ring it may end past `room`.
        if end > room and number > first:
            break
        start = writer.base + (at & mask)
        words[start >> 3] = size  # step: put.header
        if checked:
            words[(start >> 3) + 1] = second_word(size, at, frame)  # step: put.checksum
        start += FRAME_HEADER
        data[start : start + size] = frame  # step: put.payload
        at = end
        number += 1
    return number - first, at


def get_many(reader: Reader, max_frames: int | None, timeout: float | None) -> list[bytes]:
    """As `Ring.get_many`."""
    most = checked_most(max_frames)
    # The step of an iterator written in C, as in core.py: in CPython no signal handler runs between
    # the store of the head and the caller's statement. A call could lose the batch.
    for taken in iter(partial(reader.get_many, most), None):
        return taken

    def attempt() -> list[bytes] | Wait:
        at = reader.find()
        return at if isinstance(at, Wait) else _take_all(reader, at, most)

    frames = insist(reader, attempt, deadline_of(timeout))
    reader.give_room()
    return frames


def checked_most(max_frames: int | None) -> int:
    """How many frames are taken at most; ValueError if that is none."""
    if max_frames is None:
        return sys.maxsize
    max_frames = whole_number("max_frames", max_frames, "frames")
    if max_frames < 1:
        raise ValueError(f"max_frames={max_frames}: ask for 1 frame or more")
    return min(max_frames, sys.maxsize)


def _take_all(reader: Reader, at: int, most: int) -> list[bytes]:
    """Copy out frames from a checked one on, and release them with one store."""
    frames: list[bytes] = []
    last = reader.seen  # frames put meanwhile are left: a fast producer must not hold us here
    if reader.notes or reader.mark is not None:
        # As in put: a note counts one object for each store of the head.
        most = 1
    while True:
        at = _take_run(reader, at, most, frames)
        if len(frames) == most or at >= last:
            break
        found = intact_frame(reader, at)
        if found is None:
            break
        at = found
    # One store for all frames: a kill before it leaves every one of them in the ring.
    reader.release(at)
    return frames


def intact_frame(reader: Reader, at: int) -> int | None:
    """The position of the next frame of a batch; None if there is none, or it is damaged."""
    try:
        found = reader.next_frame(at)
    except CorruptSegment:
        return None  # what is before it is taken first: the next call raises this
    return None if isinstance(found, Wait) else found


def _take_run(reader: Reader, at: int, most: int, frames: list[bytes]) -> int:
    """Copy frames out up to the end of the lap, or to one that needs another look; where it is."""
    words, data, mask = reader.words, reader.data, reader.mask
    bound = reader.bound(at)
    start, size = reader.payload_of(at)
    frames.append(data[start : start + size])  # step: get.copy
    at += step_of(size)
    # The loop of `ReadCursor.get`, without what is the same for all frames of the run.
    # In a checked ring `next_frame` has to check each sum: one frame is a run.
    while at < bound and len(frames) < most and not reader.checked:
        start = reader.base + (at & mask)
        size = words[start >> 3]
        end = at + ((size + 31) & -16)
        if end > bound:
            break  # a flag or a kind in the header, or damage: `next_frame` sees to it
        start += FRAME_HEADER
        frames.append(data[start : start + size])  # step: get.copy
        at = end
    return at
