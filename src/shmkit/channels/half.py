"""What the two halves of a ring, `Producing` and `Consuming`, share: the memory, and the watch on the peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmkit.channels.segment import POISONED
from shmkit.errors import ClosedError, CorruptSegment, PeerDied

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from shmkit.channels.segment import Segment
    from shmkit.channels.side import Side
    from shmkit.sync.waiting import Doorbell

__all__ = ["Half"]


class Half:
    """The state both halves work on; `Ring` sets it up."""

    _segment: Segment
    _words: memoryview[int]
    _map: mmap.mmap
    _base: int
    _data_word: int
    _size: int
    _mask: int
    _checked: bool
    _policy: str
    _closed: bool
    _producer: Side
    _consumer: Side
    _data: Doorbell
    _space: Doorbell

    @property
    def _name(self) -> str:
        return repr(str(self._segment.buffer.url))

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"this handle on ring {self._name} was closed")

    def _check_usable(self, state: int) -> None:
        if state == POISONED:
            raise self._segment.corrupt("an invariant was found broken before")

    def _corrupt(self, detail: str) -> CorruptSegment:
        return self._segment.poison(detail)

    def _look_for(self, peer: Side, word: int, seen: int) -> Callable[[], None]:
        """What to check after each slice of a wait for `word`: that this handle and the peer live."""

        def look() -> None:
            if self._closed:
                raise self._closed_error()
            death = peer.death()
            if death is None or self._words[word] != seen:
                return  # alive, or its last act is still to be seen to
            generation, pid = death
            peer.tell(generation)
            raise PeerDied(
                f"process {pid}, the {peer.role} of ring {self._name}, died without closing it; what it "
                "had committed stays, and a successor may attach",
                pid=pid,
                role=peer.role,
            )

        return look
