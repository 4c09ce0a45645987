"""Overflow: an object that is larger than its ring is stored outside of the ring's data.

    sender      take a region, with its lock -> write -> put its label into the ring -> unlock
    receiver    label -> copy the content out -> release the label -> empty the region

The regions (regions.py) are in the file that the ring itself is in, behind its data. So they go
where the ring goes, and when it goes: with its last process if it has no name, with its name and
last process if it has one, and a ring's file has everything in it. A ring without a name is in
memory that /dev/shm does not limit.

Where the ring's own file has no room, in a full /dev/shm, the object goes into a file in the
directory for temporary files (spill.py). A ring on a file has none of these: its objects have to
be where it is. Without room in either, the sender waits while receivers may give some back.

The ring holds a label in the object's place: where it is, and how many bytes. The label takes as
much room as if it were a part of the object, so a full ring holds its senders back. Behind the
content, where a receiver looks first, stands a random number that the label has, too: a file that
was restored or cut off has other bytes there.

What a kill leaves, by the moment it comes:

- the sender before its label is committed: bytes without a label and, since the kernel takes the
  lock back, without a lock. They are garbage.
- the sender after that: nothing is lost.
- the receiver before it released the label: another receiver takes the object.
- the receiver after that: garbage.

Garbage is emptied by `sweep`, which runs when a process has sent some objects and when it is
called, or written over by the next object.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from shmkit.channels.objects.codec import Encoded, Received, Source, decode
from shmkit.channels.objects.regions import Held, NoRoom, Regions, Span
from shmkit.channels.objects.spill import (
    Spill,
    remove_at_end,
    remove_spill,
    spill_path,
    sweep_spills,
)
from shmkit.errors import CorruptSegment
from shmkit.segment.words import (
    LABEL_HEAD,
    LABEL_PATH,
    LOCK_BYTES_AT,
    OVERFLOW_END,
    OVERFLOW_MAGIC,
    OVERFLOW_NONCE,
    PAGE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.memory.backends.base import Identity
    from shmkit.memory.url import Url

__all__ = ["Label", "NoRoom", "Overflow"]

_HEAD: Final = Struct(LABEL_HEAD)
_END: Final = Struct(OVERFLOW_END)
_SWEEP: Final = 16  # objects that a process sends from one sweep to the next; the first at once


class Label(NamedTuple):
    """What stands in the ring in place of an object.

    Attributes:
        nonce: the random number behind the content; no other content has it.
        start: first byte of the content in its file.
        size: bytes of the content.
        encoded: whether the content is an `Encoded`, and not a plain pickle.
        path: of the spill file; "" for the ring's own.
    """

    nonce: bytes
    start: int
    size: int
    encoded: bool
    path: str

    @property
    def span(self) -> Span:
        """The bytes that are taken."""
        return self.start, self.start + self.size + _END.size

    def pack(self) -> bytes:
        """As bytes; more may follow them."""
        path = os.fsencode(self.path)
        return _HEAD.pack(self.nonce, self.start, self.size, self.encoded, len(path)) + path

    @classmethod
    def unpack(cls, packed: bytes) -> Label:
        """From the bytes of `pack`, whatever follows them.

        Raises:
            ValueError: no label has such numbers.
        """
        if len(packed) < LABEL_PATH:
            raise ValueError(f"a label of {len(packed)} bytes")
        nonce, start, size, encoded, length = _HEAD.unpack_from(packed)
        path = packed[LABEL_PATH : LABEL_PATH + length]
        # Before the spans of labels are compared: they are behind a page, and before the locks.
        if start < PAGE or size > LOCK_BYTES_AT - start or encoded > 1 or len(path) < length:
            raise ValueError(f"a label of {size} bytes at {start}, path of {length} bytes")
        return cls(nonce, start, size, bool(encoded), os.fsdecode(path))


class Overflow:
    """The objects of one ring that are outside of its data, as one handle sees them.

    Args:
        url: where the ring is.
        incarnation: tells the ring from earlier and later rings of the same name.
        identity: the memory the ring is in.
        descriptor: the handle's own descriptor of it.
        base: bytes of the ring: objects are behind them.
        labels: all labels that the ring holds now.
    """

    def __init__(
        self,
        url: Url,
        incarnation: str,
        identity: Identity,
        descriptor: Callable[[], int],
        base: int,
        labels: Callable[[], list[Label]],
    ) -> None:
        self._url = url
        self._identity = identity
        self._labels = labels
        # A ring on a file has everything in it: it may be copied, and outlives /tmp.
        self._spill_path = spill_path(incarnation) if url.scheme != "file" else ""
        self._own = Regions(descriptor, base, partial(self._spans, ""))
        self._spills: dict[str, tuple[Spill, Regions]] = {}
        self._sent = 0
        self._is_last = False
        if url.scheme == "shm":
            remove_at_end()  # the names of segments go at the end of a process

    def start_anew(self) -> None:
        """Have no region and no other file: in a forked child."""
        self._own.start_anew()
        self._sent = 0
        self.close()

    def _spans(self, path: str) -> list[Span]:
        return [label.span for label in self._labels() if label.path == path]

    # -- sending -----------------------------------------------------------------------------------

    @contextmanager
    def sending(self, content: bytes | Encoded) -> Iterator[Label]:
        """Store an object; inside the `with` its label is to be committed.

        What has no label in the ring after the `with`, for whatever reason, is gone.

        Args:
            content: what `codec.encode` gave.

        Raises:
            NoRoom: there is no room for it; nothing is left behind.
        """
        if self._sent % _SWEEP == 0:
            self.sweep()
        self._sent += 1
        pieces, size = _pieces_of(content)
        nonce = secrets.token_bytes(OVERFLOW_NONCE)
        pieces.append(_END.pack(nonce, OVERFLOW_MAGIC))
        held, path = Held(), ""
        regions = self._own
        try:
            try:
                _store(regions, held, pieces, size)
            except NoRoom as full:
                regions.give(held)
                path = self._spill_path
                try:
                    regions = self._regions(path, make=True)
                    _store(regions, held, pieces, size)
                except OSError as error:
                    raise self._no_room(size, full, error) from error
            yield Label(nonce, held.start, size, type(content) is Encoded, path)
        finally:
            regions.give(held)
            # Not committed; or received already, when the lock was still in the receiver's way.
            if held.end:
                regions.reclaim((held.start, held.start + size + _END.size))

    def _no_room(self, size: int, full: OSError, error: OSError) -> NoRoom:
        spill = (
            f", nor in {self._spill_path}: {error.strerror}{_why(error)}"
            if self._spill_path
            else ""
        )
        return NoRoom(
            errno.ENOSPC,
            f"no room for an object of {size} bytes, which is larger than its queue: not in the "
            f"queue's memory{_why(full)}{spill}; send less at once, or take a queue on a "
            "'file:PATH' that has room",
            str(self._url),
        )

    def is_in_use(self) -> bool:
        """Whether a region may come free, as others have some, or the ring has labels."""
        return self._own.is_in_use() or any(
            regions.is_in_use() for _, regions in list(self._spills.values())
        )

    def _regions(self, path: str, *, make: bool = False) -> Regions:
        """The regions of a spill file, or of the ring's own.

        Raises:
            FileNotFoundError: it is not there; or there is to be none.
            PermissionError: it is not this user's.
        """
        if not path and not make:
            return self._own
        found = self._spills.get(path)
        if found is None:
            if make and not self._spill_path:
                raise FileNotFoundError(errno.ENOENT, "all of a file's objects are in it", path)
            if make:
                sweep_spills(os.path.dirname(path))  # noqa: PTH120
            spill = Spill(path, (self._url, self._identity) if make else None)
            regions = Regions(spill.descriptor, PAGE, partial(self._spans, path))
            # Another thread may have been faster.
            found = self._spills.setdefault(path, (spill, regions))
            if found[0] is not spill:
                spill.close()
        return found[1]

    # -- receiving ---------------------------------------------------------------------------------

    def receive(self, label: Label) -> Received:
        """Copy an object out.

        Raises:
            FileNotFoundError: the spill file is not there now.
            PermissionError: it is another user's, or this process may not open it.
            CorruptSegment: there are other bytes, or fewer than the label says.
        """
        regions = self._regions(label.path)
        end = label.start + label.size
        packed = regions.read_bytes(end, _END.size) if regions.size() >= label.span[1] else b""
        if packed != _END.pack(label.nonce, OVERFLOW_MAGIC):
            raise self._broken(label, "there are other bytes in its place, or it was cut off")
        stored = _Stored(regions, label, partial(self._broken, label))
        if label.encoded:
            return decode(stored)
        return Received(stored.bytes(0, label.size), [])

    def _broken(self, label: Label, detail: str) -> CorruptSegment:
        where = label.path or str(self._url)
        return CorruptSegment(
            f"an object of {label.size} bytes at {label.start} in {where!r} is broken: {detail}; "
            "what was in it is lost",
            where=where,
            detail=detail,
        )

    def remove(self, label: Label) -> None:
        """Empty the region of an object whose label was released."""
        # It was received: what fails now leaves garbage, for a sweep.
        with suppress(OSError):
            self._regions(label.path).reclaim(label.span)

    # -- cleaning up -------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Empty what is not being sent and will not be received; how many runs of data that was."""
        return self._own.sweep() + sum(
            regions.sweep() for _, regions in list(self._spills.values())
        )

    def flush(self) -> None:
        """Have what is stored in the ring's own file on the disk.

        Raises:
            OSError: the file system could not write.
        """
        if self._url.scheme == "file":
            self._own.flush()

    def note_last(self) -> None:
        """Note that this handle was the ring's last participant."""
        self._is_last = True

    def close(self) -> None:
        """Close what other files were opened."""
        while self._spills:
            self._spills.popitem()[1][0].close()

    def remove_all(self) -> None:
        """Close all, and remove the spill file if no process has the ring and none can find it.

        It is asked twice: the participants' locks tell of processes that hide from our /proc, and
        /proc tells of a forked child or a receiver that is not yet a participant.
        """
        self.close()
        if self._is_last and self._spill_path:
            remove_spill(self._spill_path, self._url, self._identity)


class _Stored(Source):
    """An object in a region, for its receiver."""

    __slots__ = ("_broken", "_label", "_regions", "size")

    def __init__(
        self, regions: Regions, label: Label, broken: Callable[[str], CorruptSegment]
    ) -> None:
        self.size = label.size
        self._regions = regions
        self._label = label
        self._broken = broken

    def fill(self, at: int, target: memoryview) -> None:
        """Copy as many bytes from `at` on as `target` has."""
        done = self._regions.read(self._label.start + at, target)
        if done < len(target):
            raise self._broken(f"it ends at byte {at + done}")

    def bytes(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes from `at` on."""
        got = self._regions.read_bytes(self._label.start + at, size)
        return got if len(got) == size else super().bytes(at, size)


def _store(regions: Regions, held: Held, pieces: list[bytes | memoryview], size: int) -> None:
    """Take a region, and write an object into it."""
    regions.take(held, size + _END.size)  # step: overflow.take
    regions.write(held, pieces, size)  # step: overflow.write


def _pieces_of(content: bytes | Encoded) -> tuple[list[bytes | memoryview], int]:
    """What to write, padding included, and how many bytes that is."""
    if not isinstance(content, Encoded):
        return [content], len(content)
    pieces: list[bytes | memoryview] = []
    end = 0
    for at, piece in content.pieces:
        if at > end:
            pieces.append(bytes(at - end))
        pieces.append(piece)
        end = at + len(piece)
    return pieces, end


def _why(error: OSError) -> str:
    return str(error.strerror) if isinstance(error, NoRoom) else ""
