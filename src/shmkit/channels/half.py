"""What the two halves of a ring share: the memory, and the watch on each other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from shmkit.channels.header import CUT, POISONED, READY
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment, PeerDied
from shmkit.sync.ordering import ATOMIC_RUNS, join_fence_all

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from shmkit.channels.segment import Segment
    from shmkit.channels.side import Side
    from shmkit.channels.turn import Turn
    from shmkit.sync.mutex import Mutex
    from shmkit.sync.waiting import Doorbell

__all__ = ["BUSY", "LIMIT", "SHARED", "Half"]

BUSY: Final = -2
"""In `_limit` or `_seen`: a thread is on the fast path. Another sees it only where a garbage
collection came between (before 3.12), or from a finalizer that the collection ran."""

SHARED: Final = -3
"""In `_limit` or `_seen`: the side is shared, and its fast path is the one with a lock."""

LIMIT: Final = 1 << 63
"""What no position reaches: at a terabyte a second it would take three months."""


class Half:
    """The state both halves work on; `Ring` sets it up."""

    # Slots: twice as fast to reach as the attributes of an instance that has more than thirty.
    __slots__ = (
        "__weakref__",
        "_ahead",
        "_base",
        "_checked",
        "_closed",
        "_consumer",
        "_data",
        "_data_word",
        "_get_at",
        "_get_lap",
        "_get_mutex",
        "_get_quick",
        "_get_turn",
        "_head",
        "_head_seen",
        "_is_consumer",
        "_is_producer",
        "_known",
        "_limit",
        "_map",
        "_mask",
        "_notes_gets",
        "_notes_puts",
        "_policy",
        "_producer",
        "_put_at",
        "_put_lap",
        "_put_mutex",
        "_put_quick",
        "_put_turn",
        "_room",
        "_seen",
        "_segment",
        "_size",
        "_space",
        "_tail",
        "_tail_seen",
        "_unpack",
        "_unpack_size",
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
    _notes_puts: bool  # whether the shared fast path is to call _note_put, and
    _notes_gets: bool  # _note_get
    _policy: str
    _closed: bool
    _producer: Side
    _consumer: Side
    _put_mutex: Mutex | None
    _get_mutex: Mutex | None
    _put_turn: Turn
    _get_turn: Turn
    _data: Doorbell
    _space: Doorbell

    @property
    def _name(self) -> str:
        return repr(str(self._segment.buffer.url))

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"this handle on ring {self._name} was closed")

    def _corrupt(self, detail: str) -> CorruptSegment:
        return self._segment.poison(detail)

    def _joins_fast_path(self, mutex: Mutex | None) -> bool:
        """Whether this process may take the fast path of a side, decided when it takes the role.

        It needs the side to itself, runs of bytecode that nothing interrupts, stores that are seen
        in their order, and sleepers that fence for both. Otherwise every call takes the careful
        path.
        """
        return mutex is None and not self._checked and ATOMIC_RUNS and join_fence_all()

    def _await_fast_path(self, end: float) -> None:
        """Let a thread go on that a garbage collection interrupted on the fast path."""
        if time.monotonic() > end:
            raise RuntimeError(
                f"ring {self._name} was called by a finalizer that ran inside a call on the same "
                "handle: give the finalizer a handle of its own"
            )
        time.sleep(0)

    def _check_state(self, state: int) -> None:
        if state == POISONED:
            raise self._segment.corrupt("an invariant was found broken before")
        if not READY <= state <= CUT:
            raise self._corrupt(f"state {state} is none of {READY} to {POISONED}")

    def _span(self, head: int, tail: int, skip: int) -> tuple[int, int]:
        """Head and tail as the next reader sees them, checked.

        Raises:
            CorruptSegment: they can not be.
        """
        start = (head | self._mask) + 1 if head == skip != tail else head
        if not 0 <= tail - start <= self._size or (head | tail) & 15 or tail >= LIMIT:
            raise self._corrupt(f"tail {tail} and head {head} in a ring of {self._size} bytes")
        return start, tail

    def _look_for(self, peer: Side, word: int, seen: int) -> Callable[[], None]:
        """What to check after each slice of a wait for `word`: that both sides live."""

        def look() -> None:
            if self._closed:
                raise self._closed_error()
            death = peer.death()
            if death is None or self._words[word] != seen:
                return  # alive, or its last act is still to be seen to
            peer.tell(death)
            raise PeerDied(
                f"process {death.pid}, the {peer.role} of ring {self._name}, died without closing "
                "it; what it had committed stays, and a successor may attach",
                pid=death.pid,
                role=peer.role,
            )

        return look

    def _wait(self, bell: Doorbell, word: int, seen: int, deadline: Deadline, peer: Side) -> bool:
        return bell.wait(word, seen, deadline, self._look_for(peer, word, seen))
