"""Frames in place: memory of the ring lent to the caller, for as long as a `with` lasts.

The side is the caller's own until then (lending.py), between processes by the side's mutex.
Afterwards a frame, its slices and a view are released: using them is a ValueError. Only what was
made of a view otherwise (a slice of a peeked view, an array) and still lives keeps the memory
mapped; what it shows then is the ring's again.
"""

from __future__ import annotations

from contextlib import contextmanager
from sys import getrecursionlimit, setrecursionlimit
from typing import TYPE_CHECKING, Any, Final, TypeVar

from shmkit.channels.frame import step_of, writable
from shmkit.channels.handle import deadline_of, whole_number
from shmkit.channels.ring.batch import checked_most, intact_frame
from shmkit.channels.ring.lending import Loan, Wait, attempt, check_loan, give_back, wait
from shmkit.compiled import Exporter
from shmkit.core import DEPTH
from shmkit.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.channels.ring.read import Reader
    from shmkit.channels.ring.write import Writer

__all__ = ["Frame", "get_into", "peek", "peek_many", "reserve"]

T = TypeVar("T")

RELEASED: Final = memoryview(b"")
RELEASED.release()


class Frame(Exporter):
    """Room for one frame inside the ring: write into it; leaving the `with` commits it.

    It is indexed and sliced as a writable `memoryview` of bytes; `buf` is that view.
    """

    __slots__ = ("_parts", "_size", "buf")

    def __init__(self, buf: memoryview) -> None:
        self.buf = buf
        self._size = len(buf)
        self._parts: list[memoryview] = []  # what else was lent of it

    def truncate(self, size: int) -> None:
        """Commit only the first `size` bytes.

        Raises:
            ValueError: more than were reserved, or fewer than 0.
        """
        size = whole_number("size", size, "bytes")
        if not 0 <= size <= self._size:
            raise ValueError(f"{size} bytes of a frame of {self._size}: reserve more")
        self._parts.append(self.buf)
        self.buf, self._size = self.buf[:size], size

    def __len__(self) -> int:
        return len(self.buf)

    def __getitem__(self, index: Any) -> Any:
        part = self.buf[index]
        if isinstance(part, memoryview):
            self._parts.append(part)
        return part

    def __setitem__(self, index: Any, value: Any) -> None:
        self.buf[index] = value

    def __bytes__(self) -> bytes:
        return bytes(self.buf)

    def _exported(self) -> memoryview:
        return self.buf

    def __repr__(self) -> str:
        return "<Frame, released>" if self.buf is RELEASED else f"<Frame of {self._size} bytes>"

    def _take_back(self) -> None:
        _release(self.buf, *self._parts)
        self.buf = RELEASED  # also if an array made of it is still in use


@contextmanager
def reserve(writer: Writer, size: int, timeout: float | None) -> Iterator[Frame]:
    """As `Ring.reserve`."""
    size = whole_number("size", size, "bytes")
    if size < 0:
        raise ValueError(f"a frame of {size} bytes: reserve 0 or more")
    deadline = deadline_of(timeout)
    with _lent(writer, lambda: writer.admit(size, deadline), deadline) as (loan, at):
        if at is None:  # dropped by the policy: let the caller write, and throw it away
            whole = memoryview(bytearray(size))
        else:
            start = writer.payload_at(at)
            whole = memoryview(writer.data)[start : start + size]
        frame = Frame(whole)
        try:
            yield frame
            # The block may have forked, or closed the handle: then nothing is committed.
            check_loan(writer, loan)
            if at is not None:
                writer.seal(at, whole[: frame._size])
                writer.commit(at, at + step_of(frame._size))
            give_back(writer, loan)
        finally:
            frame._take_back()
            _release(whole)
    writer.announce()


@contextmanager
def peek(reader: Reader, timeout: float | None) -> Iterator[memoryview]:
    """As `Ring.peek`."""
    with _lent(reader, reader.find, deadline_of(timeout)) as (loan, at):
        start, size = reader.payload_of(at)
        view = memoryview(reader.data)[start : start + size].toreadonly()
        try:
            yield view
            # The block may have forked, or closed the handle: then nothing is released.
            check_loan(reader, loan)
            reader.release(at + step_of(size))
            give_back(reader, loan)
        finally:
            _release(view)
    reader.give_room()


@contextmanager
def peek_many(
    reader: Reader, max_frames: int | None, timeout: float | None
) -> Iterator[list[memoryview]]:
    """As `Ring.peek_many`."""
    most = checked_most(max_frames)
    with _lent(reader, reader.find, deadline_of(timeout)) as (loan, at):
        views: list[memoryview] = []
        try:
            end = _view_all(reader, at, most, views)
            yield list(views)
            check_loan(reader, loan)
            reader.release(end)
            give_back(reader, loan)
        finally:
            _release(*views)
    reader.give_room()


def _view_all(reader: Reader, at: int, most: int, views: list[memoryview]) -> int:
    """Views of frames from a checked one on; where the last one ends."""
    if reader.notes or reader.mark is not None:
        most = 1  # as in batch.py: a note counts one object for each store of the head
    last = reader.seen
    with memoryview(reader.data).toreadonly() as data:
        while True:
            start, size = reader.payload_of(at)
            views.append(data[start : start + size])
            at += step_of(size)
            if len(views) == most or at >= last:
                return at
            found = intact_frame(reader, at)
            if found is None:
                return at
            at = found


@contextmanager
def _lent(
    side: Writer | Reader, act: Callable[[], T | Wait], deadline: Deadline
) -> Iterator[tuple[Loan, T]]:
    """Borrow a side, once `act` succeeds; yields the loan and what `act` returned."""
    while True:
        loan = Loan()  # before the try: whatever raises, the loan can be given back
        try:
            result = attempt(side, act, deadline, loan)
            if not isinstance(result, Wait):
                yield loan, result
                break
        except BaseException as error:
            more = DEPTH if isinstance(error, RecursionError) else 0
            setrecursionlimit(getrecursionlimit() + more)
            try:
                # Twice: a signal handler may raise as the first one begins.
                give_back(side, loan)
            finally:
                give_back(side, loan)
                setrecursionlimit(getrecursionlimit() - more)
            raise
        wait(side, result.seen, deadline)


def get_into(reader: Reader, buffer: Any, timeout: float | None) -> int:
    """As `Ring.get_into`."""
    target = writable(buffer)
    with peek(reader, timeout) as frame:
        size = len(frame)
        if size > target.nbytes:
            raise ValueError(f"a frame of {size} bytes into a buffer of {target.nbytes}: it stays")
        if size:
            target[:size] = frame
    return size


def _release(*views: memoryview) -> None:
    for view in views:
        try:
            view.release()
        except BufferError:
            continue  # an array made from it is still in use: the memory stays mapped
