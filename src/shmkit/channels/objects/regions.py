"""Regions: parts of a file that hold objects, one each, where other processes take some, too.

A region is a process's own as long as it has the kernel's lock on its bytes (presence.py), or a
label in the ring says what is there. Whoever wants one, to write into it or to empty it, takes the
lock first and looks for a label then. A sender puts the label in before it unlocks. So what has
neither is free, whoever was killed: there is no list of regions that could be wrong.

An empty region is a hole: it takes no room. Between two regions there is a hole, too, so each one
is a run of data of its own (`os.SEEK_DATA`). A filesystem without holes keeps the room, and the
next objects get it.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shmkit.errors import ClosedError
from shmkit.memory.allocation import room_left
from shmkit.segment.presence import lock_range, locked_range, unlock_range
from shmkit.segment.words import LOCK_BYTES_AT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Held", "NoRoom", "Regions", "Span"]

# First byte and end of a part of the file.
Span = tuple[int, int]

_GRAIN: Final = mmap.ALLOCATIONGRANULARITY  # a region begins at a multiple, for `mmap`
_AT_ONCE: Final = 512  # pieces in one write; IOV_MAX is 1024
# The last two: a system that gives shared memory its size once.
_NO_ROOM: Final = {
    *(errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT),
    *(errno.ESPIPE, errno.ENXIO),
}


class NoRoom(OSError):
    """A file has no room for an object; nothing of the object stays in it."""


class Held:
    """A region that one thread has, or will have: made before, so that it can be given back."""

    __slots__ = ("end", "start")

    def __init__(self) -> None:
        self.start = self.end = 0

    def meets(self, span: Span) -> bool:
        """Whether it and a span have bytes in common."""
        return self.start < span[1] and span[0] < self.end


class Regions:
    """The regions of one file, for one handle and all of its threads.

    Args:
        descriptor: the handle's own descriptor of the file, open for writing; its open file
            description has the locks.
        base: the first byte that may be in a region.
        labelled: the spans of this file that labels in the ring are about.
    """

    def __init__(
        self, descriptor: Callable[[], int], base: int, labelled: Callable[[], list[Span]]
    ) -> None:
        self._descriptor = descriptor
        self._base = _up(base)
        self._labelled = labelled
        self.start_anew()

    def start_anew(self) -> None:
        """Have no region: at first, and in a forked child."""
        self._guard = threading.RLock()  # a handler may come in between: so it is looked at twice
        self._held: set[Held] = set()

    # -- taking and giving -------------------------------------------------------------------------

    def take(self, held: Held, size: int) -> None:
        """Take a free region of so many bytes, at the lowest place where there is one."""
        elsewhere: list[Span] = []
        while True:
            with self._guard:
                mine = [(other.start, other.end) for other in self._held]
                busy = [*map(_whole, self._labelled()), *mine, *elsewhere]
                held.start = _gap(busy, self._base, _up(size) + _GRAIN)
                held.end = held.start + _up(size) + _GRAIN
                self._held.add(held)
            if self._lock(held):
                return
            fd = self._descriptor()
            other = locked_range(fd, held.start, held.end - held.start)
            # None: it was just given back. It is tried again, or has a label now.
            elsewhere = elsewhere if other is None else [*elsewhere, other]

    def _lock(self, held: Held) -> bool:
        """Lock a region that was noted; whether it is free. If not, it is no longer noted."""
        try:
            if lock_range(self._descriptor(), held.start, held.end - held.start):
                # The lock before the label: a sender puts the label in before it unlocks.
                if not any(held.meets(_whole(span)) for span in self._labelled()):
                    return True
                self.give(held)
        except BaseException:
            self.give(held)
            raise
        self._held.discard(held)
        return False

    def give(self, held: Held) -> None:
        """Give a region back, if it was taken; what is in it stays. Idempotent."""
        if held not in self._held:
            return
        try:
            # Before the note goes: another thread of this handle could lock it in between.
            with suppress(ClosedError):  # the kernel took the lock back with the descriptor
                unlock_range(self._descriptor(), held.start, held.end - held.start)
        finally:
            self._held.discard(held)

    def reclaim(self, span: Span) -> bool:
        """Empty a span, unless a process has some of it, or a label is about it."""
        held = Held()
        try:
            with self._guard:
                held.start, held.end = _whole(span)
                if any(held.meets((other.start, other.end)) for other in self._held):
                    return False
                self._held.add(held)
            is_free = self._lock(held)
            if is_free:
                self.empty(held)
            return is_free
        finally:
            self.give(held)

    def sweep(self) -> int:
        """Empty what no process has and no label is about; how many runs of data that were."""
        swept = 0
        for start, end in list(self.runs()):
            at = start
            mine = [(other.start, other.end) for other in list(self._held)]
            for busy in sorted([*map(_whole, self._labelled()), *mine, (end, end)]):
                if at < min(busy[0], end):
                    swept += self.reclaim((at, min(busy[0], end)))
                at = max(at, busy[1])
        return swept

    def is_in_use(self) -> bool:
        """Whether a process has a region now, or a label is about one: then room may come free."""
        if self._held or self._labelled():
            return True
        return locked_range(self._descriptor(), self._base, LOCK_BYTES_AT - self._base) is not None

    # -- bytes -------------------------------------------------------------------------------------

    def write(self, held: Held, pieces: list[bytes | memoryview], size: int) -> None:
        """Write all pieces, `size` bytes together. A map would clear each page first.

        Raises:
            NoRoom: there is not so much room.
        """
        fd = self._descriptor()
        free: int | None = None
        try:
            # Asked before the first write: filling all memory would hurt every process.
            free = room_left(fd)
            if free is not None and size > free:
                raise OSError(errno.ENOSPC, "")
            at = held.start
            rest = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
            while rest:
                done = os.pwritev(fd, rest[:_AT_ONCE], at)
                at += done
                while rest and done >= len(rest[0]):
                    done -= len(rest.pop(0))
                if done:
                    rest[0] = rest[0][done:]
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self.empty(held)
            known = "" if free is None else f" with {free} bytes free"
            raise NoRoom(errno.ENOSPC, known) from error

    def empty(self, held: Held) -> None:
        """Make a hole of a region that is held: its room is free for others."""
        fd = self._descriptor()
        start = held.start
        size = min(held.end, os.fstat(fd).st_size) - start
        if size <= 0 or not hasattr(mmap, "MADV_REMOVE"):
            return
        try:
            with mmap.mmap(fd, size, offset=start) as region:
                region.madvise(mmap.MADV_REMOVE)
        except OSError as error:
            # A filesystem without maps or holes: the next objects are written here.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV):
                raise

    def read(self, at: int, target: memoryview) -> int:
        """Copy bytes from `at` on into a target; how many there were."""
        done = 0
        while done < len(target):
            got = os.preadv(self._descriptor(), [target[done:]], at + done)
            if not got:
                break
            done += got
        return done

    def read_bytes(self, at: int, size: int) -> bytes:
        """At most so many bytes from `at` on; one read gives 2 GiB at most."""
        return os.pread(self._descriptor(), size, at)

    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._descriptor()).st_size

    def flush(self) -> None:
        """Have it on the disk."""
        os.fsync(self._descriptor())

    def runs(self) -> Iterator[Span]:
        """The runs of data, which are the regions that something is in."""
        fd = self._descriptor()
        end = os.fstat(fd).st_size
        if not hasattr(os, "SEEK_DATA"):
            if end > self._base:
                yield self._base, end
            return
        at = self._base
        while at < end:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # nothing but a hole from here on
            at = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, at


def _up(size: int) -> int:
    return -(-size // _GRAIN) * _GRAIN


def _whole(span: Span) -> Span:
    """All bytes of the region that a span is in, without the hole behind it."""
    return span[0] // _GRAIN * _GRAIN, _up(span[1])


def _gap(busy: list[Span], base: int, size: int) -> int:
    """The lowest place from `base` on for so many bytes between what is busy."""
    at = base
    for start, end in sorted(busy):
        if start - at >= size:
            break
        at = max(at, _up(end) + _GRAIN)
    return at
