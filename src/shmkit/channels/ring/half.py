"""What the two halves of a ring share: the memory, and the watch on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmkit.channels.handle import LIMIT, Handle
from shmkit.deadline import Deadline
from shmkit.segment.fences import ATOMIC_RUNS, join_fence_all
from shmkit.segment.header import HEAD, SKIP, TAIL

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.channels.roles import Side
    from shmkit.channels.turn import Turn
    from shmkit.sync.doorbell import Doorbell
    from shmkit.sync.mutex import Mutex

__all__ = ["SHARED", "Half"]

SHARED: Final = -3
"""In `_limit` or `_seen`: the side is shared, and its fast path is the one with a lock."""


class Half(Handle):
    """The state both halves work on; `Ring` sets it up."""

    # Slots: twice as fast to reach as the attributes of an instance that has more than thirty.
    __slots__ = (
        "_ahead",
        "_checked",
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
        "_mask",
        "_most",
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
        "_size",
        "_space",
        "_span_of_most",
        "_tail",
        "_tail_seen",
        "_unpack",
        "_unpack_size",
    )

    _data_word: int  # index in the words of the same
    _size: int  # of the data
    _mask: int
    _most: int  # bytes of the largest frame
    _span_of_most: int  # a frame that ends within so many bytes of its begin is not larger
    _checked: bool
    _notes_puts: bool  # whether the shared fast path is to call _note_put, and
    _notes_gets: bool  # _note_get
    _policy: str
    _producer: Side
    _consumer: Side
    _put_mutex: Mutex | None
    _get_mutex: Mutex | None
    _put_turn: Turn
    _get_turn: Turn
    _data: Doorbell
    _space: Doorbell

    def _joins_fast_path(self, mutex: Mutex | None) -> bool:
        """Whether this process may take the fast path of a side, decided when it takes the role.

        It needs the side to itself, runs of bytecode that nothing interrupts, stores that are seen
        in their order, and sleepers that fence for both. Otherwise every call takes the careful
        path.
        """
        return mutex is None and not self._checked and ATOMIC_RUNS and join_fence_all()

    def _span(self, head: int, tail: int, skip: int) -> tuple[int, int]:
        """Head and tail as the next reader sees them, checked.

        Raises:
            CorruptSegment: they can not be.
        """
        start = (head | self._mask) + 1 if head == skip != tail else head
        if not 0 <= tail - start <= self._size or (head | tail) & 15 or tail >= LIMIT:
            raise self._corrupt(self._impossible(head, tail))
        return start, tail

    def _impossible(self, head: int, tail: int) -> str:
        return f"tail {tail} and head {head} in a ring of {self._size} bytes"

    def _glimpse(self, words: memoryview[int]) -> tuple[int, int]:
        """Where the oldest frame begins and the newest ends, for one that only looks.

        Raises:
            CorruptSegment: they can not be. Who has no turn does not say so to all others.
        """
        while True:
            tail = words[TAIL]
            head = words[HEAD]
            if head >= tail:
                return tail, tail  # read later, it may have gone past
            skip = words[SKIP]
            if words[HEAD] == head:  # else the skip may be of a later lap
                break
        start = (head | self._mask) + 1 if head == skip else head
        if not 0 <= tail - start <= self._size or (head | tail) & 15 or tail >= LIMIT:
            raise self._segment.corrupt(self._impossible(head, tail))
        return start, tail

    def _look_for(self, peer: Side, word: int, seen: int) -> Callable[[], None]:
        """What to check after each slice of a wait for `word`: that both sides live."""

        def look() -> None:
            self._check_open()
            self._tell_of_death(peer, word, seen)

        return look

    def _wait(self, bell: Doorbell, word: int, seen: int, deadline: Deadline, peer: Side) -> bool:
        return bell.wait(word, seen, deadline, self._look_for(peer, word, seen))
