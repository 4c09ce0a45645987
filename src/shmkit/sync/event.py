"""Event: processes wait until one says go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from shmkit.deadline import Deadline
from shmkit.errors import CorruptSegment
from shmkit.segment.fences import fence
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.semaphores import SLICE
from shmkit.segment.words import EVENT_BELL, EVENT_KIND, EVENT_MARK, EVENT_SET, READY, STATE
from shmkit.sync.doorbell import Doorbell
from shmkit.sync.page import OnPage

if TYPE_CHECKING:
    from shmkit.segment.segment import Segment

__all__ = ["Event"]


class Event(OnPage):
    """A flag between processes, with a wait for it; `threading.Event` otherwise.

    Without a name it is reached by forking or pickling it; with one, by every process of the same
    user that gives the same name. The death of a process changes nothing.

    Args:
        name: a name without "/", or None. `create`, `attach` and `ensure` take files, too.
        participants: how many handles there may be at a time, of all processes.
        keep: leave the name in place when its last user leaves; files always stay.
        mode: permissions, less the umask; a process of another user has to say `trust_owner=True`
            as well.
        trust_owner: take what another user made, too: one that you trust.

    Raises:
        IncompatibleSegment: the name belongs to something else.
        CorruptSegment: its memory was overwritten.
        PermissionError: it is another user's.
        ValueError: a bad name, or participants that cannot be.
        OSError: no room, or `participants` handles are there.
    """

    __slots__ = ("__weakref__", "_bell", "_closed", "_segment", "_words")

    _KIND = EVENT_KIND

    def _open(self, segment: Segment) -> None:
        self._segment = segment
        membership = segment.membership
        self._words = segment.words
        self._bell = Doorbell(
            segment.words, EVENT_BELL, STATE, membership.semaphores, "data", shared=True
        )
        self._closed = False
        membership.watch(self, segment.close)

    def is_set(self) -> bool:
        """Whether it is set.

        Raises:
            ClosedError: this handle was closed.
        """
        self._check_open()
        return bool(self._words[EVENT_SET])

    def set(self) -> None:
        """Set it, and wake all that wait. Idempotent.

        Raises:
            ClosedError: this handle was closed.
        """
        words = self._words  # before the check: a close after it must not let NO_WORDS be written
        self._check_open()
        self._segment.membership.register()
        if not words[EVENT_SET]:
            words[EVENT_SET] = 1  # first: a waiter that sees the new mark sees the flag
            # Random: two processes that add to a count at once could store the same number.
            words[EVENT_MARK] = int.from_bytes(os.urandom(8), "little")
        fence()  # between the stores above and the look at the bell's flag: doorbell.py
        self._bell.ring()

    def clear(self) -> None:
        """Make it unset. It does not hold up a waiter that it was set for. Idempotent.

        Raises:
            ClosedError: this handle was closed.
        """
        words = self._words
        self._check_open()
        words[EVENT_SET] = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set.

        Args:
            timeout: seconds to wait at most: None for ever, 0 or less not at all.

        Returns:
            False when the time was up first.

        Raises:
            ClosedError: this handle was closed, now or before.
            CorruptSegment: its memory was overwritten.
            TypeError, ValueError: a timeout that is no number, or NaN.
        """
        deadline, words = Deadline(timeout), self._words
        self._check_open()
        mark = words[EVENT_MARK]  # before the flag: a set from now on is seen
        if words[EVENT_SET]:
            return True
        self._segment.membership.register()
        woken = False
        while not (woken or deadline.expired()):
            # The flag as well: a setter may have been killed before it stored the mark.
            turn = Deadline(min(deadline.remaining(), SLICE))
            woken = self._bell.wait(EVENT_MARK, mark, turn, self._check_open) or bool(
                words[EVENT_SET]
            )
        self._check_open()
        if words[STATE] != READY:  # which ends every wait
            raise CorruptSegment(
                f"this event ({self._segment.buffer.url}) was overwritten: close it everywhere, "
                "and remove that name",
                where=str(self._segment.buffer.url),
                detail=f"its state is {words[STATE]}, and always {READY}",
            )
        if not woken:
            return False
        self._bell.ring()  # each sleeper wakes the next
        return True

    def close(self) -> None:
        """Leave it. The last one out removes the name of a segment. Idempotent."""
        self._closed = True
        self._words = NO_WORDS
        self._bell.close()
        self._segment.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "set" if self.is_set() else "not set"
        return f"<Event {self._segment.buffer.url} {state}>"
