"""OneWriter: what Broadcast and Latest share, one process that writes and any number that read.

Readers write nothing that the writer looks at, but for the flag that says that someone may be
asleep: it never waits for them, and their death is nothing to it. The writer's role is a lock byte
that the kernel takes back, so a successor goes on where a dead one stopped. Readers sleep at a gong
(sync/gong.py), which wakes them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from shmkit.channels.frame import as_bytes
from shmkit.channels.handle import BUSY, STATES, Handle
from shmkit.channels.roles import Side
from shmkit.channels.turn import Turn
from shmkit.deadline import Deadline
from shmkit.segment.fences import ATOMIC_RUNS, join_fence_all
from shmkit.segment.header import CUT, DATA_BELL, READY, SHUT, STATE
from shmkit.segment.presence import PRODUCER_BYTE
from shmkit.segment.segment import Segment
from shmkit.sync.doorbell import NO_WORDS
from shmkit.sync.eventcount import EventCount

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["READERS", "OneWriter", "contiguous"]

_T = TypeVar("_T")

READERS: Final = 120
"""How many handles may be attached, unless the creator says otherwise: what three pages hold."""


class OneWriter(Handle):
    """A handle on a channel that one process writes and any number read."""

    __slots__ = (
        "_bell",
        "_is_writer",
        "_limit",
        "_may_sleep",
        "_quick",
        "_turn",
        "_writer",
    )

    _ROLE: ClassVar[str]

    _limit: int  # of the writer's fast path; below 0 whenever there is something to see to first
    _quick: bool  # whether the writer may take its fast path

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make one."""
        super().__init__(segment)
        self._bell = self._new_bell()
        self._writer = self._new_side()
        self._begin()
        membership = segment.membership
        membership.presence.call_after_fork(self._begin)
        membership.watch(self, segment.close, f"unclosed {self._NOUN} {self._name}")

    def _begin(self) -> None:
        """Without a role: at first, and anew in a forked child."""
        self._turn = Turn(TimeoutError)  # nobody waits with a deadline here
        self._is_writer = self._quick = self._may_sleep = False
        self._limit = -1

    def _new_bell(self) -> EventCount:
        semaphores = self._segment.membership.semaphores
        return EventCount(self._words, DATA_BELL, STATE, semaphores, ("data", "space"))

    def _new_side(self) -> Side:
        return Side(self._segment, self._ROLE, 0, PRODUCER_BYTE, self._NOUN)

    # -- coming and going ------------------------------------------------------------------------

    def close(self) -> None:
        """Leave, and give the role of this handle back. Idempotent.

        It is no end for the others: a successor may attach. `shutdown` is the end.
        """
        if self._closed:
            return
        self._closed = True
        self._turn.end()
        self._await_fast_path(self._is_off_fast_path)
        self._limit = -1
        if self._is_writer:
            self._writer.release()
        self._segment.close()
        self._bell.close()
        self._words, self._map = NO_WORDS, self._segment.map

    # -- looking ---------------------------------------------------------------------------------

    def _story(self, more: str) -> str:
        if self._closed:
            return f"<{type(self).__name__} {self._name} closed>"
        state = STATES.get(self._words[STATE], "corrupt")
        role = self._ROLE if self._is_writer else "no role"
        return f"<{type(self).__name__} {self._name} {state}, {more}, {role} here>"

    # -- writing ---------------------------------------------------------------------------------

    def _write_in_turn(self, write: Callable[[memoryview[int]], _T]) -> _T:
        """Call a function in the turn of this handle's writing threads, off the fast path."""
        self._check_open()

        def act() -> _T:
            self._await_fast_path(self._is_off_fast_path)
            self._limit = -1
            return write(self._words_for_putting())

        return self._turn.run(Deadline(None), act)

    def _claim(self) -> bool:
        """Take the role for this handle; whether it is new to it.

        The fast path needs runs of bytecode that nothing interrupts, stores that are seen in their
        order, and sleepers that fence for both.
        """
        if self._is_writer:
            return False
        self._writer.claim()
        self._is_writer = True
        self._quick = ATOMIC_RUNS and join_fence_all()
        return True

    def _is_off_fast_path(self) -> bool:
        return self._limit != BUSY

    def _shut(self, immediate: bool) -> None:
        words = self._open_words()
        self._segment.membership.register()  # in a forked child, for the bells that others hear
        state = self._checked_state(words)
        if state == READY or (immediate and state == SHUT):
            words[STATE] = CUT if immediate else SHUT
        self._bell.ring_always()

    # -- waiting ---------------------------------------------------------------------------------

    def _wait(
        self,
        bell: EventCount,
        writer: Side,
        word: int,
        seen: int,
        deadline: Deadline,
        check: Callable[[], object],
    ) -> bool:
        """Wait until a word differs from what was seen, or for a shutdown.

        Args:
            bell: where to sleep.
            writer: whose death to tell of.
            word: index of the word.
            seen: the value it had.
            deadline: when to give up.
            check: called now and then; raises if who waits was closed.

        Returns:
            False when the deadline passed first.

        Raises:
            PeerDied: the writer died; told once per death to each `Side`.
        """
        if deadline.is_now:
            return False
        if not self._may_sleep:
            self._segment.membership.register()  # in a forked child, for the bells that it hears
            join_fence_all()  # a sleeper fences for the writer, too
            self._may_sleep = True

        def look() -> None:
            check()
            self._tell_of_death(writer, word, seen)

        return bell.wait(word, seen, deadline, look)


def contiguous(data: Any) -> bytes | memoryview:
    """`data` as plain bytes whose `len` is true, without a copy.

    Raises:
        TypeError: it has no buffer, or the buffer is not contiguous.
    """
    return data if type(data) is bytes else as_bytes(memoryview(data))
