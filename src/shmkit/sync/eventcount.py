"""EventCount: any number of waiters sleep until a word changes, and its writer wakes them all.

A semaphore wakes one sleeper for each token. So the ringer leaves one token, and the sleeper that
takes it leaves one for the next. A woken sleeper may come back to sleep before the rest got their
tokens, and must not take one of them. So an eventcount counts how often it was rung (the word
behind its flag), and has two semaphores, for the even counts and for the odd. (Eventcounts: Reed
and Kanodia, "Synchronization with Eventcounts and Sequencers", 1979. The two semaphores are the two
turnstiles of the reusable barrier: Downey, "The Little Book of Semaphores", 3.6.)

    sleeper: n = rung; flag = 1; fence; look again; sleep on semaphore n & 1;
             rung != n? then leave a token there for the next one; look
    ringer:  publish; fence; flag? flag = 0; rung = n + 1; post semaphore n & 1

The last sleeper leaves a token that stays, until a sleeper takes it two counts later, finds that it
was not rung since, and sleeps on. A kill of a sleeper that has the token, or of a ringer before it
left one, costs the sleepers that are left the rest of a slice, as at a doorbell. The steps are in
core.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmkit.core import BellCore
from shmkit.segment.participants import NO_WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shmkit.segment.semaphores import Semaphore

__all__ = ["EventCount"]


class EventCount(BellCore):
    """Where any number of waiters sleep until a word changes, and its writer wakes them all.

    Args:
        words: the segment as 8-byte words.
        flag: index of the word that says that a participant may be asleep here; the next counts
            how often it was rung.
        state: index of the word that ends every wait when it is not READY.
        semaphores: the open ones of the segment's membership, by name.
        names: the two semaphores that sleepers sleep on, in alternation.
    """

    def __init__(
        self,
        words: memoryview[int],
        flag: int,
        state: int,
        semaphores: Mapping[str, Semaphore],
        names: tuple[str, str],
    ) -> None:
        super().__init__(words, flag, state, semaphores, names)

    def ring_always(self) -> None:
        """Wake all, whether or not any participant is known to sleep."""
        # Without the flag `ring` does nothing.
        self._words[self._flag] = 1
        self.ring()

    def close(self) -> None:
        """Let go of the memory; a thread asleep here looks around within a slice."""
        self._words, self._semaphores = NO_WORDS, {}
