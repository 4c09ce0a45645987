"""Doorbell: where one side of a channel sleeps, and the other side wakes one sleeper.

It is a flag in shared memory, "a participant may be asleep", and a semaphore:

    sleeper: flag = 1; fence; look again; sleep        ringer: publish; fence; flag? flag = 0; post

Without the two fences (segment/fences.py) each could miss the other. A token of the semaphore says
"look again" and nothing else. So a token too many costs a look, and a lost one (by a kill between
`flag = 0` and `post`) costs the rest of a slice: sleeps last half a second at most.
The steps are in core.py; `tests/model/bell.pml` is this protocol, for Spin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmkit.core import BellCore
from shmkit.segment.participants import NO_WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shmkit.segment.semaphores import Semaphore

__all__ = ["Doorbell"]


class Doorbell(BellCore):
    """Where one side of a channel sleeps until a word changes, and the other side wakes it.

    Args:
        words: the segment as 8-byte words.
        flag: index of the word that says that a participant may be asleep here.
        state: index of the word that ends every wait when it is not READY.
        semaphores: the open ones of the segment's membership, by name.
        name: the semaphore that sleepers sleep on.
        shared: whether several may sleep here. Then a woken sleeper sets the flag again for the
            sleepers that are left; its caller rings for them if it leaves something behind.
    """

    def __init__(
        self,
        words: memoryview[int],
        flag: int,
        state: int,
        semaphores: Mapping[str, Semaphore],
        name: str,
        *,
        shared: bool = False,
    ) -> None:
        super().__init__(words, flag, state, semaphores, (name,), shared=shared)

    def ring_always(self) -> None:
        """Leave a token whether or not a participant sleeps: for news that all must hear."""
        self._semaphore(0).post()

    def close(self) -> None:
        """Let go of the memory; a thread asleep here looks around within a slice."""
        self._words, self._semaphores = NO_WORDS, {}
