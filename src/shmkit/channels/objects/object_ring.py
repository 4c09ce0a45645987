"""ObjectRing: a ring whose frames are objects.

The kind in a frame's header (segment/words.py) says how the object is in it:

    0   a plain pickle; these are the ring's common case
    1   an `Encoded`: its large buffers are behind its pickle (codec.py)
    2   a label: the object is larger than the ring, and outside of its data (overflow.py)

Pickles are code: a ring that another user made is refused, and so is another user's spill file.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final
from weakref import WeakMethod

from shmkit.channels.frame import step_of
from shmkit.channels.objects.codec import Encoded, Memory, Received, decode
from shmkit.channels.objects.overflow import Label, NoRoom, Overflow
from shmkit.channels.objects.tally import Tally
from shmkit.channels.ring import Reader, Ring, Wait, insist
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment, Full
from shmkit.memory.backends.base import identity_of
from shmkit.segment.semaphores import SLICE
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
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.core import ReadCursor, WriteCursor
    from shmkit.segment.segment import Segment

__all__ = ["ENCODED", "OVERFLOW", "ObjectReader", "ObjectRing"]

ENCODED: Final = 1
OVERFLOW: Final = 2
_SHARE: Final = 4  # a label takes at most a quarter of the ring
_LABEL: Final = 1 << 13  # bytes that a label has at most, the path of a file in it


class ObjectReader(Reader):
    """A ring's reader whose frames are objects.

    Attributes:
        overflow: objects outside of the data; set by its ring.
    """

    overflow: Overflow

    def take(self, at: int) -> bytes | Received:
        """Take a plain pickle out, or a `Received`."""
        if not self._kind_of(at):
            frame: bytes = super().take(at)
            return frame
        end = at + step_of(self.payload_of(at)[1])
        received: Received
        received, label = self._copied(at)
        # Released before the removal: a kill between them leaves garbage, and loses nothing.
        self.release(end)  # step: object.release
        if label is not None:
            self.overflow.remove(label)  # step: overflow.remove
        return received

    def take_many(self, most: int, taken: list[Any]) -> Wait | None:
        """Take out at most so many objects that are there, as `take` does.

        They are released with one store, so a process that is killed before has taken none; one by
        one where objects are counted.

        Args:
            most: how many.
            taken: they are appended here; also if a signal handler raises when they are out.
        """
        at = self.find()
        if isinstance(at, Wait):
            return at
        last = self.seen  # what is put meanwhile is left: a fast producer must not hold us here
        at_once = 1 if self.notes else most
        # The first error is raised; a later one is left for the next call.
        while most > 0 and not isinstance(at, Wait) and at < last:
            batch: list[Any] = []
            labels: list[Label] = []
            while len(batch) < min(at_once, most) and not isinstance(at, Wait) and at < last:
                try:
                    content, label = self._copied(at, release=not taken and not batch)
                except Exception:
                    if taken or batch:
                        last = at
                        break
                    raise
                batch.append(content)
                labels += [label] if label is not None else []
                end = at + step_of(self.payload_of(at)[1])
                at = self.next_frame(end) if end < last else end
            if batch:
                try:
                    self.release(end)  # step: object.release
                finally:
                    if self.words[HEAD] == end:
                        taken += batch
                for label in labels:
                    self.overflow.remove(label)  # step: overflow.remove
            most -= len(batch)
        return None

    def _kind_of(self, at: int) -> int:
        return (self.word_at(at) & KIND_MASK) >> KIND_SHIFT

    def _copied(self, at: int, *, release: bool = True) -> tuple[Any, Label | None]:
        """What is in a frame, and its label if it is in overflow.

        Raises:
            CorruptSegment: it is damaged; if `release`, it is out of the ring.
            OSError: a spill file cannot be opened here, or now.
        """
        kind = self._kind_of(at)
        try:
            return self._copy_out(kind, at)
        except Exception as error:
            # Left in the ring, such a frame would fail every get to come.
            if not release or not self._is_to_blame(error, kind, at):
                raise
            size = self.payload_of(at)[1]
            self.release(at + step_of(size))
            if isinstance(error, CorruptSegment):
                raise
            where = self.segment.membership.where
            detail = f"a frame of {size} bytes, of kind {kind}: {error}"
            raise CorruptSegment(
                f"{self.title} had an object that is damaged ({detail}); it is out of it, and lost:"
                " the next get gets the next object",
                where=where,
                detail=detail,
            ) from error

    def _copy_out(self, kind: int, at: int) -> tuple[Any, Label | None]:
        start, size = self.payload_of(at)
        if not kind:
            return self.data[start : start + size], None  # step: object.copy
        with memoryview(self.data) as whole, whole[start : start + size] as view:
            if kind == ENCODED:
                return decode(Memory(view)), None  # step: object.copy
            if kind == OVERFLOW:
                label = Label.unpack(bytes(view[:_LABEL]))
                return self.overflow.receive(label), label  # step: overflow.copy
            raise self.segment.poison(f"a frame of kind {kind}, which is none of objects")

    def _is_to_blame(self, error: Exception, kind: int, at: int) -> bool:
        """Whether an error is the frame's own, and would come at each try, in every process.

        Other errors pass: no memory, stack or descriptor is free now, a signal handler raised, or
        it is this process that may not open a file or does not find it.
        """
        if isinstance(error, (MemoryError, RecursionError, OSError)):
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
        label = self._label_at(at)
        super().throw_out(at)
        if label is not None:
            self.overflow.remove(label)

    def void(self, at: int) -> None:
        """Have the frame at a position skipped, and remove what it has beside the ring."""
        label = self._label_at(at)
        super().void(at)
        if label is not None:
            self.overflow.remove(label)

    def _label_at(self, at: int) -> Label | None:
        """A copy of the label at a position, made before its frame is given up."""
        if self._kind_of(at) != OVERFLOW:
            return None
        start, size = self.payload_of(at)
        return _label_in(self.data[start : start + min(size, _LABEL)])


def _weak(method: Callable[[], list[Label]]) -> Callable[[], list[Label]]:
    """A bound method that does not keep its object alive."""
    reference = WeakMethod(method)

    def call() -> list[Label]:
        found = reference()
        if found is None:
            raise ClosedError("this handle was dropped")  # not []: all would be garbage then
        return found()

    return call


def _label_in(packed: bytes) -> Label | None:
    """A label, if there is one."""
    try:
        return Label.unpack(packed)
    except ValueError:
        return None  # overwritten: a get says so


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
        self._known: tuple[int, list[tuple[int, Label]]] = 0, []  # see `_labels`
        self._overflow = Overflow(
            url,
            segment.header.incarnation,
            identity_of(status),
            lambda: segment.membership.presence.descriptor,
            segment.header.total,
            _weak(self._labels),  # `_closer` must not lead back here
        )
        segment.membership.call_when_last(self._overflow.note_last)
        super().__init__(segment)
        self._reader.overflow = self._overflow
        self._tally: Tally | None = None

    def _start_anew(self) -> None:
        super()._start_anew()
        self._overflow.start_anew()

    def _closer(self, segment: Segment) -> Callable[[], None]:
        def close(overflow: Overflow = self._overflow) -> None:
            segment.close()
            overflow.remove_all()

        return close

    def close(self) -> None:
        """Leave, as `Ring.close`; the last handle on a ring that is gone removes its spill file."""
        if not self._closed:
            super().close()
            if self._tally is not None:
                self._tally.close()
            self._overflow.remove_all()

    def unlink(self) -> None:
        """Remove the name, as `Ring.unlink`."""
        super().unlink()
        if self._closed:
            self._overflow.remove_all()  # it may have been the last, and no process can come now

    def shutdown(self, immediate: bool = False) -> None:
        """Let no more objects in; as `Ring.shutdown`. With `immediate` what is in is lost."""
        super().shutdown(immediate)
        if immediate:
            # No label counts any more: nothing in the ring will be received.
            self._overflow.sweep()

    def flush(self) -> None:
        """As `Ring.flush`; the objects in overflow first."""
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
        while True:
            # Wait for room before the object is stored; another producer may take it meanwhile.
            if insist(writer, partial(writer.admit, charge, deadline), deadline) is None:
                return  # dropped
            head = self._open_words()[HEAD]
            try:
                with self._overflow.sending(content) as label:
                    packed = label.pack()

                    def write(view: memoryview, packed: bytes = packed) -> None:
                        view[: len(packed)] = packed

                    self._put_marked(OVERFLOW, charge, write, deadline)
                return
            except NoRoom as error:
                self._wait_for_room(head, error, deadline)

    def _wait_for_room(self, head: int, error: NoRoom, deadline: Deadline) -> None:
        """Wait until a receiver may have given room back that is outside of the ring.

        Raises:
            OSError: ENOSPC: no process will give any back.
            Full: that takes too long.
        """
        writer = self._writer
        if writer.policy != "block" or not self._overflow.is_in_use():
            raise OSError(*error.args) from error
        if deadline.expired():
            raise Full(f"{self._title} has no room for it now: {error.strerror}") from error
        # A ring ends the sleep: a receiver rings when the room is back.
        writer.space_bell.doze(HEAD, head, min(SLICE, deadline.remaining()))
        self._check_open()

    @property
    def cursors(self) -> tuple[WriteCursor, ReadCursor]:
        """What puts and gets a plain pickle in the common case.

        If `put` is False, `put_encoded` is to do it; if `get` is None, `get_frame`.
        """
        return self._writer, self._reader

    def get_frame(self, timeout: float | None) -> Any:
        """The oldest object, to be loaded: a plain pickle, or a `Received`; else as `get`."""
        return self._reader.get_carefully(Deadline(timeout))

    def get_frames(self, taken: list[Any], most: int, timeout: float | None) -> None:
        """Take out at most so many objects, waiting while there is none.

        Args:
            taken: as what `get_frame` gives they are appended here.
            most: how many, at least 1.
            timeout: seconds to wait for the first; None for ever, 0 not at all.

        Raises:
            Empty, ShutDown, CorruptSegment, ClosedError, OSError, RuntimeError: as `get`.
        """
        reader = self._reader
        insist(reader, partial(reader.take_many, most, taken), Deadline(timeout))
        reader.give_room()

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
        """Empty what killed processes left outside of the ring's data.

        Returns:
            How many places there were.
        """
        self._open_words()
        # A forked child has a descriptor of its own from here on.
        self._segment.membership.register()
        return self._overflow.sweep()

    def _labels(self) -> list[Label]:
        """All labels that the ring holds and that can still be received.

        Each frame is read once by a handle: what is between head and tail stays as it is.
        """
        words = self._open_words()
        if words[STATE] == CUT:
            return []
        seen, known = self._known
        at, tail = self._glimpse(words)

        def is_label(position: int) -> bool:
            word = words[self._word_at(position)]
            return (word & KIND_MASK) >> KIND_SHIFT == OVERFLOW

        # A frame that is not to be received any more may have become one that is skipped.
        found = [(where, label) for where, label in known if where >= at and is_label(where)]
        at = max(at, seen)
        while at < tail:
            word = words[self._word_at(at)]
            size = word & SIZE_MASK
            start = self._writer.payload_at(at)
            packed = self._map[start : start + min(size, _LABEL)] if is_label(at) else b""
            head = words[HEAD]
            if head > at:
                at = head  # released meanwhile: what was read is stale
                continue
            label = _label_in(packed)
            if label is not None:
                found.append((at, label))
            at += step_of(size)
        self._known = at, found
        return [label for _, label in found]
