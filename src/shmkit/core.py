"""The core: the steps that everything waits for, in plain Python, to be read in one sitting.

Small classes: the lock between processes, the wait for a word to change, and a ring's two cursors.
They do the common case only. Everything else (a first call, a death, the end of a lap) is
elsewhere: sync/mutex.py, sync/doorbell.py and sync/eventcount.py, channels/ring.

Each has a twin in C, in _core.c, that does the same steps in the same order (compiled.py). This is
the reference: what the steps are, and why in this order, is said here. Each step has a name,
`# step: ...`: the tests kill a process at every one of them, in both.
"""

from __future__ import annotations

import os
import threading
from sys import getrecursionlimit, setrecursionlimit
from threading import get_ident
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from shmkit import compiled
from shmkit.compiled import twin
from shmkit.segment import words as layouts
from shmkit.segment.acquired import YES, Acquired
from shmkit.segment.fences import STRONG_ORDER, fence, fence_all
from shmkit.segment.semaphores import FIRST_SLICE, SLICE, NoSemaphore
from shmkit.segment.words import (
    DATA_BELL,
    ENTERING,
    ENTRIES,
    GET_NOTES,
    HEAD,
    IDLE,
    INSIDE,
    LEAVING,
    PHASE,
    READY,
    SEMAPHORE_COUNT,
    SEMAPHORE_NEWS,
    SHUT,
    SKIP,
    SPACE_BELL,
    STATE,
    TAIL,
    TOKENS_HELD,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shmkit.deadline import Deadline

__all__ = [
    "BUSY",
    "CAREFUL",
    "CLOSED",
    "COUNTER",
    "DEPTH",
    "FREE",
    "IMPOSSIBLE",
    "LARGE_COPY",
    "LENT",
    "MOST_TOKENS",
    "NO_ROLE",
    "PATIENCE",
    "YIELDS",
    "BellCore",
    "Cursor",
    "MutexCore",
    "ReadCursor",
    "TokensCore",
    "WriteCursor",
    "count_passed",
    "yield_cpu",
]

yield_cpu: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Let another process run."""

# -- the lock between processes --------------------------------------------------------------------

COUNTER: Final = (1 << 63) - 1  # 0 comes after it: counts are compared for a change only
YIELDS: Final = 30  # before the first sleep: a holder that runs is out by then


@twin(compiled.MutexCore)
class MutexCore(compiled.MutexCore):
    """A lock between the participants of a segment: a semaphore of one, and a phase for each.

    The semaphore gives exclusion. It does not remember which participant has its token, so each
    participant writes into its own words where it is:

        IDLE -> ENTERING -> (wait: token taken) -> INSIDE -> LEAVING -> (post: token back) -> IDLE

    and counts how often it got INSIDE. `tests/model/mutex.pml` is this protocol, for Spin.

    One thread at a time uses it, and no signal handler calls it inside of another call: the caller
    sees to that.
    """

    _place: memoryview[int]  # this participant's words at the lock: phase, ticks, entries
    _semaphore: Any
    _yes: Acquired  # what the compiled twin gives
    _tries: Iterator[Any]  # of the semaphore: see segment/semaphores.py
    _posts: Iterator[Any]
    _busy: tuple[type[Exception], ...]
    gives: Iterator[object]  # endless; each step is a `_give`, and no handler comes in it
    _flag: memoryview[int]  # the word of the semaphore that the C library trusts
    _flag_value: int

    def acquire(self, block: bool = True, timeout: float | None = None) -> Acquired:
        """Get it, waiting while another participant has it.

        A signal handler may raise at any moment of it. Then the lock was not acquired, unless the
        handler came after the last step: the caller looks at `held`.

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
            # First: if this process dies from here on, a rescuer asks where the token is.
            place[PHASE] = ENTERING  # step: mutex.entering
            if self._take(place, self._tries):
                return YES
            return self._wait(timeout if block else 0)
        except BaseException:
            # No call before these: a second handler that raises must not leave it waiting for ever,
            # with which a rescuer waits for it.
            if place[PHASE] == ENTERING:
                place[PHASE] = IDLE  # no token: taking it and being INSIDE are one step
                raise
            try:
                self._abandon(place)
            finally:
                if place[PHASE] == INSIDE and self._place is place:
                    for _ in self.gives:
                        break
            raise

    def release(self) -> None:
        """Give it back; ClosedError or RuntimeError if this handle does not hold it."""
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
                # A rescuer sees by the count that this participant was INSIDE between two looks.
                place[ENTRIES] = place[ENTRIES] + 1 & COUNTER  # step: mutex.count
                return True
        except self._busy:
            return False
        return False

    def _give(self, place: memoryview[int]) -> None:
        """Give the token back, and be IDLE without it."""
        # Shared memory is input: with nonsense in this word the C library would abort.
        self._flag[0] = self._flag_value
        # Before the post: a death in between leaves open whether the token is back.
        place[PHASE] = LEAVING  # step: mutex.leaving
        for _ in self._posts:  # step: mutex.post
            place[PHASE] = IDLE  # step: mutex.idle
            return

    # The rare cases: sync/mutex.py has them.

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
WORD: Final = (1 << 64) - 1
NOTHING: Final = NoSemaphore()  # of a handle that was closed


@twin(compiled.BellCore)
class BellCore(compiled.BellCore):
    """A wait for a word of shared memory to change: spin, yield, then sleep on a semaphore.

    Spinning answers within a microsecond, but keeps a core; worse, the kernel likes to put a peer
    that was just woken on the core of the process that woke it, and there it waits behind the
    spinner. So a short spin is followed by `sched_yield`, which lets exactly that peer run; then
    comes a sleep. How much to spin follows what spinning has been paying lately (the idea of the
    adaptive mutex: glibc's PTHREAD_MUTEX_ADAPTIVE_NP, `nptl/pthread_mutex_lock.c`).

    A word, the flag, says that a participant may be asleep. sync/doorbell.py and sync/eventcount.py
    say what their sleepers and ringers agree upon.

    Args:
        words: the segment as 8-byte words.
        flag: index of the flag.
        state: index of the word that ends every wait when it is not READY.
        semaphores: the open ones of the segment's membership, by name.
        names: of the ones that sleepers sleep on: a doorbell's one, or an eventcount's two.
        shared: whether several may sleep at a doorbell.
    """

    sleeps: int
    """How often this handle slept here."""

    def __init__(
        self,
        words: memoryview[int],
        flag: int,
        state: int,
        semaphores: Mapping[str, Any],
        names: tuple[str, ...],
        *,
        shared: bool = False,
    ) -> None:
        self._words = words
        self._flag = flag
        self._state = state
        self._semaphores = semaphores  # the dict itself: a forked child puts new ones into it
        self._names = names
        self._shared = shared
        self._counts = len(names) > 1  # the word behind the flag says how often it was rung
        self._spins = MOST_SPINS
        self._glances = 0
        self._next_look = monotonic() + SLICE
        self.sleeps = 0

    def wait(self, word: int, seen: int, deadline: Deadline, look: Callable[[], object]) -> bool:
        """Wait until a word differs from what was seen, or the state is not READY.

        Args:
            word: index of the word.
            seen: the value it had.
            deadline: when to give up.
            look: called after every slice of sleep, and before giving up; it may raise.

        Returns:
            False when the deadline passed first.
        """
        if self.glance(word, seen):
            return True
        words, state, pause = self._words, self._state, FIRST_SLICE
        while words[word] == seen and words[state] == READY:
            if monotonic() >= self._next_look:
                # Stale tokens may wake it without end, or signal handlers end each wait by an
                # exception before its first slice is over: look all the same.
                self._next_look = monotonic() + SLICE
                look()
            left = deadline.remaining()
            if self.doze(word, seen, min(left, pause)):
                continue
            pause = min(2 * pause, SLICE)
            self._next_look = monotonic() + SLICE
            if words[word] == seen and words[state] == READY:
                look()
                if left == 0:
                    return False
        return True

    def glance(self, word: int, seen: int) -> bool:
        """Spin and yield for some microseconds; whether a word differs from what was seen."""
        words, spins = self._words, self._spins
        for _ in range(spins):
            if words[word] != seen:
                self._spins = min(2 * spins, MOST_SPINS)
                return True
        # Spinning that did not pay is halved, and every 64th time done in full: two processes that
        # shared a core may have one each by now.
        self._glances += 1
        self._spins = max(spins // 2, FEWEST_SPINS) if self._glances % 64 else MOST_SPINS
        end = perf_counter() + YIELDING
        while words[word] == seen:
            if perf_counter() > end:
                return False
            yield_cpu()
        return True

    def doze(self, word: int, seen: int, seconds: float) -> bool:
        """Sleep once, unless the word changed or the state is not READY; whether a ring ended it.

        Args:
            word: index of the word.
            seen: the value it had.
            seconds: how long to sleep at most; 0 not at all.
        """
        words, flag = self._words, self._flag
        if not words:
            return False  # closed: `look` says so
        # Before the flag: a ring from here on makes this count an old one.
        times = words[flag + 1] if self._counts else 0
        words[flag] = 1  # step: bell.flag
        # Without it both sides could read before their stores are seen, and miss each other.
        fence_all()  # step: bell.fence
        # A ringer that published before it could see the flag does not ring.
        if words[word] != seen or words[self._state] != READY or seconds <= 0:
            return False
        self.sleeps += 1
        semaphore = self._semaphore(times)
        rung: bool = semaphore.wait(seconds)  # step: bell.sleep
        if rung and self._shared:
            # The ringer cleared it, and more sleepers may be left.
            words[flag] = 1  # step: bell.flag_again
            fence_all()  # step: bell.fence_again
        if rung and self._counts and words[flag + 1] != times:
            # Rung: hand the token on. Else it was a stale one, and `wait` sleeps again.
            semaphore.post()  # step: bell.pass_on
        return rung

    def ring(self) -> None:
        """Wake a sleeper of a doorbell, all of an eventcount, if there may be one.

        The caller has published, and fenced after it.
        """
        words, flag = self._words, self._flag
        if words and words[flag]:
            times = words[flag + 1] if self._counts else 0
            # Before the post: the sleeper that it wakes may set the flag again.
            words[flag] = 0  # step: bell.clear
            if self._counts:
                # Before the post: by the count a woken sleeper tells a ring from a stale token.
                words[flag + 1] = times + 1 & WORD  # step: bell.count
            self._semaphore(times).post()  # step: bell.post

    def _semaphore(self, times: int) -> Any:
        return self._semaphores.get(self._names[times & len(self._names) - 1], NOTHING)


# -- the count of a semaphore ----------------------------------------------------------------------

MOST_TOKENS: Final = os.sysconf("SC_SEM_VALUE_MAX")
"""How many a semaphore may have."""


@twin(compiled.TokensCore)
class TokensCore(compiled.TokensCore):
    """The tokens of a semaphore: taken and given back by the participant that has a word for them.

    The word says how many of them this participant holds (sync/tokens.py). The store into it is the
    commit. The count is what follows from all words: after a death in between it is made anew.

    `_guard` excludes the threads of this handle, and `_mutex` the other participants.
    """

    _words: memoryview[int]
    _own: int  # index of this participant's word; -1 before its first call
    _owed: int  # tokens to give back: a call does it at its end
    _guard: Any
    _mutex: Any
    _bell: Any

    def __iter__(self) -> Iterator[bool]:
        return self

    def __next__(self) -> bool:
        """Take one, if that is the common case; whether it was.

        No signal handler comes after a step of an iterator, as after a call: it would lose the
        token. As of `put_many`, the compiled twin alone does it.
        """
        return False

    def take(self) -> bool:
        """Take one, if there is one. If it ends by an exception, it took none."""
        guard, mutex, words, taken = self._guard, self._mutex, self._words, False
        if guard.is_mine():
            raise self._nested()
        try:
            if self._enter(PATIENCE):
                count, own = words[SEMAPHORE_COUNT], self._own
                if count:
                    # No call, after which a handler could come, until `taken` is right.
                    words[own] = words[own] + 1  # step: semaphore.hold
                    words[SEMAPHORE_COUNT] = count - 1  # step: semaphore.count_down
                    taken = True
                mutex.release()
                guard.give()
                if count > 1:
                    self._bell.ring()  # each sleeper wakes the next
            if self._owed:
                self._settle()
        except BaseException:
            # No call before the guard is given back: more handlers may raise.
            if taken:
                self._owed += 1
            for mine in guard.mine:
                if mine:
                    if mutex._place[PHASE] == INSIDE:
                        for _ in mutex.gives:
                            break
                    for _ in guard.gives:
                        break
                break
            for is_last in (False, False, True):
                try:
                    if self._owed:
                        self._settle_if_open()
                    break
                except BaseException:
                    # Another handler raised. Else others would wait for this handle's next call.
                    if is_last or not self._owed:
                        raise
            raise
        return taken

    def give(self) -> bool:
        """Give one back, or make one; False if there are as many as there can be."""
        guard, mutex, words = self._guard, self._mutex, self._words
        if guard.is_mine():
            raise self._nested()
        try:
            self._enter(None)
            tokens, count = words[self._own], words[SEMAPHORE_COUNT]
            done = bool(tokens & TOKENS_HELD) and count < MOST_TOKENS and not self._owed
            if done:
                words[self._own] = tokens - 1  # step: semaphore.give
                words[SEMAPHORE_COUNT] = count + 1  # step: semaphore.count_up
                # After it: a waiter that sees it changed finds the token.
                words[SEMAPHORE_NEWS] = words[SEMAPHORE_NEWS] + 1 & COUNTER  # step: semaphore.news
            else:
                done = self._give(1)
            mutex.release()
            guard.give()
        except BaseException:
            for mine in guard.mine:  # no call, as in `take`
                if mine:
                    if mutex._place[PHASE] == INSIDE:
                        for _ in mutex.gives:
                            break
                    for _ in guard.gives:
                        break
                break
            raise
        if _WEAK_ORDER:  # else giving the guard back was one
            fence()  # between the stores and the look at the bell's flag: doorbell.py
        self._bell.ring()
        if self._owed:
            self._settle()
        return done

    # The rare cases: sync/tokens.py has them.

    def _enter(self, timeout: float | None) -> bool:
        """Be alone with the words, of all threads and processes; False if the time was up first."""
        raise NotImplementedError

    def _give(self, more: int) -> bool:
        """Give back what is owed, and `more`, of whoever holds one."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Give back what is owed."""
        raise NotImplementedError

    def _settle_if_open(self) -> None:
        """The same, unless the handle was closed."""
        raise NotImplementedError

    def _nested(self) -> RuntimeError:
        """The error for a call inside another one."""
        raise NotImplementedError


# -- a ring's cursors: whether the common case may be taken, and why not ---------------------------
#
# A ring's two cursors do the common case of `put` and `get`, and nothing else: a role is held,
# there is room or a frame before the end of the lap, nothing is checked. Whatever is not so makes
# them answer "not done", and the careful code in `channels/ring` takes over. `state` says whether
# the common case may be taken, and if not why not; all else is read from the shared words in each
# call.
#
#     put    room? -> header -> payload -> store tail -> ring the bell if a consumer may sleep
#     get    frame? -> copy it out -> store head -> ring the bell if a producer may sleep
#
# A lap is one passage through the data. Positions only grow, and frames never lie across the end
# of a lap, so a position and its lap's end tell where a frame is in memory. What other processes
# store is input: every index is checked before it is used.
#
# Threads of a process exclude each other by `guard`, processes by the side's mutex, if it has
# one. A call from inside another one of the same thread and side (by a signal handler, a
# finalizer, a debugger) finds the guard its own and the state BUSY: it is refused, and never
# waits.

NO_ROLE: Final = 0  # the first call takes the role
FREE: Final = 1  # the common case may be taken
CAREFUL: Final = 2  # frames carry a checksum
BUSY: Final = 3  # a call is inside
LENT: Final = 4  # a call waits for the mutex, or a frame is reserved or peeked at
CLOSED: Final = 5

IMPOSSIBLE: Final = 1 << 63 | 15
"""Bits that no position has: frames are 16-aligned, and no ring moves 8 EiB."""

PATIENCE: Final = 0.2
"""Seconds that every call may wait for its own side's lock. It is held for microseconds, unless its
holder is stopped or uses a frame in place. This is no wait for the other side."""

LARGE_COPY: Final = 16 << 20
"""Bytes from which on the compiled core copies a frame without the GIL: below, waiting for the GIL
again costs a busy process more than the copy."""

DEPTH: Final = 50
"""Calls that may be nested deeper while a side is left after a RecursionError: it comes where there
is no depth for the way out either, and the side and its lock would stay taken."""

_WEAK_ORDER: Final = not STRONG_ORDER


def count_passed(words: memoryview[int], notes: int, position: int) -> int:
    """How many objects passed a side, by its notes, and the index of its tail or head.

    While others go on, how many a moment ago.
    """
    while True:
        holds = words[notes]
        at = notes + 1 + 2 * (holds & 1)
        noted, count = words[at], words[at + 1]
        now = words[position]
        # Otherwise a new note was written meanwhile: read again.
        if words[notes] == holds and words[at] == noted:
            return count + (noted != now)


class Cursor:
    """What both cursors have: the memory, and one call at a time.

    Args:
        title: what messages call the ring.
        words: the segment as 8-byte words.
        data: the map of the segment.
        base: byte in `data` where the ring's data begins.
        size: bytes of the ring's data, a power of two.
        mutex: the lock between the processes on this side; None where there is one process.
        bell: what wakes the other side: `ring()`.

    Attributes:
        state: whether the common case may be taken, or why not.
        largest: bytes of the largest frame.
        idle: what `state` is when no call is inside: NO_ROLE, FREE, CAREFUL or CLOSED.
        guard: the lock between threads, for the common case, and to change `loan`. Held for
            microseconds; for PATIENCE if the mutex is with a process that is stopped.
        notes: index of the words in which objects are counted that pass this side
            (channels/objects/tally.py); 0 for none.
        most: a put waits while so many objects are in; 0 for no limit.
        passed: how many had left when last counted. It only grows, so an old value is safe.
        mark: a consumer's own word: it takes up to this position, whatever is killed; or None.
        seen: the other side's position when last read. It only grows, so an old value is safe.
        own: this side's position when `until` was reckoned, or where the common case has moved it.
        until: a position in the same lap: frames may reach up to there, or are whole up to there.
    """

    passed: int

    def __init__(
        self,
        title: str,
        words: memoryview[int],
        data: Any,
        base: int,
        size: int,
        mutex: Any,
        bell: Any,
    ) -> None:
        self.title = title
        self.words = words
        self.data = data
        self.base = base
        self.size = size
        self.mask: int = size - 1
        self.largest: int = size - 16
        self.mutex = mutex
        self.bell = bell
        self.notes = self.most = self.passed = 0
        self.mark: memoryview[int] | None = None
        self.idle: int = NO_ROLE
        self.start_anew()

    def start_anew(self) -> None:
        """Be without a role, and hold nothing: at first, and in a forked child."""
        if self.mutex is not None:
            self.mutex.start_anew()
        guard: Any = threading.RLock()
        self.guard = guard
        self.is_mine: Callable[[], bool] = guard._is_owned
        self.loan = None
        if self.idle != CLOSED:
            self.idle = NO_ROLE
        self.state = self.idle
        self.seen = self.until = 0
        self.own = -1

    @property
    def loan(self) -> Any:
        """The `Loan` of the thread that has the side to itself for longer (see lending.py).

        None if no thread has. Only that thread's frames keep a loan: an exception that cuts every
        clean-up short, as signal handlers may, does not leave the side lent for ever.
        """
        lent = self._lent
        return lent and lent()

    @loan.setter
    def loan(self, loan: Any) -> None:
        self._lent: Any = loan and ref(loan)

    def _escape(self, guard: Any) -> None:
        """Leave the common case by an exception, if this thread got as far as the guard."""
        if guard._is_owned():
            if guard is self.guard:  # else this is a forked child
                self.settle()
            guard.release()

    def settle(self) -> None:
        """Leave the side. If an exception cuts this short, the next call of it does the rest."""
        mutex = self.mutex
        if mutex is not None and mutex.held:
            mutex.release()
        loan, self.loan = self.loan, None
        self.state = self.idle
        if loan is not None:
            loan.end()

    def note(self, position: int) -> bool:
        """Note an object that is about to pass, under the side's lock; False if it may not.

        The next store of the tail or head, which stands at `position`, is one object more. A note
        is written beside the last one, and then pointed at.
        """
        words, notes = self.words, self.notes
        holds = words[notes] & 1
        at = notes + 1 + 2 * holds
        # The last note's commit happened if the tail or head has moved since.
        count = words[at + 1] + (words[at] != position) & COUNTER
        if self.most and count - self.passed >= self.most:
            self.passed = count_passed(words, GET_NOTES, HEAD)
            if count - self.passed >= self.most:
                return False
        at = notes + 3 - 2 * holds
        # Into the note that is not in use; the switch then makes it the valid one.
        words[at] = position  # step: count.position
        words[at + 1] = count  # step: count.number
        words[notes] = 1 - holds  # step: count.switch
        return True

    def is_inside(self) -> bool:
        """Whether this thread is inside a call on this side; not if it only has a frame of it."""
        if self.is_mine():
            return True
        loan = self.loan
        return self.state == BUSY and loan is not None and loan.thread == get_ident()

    def nested(self) -> RuntimeError:
        """The error for a call from inside another one."""
        return RuntimeError(
            f"a call inside another one on the same handle of {self.title}, and the same side of "
            "it: leave the `with` of the frame first; a signal handler or finalizer needs a handle "
            "of its own"
        )


@twin(compiled.WriteCursor)
class WriteCursor(Cursor, compiled.WriteCursor):
    """The producers' side of a ring; `seen` is the head, `bell` wakes a consumer.

    Room for frames reaches up to a ring's size behind the head.
    """

    state: int
    until: int
    own: int

    def put(self, frame: bytes | memoryview) -> bool:
        """Copy a frame in, if that is the common case; whether it was."""
        if self.is_mine():
            return False  # inside another call: the careful code refuses it
        guard = self.guard
        size, words, done = len(frame), self.words, False
        try:
            guard.acquire()
            if self.state == FREE:
                self.state = BUSY
                mutex = self.mutex
                if mutex is None or (not mutex.held and mutex.acquire(True, PATIENCE)):
                    tail = words[TAIL]
                    # A header of 16 bytes and the payload, up to a multiple of 16.
                    end = tail + ((size + 31) & -16)
                    # Words of shared memory are input: a tail that is not where this handle left
                    # it is checked before it becomes an index.
                    done = (
                        ((tail == self.own and end <= self.until) or self._look_at_head(tail, end))
                        and words[SKIP] != tail
                        and words[STATE] == READY
                        and (not self.notes or self.note(tail))
                    )
                    if self.state != BUSY:
                        raise self.nested()  # a handler forked in here: the parent goes on
                    if done:
                        at = self.base + (tail & self.mask)
                        words[at >> 3] = size  # step: put.header
                        at += 16
                        self.data[at : at + size] = frame  # step: put.payload
                        if _WEAK_ORDER:
                            # The frame has to be visible before the tail that publishes it.
                            fence()
                        words[TAIL] = end  # step: put.tail
                        self.own = end
                    if mutex is not None:
                        mutex.release()
                self.state = FREE
            guard.release()
        except BaseException as error:
            more = DEPTH if isinstance(error, RecursionError) else 0
            setrecursionlimit(getrecursionlimit() + more)
            # Twice, for a handler that raises as the first begins.
            try:
                self._escape(guard)
            finally:
                self._escape(guard)
                setrecursionlimit(getrecursionlimit() - more)
            raise
        # Giving the guard back was a fence, on x86: a consumer that is about to sleep either sees
        # the tail, or its flag is seen here.
        if _WEAK_ORDER:
            fence()
        if done and words[DATA_BELL]:  # step: put.bell
            self.bell.ring()
        return done

    def put_many(self, frames: list[bytes | memoryview], first: int) -> int:  # noqa: ARG002
        """Copy frames in from a number on; how many went in before one that is not simple.

        From 0 on none goes in if one of them is too large, or no `bytes`.

        The compiled twin does it as `put` does. Here it is none: the careful code in
        channels/ring/batch.py has a loop of its own, and its cost is shared by the batch.
        """
        return 0

    def _look_at_head(self, tail: int, end: int) -> bool:
        """See how far the consumers are; whether a frame at `tail` may reach up to `end`."""
        head = self.words[HEAD]
        if (head | tail) & IMPOSSIBLE or not 0 <= tail - head <= self.size:
            return False
        self.seen = head
        # The last term: a larger frame than the largest never gets in by here.
        self.until = min(head + self.size, (tail | self.mask) + 1, tail + (self.largest & -16) + 16)
        self.own = tail
        return end <= self.until


@twin(compiled.ReadCursor)
class ReadCursor(Cursor, compiled.ReadCursor):
    """The consumers' side of a ring; `seen` is the tail, `bell` wakes a producer.

    Up to the tail all frames are whole.
    """

    state: int
    until: int
    own: int

    def get(self) -> bytes | None:
        """Take the oldest frame out, if that is the common case; None if it is not."""
        if self.is_mine():
            return None  # inside another call: the careful code refuses it
        guard = self.guard
        words, frame = self.words, None
        try:
            guard.acquire()
            if self.state == FREE:
                self.state = BUSY
                mutex = self.mutex
                if mutex is None or (not mutex.held and mutex.acquire(True, PATIENCE)):
                    head, done = words[HEAD], False
                    # A head that is not where this handle left it is checked before it becomes an
                    # index.
                    if (head == self.own and head < self.until) or self._look_at_tail(head):
                        at = self.base + (head & self.mask)
                        size = words[at >> 3]  # with a flag or a kind in it, no frame is so large
                        end = head + ((size + 31) & -16)
                        done = (
                            end <= self.until
                            and READY <= words[STATE] <= SHUT
                            and (not self.notes or self.note(head))
                        )
                    if self.state != BUSY:
                        raise self.nested()  # a handler forked in here: the parent goes on
                    if done:
                        at += 16
                        frame = self.data[at : at + size]  # step: get.copy
                        if _WEAK_ORDER:
                            # The copy has to be made before a producer sees the room as free.
                            fence()
                        if self.mark is not None:
                            self.mark[0] = end  # step: get.mark
                        words[HEAD] = end  # step: get.head
                        self.own = end
                    if mutex is not None:
                        mutex.release()
                self.state = FREE
            guard.release()
        except BaseException as error:
            more = DEPTH if isinstance(error, RecursionError) else 0
            setrecursionlimit(getrecursionlimit() + more)
            try:
                self._escape(guard)
            finally:
                self._escape(guard)  # twice, as in `put`
                setrecursionlimit(getrecursionlimit() - more)
            raise
        if _WEAK_ORDER:
            fence()
        if frame is not None and words[SPACE_BELL]:  # step: get.bell
            self.bell.ring()
        return frame

    def get_many(self, most: int) -> list[bytes] | None:  # noqa: ARG002
        """Take frames out up to the end of the lap, at most so many; None as of `get`.

        As of `put_many`, the compiled twin alone does it.
        """
        return None

    def _look_at_tail(self, head: int) -> bool:
        """See how far the producers are; whether there are frames at `head`."""
        words = self.words
        tail = words[TAIL]
        if _WEAK_ORDER:
            # No byte of a frame may be read before the tail that publishes it.
            fence()
        if (head | tail) & IMPOSSIBLE or not 16 <= tail - head <= self.size:
            return False
        # After the tail: a producer of an empty ring stores the skip before it.
        if words[SKIP] == head:
            return False
        self.seen = tail
        self.until = min(tail, (head | self.mask) + 1)
        self.own = head
        return True


def _check_numbers(built: str) -> None:
    """Refuse an extension that was built from other sources: it would write other words."""
    now = {**vars(layouts), **globals()}
    for item in built.split():
        name, _, number = item.partition("=")
        if repr(now.get(name)) != number:
            raise ImportError(
                f"shmkit._core was built with {item}, and that is {now.get(name)} now: "
                "install shmkit again, or set SHMKIT_PURE=1"
            )


if compiled.core is not None:
    _check_numbers(compiled.core.NUMBERS)
