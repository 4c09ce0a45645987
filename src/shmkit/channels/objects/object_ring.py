"""ObjectRing: a ring whose frames are objects.

The kind in a frame's header (segment/words.py) says how the object is in it:

    0   a plain pickle; these are the ring's common case
    1   an `Encoded`: its large buffers are behind its pickle (codec.py)
    2   a label: the object is larger than the ring, and beside it (overflow.py)

Pickles are code: a ring that another user made is refused, and so is another user's object beside
it.
"""

from __future__ import annotations

import os
from functools import lru_cache, partial
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, ClassVar, Final

from shmkit.channels.frame import step_of
from shmkit.channels.objects.codec import Encoded, Memory, Received, decode
from shmkit.channels.objects.overflow import Label, Overflow
from shmkit.channels.objects.tally import Tally
from shmkit.channels.ring import Reader, Ring, Wait, insist
from shmkit.deadline import Deadline
from shmkit.memory.backends.base import identity_of
from shmkit.segment.words import (
    CUT,
    FRAME_HEADER,
    GET_NOTES,
    HEAD,
    KIND_MASK,
    KIND_SHIFT,
    OBJECT_RING_KIND,
    PUT_NOTES,
    READY,
    SIZE_MASK,
    STATE,
    TRACKER,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.core import ReadCursor, WriteCursor
    from shmkit.segment.segment import Segment

__all__ = ["ENCODED", "OVERFLOW", "ObjectReader", "ObjectRing"]

ENCODED: Final = 1
OVERFLOW: Final = 2
_SHARE: Final = 4  # a label takes at most a quarter of the ring
_LABEL: Final = 1 << 13  # bytes that a label has at most
# Errors that do not pass: an object beside the ring is gone, or another user's.
_ITS_OWN: Final = (FileNotFoundError, PermissionError)


class ObjectReader(Reader):
    """A ring's reader whose frames are objects.

    Attributes:
        overflow: the memory beside the ring; set by its ring.
    """

    overflow: Overflow

    def take(self, at: int) -> bytes | Received:
        """Take a plain pickle out, or a `Received`."""
        kind = (self.word_at(at) & KIND_MASK) >> KIND_SHIFT
        if not kind:
            pickle: bytes = super().take(at)
            return pickle
        end = at + step_of(self.payload_of(at)[1])
        try:
            received, stored = self._copy_out(kind, at)
        except Exception as error:
            # Left in the ring, such a frame would fail every get to come.
            if self._is_to_blame(error, kind, at):
                self.release(end)
            raise
        # Released before the removal: a kill between them leaves garbage, and loses nothing.
        self.release(end)  # step: object.release
        if stored:
            self.overflow.remove(stored)  # step: overflow.remove
        return received

    def _copy_out(self, kind: int, at: int) -> tuple[Received, str]:
        """What is in a frame, and the name of its memory in overflow, "" if it has none."""
        start, size = self.payload_of(at)
        with memoryview(self.data) as whole, whole[start : start + size] as view:
            if kind == ENCODED:
                return decode(Memory(view)), ""  # step: object.copy
            if kind == OVERFLOW:
                with self.overflow.open(Label.unpack(view)) as stored:
                    return stored.receive(), stored.name  # step: overflow.copy
            raise self.segment.poison(f"a frame of kind {kind}, which is none of objects")

    def _is_to_blame(self, error: Exception, kind: int, at: int) -> bool:
        """Whether an error is the frame's own, and would come at each try.

        Other errors pass: no memory or descriptor is free now, a signal handler raised.
        """
        if isinstance(error, MemoryError):
            return False
        if isinstance(error, OSError) and not isinstance(error, _ITS_OWN):
            return False
        try:
            # Once more: an error that comes again is the frame's.
            self._copy_out(kind, at)
        except type(error):
            return True
        except Exception:  # noqa: BLE001 - the first one is raised
            return False
        return False

    def throw_out(self, at: int) -> None:
        """Release the frame at a position unread, and what it has beside the ring."""
        start, size = self.payload_of(at)
        # The label is copied before its frame is given up.
        is_label = (self.word_at(at) & KIND_MASK) >> KIND_SHIFT == OVERFLOW
        label = self.data[start : start + size] if is_label else b""
        super().throw_out(at)
        if label:
            self.overflow.remove(Label.unpack(label).name)


class ObjectRing(Ring):
    """A ring of objects: put what `encode` made of one, `load` what `get_frame` gives.

    What `Ring` says of frames holds for objects, too.
    """

    _reader: ObjectReader

    _KIND = OBJECT_RING_KIND.number
    _NOUN = OBJECT_RING_KIND.noun
    _READER: ClassVar = ObjectReader

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make a ring."""
        status = os.fstat(segment.membership.presence.descriptor)
        url = segment.buffer.url
        self._overflow = Overflow(
            url, segment.header.incarnation, identity_of(status), tracked=_shares_tracker(segment)
        )
        segment.membership.call_when_last(self._overflow.note_last)
        super().__init__(segment)
        self._reader.overflow = self._overflow
        self._tally: Tally | None = None

    def _closer(self, segment: Segment) -> Callable[[], None]:
        def close(overflow: Overflow = self._overflow) -> None:
            segment.close()
            overflow.remove_all()

        return close

    def close(self) -> None:
        """Leave, as `Ring.close`; the last handle on a nameless ring removes what is beside it."""
        if not self._closed:
            super().close()
            if self._tally is not None:
                self._tally.close()
            self._overflow.remove_all()

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more objects in; as `Ring.shutdown`. With `immediate` what is in is lost."""
        super().shutdown(immediate)
        if immediate:
            # No label counts any more: nothing in the ring will be received.
            self._overflow.sweep(lambda _: False)

    def flush(self) -> None:
        """As `Ring.flush`; the objects beside it first."""
        self._check_open()
        # Objects first: no label on the disk may point to an object that is not there.
        self._overflow.flush()
        super().flush()

    def put_encoded(self, content: bytes | Encoded, timeout: float | None = None) -> None:
        """Put what `codec.encode` made of an object, waiting while the ring is full.

        Raises:
            OSError: ENOSPC: it is larger than the ring, and there is no room for it elsewhere.
            Full, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `put`.
        """
        deadline = Deadline(timeout)
        size = len(content) if isinstance(content, bytes) else content.size
        if size > self._writer.largest:
            self._put_beside(content, size, deadline)
        elif isinstance(content, bytes):
            if not self._writer.put(content):
                self._writer.put_carefully(content, deadline)
        else:
            self._put_marked(ENCODED, size, content.write, deadline)

    def _put_marked(
        self, kind: int, size: int, write: Callable[[memoryview], None], deadline: Deadline
    ) -> bool:
        """Put a frame of a kind; False if the policy dropped it."""
        writer = self._writer

        def attempt() -> bool | Wait:
            at = writer.admit(size, deadline)
            if isinstance(at, Wait):
                return at
            if at is not None:
                start = writer.payload_at(at)
                with memoryview(writer.data) as whole, whole[start : start + size] as view:
                    write(view)  # step: object.write
                    writer.seal(at, view, kind)  # step: object.header
                writer.commit(at, at + step_of(size))
            return at is not None

        is_in = insist(writer, attempt, deadline)
        writer.announce()
        return is_in

    def _put_beside(self, content: bytes | Encoded, size: int, deadline: Deadline) -> None:
        writer = self._writer
        # The label takes the object's size, or a quarter of the ring: senders wait as they should.
        charge = min(size, writer.size // _SHARE, writer.largest) - FRAME_HEADER
        # Wait for room before the object is stored; another producer may still take the room.
        if insist(writer, partial(writer.admit, charge, deadline), deadline) is None:
            return  # dropped
        with self._overflow.sending(content, self._is_labelled) as label:
            packed = label.pack()

            def write(view: memoryview) -> None:
                view[: len(packed)] = packed

            is_in = self._put_marked(OVERFLOW, charge, write, deadline)
        if not is_in:
            self._overflow.remove(label.name)

    @property
    def cursors(self) -> tuple[WriteCursor, ReadCursor]:
        """What puts and gets a plain pickle in the common case.

        If `put` is False, `put_encoded` is to do it; if `get` is None, `get_frame`.
        """
        return self._writer, self._reader

    def get_frame(self, timeout: float | None) -> Any:
        """The oldest object, to be loaded: a plain pickle, or a `Received`; else as `get`."""
        return self._reader.get_carefully(Deadline(timeout))

    def count(self, maxsize: int) -> None:
        """Count objects from now on. Every handle has to, from the ring's first object on.

        Args:
            maxsize: the most objects there may be; 0 for no limit but room.
        """
        self._tally = Tally(self._words, maxsize)
        self._writer.notes, self._writer.most = PUT_NOTES, maxsize
        self._reader.notes = GET_NOTES

    @property
    def maxsize(self) -> int:
        """The most objects there may be; 0 for no limit but room."""
        return self._tally.maxsize if self._tally is not None else 0

    def qsize(self) -> int:
        """How many objects are in that could be got; a moment later it may be another number."""
        if self._open_words()[STATE] == CUT:
            return 0
        tally = self._tally
        if tally is None:
            return super().qsize()
        taken = tally.taken()  # read first: so it is never more than the puts
        count = tally.put() - taken
        # More than `maxsize` were never in at once: some were taken between the two looks.
        return min(count, tally.maxsize) if tally.maxsize else count

    def empty(self) -> bool:
        """Whether nothing is in that could be got."""
        return self._open_words()[STATE] == CUT or super().empty()

    def full(self) -> bool:
        """Whether a put would have to wait."""
        return super().full() or 0 < self.maxsize <= self.qsize()

    @property
    def is_shut(self) -> bool:
        """Whether it was shut down."""
        return self._open_words()[STATE] != READY

    def sweep(self) -> int:
        """Remove the objects beside the ring that a killed process left there.

        Returns:
            How many.
        """
        return self._overflow.sweep(self._is_labelled)

    def _is_labelled(self, name: str) -> bool:
        """Whether the ring holds the label of that name."""
        words = self._open_words()
        at, tail = self._glimpse(words)
        while at < tail:
            word = words[self._word_at(at)]
            size = word & SIZE_MASK
            start = self._writer.payload_at(at)
            packed = self._map[start : start + min(size, _LABEL)] if word & KIND_MASK else b""
            head = words[HEAD]
            if head > at:
                at = head  # released meanwhile: what was read is stale
                continue
            if (word & KIND_MASK) >> KIND_SHIFT == OVERFLOW and Label.unpack(packed).name == name:
                return True
            at += step_of(size)
        return False


def _shares_tracker(segment: Segment) -> bool:
    """Whether a segment is anonymous memory, and its creator has this process's resource tracker.

    The tracker removes what is registered with it when the last process of its family ends: then no
    process is left that has the ring. The creator stores the inode of its tracker's pipe before
    another process can have the segment.
    """
    if segment.buffer.url.scheme != "anon":
        return False
    tracker = _tracker_of(os.getpid())
    if segment.buffer.created:
        segment.words[TRACKER] = tracker
    return bool(tracker) and segment.words[TRACKER] == tracker


@lru_cache(maxsize=1)
def _tracker_of(pid: int) -> int:  # noqa: ARG001 - a forked child may have another one
    """The inode of the pipe to this process's resource tracker; 0 if there is none.

    Asked for once: each time, the tracker is sent a message to see that it lives, and wakes up.
    """
    fd = resource_tracker.getfd()
    return 0 if fd is None else os.fstat(fd).st_ino
