"""Waiting for a word of shared memory to change: spin, yield, then sleep on a doorbell.

Spinning answers within a microsecond, but keeps a core; worse, the kernel likes to put a peer that
was just woken on the core of the one that woke it, and there it waits behind the spinner. So a
short spin is followed by `sched_yield`, which lets exactly that peer run, and those by a sleep. How
much to spin follows what spinning has been paying lately (the idea of the adaptive mutex: glibc's
PTHREAD_MUTEX_ADAPTIVE_NP, `nptl/pthread_mutex_lock.c`).

A doorbell is a flag in shared memory, "someone may be asleep", and a semaphore:

    sleeper: flag = 1; fence; look again; sleep        ringer: publish; fence; flag? flag = 0; post

Without the two fences (ordering.py) each could miss the other. A token of the semaphore says "look
again" and nothing else, so one too many costs a look, and one lost (by a kill between `flag = 0`
and `post`) costs the rest of a slice: sleeps last 50 ms at most.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import TYPE_CHECKING, Final

from shmkit.segment.fences import fence_all
from shmkit.sync.semaphore import SLICE, NoSemaphore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shmkit.deadline import Deadline
    from shmkit.sync.semaphore import Semaphore

__all__ = ["NO_WORDS", "OPEN", "Doorbell"]

NO_WORDS: Final = memoryview(bytearray(b"\1" + bytes(4095))).cast("Q")
"""What a closed handle has in place of its segment: nobody sleeps there, and no line is its own."""

OPEN: Final = 1  # the value of the state word while there is something to wait for
MOST_SPINS: Final = 160
FEWEST_SPINS: Final = 16
# Seconds: about as long as it takes to wake a peer, which may be about to answer. By the clock,
# since a yield to a busy stranger may take milliseconds.
YIELDING: Final = 30e-6

_yield = getattr(os, "sched_yield", lambda: None)


class Doorbell:
    """Where one side of a channel sleeps until a word changes, and the other side wakes it.

    Args:
        words: the segment as 8-byte words.
        flag: index of the word that says that someone may be asleep here.
        state: index of the word that ends every wait when it is not OPEN.
        semaphores: those of the segment's membership, by name.
        name: the one that sleepers sleep on.
        shared: whether several may sleep here. Then who is woken says for the others that someone
            may be asleep, and rings for them if it leaves something behind.
    """

    __slots__ = (
        "_flag",
        "_glances",
        "_name",
        "_semaphores",
        "_shared",
        "_spins",
        "_state",
        "_words",
        "sleeps",
    )

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
        self._words = words
        self._flag = flag
        self._state = state
        self._semaphores = semaphores  # in a forked child there may come to be others
        self._name = name
        self._shared = shared
        self._spins = MOST_SPINS
        self._glances = 0
        self.sleeps = 0

    def wait(self, word: int, seen: int, deadline: Deadline, look: Callable[[], object]) -> bool:
        """Wait until a word differs from what was seen, or the state is not OPEN.

        Args:
            word: index of the word.
            seen: the value it had.
            deadline: when to give up.
            look: called after every slice of sleep, and before giving up: it may raise, to end
                the wait.

        Returns:
            False when the deadline passed first.
        """
        if self.glance(word, seen):
            return True
        words, state = self._words, self._state
        while words[word] == seen and words[state] == OPEN:
            words[self._flag] = 1  # step: bell.flag
            fence_all()  # step: bell.fence
            if words[word] != seen or words[state] != OPEN:
                break
            left = deadline.remaining()
            if left > 0:
                self.sleeps += 1
                if self._semaphore().acquire_within(min(left, SLICE)):  # step: bell.sleep
                    if self._shared:
                        words[self._flag] = 1  # step: bell.flag_again
                        fence_all()  # step: bell.fence_again
                    continue
            if words[word] == seen and words[state] == OPEN:
                look()
                if left == 0:
                    return False
        return True

    def glance(self, word: int, seen: int) -> bool:
        """Look at a word for some microseconds, spinning and then yielding.

        Returns:
            Whether it differs from what was seen; if not, it is time to sleep.
        """
        words, spins = self._words, self._spins
        for _ in range(spins):
            if words[word] != seen:
                self._spins = min(2 * spins, MOST_SPINS)
                return True
        # What did not pay is done less, and tried again now and then: two that shared a core may
        # have one each by now.
        self._glances += 1
        self._spins = max(spins // 2, FEWEST_SPINS) if self._glances % 64 else MOST_SPINS
        end = perf_counter() + YIELDING
        while words[word] == seen:
            if perf_counter() > end:
                return False
            _yield()
        return True

    def _semaphore(self) -> Semaphore | NoSemaphore:
        return self._semaphores.get(self._name) or NoSemaphore()

    def ring(self) -> None:
        """Wake one sleeper, if there may be one; the caller has published, and fenced after it."""
        words = self._words
        if words[self._flag]:
            words[self._flag] = 0  # step: bell.clear
            # Also when this handle was closed meanwhile.
            self._semaphore().raw.release()  # step: bell.post

    def close(self) -> None:
        """Let go of the memory and the semaphore; a thread asleep here looks up within a slice."""
        self._words, self._semaphores = NO_WORDS, {}

    def ring_always(self) -> None:
        """Leave a token whether or not anyone sleeps: for the news that all must hear."""
        self._semaphore().raw.release()
