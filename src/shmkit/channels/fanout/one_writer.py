"""OneWriter: what Broadcast and Latest share. One process writes, any number of processes read.

Readers store nothing that the writer depends on, except a flag that says that a reader may be
asleep. So the writer never waits for readers, and the death of a reader changes nothing. The
writer's role is a byte that the kernel locks: when the writer dies the kernel takes it back, and
a successor goes on where the writer stopped. Readers sleep on one eventcount, which wakes them all.

Writing threads of one handle exclude each other with a lock, the guard. A call that finds its own
thread inside the guard comes from a signal handler, a finalizer or a debugger that interrupted a
call: it gets a RuntimeError, since waiting would be for ever.

A write goes on from what the shared words say, and the handle remembers nothing that an exception
could leave wrong. Its `_state` says whether a write may take the common case.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from shmkit.channels.handle import STATES, Handle, checked_shutdown, checked_state, whole_number
from shmkit.channels.roles import Side
from shmkit.channels.watch import Watch
from shmkit.segment.fences import join_fence_all
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.segment import Segment
from shmkit.segment.words import (
    CUT,
    LEAST_DATA,
    PRODUCER_BYTE,
    READERS_BELL,
    READY,
    SHUT,
    STATE,
    WRITER_ROLE,
)
from shmkit.sync.eventcount import EventCount

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.deadline import Deadline
    from shmkit.memory.url import Url, Where

__all__ = [
    "LARGE",
    "MAY_WRITE",
    "READERS",
    "OneWriter",
    "check_fits",
    "copied_into",
    "new_guard",
    "reentered",
]

READERS: Final = 120
"""How many handles may be attached, unless the creator says otherwise: what fits in three pages."""

LARGE: Final = 1 << 16
"""Bytes. Copying more than this may use stores that keep no order, so a fence follows it."""


# Whether a write may take the common case, and why not.
NO_ROLE: Final = "the role was not claimed in this process"
MAY_WRITE: Final = "the role is this handle's"
CLOSED: Final = "this handle was closed"


class OneWriter(Handle):
    """A handle on a channel that one process writes and any number of processes read."""

    _ROLE: ClassVar[str]
    _SIZE: ClassVar[str]  # name of the option for the size
    _MOST: ClassVar[int]  # the largest size, in bytes
    _CELLS: ClassVar[int]  # how many values of that size the data holds

    _state: str  # NO_ROLE, MAY_WRITE or CLOSED
    _fenced: bool  # whether this machine needs a fence around each write

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make a handle."""
        super().__init__(segment)
        self._bell = self._new_bell()
        self._writer = self._new_side()
        self._watch: Watch | None = None
        self._begin()
        membership = segment.membership
        membership.presence.call_after_fork(self._begin)
        membership.watch(self, segment.close, f"unclosed {self._NOUN} {self._name}")

    def _begin(self) -> None:
        """Start without the role: at first, and again in a forked child."""
        self._is_inside, self._enter, self._leave = new_guard()
        self._state = CLOSED if self._closed else NO_ROLE
        self._fenced = True
        self._may_sleep = False
        if self._watch is not None:  # its thread is the parent's
            self._watch.close()
            self._watch = None

    def _new_bell(self) -> EventCount:
        semaphores = self._segment.membership.semaphores
        return EventCount(self._words, READERS_BELL, STATE, semaphores, ("data", "space"))

    def _new_side(self) -> Side:
        return Side(self._segment, self._ROLE, WRITER_ROLE, PRODUCER_BYTE, self._NOUN)

    @classmethod
    def _new(cls, where: Where | Url, size: int, *, ensure: bool = False, **options: Any) -> Self:
        """Check the size, and create a segment; with `ensure` join the one that is there."""
        if isinstance(where, int):
            raise TypeError(f"where={where!r} is no place: did you mean {cls._SIZE}={where}?")
        size = whole_number(cls._SIZE, size, "bytes")
        if not 0 < size <= cls._MOST:
            raise ValueError(
                f"{cls._SIZE}={size}: a {cls._NOUN} takes 1 to {cls._MOST} bytes, and has to fit "
                "into memory"
            )
        return cls._create(
            where,
            max(LEAST_DATA, cls._CELLS << (size - 1).bit_length()),
            ensure=ensure,
            fill=lambda words: cls._fill(words, size),
            **options,
        )

    @classmethod
    def _fill(cls, words: memoryview[int], size: int) -> None:
        """Store the words of a new segment that are not zero."""

    def close(self) -> None:
        """Leave, and give the role of this handle back. Idempotent.

        The channel goes on for every other handle, and a successor may write. `shutdown` ends it.

        Raises:
            RuntimeError: called from inside a write of the same thread, by a signal handler or a
                finalizer.
        """
        if self._is_inside():
            raise reentered(self._NOUN)
        self._closed = True
        try:
            self._enter()  # after the writes of other threads; a later one is refused
            if self._state == MAY_WRITE:
                self._writer.release()
            self._state = CLOSED
            self._leave()
        except BaseException:
            try:
                self._leave()  # first: another signal handler may raise in any later call
            except RuntimeError:
                pass  # the exception came before the guard was taken, or after
            raise
        if self._watch is not None:
            self._watch.close()
        self._segment.close()
        self._bell.close()
        self._words, self._map = NO_WORDS, self._segment.map

    def _describe(self, more: str) -> str:
        if self._closed:
            return f"<{type(self).__name__} {self._name} closed>"
        state = STATES.get(self._words[STATE], "corrupt")
        role = self._ROLE if self._state == MAY_WRITE else "no role"
        return f"<{type(self).__name__} {self._name} {state}, {more}, {role} here>"

    def _claim(self) -> None:
        """Take the role for this handle, unless it has it. Called with the guard.

        Raises:
            RoleTaken: another live handle has the role.
        """
        if self._state == NO_ROLE:
            self._writer.claim()
            # Where every sleeper fences for the writer, too, a write needs no fence of its own.
            self._fenced = not join_fence_all()
            self._state = MAY_WRITE

    def _end(self, immediate: bool) -> None:
        checked_shutdown(immediate)
        words = self._open_words()
        self._segment.membership.register()  # a forked child opens the semaphores here
        state = checked_state(self._segment, words)
        # A shutdown never goes back: SHUT may become CUT, and CUT stays.
        if state == READY or (immediate and state == SHUT):
            words[STATE] = CUT if immediate else SHUT
        self._bell.ring_always()

    def _wait(
        self,
        bell: EventCount,
        writer: Side,
        word: int,
        seen: int,
        deadline: Deadline,
        check: Callable[[], object],
    ) -> bool:
        """Wait until a word differs from what was seen, or for a shutdown; False if too late.

        Args:
            bell: where to sleep.
            writer: the side whose death ends the wait, as PeerDied.
            word: index of the word.
            seen: the value it had.
            deadline: when to give up.
            check: called now and then; raises if the waiter was closed.
        """
        if deadline.is_now:
            writer.raise_if_seen_dead(self._title, word, seen)
            return False
        self._get_ready_to_sleep()

        def look() -> None:
            check()
            writer.raise_if_dead(self._title, word, seen)

        return bell.wait(word, seen, deadline, look)

    def _get_ready_to_sleep(self) -> None:
        if not self._may_sleep:
            self._segment.membership.register()  # a forked child opens the semaphores here
            join_fence_all()
            self._may_sleep = True

    def _new_watch(self, reader: object, bell: EventCount, writer: Side, word: int) -> Watch:
        """A watch for a reader, closed when that is dropped."""
        self._get_ready_to_sleep()
        watch = Watch(bell, word, writer)
        weakref.finalize(reader, watch.close)
        return watch


def new_guard() -> tuple[Callable[[], bool], Callable[[], object], Callable[[], None]]:
    """A lock between threads: whether this thread has it, take it, give it back."""
    # An RLock knows its owner from the instant it is taken; threading.Condition asks it, too.
    guard: Any = threading.RLock()
    return guard._is_owned, guard.acquire, guard.release


def reentered(noun: str) -> RuntimeError:
    """The error of a call that interrupted another call of its own thread, on the same noun."""
    return RuntimeError(
        f"a call inside another one on the same {noun}: a signal handler or a finalizer needs a "
        "handle of its own"
    )


def copied_into(target: memoryview, data: Any, at: int, size: int) -> int:
    """Copy bytes of a map into memory of the caller's, if they fit there; how many there are."""
    if size <= len(target):
        with memoryview(data) as whole, whole[at : at + size] as part:
            target[:size] = part
    return size


def check_fits(target: memoryview, size: int, what: str) -> None:
    """Raise ValueError if a frame or value was too large for the memory it was to go into."""
    if size > len(target):
        raise ValueError(f"a {what} of {size} bytes into a buffer of {len(target)}: it stays")
