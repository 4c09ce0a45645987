"""What the two halves of a ring share: the memory, and the watch on each other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from shmkit.channels.segment import POISONED
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment, PeerDied
from shmkit.sync.ordering import ATOMIC_RUNS, join_fence_all

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from shmkit.channels.segment import Segment
    from shmkit.channels.side import Side
    from shmkit.sync.waiting import Doorbell

__all__ = ["BUSY", "Half"]

BUSY: Final = -2
"""In `_limit` or `_seen`: a thread is on the fast path. Another sees it only where a garbage
collection came between (before 3.12), or from a finalizer that the collection ran."""


class Half:
    """The state both halves work on; `Ring` sets it up."""

    # Slots: twice as fast to reach as the attributes of an instance that has more than thirty.
    __slots__ = (
        "__weakref__",
        "_base",
        "_checked",
        "_closed",
        "_consumer",
        "_data",
        "_data_word",
        "_get_lock",
        "_head",
        "_is_consumer",
        "_is_producer",
        "_known",
        "_limit",
        "_map",
        "_mask",
        "_peeking",
        "_policy",
        "_producer",
        "_put_lock",
        "_quick",
        "_reserved",
        "_room",
        "_seen",
        "_segment",
        "_size",
        "_space",
        "_tail",
        "_tail_seen",
        "_words",
    )

    _segment: Segment
    _words: memoryview[int]
    _map: mmap.mmap
    _base: int  # index in the map of the first byte of the data
    _data_word: int  # index in the words of the same
    _size: int  # of the data
    _mask: int
    _checked: bool
    _quick: bool  # whether the fast paths may be taken, see `choose`
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

    def _join_fast_path(self) -> bool:
        """Whether this process may take the fast paths, decided when it takes a role.

        They need runs of bytecode that nothing interrupts, stores that are seen in their order, and
        sleepers that fence for both sides. Without one of them every call takes the careful path.
        """
        return ATOMIC_RUNS and not self._checked and join_fence_all()

    def _await_turn(self, is_busy: Callable[[], bool]) -> None:
        """Wait for a thread that a garbage collection interrupted on the fast path."""
        deadline = Deadline(1)
        while is_busy():
            if deadline.expired():
                raise RuntimeError(
                    f"ring {self._name} was called by a finalizer that ran inside a call on the "
                    "same handle: give the finalizer a handle of its own"
                )
            time.sleep(0)  # let that thread have the GIL

    def _check_usable(self, state: int) -> None:
        if state == POISONED:
            raise self._segment.corrupt("an invariant was found broken before")

    def _corrupt(self, detail: str) -> CorruptSegment:
        return self._segment.poison(detail)

    def _look_for(self, peer: Side, word: int, seen: int) -> Callable[[], None]:
        """What to check after each slice of a wait for `word`: that both sides live."""

        def look() -> None:
            if self._closed:
                raise self._closed_error()
            death = peer.death()
            if death is None or self._words[word] != seen:
                return  # alive, or its last act is still to be seen to
            generation, pid = death
            peer.tell(generation)
            raise PeerDied(
                f"process {pid}, the {peer.role} of ring {self._name}, died without closing it; "
                "what it had committed stays, and a successor may attach",
                pid=pid,
                role=peer.role,
            )

        return look
