"""Membership: how a handle becomes a participant of a segment, and stops being one.

A participant is a handle that holds the lock byte of its place in the table (participants.py,
presence.py). So "is another one here?" is a question to the kernel, and no count has to survive a
crash. A handle that enters or leaves, or looks at the whole table, is alone at the door meanwhile.

The first one in makes the semaphores anew. The last one out calls what it was given for that, for
example to remove the name of a lock.

A newcomer may find each place pending, or a live participant's. It settles the pending ones if it
sees where the token is (recovery.py). If it does not, the token is just changing hands, or it is
lost, and a waiter finds that out. The waiter needs the door for that. So the newcomer steps back
from the door, and comes again, for a second.
"""

from __future__ import annotations

import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Final

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment
from shmkit.memory.process import this_process
from shmkit.segment.participants import NO_WORDS, NoPlace, Participants
from shmkit.segment.presence import Presence
from shmkit.segment.recovery import settle_by_token
from shmkit.segment.semaphores import Semaphores
from shmkit.segment.words import (
    INSIDE,
    LINE_WORDS,
    LOCK_WORDS,
    PARTICIPANT_BYTE,
    PHASES,
    PID,
    RESCUE_BYTE,
    ROLES,
)

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator, Mapping

    from shmkit.memory.buffer import SharedBuffer
    from shmkit.segment.semaphores import Semaphore
    from shmkit.segment.words import Kind

__all__ = ["Membership"]

_PRIORITY: Final = -40  # at exit: after the children were joined, before names are removed
_PATIENCE: Final = 2.0  # seconds for waiters to find a lost token: a slice, ticks, another slice
_POLL: Final = 0.002  # seconds away from the door, for the waiters to get through it


class Membership:
    """One handle's place among the participants of a segment.

    Args:
        buffer: the memory of the segment.
        kind: what lives there; it says which semaphores there are.

    Attributes:
        semaphores: the open ones, by name.
        participants: the table.
    """

    def __init__(self, buffer: SharedBuffer, kind: Kind) -> None:
        self._semaphores = Semaphores(kind)
        self.semaphores: Mapping[str, Semaphore] = self._semaphores.opened
        self._buffer = buffer
        self._presence: Presence | None = Presence(buffer)
        self.participants = Participants(NO_WORDS, 0, self._presence, self.where)
        self._process = this_process()
        self._on_last: Callable[[], None] = _nothing
        self._leaves = False  # `close` has begun, and perhaps was interrupted
        self._left = -1  # the place it had then
        self._watch: Callable[[], None] | None = None
        self._finalizer: Any = None

    @property
    def where(self) -> str:
        """Where the segment is."""
        return str(self._buffer.url)

    @property
    def presence(self) -> Presence:
        """The lock bytes of this handle, in this process.

        Raises:
            ClosedError: the handle was closed.
        """
        if self._presence is None:
            raise ClosedError(f"this handle on {self.where!r} was closed")
        return self._presence

    def corrupt(self, detail: str) -> CorruptSegment:
        """The error that says what is broken in the segment."""
        return CorruptSegment(
            f"segment {self.where!r} is corrupt: {detail}; close it, unlink it and create it anew",
            where=self.where,
            detail=detail,
        )

    def token(self, lock: int) -> Semaphore:
        """The semaphore of one of the segment's locks.

        Raises:
            KeyError: there is no such lock, or the handle was closed.
        """
        return self._semaphores.token(lock)

    # -- entering ----------------------------------------------------------------------------------

    def bind(self, memory: mmap.mmap, words: memoryview[int], count: int) -> None:
        """Know the segment: its map, the same as words, and how many participants there may be."""
        self.participants = Participants(words, count, self.presence, self.where)
        self._semaphores.bind(memory, words, self.presence, self.where)

    def admit(self, take_place: Callable[[], None]) -> None:
        """Call a function that takes a place alone at the door; again while places are pending.

        Raises:
            OSError: EUSERS: each place is a live participant's, or stays pending for a while.
            TimeoutError: a process is stopped at the door.
            BaseException: what `take_place` raises.
        """
        deadline = Deadline(_PATIENCE)
        while True:
            leaving = self.participants.enter_door()
            try:
                take_place()
            except NoPlace as error:
                if not error.pending or deadline.expired():
                    raise
            else:
                return
            finally:
                for _ in leaving:
                    break
            time.sleep(_POLL)  # meanwhile a waiter looks for the token, if it is lost

    def enter(self) -> None:
        """Open the semaphores, and take a place; called alone at the door, best by `admit`.

        Raises:
            OSError: EUSERS, no place is free now.
            IncompatibleSegment: the segment's semaphores are of another C library.
        """
        table = self.participants
        if table.are_none():
            # The semaphores are made anew: what the table says of locks is void, but for deaths
            # inside. Memory that was just made has nothing to be wiped.
            place = table.take_first()
            held: set[int] = set() if place is not None else table.wipe()
            self._take_place(place)
            self._semaphores.make(held)
        else:
            self._semaphores.open()  # first: their tokens tell which places are free
            self._take_place()

    def _take_place(self, place: int | None = None) -> None:
        """Sign a place: one that was taken already, or a free one."""
        table = self.participants
        if place is None:
            place = table.take_free_one()
        if place is None:
            self._settle()
            place = table.take_free_one()
        if place is None:
            raise NoPlace(self.where, table.count, table.count_pending())
        table.sign(place)
        table.own, self._process = place, this_process()

    def _settle(self) -> None:
        """Make pending places free, at each lock whose token is seen elsewhere."""
        for lock in self._semaphores.locks:
            unlocks = self.presence.unlocks(RESCUE_BYTE + lock)
            if self.presence.try_lock(RESCUE_BYTE + lock):  # else a rescuer does it
                try:
                    settle_by_token(self.participants, lock, self.token(lock))
                finally:
                    for _ in unlocks:
                        break

    def register(self) -> None:
        """Become a participant in this process: at a forked child's first call."""
        if not self._is_registered:
            self.admit(self._register)

    def _register(self) -> None:
        if not self._is_registered:  # not by another thread meanwhile
            self.participants.own = -1
            self.enter()
            if self._watch is not None:
                self._watch()

    @property
    def _is_registered(self) -> bool:
        return self.participants.own >= 0 and self._process == this_process()

    def move(self) -> None:
        """Leave this handle's place behind as that of a dead participant, and take another.

        Roles move along: it is dead at a lock only.

        Raises:
            OSError: there is no other place.
        """
        self.admit(self._move)

    def _move(self) -> None:
        table = self.participants
        # The new place first: if there is none, this handle keeps the old one.
        left, roles = table.own, table.own_place() + ROLES
        self._take_place()
        table.words[table.own_place() + ROLES] = table.words[roles]
        # Else the old place would tell of the death of a producer or consumer.
        table.words[roles] = 0
        self.presence.unlock(PARTICIPANT_BYTE + left)

    # -- looking -----------------------------------------------------------------------------------

    def line(self) -> int:
        """Index of the first word of this handle's place."""
        return self.participants.own_place()

    def lines(self) -> Iterator[tuple[int, Callable[[], bool]]]:
        """Index of each place, and a question to the kernel whether its participant is alive."""
        return self.participants.all()

    def members(self) -> list[int]:
        """Process ids of the live participants, this one included, as they wrote them down."""
        words = self.participants.words
        return [words[at + PID] for at, lives in self.participants.all() if lives()]

    def is_another_inside(self, lock: int) -> bool:
        """Whether another participant, alive or dead, says that it is inside a lock."""
        table = self.participants
        own = table.own if table.own >= 0 else self._left
        first = table.at(0) + PHASES + LOCK_WORDS * lock
        phases = table.words[first : table.at(table.count) : LINE_WORDS].tolist()
        return any(phase == INSIDE and place != own for place, phase in enumerate(phases))

    # -- leaving -----------------------------------------------------------------------------------

    def call_when_last(self, function: Callable[[], None]) -> None:
        """Have a function called by `close`, alone at the door, if this is the last one out."""
        self._on_last = function

    def watch(self, handle: object, close: Callable[[], None], text: str = "") -> None:
        """Have a handle closed that is dropped open, or open at its process's end.

        Args:
            handle: the object whose end is watched; it is not kept alive.
            close: what to call then; must not lead to the handle.
            text: what a ResourceWarning says of it; without it there is none, nor in a process
                that was handed the handle.
        """
        # Imported here: it is a good part of what importing this library costs.
        from multiprocessing.util import Finalize

        weak = weakref.ref(handle)

        def start() -> None:
            alive = weak()
            if alive is not None:
                said = "" if self._buffer._is_handed() else text
                self._finalizer = Finalize(
                    alive, _forgotten, (close, said, this_process()), exitpriority=_PRIORITY
                )

        # multiprocessing forgets every finalizer in a forked child: each process starts its own.
        self._watch = start
        start()

    def close(self) -> None:
        """Stop being a participant. Idempotent; after an interrupted one it does the rest."""
        presence = self._presence
        if presence is None:
            return
        try:
            # Lost: to its peers it has died. Closed: an interrupted `close` got as far as that.
            is_there = not presence.is_lost and not presence.is_closed
            if (self._is_registered or self._leaves) and is_there:
                self._leave(presence)
        except OSError:
            self._forget(presence)  # a process is stopped at the door, or the name is not ours
            raise
        self._forget(presence)

    def _leave(self, presence: Presence) -> None:
        table = self.participants
        leaving = table.enter_door()
        try:
            if table.own >= 0:
                self._leaves, self._left = self._process == this_process(), table.own
                unlocks = presence.unlocks(PARTICIPANT_BYTE + table.own)
                # Before the byte: roles in a place without a lock tell of a death.
                table.words[self.line() + ROLES] = 0  # step: member.roles
                for _ in unlocks:  # step: member.leave
                    # No call in between: a second `close` must not touch a successor's place.
                    table.own = -1
                    break
            if table.are_none():
                self._on_last()  # step: member.last
                self._semaphores.remove()
        finally:
            for _ in leaving:
                break

    def _forget(self, presence: Presence) -> None:
        self.participants = Participants(NO_WORDS, 0, presence, self.where)
        self._watch, self._on_last = None, _nothing  # they lead back here
        self._semaphores.close()
        presence.close()
        if self._finalizer is not None:  # last: until then it does what an interrupted close left
            self._finalizer.cancel()
        self._presence = None


def _nothing() -> None:
    pass


def _forgotten(close: Callable[[], None], text: str, process: int) -> None:
    # In a forked child it is the parent's handle, not to be closed.
    if process == this_process():
        try:
            if text:
                warnings.warn(text, ResourceWarning, stacklevel=2)
        finally:
            close()
