"""The core: the common case of what rings and locks do, step by step.

Small classes, one for each thing that is hot, that a compiled twin can replace method by method.
They do the common case only. For everything else (a first call, a wait, a death) they call methods
that their subclasses have: those of the lock are in sync/mutex.py, those of the bell in
sync/doorbell.py and sync/eventcount.py.

A line that ends in `# step: NAME` is a step: tests kill processes exactly there.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from shmkit.segment.acquired import YES, Acquired
from shmkit.segment.fences import fence_all
from shmkit.segment.semaphores import SLICE
from shmkit.segment.words import ENTERING, ENTRIES, IDLE, INSIDE, LEAVING, PHASE, READY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.deadline import Deadline

__all__ = ["COUNTER", "BellCore", "MutexCore", "yield_cpu"]

yield_cpu: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Let another process run."""

# -- the lock between processes --------------------------------------------------------------------

COUNTER: Final = (1 << 63) - 1  # after it comes 0: what counts is whether a count changes


class MutexCore:
    """A lock between the participants of a segment: a semaphore of one, and a phase for each.

    The semaphore gives exclusion. What it lacks is a memory of who has its token, so each
    participant writes into its own words where it is:

        IDLE -> ENTERING -> (wait: token taken) -> INSIDE -> LEAVING -> (post: token back) -> IDLE

    and counts how often it got INSIDE. `tests/model/mutex.pml` is this protocol, for Spin.

    One thread at a time uses it: the caller sees to that, and that no signal handler calls it
    inside of another call.
    """

    __slots__ = ("_busy", "_place", "_posts", "_tries")

    _place: memoryview[int]  # this participant's words at the lock: phase, ticks, entries
    _tries: Iterator[Any]  # of the semaphore: see segment/semaphores.py
    _posts: Iterator[Any]
    _busy: tuple[type[Exception], ...]

    def acquire(self, block: bool = True, timeout: float | None = None) -> Acquired:
        """Get it, waiting while another participant has it.

        A signal handler may raise at any moment of it. Then the lock was not acquired, unless the
        handler came after the last step: the caller looks at `held`.

        Args:
            block: wait at all.
            timeout: seconds to wait at most; None for ever, 0 or less not at all.

        Returns:
            `Acquired.YES`; `AFTER_DEATH` if the holder before died holding it; `NO` if the time was
            up first.

        Raises:
            ClosedError: the handle was closed.
            CorruptSegment: this participant's words were overwritten.
            RuntimeError: this handle holds it already.
            ValueError: a timeout that is no number.
        """
        place = self._place
        if place[PHASE] != IDLE:
            place = self._get_ready()
        try:
            place[PHASE] = ENTERING  # step: mutex.entering
            if self._take(place, self._tries):
                return YES
            return self._wait(timeout if block else 0)
        except BaseException:
            self._abandon(place)
            raise

    def release(self) -> None:
        """Give it back.

        Raises:
            ClosedError: the handle was closed.
            RuntimeError: this handle does not hold it.
        """
        place = self._place
        if place[PHASE] != INSIDE:
            raise self._not_held()
        self._give(place)

    # A signal handler that raises runs after a call returns, or where a function begins. Between
    # the token and the note of it that would lose the token. So in these two functions the call to
    # the semaphore is the step of an iterator written in C. In CPython no handler runs between that
    # and the next statement. They must not contain any other call.

    def _take(self, place: memoryview[int], tries: Iterator[Any]) -> bool:
        """Try to take the token, and be INSIDE with it; whether it was there."""
        try:
            for failed in tries:  # step: mutex.take
                if failed:
                    return False
                place[PHASE] = INSIDE  # step: mutex.inside
                place[ENTRIES] = place[ENTRIES] + 1 & COUNTER  # step: mutex.count
                return True
        except self._busy:
            return False
        return False

    def _give(self, place: memoryview[int]) -> None:
        """Give the token back, and be IDLE without it."""
        place[PHASE] = LEAVING  # step: mutex.leaving
        for _ in self._posts:  # step: mutex.post
            place[PHASE] = IDLE  # step: mutex.idle
            return

    # What is not the common case.

    def _get_ready(self) -> memoryview[int]:
        """This participant's words, IDLE: at a first call, or after one that was interrupted."""
        raise NotImplementedError

    def _wait(self, timeout: float | None) -> Acquired:
        """Wait for the token, ENTERING; end INSIDE with it, or IDLE without."""
        raise NotImplementedError

    def _abandon(self, place: memoryview[int]) -> None:
        """Get out of an acquire that a signal handler ended."""
        raise NotImplementedError

    def _not_held(self) -> Exception:
        """What `release` raises."""
        raise NotImplementedError


# -- the wait for a word to change -----------------------------------------------------------------

MOST_SPINS: Final = 160
FEWEST_SPINS: Final = 16
# Seconds: about as long as it takes to wake a peer, which may be about to answer. By the clock,
# since a yield to another busy process may take milliseconds.
YIELDING: Final = 30e-6


class BellCore:
    """A wait for a word of shared memory to change: spin, yield, then sleep.

    Spinning answers within a microsecond, but keeps a core; worse, the kernel likes to put a peer
    that was just woken on the core of the process that woke it, and there it waits behind the
    spinner. So a short spin is followed by `sched_yield`, which lets exactly that peer run, and
    those by a sleep. How much to spin follows what spinning has been paying lately (the idea of the
    adaptive mutex: glibc's PTHREAD_MUTEX_ADAPTIVE_NP, `nptl/pthread_mutex_lock.c`).

    Args:
        words: the segment as 8-byte words.
        flag: index of the word that says that a participant may be asleep here.
        state: index of the word that ends every wait when it is not READY.
    """

    __slots__ = ("_flag", "_glances", "_spins", "_state", "_words", "sleeps")

    sleeps: int
    """How often this handle slept here."""

    def __init__(self, words: memoryview[int], flag: int, state: int) -> None:
        self._words = words
        self._flag = flag
        self._state = state
        self._spins = MOST_SPINS
        self._glances = 0
        self.sleeps = 0

    def wait(self, word: int, seen: int, deadline: Deadline, look: Callable[[], object]) -> bool:
        """Wait until a word differs from what was seen, or the state is not READY.

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
        while words[word] == seen and words[state] == READY:
            ticket = self._ticket()
            words[self._flag] = 1  # step: bell.flag
            fence_all()  # step: bell.fence
            if words[word] != seen or words[state] != READY:
                break
            left = deadline.remaining()
            if left > 0:
                self.sleeps += 1
                if self._sleep(ticket, min(left, SLICE)):
                    continue
            if words[word] == seen and words[state] == READY:
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
            yield_cpu()
        return True

    def _ticket(self) -> int:
        """What a sleeper has to know from before it says that it sleeps."""
        return 0

    def _sleep(self, ticket: int, seconds: float) -> bool:
        """Sleep; whether a ring ended it."""
        raise NotImplementedError
