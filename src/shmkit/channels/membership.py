"""Membership: a handle's line among the participants of a segment, and its share in the semaphores.

A participant is a handle that holds the lock byte of its line (liveness.py); the line itself is for
people. So "is anybody else here?" is a question to the kernel, and no count has to survive a crash.

The semaphores have names, and somebody has to remove them. The first one in makes them afresh: what
a
crash left is thrown away, nobody is there to miss it. Who removes them stands in the header:

    OWNER      a named segment that goes with its creator: the semaphores go with it, too (at its
               unlink, its process's end, or by the resource tracker if it is killed)
    NOBODY     a segment that outlives processes (a file, keep=True): the last one out
    an inode   anonymous memory: the last one out, who also tells the resource tracker. The inode
               is that of the pipe to the tracker which knows the names; a process with another
               tracker leaves them alone.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError
from shmkit.sync.liveness import CREATION_BYTE, PARTICIPANT_BYTE, Presence
from shmkit.sync.semaphore import Semaphore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.memory.buffer import SharedBuffer

__all__ = ["OWNERSHIP", "PARTICIPANT_LINE", "Membership", "start_time"]

OWNERSHIP: Final = 0x070 // 8  # index of the header word that says whose the semaphores are
PARTICIPANT_LINE: Final = 0x400 // 8
_LINE_WORDS: Final = 128 // 8
_NOBODY: Final = 0
_OWNER: Final = 1
_PRIORITY: Final = -40  # at exit: after the children were joined, before names are removed


class Membership:
    """One handle's place among the participants of a segment.

    Args:
        buffer: the memory of the segment.
        names: what its semaphores are called.
    """

    def __init__(self, buffer: SharedBuffer, names: tuple[str, ...]) -> None:
        self.semaphores: dict[str, Semaphore] = {}
        self._buffer = buffer
        self._names = names
        self._presence: Presence | None = Presence(buffer)
        self._words: memoryview[int] = memoryview(b"").cast("Q")
        self._participants = 0
        self._incarnation = ""
        self._removes_names = False
        self._slot = -1
        self._pid = os.getpid()
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
    def entering(self) -> Iterator[None]:
        """Alone at the door: nobody else creates, enters or leaves inside this `with`.

        Raises:
            TimeoutError: somebody has been there for 5 s. They pass in microseconds, so it is
                stopped.
        """
        presence, deadline = self.presence, Deadline(5)
        while not presence.try_lock(CREATION_BYTE):
            if deadline.expired():
                raise TimeoutError(
                    f"somebody has been entering segment {str(self._buffer.url)!r} for 5 s: "
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
        first = not self.presence.others(PARTICIPANT_BYTE, participants)
        self._removes_names = self._removes_names or (
            words[OWNERSHIP] == _OWNER and self._buffer.owner
        )
        self._take_line()
        if self.semaphores:
            return  # a forked child: it inherited them, open
        for name in self._names:
            full = f"shmkit-{incarnation}-{name}"
            if not first:
                self.semaphores[name] = Semaphore.attach(full)
                continue
            Semaphore.discard(full)
            self.semaphores[name] = Semaphore.create(full, tracked=self._removes_names)
            if self._is_tracked_here():
                resource_tracker.register(f"/{full}", "semaphore")

    def _is_tracked_here(self) -> bool:
        return self._words[OWNERSHIP] > _OWNER and self._words[OWNERSHIP] == _tracker()

    def _take_line(self) -> None:
        for slot in range(self._participants):
            if self.presence.try_lock(PARTICIPANT_BYTE + slot):
                break
        else:
            raise OSError(
                f"segment {str(self._buffer.url)!r} has {self._participants} participants, all "
                "alive: close some, or create it with more"
            )
        self._slot, self._pid = slot, os.getpid()
        line = PARTICIPANT_LINE + slot * _LINE_WORDS
        self._words[line] = self._pid
        self._words[line + 1] = start_time(self._pid)
        self._words[line + 2] = time.time_ns()
        if self._watch is not None:
            self._watch()

    def watch(self, handle: object, close: Callable[[], None], text: str) -> None:
        """Have a handle closed and reported that is dropped open, or open at its process's end.

        Args:
            handle: the object whose end is watched; it is not kept alive.
            close: what to call then; must not lead to the handle.
            text: what the ResourceWarning says.
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
        if self._slot < 0 or self._pid != os.getpid():
            with self.entering():
                self.enter(self._words, self._participants, self._incarnation)

    def members(self) -> list[int]:
        """Pids of the live participants, this one included, as they wrote them down."""
        return [
            self._words[PARTICIPANT_LINE + slot * _LINE_WORDS]
            for slot in range(self._participants)
            if self.presence.is_held(PARTICIPANT_BYTE + slot)
        ]

    def leave(self) -> None:
        """Stop being a participant; the last one out removes what is nobody's. Idempotent."""
        presence = self._presence
        if presence is None:
            return
        if self._finalizer is not None:
            self._finalizer.cancel()
        try:
            if self._slot >= 0 and self._pid == os.getpid():
                with self.entering():
                    presence.unlock(PARTICIPANT_BYTE + self._slot)
                    if not presence.others(PARTICIPANT_BYTE, self._participants):
                        self._last_one_out()
        finally:
            self._presence = None
            self._words = memoryview(b"").cast("Q")
            for semaphore in self.semaphores.values():
                semaphore.close()
            presence.close()

    def _last_one_out(self) -> None:
        tracked = self._is_tracked_here()
        if tracked or self._words[OWNERSHIP] == _NOBODY:
            for semaphore in self.semaphores.values():
                semaphore.unlink()
                if tracked:
                    resource_tracker.unregister(f"/{semaphore.name}", "semaphore")

    def unlink_semaphores(self) -> None:
        """Remove the names of the semaphores of a segment whose own name was just removed."""
        if self._removes_names:
            for semaphore in self.semaphores.values():
                semaphore.unlink()


def _forgotten(close: Callable[[], None], text: str, pid: int) -> None:
    if pid == os.getpid():
        warnings.warn(text, ResourceWarning, stacklevel=2)
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
