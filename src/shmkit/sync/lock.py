"""Lock: exclusion between processes, and a word about it when the one before died holding it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmkit.segment.page import SharedPage
from shmkit.segment.semaphores import TokenOf
from shmkit.sync.acquired import Acquired
from shmkit.sync.mutex import Mutex

if TYPE_CHECKING:
    from shmkit.memory.buffer import SharedBuffer

__all__ = ["Acquired", "Lock"]

_KIND: Final = 16


class Lock(Mutex):
    """One process at a time is inside; if it dies there, the next gets in, and is told.

    Without a name it is reached by forking or pickling it; with one, by every process of the same
    user that gives the same name. It is not reentrant, and the handle that acquired it releases it;
    threads of a process may share a handle, and take turns. A holder that is stopped is waited for;
    one that ends, or drops its handle, without a release has died inside.

    Args:
        name: a name without "/", or None.

    Raises:
        IncompatibleSegment: the name belongs to something else.
        CorruptSegment: others use it, and its memory or semaphore is damaged.
        ValueError: a bad name.
        OSError: no room, or 120 handles are there.

    Notes:
        How a dead holder is told from a slow one: rescue.py. At most 120 handles at a time.

        A forked child is a user of its own from its first acquire on. Until then the handle of its
        parent has to stay open, or the name goes, and may lead others to another lock.
    """

    __slots__ = ("_page",)

    def __init__(self, name: str | None = None) -> None:
        self._open(name)

    def _open(self, memory: str | SharedBuffer | None) -> None:
        page = _Page(memory, _KIND, {"lock": TokenOf(0)})
        self._page = page
        super().__init__(page.membership, page.words, 0)
        page.membership.presence.call_after_fork(self.start_anew)
        page.membership.watch(self, page.close)

    @property
    def name(self) -> str:
        """The name it was given, "" without one."""
        return self._page.buffer.name

    def close(self) -> None:
        """Leave it; if this handle holds it, whichever thread acquired it, it is released first.

        The last one out removes the name. Idempotent.
        """
        if self.held:
            self.release()
        self.retire()
        self._page.close()

    def _pass_on(self) -> None:
        """Leave what a rescue got as it was found: a line of one that died inside.

        An acquire that was to tell of the death was ended by a signal handler: the next one tells.
        """
        try:
            self._membership.move()
        except OSError:  # no line is free, or somebody is stopped at the door
            self.release()
        else:
            self._stand_at(self._membership.line())

    def __reduce__(self) -> tuple[object, ...]:
        self._check_open()
        return _rejoin, (type(self), self._page.buffer)

    def __repr__(self) -> str:
        where = self._page.buffer.url
        if self._semaphore.closed:
            return f"<Lock {where} closed>"
        return f"<Lock {where} {'held here' if self.held else 'not held here'}>"


class _Page(SharedPage):
    """The page of a lock: it stays if somebody died inside, for whoever comes next to be told."""

    def _remove(self) -> None:
        if not self.membership.is_another_inside(0):
            super()._remove()


def _rejoin(cls: type[Lock], buffer: SharedBuffer) -> Lock:
    lock = cls.__new__(cls)
    lock._open(buffer)
    return lock
