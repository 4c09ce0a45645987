"""PosixCount: the count of a plain POSIX semaphore, which C programs open by its name, too.

The kernel keeps a number for it and nothing else. So what a dead process had acquired is lost, as
in C: only a semaphore of this library's own (tokens.py) knows what each process holds.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from shmkit.errors import ClosedError
from shmkit.segment.named_semaphores import NamedSemaphore, remove_name
from shmkit.segment.semaphores import SLICE, NoSemaphore

if TYPE_CHECKING:
    from shmkit.deadline import Deadline

__all__ = ["PosixCount"]

# At exit: after the children of this process were joined, which may still want to attach (0 and
# above run before that), and before multiprocessing removes its temporary directory at -100.
_PRIORITY: Final = -60
_NOTHING: Final = NoSemaphore()


class PosixCount:
    """One handle on a POSIX semaphore.

    Args:
        name: without the "/" in front.
        initial: create it with this count; None to open one that exists.
        tracked: remove the name at the process's end, however that comes.

    Raises:
        FileExistsError: `initial`, and there is one of that name.
        FileNotFoundError: no `initial`, and there is none of that name.
        PermissionError: it is another user's.
    """

    __slots__ = ("__weakref__", "_counter", "_owner", "_remove", "name")

    _counter: Any

    def __init__(self, name: str, initial: int | None = None, *, tracked: bool = False) -> None:
        self.name = name
        self._owner = os.getpid()
        self._remove: Any = None  # what removes the name, in the process that has to
        self._counter = NamedSemaphore(name, initial)
        if tracked:
            from multiprocessing import resource_tracker
            from multiprocessing.util import Finalize

            # The tracker removes the name if this process is killed.
            resource_tracker.register(f"/{name}", "semaphore")
            self._remove = Finalize(None, _remove, (name, _identity(name)), exitpriority=_PRIORITY)

    def acquire(self, deadline: Deadline) -> bool:
        """Lower it by one, waiting while it is 0; whether it was lowered."""
        while True:
            counter = self._open_counter()
            if counter.try_wait():  # a wait costs microseconds before it begins
                return True
            left = deadline.remaining()
            if left == 0:
                return False
            if counter.wait(min(left, SLICE)):  # a close by another thread is seen after a slice
                return True

    def release(self) -> bool:
        """Raise it by one; False if it is as high as it can be."""
        return bool(self._open_counter().post())

    @property
    def count(self) -> int:
        """The count at this moment."""
        return int(self._open_counter().value)

    def close(self) -> None:
        """Leave it. Idempotent."""
        self._counter = _NOTHING

    def unlink(self) -> None:
        """Remove the name."""
        if self._remove is not None and self._owner == os.getpid():
            self._remove()  # a no-op from the second time on
        else:
            remove_name(self.name)

    def _open_counter(self) -> NamedSemaphore:
        counter = self._counter
        if counter is _NOTHING:
            raise ClosedError(
                f"this semaphore ({self.name!r}) was closed: attach again, or make another one"
            )
        return counter  # type: ignore[no-any-return]


def _identity(name: str) -> tuple[int, int] | None:
    """What a name leads to; None if nothing, or where the system does not show it."""
    if sys.platform != "linux":
        return None
    try:
        status = os.stat(f"/dev/shm/sem.{name}")  # noqa: PTH116 - pathlib is slow to import
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _remove(name: str, identity: tuple[int, int] | None) -> None:
    from multiprocessing import resource_tracker

    if _identity(name) == identity:  # else it was removed, and another process made a new one
        remove_name(name)
    # Else the tracker would warn of a leak at its end.
    resource_tracker.unregister(f"/{name}", "semaphore")
