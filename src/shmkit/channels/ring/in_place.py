"""Frames in place: memory of the ring lent to the caller, for as long as a `with` lasts.

The side is the caller's own until then (lending.py), between processes by the side's mutex.
Afterwards the views are released: using them is a ValueError. Only an array that was made of one
and still lives keeps its memory mapped; what it shows then is the ring's again.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from shmkit.channels.frame import step_of
from shmkit.channels.ring.lending import Loan, Wait, attempt, check_loan, give_back, wait
from shmkit.compiled import Exporter
from shmkit.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.channels.ring.read import Reader
    from shmkit.channels.ring.write import Writer

__all__ = ["Frame", "get_into", "peek", "reserve"]

T = TypeVar("T")


class Frame(Exporter):
    """Room for one frame inside the ring: write into it; leaving the `with` commits it.

    It is indexed and sliced as a writable `memoryview` of bytes; `buf` is that view.
    """

    __slots__ = ("_size", "buf")

    def __init__(self, buf: memoryview) -> None:
        self.buf = buf
        self._size = len(buf)

    def truncate(self, size: int) -> None:
        """Commit only the first `size` bytes.

        Raises:
            ValueError: more than were reserved, or fewer than 0.
        """
        if not 0 <= size <= self._size:
            raise ValueError(f"{size} bytes of a frame of {self._size}: reserve more")
        self.buf, self._size = self.buf[:size], size

    def __len__(self) -> int:
        return len(self.buf)

    def __getitem__(self, index: Any) -> Any:
        return self.buf[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.buf[index] = value

    def __bytes__(self) -> bytes:
        return bytes(self.buf)

    def _exported(self) -> memoryview:
        return self.buf

    def __repr__(self) -> str:
        return f"<Frame of {len(self.buf)} bytes>"


@contextmanager
def reserve(writer: Writer, size: int, timeout: float | None) -> Iterator[Frame]:
    """As `Ring.reserve`."""
    if size < 0:
        raise ValueError(f"a frame of {size} bytes: reserve 0 or more")
    deadline = Deadline(timeout)
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
            _release(frame.buf, whole)
    writer.announce()


@contextmanager
def peek(reader: Reader, timeout: float | None) -> Iterator[memoryview]:
    """As `Ring.peek`."""
    with _lent(reader, reader.find, Deadline(timeout)) as (loan, at):
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
        finally:
            try:
                # Twice: a signal handler may raise as the first one begins.
                give_back(side, loan)
            finally:
                give_back(side, loan)
        wait(side, result.seen, deadline)


def get_into(reader: Reader, buffer: Any, timeout: float | None) -> int:
    """As `Ring.get_into`."""
    target = memoryview(buffer)
    if target.readonly or not target.c_contiguous:
        raise TypeError("get_into needs a writable, contiguous buffer")
    # cast() refuses an empty view.
    target = target.cast("B") if target.nbytes else target
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
