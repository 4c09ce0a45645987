"""The semaphores of a segment: process-shared POSIX semaphores inside of it, without a name.

Each is a `sem_t` in 128 bytes of its own (words.py), made by `sem_init(pshared=1)` and worked by
the C library's own functions, through the compiled core or, without it, through ctypes. So a kill
of all participants leaves nothing behind, and a semaphore goes wherever its segment goes. The first
participant, alone by the kernel's word, makes them anew: what a crash left in them is of no use.
The header says which C library made them. A process with another one refuses the segment.

Where there are no such semaphores (macOS), named ones take their place: named_semaphores.py. The
environment variable SHMKIT_SEMAPHORES=named does so here, too.

The C library trusts the word of a `sem_t` that says whether it is shared: with nonsense in it, a
wait would be a busy loop in C, and a post would abort the process. What is in a segment is input,
so that word is stored anew before it is used.

A Python signal handler never runs inside `sem_trywait` or `sem_post`, and a wait holds nothing
while one runs: it returns (EINTR), and the handler runs after it.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from shmkit import compiled
from shmkit.errors import IncompatibleSegment
from shmkit.segment.words import SEMAPHORE_AT, SEMAPHORE_FORMAT, SEMAPHORE_ROOM

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Collection, Iterator, Mapping

    from shmkit.segment.presence import Presence
    from shmkit.segment.words import Kind

__all__ = [
    "FIRST_SLICE",
    "SLICE",
    "NoSemaphore",
    "Semaphore",
    "Semaphores",
    "UnnamedSemaphore",
    "semaphore_in",
    "uses_names",
]

# Seconds: the longest sleep before a waiter looks around. So an idle waiter wakes twice a second,
# and the death of a peer is seen within a second.
SLICE: Final = 0.5
# Its first sleep; each is twice as long as the one before. A wake-up that died with a peer, in the
# middle of traffic, costs no more than that.
FIRST_SLICE: Final = 0.1

MODE: str = os.environ.get("SHMKIT_SEMAPHORES", "")
"""How semaphores are made: "" in the segment where that works, "named" with names."""


class Semaphore(Protocol):
    """A counter that is raised by one and lowered by one; it cannot be lowered while it is 0.

    Attributes:
        tries: an endless iterator. Each step tries to lower the counter: 0 if it did, else another
            number, or an exception of `busy`.
        posts: an endless iterator. Each step raises the counter.
        busy: exceptions with which a step says that the counter is 0.
    """

    @property
    def tries(self) -> Iterator[Any]:
        """See above."""
        ...

    @property
    def posts(self) -> Iterator[Any]:
        """See above."""
        ...

    @property
    def flag(self) -> memoryview[int]:
        """The word that the C library trusts."""
        ...

    @property
    def flag_value(self) -> int:
        """What belongs into it."""
        ...

    @property
    def busy(self) -> tuple[type[Exception], ...]:
        """See above."""
        ...

    def post(self) -> bool:
        """Raise it by one; False if it is as high as it can be."""
        ...

    def try_wait(self) -> bool:
        """Lower it by one, unless it is 0; whether it was lowered."""
        ...

    def wait(self, seconds: float) -> bool:
        """The same, waiting up to `seconds`. It ends early when a signal comes."""
        ...

    def waiting(self, seconds: float) -> Iterator[Any]:
        """`wait` as an iterator of one step, which gives what a step of `tries` gives."""
        ...

    @property
    def value(self) -> int:
        """The count at this moment."""
        ...

    def reset(self, count: int) -> None:
        """Make it what it is at first; only for a participant that is alone with it."""
        ...


class _Library(NamedTuple):
    """The C library's functions.

    Attributes:
        char: `ctypes.c_char`.
        reference: `ctypes.byref`.
        timespec: the C struct.
        integer: `ctypes.c_int`.
        init: these keep the GIL: no signal handler and no other thread comes in between.
        timed: takes a semaphore, a clock and a point of time; releases the GIL.
        clock: which clock `timed` goes by.
    """

    char: Any
    reference: Any
    timespec: Any
    integer: Any
    init: Any
    try_wait: Any
    post: Any
    get_value: Any
    timed: Any
    clock: int


@cache
def _library() -> _Library:
    import ctypes  # here: it is a third of what importing this library costs

    class Timespec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    holding, releasing = ctypes.PyDLL(None), ctypes.CDLL(None)
    try:
        timed, clock = releasing.sem_clockwait, time.CLOCK_MONOTONIC  # glibc 2.30
    except AttributeError:
        # By the time of day: setting it may stretch one slice, and no more.
        timed, clock = _without_clock(releasing.sem_timedwait), time.CLOCK_REALTIME
    return _Library(
        ctypes.c_char,
        ctypes.byref,
        Timespec,
        ctypes.c_int,
        holding.sem_init,
        holding.sem_trywait,
        holding.sem_post,
        holding.sem_getvalue,
        timed,
        clock,
    )


def _without_clock(timed_wait: Any) -> Any:
    def timed(semaphore: Any, clock: int, until: Any) -> Any:  # noqa: ARG001
        return timed_wait(semaphore, until)

    return timed


def uses_names() -> bool:
    """Whether semaphores have names here: no unnamed ones exist, or SHMKIT_SEMAPHORES=named."""
    return MODE == "named" or not _has_unnamed()


@cache
def _has_unnamed() -> bool:
    if compiled.core is not None:
        return True
    try:
        return _sample() is not None
    except (ImportError, AttributeError):
        # There is no ctypes, or the C library has no such functions.
        return False


@cache
def _sample() -> bytes | None:
    """A shared semaphore of 0, as the C library makes it; None if it makes none (macOS)."""
    c = _library()
    room = (c.char * SEMAPHORE_ROOM)()
    return bytes(room) if not c.init(c.reference(room), 1, 0) else None


# Byte of the word that the C library trusts: the second, in glibc and musl of 64 bits.
_FLAG_AT: Final = 8 if struct.calcsize("l") == 8 else None
_NO_FLAG: Final = memoryview(bytearray(8)).cast("Q")
_NEVER: Final = 2  # no step gives it


class _ByIterators:
    """Lowers a semaphore in the segment by the steps of its iterators."""

    __slots__ = ()

    def try_wait(self: Semaphore) -> bool:
        """Lower it by one, unless it is 0; whether it was lowered."""
        # A signal handler that raises may run when a call returns: what was taken would be lost.
        # No handler runs after the step of an iterator, nor after a return.
        for failed in self.tries:
            return not failed
        return False

    def wait(self: Semaphore, seconds: float) -> bool:
        """The same, waiting up to `seconds`. It ends early when a signal comes."""
        for failed in self.waiting(seconds):
            return not failed
        return False


class UnnamedSemaphore(_ByIterators):
    """A semaphore in shared memory.

    It holds an export of the map: the memory stays mapped as long as a thread waits here, also when
    the handle was closed meanwhile.

    Args:
        memory: the map.
        at: byte of the map where it is.
    """

    __slots__ = ("_here", "flag", "flag_value", "posts", "tries")

    busy: tuple[type[Exception], ...] = ()

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        c, sample = _library(), _sample()
        self.flag: memoryview[int] = _NO_FLAG
        self.flag_value: int = 0
        if _FLAG_AT is not None and sample is not None:
            word = slice(_FLAG_AT, _FLAG_AT + 8)
            self.flag = memoryview(memory)[at : at + SEMAPHORE_ROOM][word].cast("Q")
            self.flag_value = int.from_bytes(sample[word], sys.byteorder)
        self._here = here = c.reference(c.char.from_buffer(memory, at))
        self.tries: Iterator[int] = map(c.try_wait, repeat(here))
        self.posts: Iterator[int] = map(c.post, repeat(here))

    def post(self) -> bool:
        """Raise it by one; False if it is as high as it can be."""
        self.flag[0] = self.flag_value
        return not _library().post(self._here)

    def waiting(self, seconds: float) -> Iterator[int]:
        """`wait` as an iterator of one step."""
        c = _library()
        self.flag[0] = self.flag_value
        until = time.clock_gettime(c.clock) + seconds
        point = c.timespec(int(until), int(until % 1 * 1_000_000_000))
        return map(c.timed, (self._here,), (c.clock,), (c.reference(point),))

    @property
    def value(self) -> int:
        """The count at this moment."""
        c = _library()
        value = c.integer()
        c.get_value(self._here, c.reference(value))
        return int(value.value)

    def reset(self, count: int) -> None:
        """Make it what it is at first; only for a participant that is alone with it."""
        _library().init(self._here, 1, count)


class CompiledSemaphore(_ByIterators, compiled.Semaphore):
    """The same, by the compiled core.

    Args:
        memory: the map.
        at: byte of the map where it is.
    """

    _memory: mmap.mmap
    _at: int
    _try: Callable[[], int]
    _post: Callable[[], int]
    _wait: Callable[[float], int]
    _value: Callable[[], int]
    _reset: Callable[[int], int]

    busy: tuple[type[Exception], ...] = ()
    flag: memoryview[int] = _NO_FLAG  # it sees to that word itself
    flag_value: int = 0

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory, self._at = memory, at

    @property
    def tries(self) -> Iterator[int]:
        """An endless iterator: each step is 0 if it lowered the counter, else another number."""
        return iter(self._try, _NEVER)

    @property
    def posts(self) -> Iterator[int]:
        """An endless iterator: each step raises the counter."""
        return iter(self._post, _NEVER)

    def post(self) -> bool:
        """Raise it by one; False if it is as high as it can be."""
        return not self._post()

    def waiting(self, seconds: float) -> Iterator[int]:
        """`wait` as an iterator of one step."""
        return map(self._wait, (seconds,))

    @property
    def value(self) -> int:
        """The count at this moment."""
        return self._value()

    def reset(self, count: int) -> None:
        """Make it what it is at first; only for a participant that is alone with it."""
        self._reset(count)


class NoSemaphore:
    """What a closed handle has in place of its semaphore: always 0."""

    __slots__ = ()

    busy: tuple[type[Exception], ...] = ()
    tries: Iterator[int] = repeat(1)
    posts: Iterator[int] = repeat(0)
    flag = _NO_FLAG
    flag_value = 0
    value = 0

    def post(self) -> bool:
        """No participant waits here."""
        return True

    def try_wait(self) -> bool:
        """There is nothing to be had."""
        return False

    def wait(self, seconds: float) -> bool:  # noqa: ARG002 - as of a Semaphore
        """There is nothing to be had, and nothing to wait for."""
        return False

    def waiting(self, seconds: float) -> Iterator[int]:  # noqa: ARG002
        """The same."""
        return repeat(1, 1)

    def reset(self, count: int) -> None:
        """There is nothing to be reset."""


class Semaphores:
    """One handle's semaphores of a segment.

    Args:
        kind: what lives in the segment; it says which semaphores there are.

    Attributes:
        opened: the ones in use, by name; always the same dict.
    """

    def __init__(self, kind: Kind) -> None:
        self.opened: dict[str, Semaphore] = {}
        self._kind = kind
        self._provider: _InSegment | Any = None
        self._where = ""

    def bind(
        self, memory: mmap.mmap, words: memoryview[int], presence: Presence, where: str
    ) -> None:
        """Remember the segment that has the semaphores."""
        self._where = where
        if uses_names():
            from shmkit.segment.named_semaphores import Named

            self._provider = Named(words, presence)
        else:
            self._provider = _InSegment(memory, words)

    def make(self, without: Collection[int] = ()) -> None:
        """Make them anew; for a participant that is alone.

        Args:
            without: indices of locks whose token is with a participant that died.
        """
        taken = {self._kind.locks[lock] for lock in without if lock < len(self._kind.locks)}
        # A dead holder still has such a token: the next one takes it over without a post.
        counts = {name: count - (name in taken) for name, count in self._kind.semaphores}
        self._provider.make(counts, self.opened)

    def open(self) -> None:
        """Use the ones that participants use; a forked child may have them already.

        Raises:
            FileNotFoundError: one with a name was removed by hand.
            IncompatibleSegment: they are of another C library.
        """
        names = [name for name, _ in self._kind.semaphores]
        if names and not self._provider.open(names, self.opened):
            raise IncompatibleSegment(
                f"the semaphores of {self._where!r} were made by another C library, or with names "
                "(SHMKIT_SEMAPHORES): use the same one in all processes that share a segment",
                where=self._where,
            )

    def token(self, lock: int) -> Semaphore:
        """The semaphore of a lock.

        Raises:
            KeyError: the segment has no such lock, or the handle is closed.
        """
        return self.opened[self._kind.locks[lock]]

    @property
    def locks(self) -> range:
        """Indices of the segment's locks."""
        return range(len(self._kind.locks))

    def remove(self) -> None:
        """Remove what would stay when this, the last participant, has left."""
        if self._provider is not None:
            self._provider.remove(self.opened)

    def close(self) -> None:
        """Leave them. Idempotent."""
        self.opened.clear()
        self._provider = None


semaphore_in: Final = UnnamedSemaphore if compiled.core is None else CompiledSemaphore
"""Makes the `Semaphore` at a byte of a map."""


class _InSegment:
    """The semaphores that are in the segment."""

    def __init__(self, memory: mmap.mmap, words: memoryview[int]) -> None:
        self._memory = memory
        self._words = words

    def make(self, counts: Mapping[str, int], opened: dict[str, Semaphore]) -> None:
        for name, count in counts.items():
            if name not in opened:
                opened[name] = semaphore_in(self._memory, SEMAPHORE_AT[name])
            opened[name].reset(count)  # step: semaphores.reset
        # Last: it says that they are all made.
        self._words[SEMAPHORE_FORMAT] = _format()  # step: semaphores.format

    def open(self, names: Collection[str], opened: dict[str, Semaphore]) -> bool:
        if self._words[SEMAPHORE_FORMAT] != _format():
            return False
        for name in names:
            if name not in opened:
                opened[name] = semaphore_in(self._memory, SEMAPHORE_AT[name])
        return True

    def remove(self, opened: Mapping[str, Semaphore]) -> None:
        """They go with the memory."""


@cache
def _format() -> int:
    """Which `sem_t` this process has: a word with the C library's name, and how long a long is."""
    try:
        library = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[0]
    except ValueError:
        library = ""  # not glibc
    text = (library or f"c-{sys.platform}").encode()[:7].ljust(7, b"\0")
    return int.from_bytes(text + bytes([struct.calcsize("l")]), "little")
