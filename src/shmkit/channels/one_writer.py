"""OneWriter: what Broadcast and Latest share, one process that writes and any number that read.

Readers write nothing that the writer looks at, but for the flag that says that someone may be
asleep: it never waits for them, and their death is nothing to it. The writer's role is a lock byte
that the kernel takes back, so a successor goes on where a dead one stopped. Readers sleep at a gong
(sync/gong.py), which wakes them all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

from shmkit.channels.frame import as_bytes
from shmkit.channels.header import CUT, DATA_BELL, POISONED, READY, SHUT, STATE
from shmkit.channels.segment import Segment
from shmkit.channels.side import Side
from shmkit.channels.turn import Turn
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment, IncompatibleSegment, PeerDied, ShutDown
from shmkit.sync.gong import Gong
from shmkit.sync.liveness import PRODUCER_BYTE
from shmkit.sync.ordering import ATOMIC_RUNS, join_fence_all
from shmkit.sync.waiting import NO_WORDS

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from types import TracebackType

    from shmkit.memory.buffer import SharedBuffer
    from shmkit.memory.url import Url, Where

__all__ = ["BUSY", "LIMIT", "READERS", "SEMAPHORES", "STATES", "OneWriter", "contiguous"]

_T = TypeVar("_T")

BUSY: Final = -2
"""In `_limit`: a thread is on the fast path. Another sees it only where a garbage collection came
between (before 3.12), or from a finalizer that the collection ran."""

LIMIT: Final = 1 << 63
"""What no position and no version reaches."""

READERS: Final = 120
"""How many handles may be attached, unless the creator says otherwise: what three pages hold."""

SEMAPHORES: Final = {"even": 0, "odd": 0}
STATES: Final = {READY: "open", SHUT: "shut down", CUT: "shut down at once", POISONED: "corrupt"}


class OneWriter:
    """A handle on a channel that one process writes and any number read."""

    __slots__ = (
        "__weakref__",
        "_base",
        "_bell",
        "_closed",
        "_is_writer",
        "_limit",
        "_map",
        "_may_sleep",
        "_quick",
        "_segment",
        "_turn",
        "_words",
        "_writer",
    )

    _KIND: ClassVar[int]
    _NOUN: ClassVar[str]
    _ROLE: ClassVar[str]

    _segment: Segment
    _words: memoryview[int]
    _map: mmap.mmap
    _base: int  # index in the map of the first byte of the data
    _limit: int  # of the writer's fast path; below 0 whenever there is something to see to first
    _quick: bool  # whether the writer may take its fast path

    def __init__(self, segment: Segment) -> None:
        """Take over a segment; `create`, `attach` and `ensure` are the ways to make one."""
        self._segment = segment
        self._words = segment.words
        self._map = segment.map
        self._base = segment.base
        self._closed = False
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

    def _new_bell(self) -> Gong:
        semaphores = self._segment.membership.semaphores
        return Gong(self._words, DATA_BELL, STATE, semaphores, ("even", "odd"))

    def _new_side(self) -> Side:
        return Side(self._segment, self._ROLE, 0, PRODUCER_BYTE, self._NOUN)

    @classmethod
    def _over(cls, segment: Segment) -> Self:
        try:
            flags, where = segment.header.flags, str(segment.buffer.url)
            if flags:
                raise IncompatibleSegment(
                    f"{cls._NOUN} {where!r} has flags {flags:#x}, which this shmkit does not know",
                    where=where,
                )
            return cls(segment)
        except BaseException:
            segment.close()
            raise

    # -- coming and going ------------------------------------------------------------------------

    @classmethod
    def _create(
        cls, where: Where | Url, size: int, *, participants: int, keep: bool, ensure: bool = False
    ) -> Self:
        make = Segment.ensure if ensure else Segment.create
        return cls._over(
            make(where, cls._KIND, size, SEMAPHORES, participants=participants, keep=keep)
        )

    @classmethod
    def attach(cls, where: Where | Url, *, timeout: float | None = 0) -> Self:
        """Join one that exists.

        Args:
            where: its memory: "NAME", "shm:NAME", "file:PATH" or a Path.
            timeout: seconds to wait for it to be there and complete; None for ever.

        Raises:
            FileNotFoundError: there is none of that name.
            IncompatibleSegment: it is something else, or of another layout version, or half-made.
            CorruptSegment: its header is broken.
        """
        return cls._over(Segment.attach(where, cls._KIND, SEMAPHORES, timeout=timeout))

    def close(self) -> None:
        """Leave, and give the role of this handle back. Idempotent.

        It is no end for the others: a successor may attach. `shutdown` is the end.
        """
        if self._closed:
            return
        self._closed = True
        self._turn.end()
        end = time.monotonic() + 1
        while self._limit == BUSY:
            self._await_fast_path(end)
        self._limit = -1
        if self._is_writer:
            self._writer.release()
        self._segment.close()
        self._bell.close()
        self._words, self._map = NO_WORDS, self._segment.map

    def unlink(self) -> None:
        """Remove the name: nobody can attach any more; who is attached goes on."""
        self._segment.unlink()

    def __enter__(self) -> Self:
        if self._closed:
            raise self._closed_error()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._segment.buffer.owner:
            self.unlink()
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        if self._closed:
            raise self._closed_error()
        return _join, (type(self), self._segment.buffer)

    # -- looking ---------------------------------------------------------------------------------

    @property
    def url(self) -> Url:
        """Where it is; `str` of it is what `attach` takes."""
        return self._segment.buffer.url

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._closed

    @property
    def buffer(self) -> SharedBuffer:
        """The memory it is in, header and all: for tools."""
        return self._segment.buffer

    @property
    def _name(self) -> str:
        return repr(str(self._segment.buffer.url))

    def _open_words(self) -> memoryview[int]:
        words = self._words
        if self._closed:  # looked at after the words were taken: they are not the empty ones
            raise self._closed_error()
        return words

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"this handle on {self._NOUN} {self._name} was closed")

    def _corrupt(self, detail: str) -> CorruptSegment:
        return self._segment.poison(detail)

    def _checked_state(self, words: memoryview[int]) -> int:
        """READY, SHUT or CUT.

        Raises:
            CorruptSegment: it is, or was found to be.
        """
        state = words[STATE]
        if state == POISONED:
            raise self._segment.corrupt("an invariant was found broken before")
        if not READY <= state <= CUT:
            raise self._corrupt(f"state {state} is none of {READY} to {POISONED}")
        return state

    def _story(self, more: str) -> str:
        if self._closed:
            return f"<{type(self).__name__} {self._name} closed>"
        state = STATES.get(self._words[STATE], "corrupt")
        role = self._ROLE if self._is_writer else "no role"
        return f"<{type(self).__name__} {self._name} {state}, {more}, {role} here>"

    # -- writing ---------------------------------------------------------------------------------

    def _write_in_turn(self, write: Callable[[memoryview[int]], _T]) -> _T:
        """Call a function in the turn of this handle's writing threads, off the fast path."""
        if self._closed:
            raise self._closed_error()

        def act() -> _T:
            end = time.monotonic() + 1
            while self._limit == BUSY:
                self._await_fast_path(end)
            self._limit = -1
            words = self._open_words()
            if self._checked_state(words) != READY:
                raise ShutDown(f"{self._NOUN} {self._name} was shut down: nothing more goes in")
            return write(words)

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

    def _await_fast_path(self, end: float) -> None:
        """Let a thread go on that a garbage collection interrupted on the fast path."""
        if time.monotonic() > end:
            raise RuntimeError(
                f"{self._NOUN} {self._name} was called by a finalizer that ran inside a call on "
                "the same handle: give the finalizer a handle of its own"
            )
        time.sleep(0)

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
        bell: Gong,
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
            death = writer.death()
            if death is None or self._words[word] != seen:
                return  # alive, or its last act is still to be seen to
            writer.tell(death)
            raise PeerDied(
                f"process {death.pid}, the {self._ROLE} of {self._NOUN} {self._name}, died "
                "without closing it; a successor may attach, what was published stays",
                pid=death.pid,
                role=self._ROLE,
            )

        return bell.wait(word, seen, deadline, look)


def contiguous(data: Any) -> bytes | memoryview:
    """`data` as plain bytes whose `len` is true, without a copy.

    Raises:
        TypeError: it has no buffer, or the buffer is not contiguous.
    """
    return data if type(data) is bytes else as_bytes(memoryview(data))


def _join(cls: type[OneWriter], buffer: SharedBuffer) -> OneWriter:
    return cls._over(Segment.join(buffer, cls._KIND, SEMAPHORES, Deadline(0)))
