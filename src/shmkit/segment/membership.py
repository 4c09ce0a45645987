"""Membership: a handle's line among the participants of a segment, and who goes in and out.

A participant is a handle that holds the lock byte of its line (lines.py, liveness.py). So "is
anybody else here?" is a question to the kernel, and no count has to survive a crash. Who comes or
goes, or looks at all the lines, is alone at the door while it does so.

A newcomer that finds no lines but those of live ones, and of some that died at a lock, clears the
latter, if it sees where the lock's token is (evidence.py). If it does not, the token is just going
from hand to hand, or it is lost, and one of those who wait for it finds that out. So the newcomer
steps back from the door, which they need for that, and comes again, for a second.
"""

from __future__ import annotations

import os
import time
import warnings
import weakref
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Final

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment
from shmkit.segment.participants import INSIDE, LINE_PID, LINE_ROLES, LINE_WORDS, Lines, NoFreeLine
from shmkit.segment.presence import CREATION_BYTE, PARTICIPANT_BYTE, RESCUE_BYTE, Presence
from shmkit.segment.semaphores import Semaphores, ownership
from shmkit.sync import evidence
from shmkit.sync.doorbell import NO_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shmkit.memory.buffer import SharedBuffer
    from shmkit.segment.semaphores import Counts
    from shmkit.sync.semaphore import Semaphore

__all__ = ["Membership"]

_PRIORITY: Final = -40  # at exit: after the children were joined, before names are removed
_PATIENCE: Final = 1.0  # seconds for rescuers to find a lost token: a slice, ticks, another slice
_POLL: Final = 0.002  # seconds away from the door, for them to get through it


class _Door:
    """The creation byte for the length of a `with`.

    No generator: that would hold the byte for as long as somebody has the traceback of a handler
    that raised just when it was got.
    """

    def __init__(self, presence: Presence, patience: float, where: str) -> None:
        self._presence = presence
        self._patience = patience
        self._where = where

    def __enter__(self) -> None:
        deadline = Deadline(self._patience)
        while not self._presence.try_lock(CREATION_BYTE):
            if deadline.expired():
                raise TimeoutError(
                    f"somebody has been entering {self._where!r} for {self._patience} s: "
                    "is a process stopped there?"
                )
            time.sleep(0.0005)  # the blocking form of this lock knows no timeout

    def __exit__(self, *_: object) -> None:
        self._presence.unlock(CREATION_BYTE)


class Membership:
    """One handle's place among the participants of a segment.

    Args:
        buffer: the memory of the segment.
        semaphores: names of its semaphores, and the counts they start with.

    Attributes:
        semaphores: those that are open, by name.
    """

    def __init__(self, buffer: SharedBuffer, semaphores: Counts) -> None:
        self._semaphores = Semaphores(semaphores)
        self.semaphores: Mapping[str, Semaphore] = self._semaphores.opened
        self._buffer = buffer
        self._presence: Presence | None = Presence(buffer)
        self._words: memoryview[int] = NO_WORDS
        self._lines = Lines(NO_WORDS, 0, self._presence)
        self._incarnation = ""
        self._slot = -1
        self._pid = os.getpid()
        self._remove: Callable[[], None] = _nothing
        self._watch: Callable[[], None] | None = None
        self._finalizer: Finalize | None = None

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

    def entering(self, patience: float = 5) -> _Door:
        """Alone at the door: nobody else creates, enters or leaves inside a `with` of this.

        Args:
            patience: seconds to wait for whoever is there. They pass in microseconds, unless they
                are stopped.

        Raises:
            TimeoutError: at the `with`: it was not enough.
        """
        return _Door(self.presence, patience, self.where)

    def token(self, lock: int) -> Semaphore:
        """The semaphore of one of the segment's locks, as it is now.

        Raises:
            KeyError: the segment was given no `TokenOf` that lock.
        """
        return self._semaphores.token(lock)

    def ownership(self) -> int:
        """What the creator writes into the header."""
        return ownership(self._buffer)

    def admit(self, take_line: Callable[[], None]) -> None:
        """Call, alone at the door, what takes a line; for a second again, while there is evidence.

        Raises:
            OSError: EUSERS: every line is a live participant's, or evidence that stays so.
            TimeoutError: as `entering`.
            BaseException: what `take_line` raises.
        """
        deadline = Deadline(_PATIENCE)
        while True:
            with self.entering():
                try:
                    take_line()
                except NoFreeLine as error:
                    if not error.evidence or deadline.expired():
                        raise
                else:
                    return
            time.sleep(_POLL)  # meanwhile those who wait for the token look for it, if it is lost

    def enter(self, words: memoryview[int], participants: int, incarnation: str) -> None:
        """Open the semaphores, and take a line; called alone at the door, best by `admit`.

        Raises:
            OSError: EUSERS, no line is free now.
            FileNotFoundError: others are attached, but a semaphore was removed by hand.
        """
        self._words, self._incarnation = words, incarnation
        self._lines = Lines(words, participants, self.presence)
        self._semaphores.bind(
            words, incarnation, self.presence.descriptor, owner=self._buffer.owner
        )
        if self.is_alone(participants):
            # The semaphores are made anew: what lines say of locks is void, but for deaths inside.
            held = self._lines.wipe()
            self._take_line()
            self._semaphores.make(held)
        else:
            self._semaphores.open()  # first: their tokens tell which lines are free
            self._take_line()

    def _take_line(self) -> None:
        lines = self._lines
        slot = lines.lock_free_one()
        if slot is None:
            self._clear_evidence()
            slot = lines.lock_free_one()
        if slot is None:
            raise NoFreeLine(self.where, lines.participants, lines.count_evidence())
        lines.sign(slot)
        self._slot, self._pid = slot, os.getpid()

    def _clear_evidence(self) -> None:
        """Make lines of the dead free ones, at each lock whose token is somewhere else."""
        presence = self.presence
        for lock in self._semaphores.locks:
            if presence.try_lock(RESCUE_BYTE + lock):  # else a rescuer sees to it
                try:
                    evidence.clear_by_token(self._lines, lock, self.token(lock))
                finally:
                    presence.unlock(RESCUE_BYTE + lock)

    def forget_beside_holder(self, lock: int) -> None:
        """For a rescuer: forget who died at its lock without the token, if somebody is INSIDE.

        Called alone at the door, and with the lock's rescue byte.
        """
        evidence.clear_beside_holder(self._lines, lock)

    def is_another_inside(self, lock: int) -> bool:
        """Whether the line of another, alive or dead, says that it is inside one of the locks."""
        phases, own = self._lines.phases(lock), self.line()
        return any(
            self._words[phase] == INSIDE and not own <= phase < own + LINE_WORDS
            for phase, _ in phases
        )

    def line(self) -> int:
        """Index of the first word of this handle's line."""
        return self._lines.at(self._slot)

    def lines(self) -> Iterator[tuple[int, Callable[[], bool]]]:
        """Index of each participant's line, and a question to the kernel whether it is alive."""
        return self._lines.everybody()

    def move(self) -> None:
        """Leave the line behind as that of one that died, and take another.

        Raises:
            OSError: there is no other line.
        """
        self.admit(self._move)

    def _move(self) -> None:
        left = self._slot
        self._take_line()
        self.presence.unlock(PARTICIPANT_BYTE + left)

    def is_alone(self, participants: int) -> bool:
        """Whether no other handle has a line; for who is inside `entering`, and not yet in."""
        return not self.presence.others(PARTICIPANT_BYTE, participants)

    def call_when_last(self, remove: Callable[[], None]) -> None:
        """Have a function called by `close`, alone at the door, if this is the last one out."""
        self._remove = remove

    def watch(self, handle: object, close: Callable[[], None], text: str = "") -> None:
        """Have a handle closed that is dropped open, or open at its process's end.

        Args:
            handle: the object whose end is watched; it is not kept alive.
            close: what to call then; must not lead to the handle.
            text: what a ResourceWarning says of it; without it there is none.
        """
        weak = weakref.ref(handle)

        def start() -> None:
            alive = weak()
            if alive is not None:
                self._finalizer = Finalize(
                    alive, _forgotten, (close, text, os.getpid()), exitpriority=_PRIORITY
                )

        # multiprocessing forgets every finalizer in a forked child: each process starts its own.
        self._watch = start
        start()

    def register(self) -> None:
        """Become a participant in this process, at a forked child's first use."""
        if not self._is_registered:
            self.admit(self._register)

    def _register(self) -> None:
        if not self._is_registered:  # not by another thread meanwhile
            self.enter(self._words, self._lines.participants, self._incarnation)
            if self._watch is not None:
                self._watch()

    @property
    def _is_registered(self) -> bool:
        return self._slot >= 0 and self._pid == os.getpid()

    def members(self) -> list[int]:
        """Pids of the live participants, this one included, as they wrote them down."""
        return [self._words[line + LINE_PID] for line, lives in self.lines() if lives()]

    def close(self) -> None:
        """Stop being a participant; the last one out removes what is nobody's. Idempotent."""
        presence = self._presence
        if presence is None:
            return
        if self._finalizer is not None:
            self._finalizer.cancel()
        try:
            if self._is_registered:
                with self.entering():
                    self._words[self.line() + LINE_ROLES] = 0  # step: member.roles
                    presence.unlock(PARTICIPANT_BYTE + self._slot)  # step: member.leave
                    if self.is_alone(self._lines.participants):
                        self._remove()  # step: member.last
                        self._semaphores.remove_as_last()
        finally:
            self._presence = None
            self._words = NO_WORDS
            self._lines = Lines(NO_WORDS, 0, presence)
            self._watch, self._remove = None, _nothing  # they lead back here
            self._semaphores.close()
            presence.close()

    def discard_semaphores(self, incarnation: str) -> None:
        """Remove the names of semaphores that a dead creator of this memory may have left."""
        self._semaphores.discard(incarnation, self.presence.descriptor)

    def unlink_semaphores(self) -> None:
        """Remove the names of the semaphores of a segment whose own name was just removed."""
        self._semaphores.unlink()


def _nothing() -> None:
    pass


def _forgotten(close: Callable[[], None], text: str, pid: int) -> None:
    if pid == os.getpid():
        try:
            if text:
                warnings.warn(text, ResourceWarning, stacklevel=2)
        finally:
            close()
