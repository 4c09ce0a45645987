"""ObjectRing: a ring whose frames are objects.

The kind in a frame's header (frame.py) says how the object is in it:

    0   a plain pickle; these take the ring's fast path
    1   an `Encoded`: its large buffers are behind its pickle (codec.py)
    2   a label: the object is larger than the ring, and beside it (overflow.py)

Pickles are code: a ring that another user made is refused, and so is another user's object beside
it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final, Self

from shmkit.channels.frame import HEADER, LOW, checksum
from shmkit.channels.objects.codec import Encoded, Memory, Received, decode, encode, load
from shmkit.channels.objects.family import shares_tracker
from shmkit.channels.objects.overflow import Label, Overflow
from shmkit.channels.ring import Ring
from shmkit.deadline import Deadline
from shmkit.memory.backends.base import identity_of
from shmkit.memory.url import Url
from shmkit.segment.header import HEAD
from shmkit.segment.segment import PARTICIPANTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.memory.url import Where
    from shmkit.segment.segment import Segment

__all__ = ["ENCODED", "OVERFLOW", "ObjectRing"]

ENCODED: Final = 1
OVERFLOW: Final = 2
_KIND: Final = 0xFFFF << 32
_SHARE: Final = 4  # a label takes at most this part of the ring
# Of an object beside the ring: it is gone, or not this user's.
_ITS_OWN: Final = (FileNotFoundError, PermissionError)


class ObjectRing(Ring):
    """A ring that takes objects and gives objects; what it says of frames holds for them, too.

    `put_object` pickles in the caller. Do not mix it with `put`, nor `get_object` with `get`: the
    calls for bytes do not know what an object is.
    """

    __slots__ = ("_overflow",)

    _KIND = 8

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make a ring."""
        status = os.fstat(segment.membership.presence.descriptor)
        url = segment.buffer.url
        if status.st_uid != os.geteuid():
            raise PermissionError(
                errno.EPERM,
                f"belongs to user {status.st_uid}; objects are pickles, pickles are code, and only "
                "your own is run",
                str(url),
            )
        self._overflow = Overflow(
            url,
            segment.header.incarnation,
            identity_of(status),
            tracked=shares_tracker(segment),
        )
        segment.membership.call_when_last(self._overflow.note_last)
        super().__init__(segment)

    def _closer(self, segment: Segment) -> Callable[[], None]:
        def close(overflow: Overflow = self._overflow) -> None:
            segment.close()
            overflow.remove_all()

        return close

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        *,
        capacity: int = 8 << 20,
        producers: str = "many",
        consumers: str = "many",
        when_full: str = "block",
        participants: int = PARTICIPANTS,
        keep: bool = False,
    ) -> Self:
        """Make a new one: `Ring.create` with other defaults."""
        return super().create(
            where,
            capacity=capacity,
            producers=producers,
            consumers=consumers,
            when_full=when_full,
            participants=participants,
            keep=keep,
        )

    def close(self) -> None:
        """Leave, as `Ring.close`; the last handle on a nameless ring removes what is beside it."""
        if not self._closed:
            super().close()
            self._overflow.remove_all()

    def flush(self) -> None:
        """As `Ring.flush`; the objects beside it first."""
        self._check_open()
        self._overflow.flush()
        super().flush()

    # -- in --------------------------------------------------------------------------------------

    def put_object(self, obj: Any, timeout: float | None = None) -> None:
        """Put an object, waiting while the ring is full.

        Args:
            obj: anything that pickles.
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Raises:
            Exception: it does not pickle, for whatever reason; the ring is as before.
            OSError: ENOSPC: it is larger than the ring, and there is no room for it elsewhere.
            Full, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `put`.
        """
        self.put_encoded(encode(obj), timeout)

    def put_encoded(self, content: bytes | Encoded, timeout: float | None = None) -> None:
        """`put_object` of what `codec.encode` gave."""
        if isinstance(content, bytes):
            if len(content) <= self._most:
                self.put(content, timeout)
                return
        elif content.size <= self._most:
            self._put_marked(ENCODED, content.size, content.write, Deadline(timeout))
            return
        self._send_beside(content, Deadline(timeout))

    def _put_marked(
        self, kind: int, size: int, write: Callable[[memoryview], None], deadline: Deadline
    ) -> bool:
        """Put a frame of a kind; False if the policy dropped it."""

        def attempt() -> bool | None:
            fits = self._admit(size, deadline)
            if fits:
                self._write_marked(kind, size, write)
                self._publish()
            return fits

        is_in = self._put_in_turn(attempt, deadline)
        self._announce()
        return is_in

    def _write_marked(self, kind: int, size: int, write: Callable[[memoryview], None]) -> None:
        tail, word = self._tail, size | kind << 32
        at = tail & self._mask
        index = self._data_word + (at >> 3)
        start = self._base + at + HEADER
        with memoryview(self._map) as whole, whole[start : start + size] as view:
            write(view)  # step: object.write
            self._words[index] = word  # step: object.header
            if self._checked:
                self._words[index + 1] = tail >> 4 & LOW | checksum(word, tail, view) << 32
        self._tail = tail + ((size + 31) & -16)

    def _send_beside(self, content: bytes | Encoded, deadline: Deadline) -> None:
        size = len(content) if isinstance(content, bytes) else content.size
        charge = min(size, self._size // _SHARE, self._most) - HEADER
        if not self._await_space(charge, deadline):  # before anything is written
            return
        with self._overflow.sending(content, self._is_labelled) as label:
            packed = label.pack()

            def write(view: memoryview) -> None:
                view[: len(packed)] = packed

            is_in = self._put_marked(OVERFLOW, charge, write, deadline)
        if not is_in:
            self._overflow.remove(label.name)

    def _await_space(self, size: int, deadline: Deadline) -> bool:
        """Wait until a frame would fit; another may be quicker to fill the place.

        False if the policy dropped it.
        """

        def attempt() -> bool | None:
            fits = self._admit(size, deadline)
            self._room = -1  # nothing is published: the next put is to look anew
            return fits

        return self._put_in_turn(attempt, deadline)

    # -- out -------------------------------------------------------------------------------------

    def get_object(self, timeout: float | None = None) -> Any:
        """Take the oldest object out, waiting while there is none.

        Args:
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Raises:
            Exception: it does not unpickle, for whatever reason. It is out of the ring: the next
                call gets the next object.
            FileNotFoundError: it was beside the ring, and was removed by hand, or with its
                sender's whole family. It is out of the ring.
            Empty, ShutDown, PeerDied, RoleTaken, CorruptSegment, ClosedError: as `get`.
        """
        frame: Any = self.get(timeout)
        return load(frame) if type(frame) is bytes else frame.load()

    def _take(self) -> bytes | Received:
        """`Ring._take` of a pickle, or of what is to be loaded."""
        at, size = self._current()
        kind = (self._words[self._data_word + ((self._head & self._mask) >> 3)] & _KIND) >> 32
        if not kind:
            frame: bytes = self._map[at : at + size]
            self._advance(size)
            return frame
        try:
            received, stored = self._copy_out(kind, at, size)
        except Exception as error:
            if self._is_to_blame(error, kind, at, size):
                self._advance(size)
            raise
        self._advance(size)  # step: object.release
        if stored:
            self._overflow.remove(stored)  # step: overflow.remove
        return received

    def _copy_out(self, kind: int, at: int, size: int) -> tuple[Received, str]:
        """What is in a frame, and the name of its memory in overflow, "" if it has none."""
        with memoryview(self._map) as whole, whole[at : at + size] as view:
            if kind == ENCODED:
                return decode(Memory(view)), ""  # step: object.copy
            if kind == OVERFLOW:
                with self._overflow.open(Label.unpack(view)) as stored:
                    return stored.receive(), stored.name  # step: overflow.copy
            raise self._corrupt(f"a frame of kind {kind}, which is none of objects")

    def _is_to_blame(self, error: Exception, kind: int, at: int, size: int) -> bool:
        """Whether an error is the frame's own, and would come at each try.

        Others pass: no memory or descriptor is free now, a signal handler raised.
        """
        if isinstance(error, MemoryError):
            return False
        if isinstance(error, OSError) and not isinstance(error, _ITS_OWN):
            return False
        try:
            self._copy_out(kind, at, size)
        except type(error):
            return True
        except Exception:  # noqa: BLE001 - the first one is raised
            return False
        return False

    def _throw_out(self) -> None:
        at, size = self._current()
        word = self._words[self._data_word + ((self._head & self._mask) >> 3)]
        label = self._map[at : at + size] if (word & _KIND) >> 32 == OVERFLOW else b""
        super()._throw_out()
        if label:
            self._overflow.remove(Label.unpack(label).name)

    # -- looking ---------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Remove the objects beside the ring that a killed process left there.

        Returns:
            How many.
        """
        return self._overflow.sweep(self._is_labelled)

    def _is_labelled(self, name: str) -> bool:
        """Whether the ring holds the label of that name."""
        words, mask = self._open_words(), self._mask
        at, tail = self._glimpse(words)
        while at < tail:
            index = self._data_word + ((at & mask) >> 3)
            word = words[index]
            size = word & LOW
            start = self._base + (at & mask) + HEADER
            packed = self._map[start : start + min(size, 1 << 13)] if word & _KIND else b""
            head = words[HEAD]
            if head > at:
                at = head  # released meanwhile: what was read is void
                continue
            if (word & _KIND) >> 32 == OVERFLOW and Label.unpack(packed).name == name:
                return True
            at += (size + HEADER + 15) & -16
        return False
