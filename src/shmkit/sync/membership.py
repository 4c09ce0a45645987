"""Membership: a handle's line among the participants of a segment, and its share in the semaphores.

A participant is a handle that holds the lock byte of its line (liveness.py); the line itself is for
people. So "is anybody else here?" is a question to the kernel, and no count has to survive a crash.

The semaphores have names, and somebody has to remove them. The first one in makes them afresh: what
a crash left is thrown away, nobody is there to miss it. A count in the header tells a forked child,
which inherits semaphores and is no participant yet, whether they are still those of the others. Who
removes them stands there, too:

    OWNER      a named segment that goes with its creator: the semaphores go with it, too (at its
               unlink, its process's end, or by the resource tracker if it is killed)
    NOBODY     a segment that outlives processes (a file, keep=True): the last one out
    an inode   anonymous memory: the last one out, who also tells the resource tracker. The inode
               is that of the pipe to the tracker which knows the names; a process with another
               tracker leaves them alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
import warnings
import weakref
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError
from shmkit.sync.liveness import CREATION_BYTE, PARTICIPANT_BYTE, RESCUE_BYTE, Presence
from shmkit.sync.semaphore import Semaphore
from shmkit.sync.waiting import NO_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shmkit.memory.buffer import SharedBuffer

__all__ = [
    "DEATHS",
    "ENTERING",
    "IDLE",
    "INSIDE",
    "LEAVING",
    "LINE_ATTACHED",
    "LINE_PHASES",
    "LINE_PID",
    "LINE_ROLES",
    "LOCK_WORDS",
    "OWNERSHIP",
    "PARTICIPANT_LINE",
    "Membership",
    "start_time",
]

# Indices of 8-byte words.
OWNERSHIP: Final = 0x070 // 8  # whose the semaphores are
EPOCH: Final = 0x078 // 8  # how often the semaphores were made
# For each of two roles, of the line of the dead that was used again last: attached, pid.
DEATHS: Final = 0x100 // 8
PARTICIPANT_LINE: Final = 0x400 // 8  # the first of the lines
_LINE_WORDS: Final = 128 // 8

# Words of a line; phase and ticks follow for each of the locks in the segment.
LINE_PID: Final = 0
LINE_START: Final = 1
LINE_ATTACHED: Final = 2  # ns; tells one owner of a line from the next
LINE_ROLES: Final = 3  # bits: what the owner does; in a line of the dead, what it died doing
LINE_PHASES: Final = 4
LOCK_WORDS: Final = 3  # phase, ticks, entries

# Phases, see mutex.py.
IDLE: Final = 0
ENTERING: Final = 1
INSIDE: Final = 2
LEAVING: Final = 3
_LOCKS: Final = 2
_NOBODY: Final = 0
_OWNER: Final = 1
_PRIORITY: Final = -40  # at exit: after the children were joined, before names are removed


class Membership:
    """One handle's place among the participants of a segment.

    Args:
        buffer: the memory of the segment.
        semaphores: names of its semaphores, and the counts they start with.
    """

    def __init__(self, buffer: SharedBuffer, semaphores: Mapping[str, int]) -> None:
        self.semaphores: dict[str, Semaphore] = {}
        self._buffer = buffer
        self._counts = semaphores
        self._presence: Presence | None = Presence(buffer)
        self._words: memoryview[int] = NO_WORDS
        self._participants = 0
        self._incarnation = ""
        self._epoch = 0
        self._removes_names = False
        self._duties: list[Callable[[], None]] = []  # to remove names that outlive this handle
        self._slot = -1
        self._pid = os.getpid()
        self._followers: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._remove: Callable[[], None] = _nothing
        self._watch: Callable[[], None] | None = None
        self._finalizer: Finalize | None = None

    @property
    def presence(self) -> Presence:
        """The lock bytes of this handle, in this process.

        Raises:
            ClosedError: the handle was closed.
        """
        if self._presence is None:
            raise ClosedError(f"this handle on {str(self._buffer.url)!r} was closed")
        return self._presence

    @contextmanager
    def entering(self, patience: float = 5) -> Iterator[None]:
        """Alone at the door: nobody else creates, enters or leaves inside this `with`.

        Args:
            patience: seconds to wait for whoever is there. They pass in microseconds, unless they
                are stopped.

        Raises:
            TimeoutError: it was not enough.
        """
        presence, deadline = self.presence, Deadline(patience)
        while not presence.try_lock(CREATION_BYTE):
            if deadline.expired():
                raise TimeoutError(
                    f"somebody has been entering {str(self._buffer.url)!r} for {patience} s: "
                    "is a process stopped there?"
                )
            time.sleep(0.0005)  # the blocking form of this lock knows no timeout
        try:
            yield
        finally:
            presence.unlock(CREATION_BYTE)

    def ownership(self) -> int:
        """What the creator writes into the header."""
        if self._buffer.url.scheme == "anon":
            return _tracker()
        return _OWNER if self._buffer.owner else _NOBODY

    def enter(self, words: memoryview[int], participants: int, incarnation: str) -> None:
        """Take a line, and open the semaphores; called inside `entering`.

        Raises:
            OSError: every line is taken by a live participant.
            FileNotFoundError: others are attached, but a semaphore was removed by hand.
        """
        self._words, self._participants, self._incarnation = words, participants, incarnation
        first = self.is_alone(participants)
        self._removes_names = self._removes_names or (
            words[OWNERSHIP] == _OWNER and self._buffer.owner
        )
        if first:
            self._forget_the_dead()
        self._take_line()
        if self.semaphores and words[EPOCH] == self._epoch:
            if first:  # a forked child: it inherited them, open, with what the dead left in them
                for name, count in self._counts.items():
                    self.semaphores[name].reset(count)
            return
        if first:
            words[EPOCH] = (words[EPOCH] + 1) % (1 << 64)  # step: member.epoch
        self._epoch = words[EPOCH]
        for name, count in self._counts.items():
            full = f"shmkit-{self._semaphore_stem()}-{name}"
            if not first:
                self.semaphores[name] = Semaphore.attach(full)
                continue
            Semaphore.discard(full)  # step: member.discard
            self.semaphores[name] = Semaphore.create(full, count, tracked=self._removes_names)
            if self._is_tracked_here():
                resource_tracker.register(f"/{full}", "semaphore")

    def _semaphore_stem(self) -> str:
        # With the inode: a copy of a file must not ring the bells of the original.
        status = os.fstat(self.presence.descriptor)
        what = f"{self._incarnation}:{status.st_dev}:{status.st_ino}"
        return hashlib.blake2b(what.encode(), digest_size=12).hexdigest()

    def _is_tracked_here(self) -> bool:
        return self._words[OWNERSHIP] > _OWNER and self._words[OWNERSHIP] == _tracker()

    def _forget_the_dead(self) -> None:
        # Nobody is here, and the semaphores are made anew: what the lines say of locks is void.
        for slot in range(self._participants):
            line = self.line(slot)
            self._bury(line)
            for word in range(line, line + _LINE_WORDS):
                self._words[word] = 0

    def _take_line(self) -> None:
        slot = self._free_slot()
        line = self.line(slot)
        self._bury(line)
        self._slot, self._pid = slot, os.getpid()
        self._words[line + LINE_PID] = self._pid  # step: member.pid
        self._words[line + LINE_START] = start_time(self._pid)
        self._words[line + LINE_ATTACHED] = time.time_ns()  # step: member.attached
        if self._watch is not None:
            self._watch()

    def _bury(self, line: int) -> None:
        """Write down elsewhere what a line of the dead says of roles, before it is used again."""
        roles = self._words[line + LINE_ROLES]
        for role in range(2):
            if roles >> role & 1:
                self._words[DEATHS + 2 * role + 1] = self._words[line + LINE_PID]
                self._words[DEATHS + 2 * role] = self._words[line + LINE_ATTACHED]
        self._words[line + LINE_ROLES] = 0

    def _free_slot(self) -> int:
        """Lock the byte of a line that is nobody's.

        Raises:
            OSError: EUSERS, there is none.
        """
        for _ in range(2):
            slot = self._find_slot()
            if slot is not None:
                return slot
            for lock in range(_LOCKS):
                # With the rescuers' byte: one of them would clear the line of whoever takes it.
                if self.presence.try_lock(RESCUE_BYTE + lock):
                    self.clear_evidence(lock)
                    self.presence.unlock(RESCUE_BYTE + lock)
        raise OSError(
            errno.EUSERS,
            f"all {self._participants} lines for participants are in use: close a handle, or "
            "create the segment with more",
            str(self._buffer.url),
        )

    def clear_evidence(self, lock: int) -> None:
        """Forget who died at a lock without its token, when it is seen with somebody else.

        Called inside `entering`, so that a line of the dead stays one.
        """
        words, at = self._words, LINE_PHASES + LOCK_WORDS * lock
        dead = [
            line + at
            for line, lives in self.lines()
            if words[line + at] and not lives() and words[line + at] in (ENTERING, LEAVING)
        ]
        # Looked at after they were seen dead: whoever is inside now did not give it to them.
        if any(words[line + at] == INSIDE for line, _ in self.lines()):
            for phase in dead:
                words[phase] = IDLE  # step: member.forget

    def _find_slot(self) -> int | None:
        # What the dead leave in their lines is news for some time: the oldest goes first.
        slots = range(self._participants)
        for slot in sorted(slots, key=lambda slot: self._words[self.line(slot) + LINE_ATTACHED]):
            if self.presence.try_lock(PARTICIPANT_BYTE + slot):
                if not self._is_in_a_lock(slot):
                    return slot
                self.presence.unlock(PARTICIPANT_BYTE + slot)  # evidence, until it is rescued
        return None

    def _is_in_a_lock(self, slot: int) -> bool:
        first = self.line(slot) + LINE_PHASES
        return any(
            self._words[word] for word in range(first, first + LOCK_WORDS * _LOCKS, LOCK_WORDS)
        )

    def line(self, slot: int | None = None) -> int:
        """Index of the first word of a participant's line; of this handle's without a slot."""
        return PARTICIPANT_LINE + (self._slot if slot is None else slot) * _LINE_WORDS

    def lines(self) -> Iterator[tuple[int, Callable[[], bool]]]:
        """Index of each participant's line, and a question to the kernel whether it is alive."""
        presence = self.presence
        for slot in range(self._participants):
            yield self.line(slot), partial(presence.is_held, PARTICIPANT_BYTE + slot)

    def call_after_move(self, follow: Callable[[], None]) -> None:
        """Have a bound method called when this handle's line has become another."""
        self._followers.append(weakref.WeakMethod(follow))

    def move(self, lock: int) -> None:
        """Leave the line behind as that of one that died at a lock, and take another.

        Args:
            lock: index of the lock. The rest of the line moves along.

        Raises:
            OSError: there is no other line.
        """
        with self.entering():
            words, left, old = self._words, self._slot, self.line()
            self._take_line()
            new = self.line()
            for word in range(LINE_ROLES, _LINE_WORDS):
                if not 0 <= word - LINE_PHASES - LOCK_WORDS * lock < LOCK_WORDS:
                    words[new + word], words[old + word] = words[old + word], 0
            self.presence.unlock(PARTICIPANT_BYTE + left)
        for follower in self._followers:
            follow = follower()
            if follow is not None:
                follow()

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
                if self._finalizer is not None:
                    self._finalizer.cancel()
                self._finalizer = Finalize(
                    alive, _forgotten, (close, text, os.getpid()), exitpriority=_PRIORITY
                )

        # multiprocessing forgets every finalizer in a forked child: each process starts its own.
        self._watch = start
        start()

    def register(self) -> None:
        """Become a participant in this process, at a forked child's first use."""
        if self._slot < 0 or self._pid != os.getpid():
            with self.entering():
                if self._slot < 0 or self._pid != os.getpid():  # not another thread meanwhile
                    self.enter(self._words, self._participants, self._incarnation)

    def members(self) -> list[int]:
        """Pids of the live participants, this one included, as they wrote them down."""
        return [
            self._words[self.line(slot)]
            for slot in range(self._participants)
            if self.presence.is_held(PARTICIPANT_BYTE + slot)
        ]

    def close(self) -> None:
        """Stop being a participant; the last one out removes what is nobody's. Idempotent."""
        presence = self._presence
        if presence is None:
            return
        if self._finalizer is not None:
            self._finalizer.cancel()
        try:
            if self._slot >= 0 and self._pid == os.getpid():
                with self.entering():
                    self._words[self.line() + LINE_ROLES] = 0  # step: member.roles
                    presence.unlock(PARTICIPANT_BYTE + self._slot)  # step: member.leave
                    if not presence.others(PARTICIPANT_BYTE, self._participants):
                        self._last_one_out()  # step: member.last
        finally:
            self._presence = None
            self._words = NO_WORDS
            self._watch, self._remove = None, _nothing  # they lead back here
            for semaphore in self.semaphores.values():
                semaphore.close()
            if self._removes_names:
                self._duties = [semaphore.duty for semaphore in self.semaphores.values()]
            self.semaphores.clear()
            presence.close()

    def _last_one_out(self) -> None:
        self._remove()
        tracked = self._is_tracked_here()
        if tracked or self._words[OWNERSHIP] == _NOBODY:
            for semaphore in self.semaphores.values():
                semaphore.unlink()
                if tracked:
                    resource_tracker.unregister(f"/{semaphore.name}", "semaphore")

    def discard_semaphores(self, incarnation: str) -> None:
        """Remove the names of semaphores that a dead creator of this memory may have left."""
        self._incarnation = incarnation
        for name in self._counts:
            Semaphore.discard(f"shmkit-{self._semaphore_stem()}-{name}")

    def unlink_semaphores(self) -> None:
        """Remove the names of the semaphores of a segment whose own name was just removed."""
        if self._removes_names:
            for semaphore in self.semaphores.values():
                semaphore.unlink()
            for duty in self._duties:
                duty()
            self._removes_names = False


def _nothing() -> None:
    pass


def _forgotten(close: Callable[[], None], text: str, pid: int) -> None:
    if pid == os.getpid():
        try:
            if text:
                warnings.warn(text, ResourceWarning, stacklevel=2)
        finally:
            close()


def _tracker() -> int:
    """Inode of the pipe to this process's resource tracker: the same for all who share it."""
    fd = resource_tracker.getfd()
    return 0 if fd is None else os.fstat(fd).st_ino


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])
