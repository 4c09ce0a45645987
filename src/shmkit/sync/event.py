"""Event: processes wait until one says go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError, CorruptSegment
from shmkit.segment.fences import fence
from shmkit.segment.page import STATE, SharedPage
from shmkit.sync.doorbell import NO_WORDS, OPEN, Doorbell

if TYPE_CHECKING:
    from shmkit.memory.buffer import SharedBuffer

__all__ = ["Event"]

_KIND: Final = 17
_FLAG: Final = 0x080 // 8  # 1 while it is set
_MARK: Final = 0x088 // 8  # a random number, another one for each set: many may write it at once
_TURN: Final = 0.25  # seconds
_BELL: Final = 0x280 // 8


class Event:
    """A flag between processes, with a wait for it; `threading.Event` otherwise.

    Without a name it is reached by forking or pickling it; with one, by every process of the same
    user that gives the same name. The death of a process changes nothing.

    Args:
        name: a name without "/", or None.

    Raises:
        IncompatibleSegment: the name belongs to something else.
        CorruptSegment: others use it, and its memory or semaphore is damaged.
        ValueError: a bad name.
        OSError: no room, or 120 handles are there.
    """

    __slots__ = ("__weakref__", "_bell", "_closed", "_page", "_words")

    def __init__(self, name: str | None = None) -> None:
        self._open(name)

    def _open(self, memory: str | SharedBuffer | None) -> None:
        self._page = page = SharedPage(memory, _KIND, {"bell": 0})
        self._words = page.words
        self._bell = Doorbell(
            page.words, _BELL, STATE, page.membership.semaphores, "bell", shared=True
        )
        self._closed = False
        page.membership.watch(self, page.close)

    def is_set(self) -> bool:
        """Whether it is set.

        Raises:
            ClosedError: this handle was closed.
        """
        self._check_open()
        return bool(self._words[_FLAG])

    def set(self) -> None:
        """Set it, and wake everybody who waits. Idempotent.

        Raises:
            ClosedError: this handle was closed.
        """
        words = self._words  # before the look: those of a closed handle are not to be written
        self._check_open()
        self._page.membership.register()
        if not words[_FLAG]:
            words[_FLAG] = 1  # first: who sees the new mark sees the flag
            words[_MARK] = int.from_bytes(os.urandom(8), "little")
        fence()
        self._bell.ring()

    def clear(self) -> None:
        """Make it unset. Who was waiting when it was set is not held up by it. Idempotent.

        Raises:
            ClosedError: this handle was closed.
        """
        words = self._words
        self._check_open()
        words[_FLAG] = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set.

        Args:
            timeout: seconds to wait at most; None for ever.

        Returns:
            False when the time was up first.

        Raises:
            ClosedError: this handle was closed, now or before.
            CorruptSegment: its memory was overwritten.
            ValueError: a negative timeout.
        """
        deadline, words = Deadline(timeout), self._words
        self._check_open()
        mark = words[_MARK]  # before the flag: a set from now on is seen
        if words[_FLAG]:
            return True
        self._page.membership.register()
        woken = False
        while not (woken or deadline.expired()):
            # In turns with a look at the flag: who set it may have been killed before the mark.
            turn = Deadline(min(deadline.remaining(), _TURN))
            woken = self._bell.wait(_MARK, mark, turn, self._check_open) or bool(words[_FLAG])
        self._check_open()
        if words[STATE] != OPEN:  # which ends every wait
            raise CorruptSegment(
                f"this event ({self._page.buffer.url}) was overwritten: close it everywhere, and "
                "remove that name",
                where=str(self._page.buffer.url),
                detail=f"its state is {words[STATE]}, and always {OPEN}",
            )
        if not woken:
            return False
        self._bell.ring()  # whoever else sleeps: each wakes the next
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"this event ({self._page.buffer.url}) was closed")

    @property
    def name(self) -> str:
        """The name it was given, "" without one."""
        return self._page.buffer.name

    def close(self) -> None:
        """Leave it. The last one out removes the name. Idempotent."""
        self._closed = True
        self._words = NO_WORDS
        self._bell.close()
        self._page.close()

    def __reduce__(self) -> tuple[object, ...]:
        self._check_open()
        return _rejoin, (type(self), self._page.buffer)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "set" if self.is_set() else "not set"
        return f"<Event {self._page.buffer.url} {state}>"


def _rejoin(cls: type[Event], buffer: SharedBuffer) -> Event:
    event = cls.__new__(cls)
    event._open(buffer)
    return event
