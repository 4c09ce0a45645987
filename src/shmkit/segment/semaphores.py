"""The semaphores of a segment: made by the first one in, removed by the last one out.

They have names, and somebody has to remove them. The first one in makes them afresh: what a crash
left is thrown away, nobody is there to miss it. A count in the header, the epoch, tells a forked
child, which inherits semaphores and is no participant yet, whether they are still those of the
others. The last one out removes them, whoever it is. Who else does stands in the header:

    OWNER      a named segment that goes with its creator: the semaphores go with it, too (at its
               unlink, its process's end, or by the resource tracker if it is killed)
    NOBODY     a segment that outlives processes (a file, keep=True)
    an inode   anonymous memory: the resource tracker, if all are killed. The inode is that of the
               pipe to the tracker which knows the names; who has another tells it nothing.
"""

from __future__ import annotations

import hashlib
import os
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from shmkit.sync.doorbell import NO_WORDS
from shmkit.sync.semaphore import Semaphore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from shmkit.memory.buffer import SharedBuffer

__all__ = ["OWNERSHIP", "Counts", "Semaphores", "TokenOf", "is_family", "ownership"]

# Indices of 8-byte words.
OWNERSHIP: Final = 0x070 // 8  # whose the semaphores are
EPOCH: Final = 0x078 // 8  # how often the semaphores were made, or removed by the last one out

_NOBODY: Final = 0
_OWNER: Final = 1


class TokenOf(NamedTuple):
    """In place of a count: the semaphore is one of the segment's locks, which starts with 1.

    Attributes:
        lock: index of the lock, as its Mutex has it.
    """

    lock: int


Counts: TypeAlias = "Mapping[str, int | TokenOf]"
"""Names of a segment's semaphores, and what they start with."""


def ownership(buffer: SharedBuffer) -> int:
    """What the creator of a segment writes into its header."""
    if buffer.url.scheme == "anon":
        return _tracker()
    return _OWNER if buffer.owner else _NOBODY


class Semaphores:
    """One handle's share in the semaphores of a segment.

    Args:
        counts: names of the semaphores, and what they start with.

    Attributes:
        opened: those that are open, by name; always the same dict.
    """

    def __init__(self, counts: Counts) -> None:
        self.opened: dict[str, Semaphore] = {}
        self._counts: dict[str, int] = {}
        self._tokens: dict[int, str] = {}  # index of a lock -> name of its semaphore
        for name, start in counts.items():
            self._counts[name] = 1 if isinstance(start, TokenOf) else start
            if isinstance(start, TokenOf):
                self._tokens[start.lock] = name
        self._words: memoryview[int] = NO_WORDS
        self._stem = ""
        self._epoch = 0
        self._removes_names = False
        self._duties: list[Callable[[], None]] = []  # to remove names that outlive this handle

    def bind(
        self, words: memoryview[int], incarnation: str, descriptor: int, *, owner: bool
    ) -> None:
        """Know the segment whose semaphores they are.

        Args:
            words: the segment as 8-byte words.
            incarnation: of the segment.
            descriptor: one that is open on the memory.
            owner: whether the memory goes with its creator, and this handle is that.
        """
        self._words = words
        self._stem = _stem(incarnation, descriptor)
        self._removes_names = self._removes_names or (words[OWNERSHIP] == _OWNER and owner)

    def open(self) -> None:
        """Open those that others have made, unless they are open: a forked child inherits them.

        Raises:
            FileNotFoundError: one was removed by hand.
        """
        if self._are_current:
            return
        for name in self._counts:
            self.opened[name] = Semaphore.attach(f"{self._stem}-{name}")
        self._epoch = self._words[EPOCH]

    def make(self, held: Collection[int] = ()) -> None:
        """Make them anew; for who is alone.

        Args:
            held: indices of locks whose token is with one that died.
        """
        without = {name for lock, name in self._tokens.items() if lock in held}
        counts = {name: n - (name in without) for name, n in self._counts.items()}
        if self._are_current:  # a forked child: it inherited them, with what the dead left in them
            for name, count in counts.items():
                self.opened[name].reset(count)
            return
        self._count_epoch()  # step: semaphores.epoch
        self._epoch = self._words[EPOCH]
        for name, count in counts.items():
            full = f"{self._stem}-{name}"
            Semaphore.discard(full)  # step: semaphores.discard
            self.opened[name] = Semaphore.create(full, count, tracked=self._removes_names)
            if self._is_tracked_here():
                resource_tracker.register(f"/{full}", "semaphore")

    @property
    def _are_current(self) -> bool:
        return bool(self.opened) and self._words[EPOCH] == self._epoch

    def _count_epoch(self) -> None:
        self._words[EPOCH] = (self._words[EPOCH] + 1) % (1 << 64)

    @property
    def locks(self) -> Collection[int]:
        """Indices of the segment's locks."""
        return self._tokens.keys()

    def token(self, lock: int) -> Semaphore:
        """The semaphore of a lock.

        Raises:
            KeyError: no semaphore is that, or it is closed.
        """
        return self.opened[self._tokens[lock]]

    def remove_as_last(self) -> None:
        """Remove the names; for the last one out. Whoever comes then makes them anew."""
        tracked = self._is_tracked_here()
        # A forked child that still has them, and comes back, is to make others, with names.
        self._count_epoch()
        for semaphore in self.opened.values():
            semaphore.unlink()
            if tracked:
                resource_tracker.unregister(f"/{semaphore.name}", "semaphore")

    def _is_tracked_here(self) -> bool:
        return is_family(self._words)

    def close(self) -> None:
        """Leave them. Idempotent."""
        self._words = NO_WORDS
        for semaphore in self.opened.values():
            semaphore.close()
        if self._removes_names and self.opened:
            self._duties = [semaphore.duty for semaphore in self.opened.values()]
        self.opened.clear()

    def unlink(self) -> None:
        """Remove the names, if the creator of the segment is to do that; closed or not."""
        if self._removes_names:
            for semaphore in self.opened.values():
                semaphore.unlink()
            for duty in self._duties:
                duty()
            self._removes_names = False

    def discard(self, incarnation: str, descriptor: int) -> None:
        """Remove the names that a dead creator of the memory may have left."""
        stem = _stem(incarnation, descriptor)
        for name in self._counts:
            Semaphore.discard(f"{stem}-{name}")


def is_family(words: memoryview[int]) -> bool:
    """Whether a segment is anonymous memory whose creator has the resource tracker we have."""
    return words[OWNERSHIP] > _OWNER and words[OWNERSHIP] == _tracker()


def _stem(incarnation: str, descriptor: int) -> str:
    # With the inode: a copy of a file must not ring the bells of the original.
    status = os.fstat(descriptor)
    what = f"{incarnation}:{status.st_dev}:{status.st_ino}"
    return f"shmkit-{hashlib.blake2b(what.encode(), digest_size=12).hexdigest()}"


def _tracker() -> int:
    """Inode of the pipe to this process's resource tracker: the same for all who share it."""
    fd = resource_tracker.getfd()
    return 0 if fd is None else os.fstat(fd).st_ino
