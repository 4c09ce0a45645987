"""ThreadGuard: the threads of a process take turns at a handle, and no call runs inside another.

Of the standard library's locks only an RLock knows its owner from the moment it is taken. So after
an exception of a signal handler it tells whether there is a lock to give back. And it tells a call
inside another one of the same thread (by a signal handler, a finalizer or a debugger) from a call
that has to wait.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.deadline import Deadline

__all__ = ["ThreadGuard"]


class ThreadGuard:
    """Exclusion of the threads of a process for the length of a call on a handle."""

    __slots__ = ("_take", "give", "gives", "is_mine", "mine", "try_take")

    is_mine: Callable[[], bool]
    """Whether this thread has it."""

    try_take: Callable[[], bool]
    """Have it, if no other thread has it."""

    give: Callable[[], None]
    """Give it to the next thread, in a thread that has it."""

    mine: Iterator[bool]
    """Endless; each step is `is_mine`. No signal handler comes at a step, as at a call."""

    gives: Iterator[object]
    """Endless; each step is `give`."""

    def __init__(self) -> None:
        lock: Any = threading.RLock()
        self._take, self.give = lock.acquire, lock.release
        self.try_take = partial(lock.acquire, False)
        self.is_mine = lock._is_owned  # threading.Condition asks it the same way
        self.mine, self.gives = iter(lock._is_owned, None), iter(lock.release, 0)

    def take(self, deadline: Deadline) -> bool:
        """Wait for it, and have it; False if the deadline passed first."""
        left = deadline.remaining()
        # An RLock refuses longer timeouts; -1 waits for ever.
        return bool(self._take(timeout=left if left < threading.TIMEOUT_MAX else -1))

    def leave(self) -> None:
        """Give it to the next thread, if this one has it."""
        for mine in self.mine:
            if mine:
                self.give()
            break
