r"""Latest: the newest value only, for any number of readers. Neither set nor get ever waits.

               version 1      version 2      version 3      version 4
    data     +--------------+--------------+--------------+--------------+
             | cell 1       | cell 2       | cell 3       | cell 0       |
             +--------------+--------------+--------------+--------------+

A value's version is its number, counted from 1. The two low bits of the version name the cell that
has the value; the data begins with cell 0. The words are in the header (segment/words.py, LATEST),
and only the writer stores them, except `size`, which the creator stores:

    version  that of the newest value; 0 before the first
    size     bytes of the largest value
    lengths  bytes of the value in each of the four cells

    set        length -> value -> fence -> version -> fence -> wake readers
    get        version -> fence -> length, value, copied -> fence -> version: three on? then again

Version v + 4 is written into the cell of version v, and not before version v + 3 is published. So a
copy of version v is whole if the newest version after the copy is at most v + 2. No reader is ever
sent to the cell that is being written, so a writer may be killed while it writes: the successor
writes the same cell again. (Simpson's four-slot mechanism, "Four-slot fully asynchronous
communication mechanism", 1990, has as many cells, for one reader that never tries again. Here any
number of readers may read, and one that is overtaken three times during a copy tries again.)
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Self

from shmkit.channels.fanout.one_writer import (
    LARGE,
    MAY_WRITE,
    READERS,
    OneWriter,
    check_fits,
    copied_into,
    reentered,
)
from shmkit.channels.frame import as_bytes, writable
from shmkit.channels.handle import LIMIT, STATES, checked_state, deadline_of, whole_number
from shmkit.errors import Empty, FrameTooLarge, ShutDown
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.words import (
    CUT,
    LATEST_KIND,
    LATEST_LENGTHS,
    LATEST_SIZE,
    LATEST_VERSION,
    READERS_BELL,
    READY,
    STATE,
)

if TYPE_CHECKING:
    from shmkit.memory.url import Url, Where
    from shmkit.memory.views import Buffer
    from shmkit.segment.segment import Segment

__all__ = ["Latest", "LatestStatistics"]


@dataclass(frozen=True)
class LatestStatistics:
    """What a latest looked like at one moment.

    Attributes:
        size: bytes of the largest value.
        version: how many values were set since it was created.
        length: bytes of the newest.
        state: "open", "shut down" or "corrupt".
        writers: pid of the writer, if there is one.
        participants: pids of all attached handles.
        sleeps: how often this handle slept.
    """

    size: int
    version: int
    length: int
    state: str
    writers: tuple[int, ...]
    participants: tuple[int, ...]
    sleeps: int


class Latest(OneWriter):
    """One process sets a value, any number of readers get the newest; no set and no get waits.

    Made by `create`, `attach` and `ensure`. The first set of a handle makes it the writer. Any
    number of threads may use a handle. It pickles, and in a forked child it is a handle of the
    child's own, without the role.
    """

    _KIND: ClassVar[int] = LATEST_KIND.number
    _NOUN: ClassVar[str] = LATEST_KIND.noun
    _ROLE: ClassVar[str] = "writer"
    _SIZE: ClassVar[str] = "size"
    _MOST: ClassVar[int] = 1 << 44
    _CELLS: ClassVar[int] = 4

    def __init__(self, segment: Segment) -> None:
        self._cell = segment.header.data_size // 4
        self._largest = -1  # bytes of the largest value; read when the role is claimed
        self._given = 0  # the version that was given last; 0 for none
        super().__init__(segment)

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        size: int = 1 << 16,
        *,
        participants: int = READERS,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Make a new latest, without a value.

        Args:
            where: the memory: None (anonymous), "NAME", "shm:NAME", "file:PATH" or a Path.
            size: bytes of the largest value; it takes four times that, rounded up to a power of
                two.
            participants: how many handles may be attached at a time, of all processes.
            keep: leave a named segment in place when its creator goes; files always stay.
            mode: permissions of a segment or file, less the umask; a process of another user has
                to say `trust_owner=True` as well.

        Raises:
            FileExistsError: there is something of that name.
            ValueError: a bad name or size.
            OSError: ENOSPC, no room for it.
        """
        return cls._new(where, size, participants=participants, keep=keep, mode=mode)

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        size: int = 1 << 16,
        *,
        participants: int = READERS,
        keep: bool = False,
        mode: int = 0o600,
        trust_owner: bool = False,
    ) -> Self:
        """Join the latest of that name, or create it.

        Args:
            where: as in `create`.
            size: as in `create`; a latest that exists keeps all its own options.
            participants: as in `create`.
            keep: as in `create`.
            mode: as in `create`.
            trust_owner: as in `attach`.

        Raises:
            IncompatibleSegment, CorruptSegment, PermissionError: as `attach`.
            ValueError, OSError: as `create`.
        """
        return cls._new(
            where,
            size,
            ensure=True,
            participants=participants,
            keep=keep,
            mode=mode,
            trust_owner=trust_owner,
        )

    @classmethod
    def _fill(cls, words: memoryview[int], size: int) -> None:
        words[LATEST_SIZE] = size

    def set(self, data: Buffer) -> int:
        """Copy `data` in as the newest value; never waits.

        Args:
            data: bytes, or any object with a contiguous buffer; it may be empty.

        Returns:
            Its version.

        Raises:
            FrameTooLarge: it has more than `size` bytes.
            ShutDown: the latest was shut down.
            RoleTaken: another live handle is the writer.
            CorruptSegment: the version in the memory is impossible.
            ClosedError: this handle was closed.
            TypeError: `data` has no contiguous buffer.
            RuntimeError: called from inside a set of the same thread, by a signal handler or a
                finalizer.
        """
        if type(data) is not bytes:
            data = as_bytes(data)
        size = len(data)
        if self._is_inside():
            raise reentered(self._NOUN)
        try:
            self._enter()
            words = self._words
            version = words[LATEST_VERSION] + 1
            if (
                size > self._largest
                or version >= LIMIT
                or words[STATE] != READY
                or self._state != MAY_WRITE
            ):
                version = self._prepare(size)
            cell = version & 3
            words[LATEST_LENGTHS + cell] = size  # step: set.length
            at = self._base + cell * self._cell
            self._map[at : at + size] = data  # step: set.value
            if self._fenced or size > LARGE:
                fence()
            words[LATEST_VERSION] = version  # step: set.version
            if self._fenced:
                fence()
            if words[READERS_BELL]:  # step: set.bell
                self._bell.ring()
            self._leave()
        except BaseException:
            try:
                self._leave()  # first: another signal handler may raise in any later call
            except RuntimeError:
                pass  # the exception came before the guard was taken, or after
            raise
        return version

    def _prepare(self, size: int) -> int:
        """Check all that the common case of `set` leaves out; gives the next version."""
        words = self._words_for_putting()
        largest = self.size
        if size > largest:
            raise FrameTooLarge(
                f"a value of {size} bytes, this latest takes {largest} at most: create it with "
                f"size={size} or more",
                size=size,
                limit=largest,
            )
        self._claim()
        self._largest = largest
        return self._checked_version(words) + 1

    def _checked_version(self, words: memoryview[int]) -> int:
        version = words[LATEST_VERSION]
        if version >= LIMIT:
            raise self._corrupt(f"version {version}")
        return version

    def shutdown(self) -> None:
        """Let no more values in. A waiter gets ShutDown, and the last value stays there to get.

        Idempotent.

        Raises:
            CorruptSegment: the latest was found broken before.
            ClosedError: this handle was closed.
        """
        self._end(immediate=False)

    def get(self) -> bytes:
        """The newest value, a copy.

        Raises:
            Empty: nothing was set yet.
            PeerDied: there is nothing newer than at the last `get`, and the writer was killed; told
                once per death, to `get` or to `wait`. The value stays there to get. Attach again if
                another process makes the name anew.
            CorruptSegment: a version or length in the memory is impossible.
            ClosedError: this handle was closed.
        """
        value: bytes = self._give(self._newest())
        return value

    def get_into(self, buffer: Buffer) -> int:
        """Copy the newest value into memory of the caller's.

        Args:
            buffer: writable and contiguous; it may be larger than the value.

        Returns:
            Bytes written, from the buffer's start on.

        Raises:
            ValueError: the value is larger than the buffer.
            TypeError: the buffer is read-only or not contiguous.
            Empty, PeerDied, CorruptSegment, ClosedError: as `get`.
        """
        size: int = self._give(self._newest(writable(buffer)))
        return size

    def _give(self, newest: tuple[int, Any] | None) -> Any:
        """The newest value, for one who polls."""
        version = 0 if newest is None else newest[0]
        # Polled: the common case is one look at the clock.
        if version == self._given and (
            self._watch is not None or monotonic() >= self._writer.next_look
        ):
            self._find_nothing_new(version)
        self._given = version
        if newest is None:
            raise Empty(f"latest {self._name} has no value yet: wait() waits for the first")
        return newest[1]

    def _find_nothing_new(self, version: int) -> None:
        if self._open_words()[STATE] == READY:
            self._writer.raise_if_seen_dead(self._title, LATEST_VERSION, version)
        if self._watch is not None:
            self._watch.arm(version)

    def fileno(self) -> int:
        """A descriptor for `select`, `poll` and event loops: readable when there is a newer value.

        That is one newer than the last that this handle gave; also a shutdown, and the death of the
        writer. Only a `get` that gives the same value again, or a `wait` that ends with `Empty`,
        makes it unreadable. It is the handle's: do not read from it or close it. A thread of its
        own waits for it; `shmkit.wait` waits for several.

        Raises:
            ClosedError: this handle was closed.
        """
        self._check_open()
        return self._armed_fileno() if self._watch is None else self._watch.fileno()

    def _armed_fileno(self) -> int:
        """The descriptor, unreadable unless something is new."""
        if self._watch is None:
            self._watch = self._new_watch(self, self._bell, self._writer, LATEST_VERSION)
        self._watch.arm(self._given)
        return self._watch.fileno()

    def _is_ready(self) -> bool:
        """Whether there is a newer value, or an error to tell."""
        words = self._open_words()
        if words[LATEST_VERSION] != self._given or words[STATE] != READY:
            return True
        return self._writer.has_news()

    def wait(
        self, newer_than: int | None = None, timeout: float | None = None
    ) -> tuple[int, bytes]:
        """The newest value, waiting until it is newer than what the caller has.

        Args:
            newer_than: a version; None for any value, `latest.version` for the next to be set.
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Returns:
            The version and a copy of the value. Versions between it and `newer_than` were skipped.

        Raises:
            Empty: nothing newer came in time.
            ShutDown: the latest was shut down, and there is nothing newer.
            PeerDied: there is nothing newer and the writer was killed; told once per death.
            CorruptSegment: a version or length in the memory is impossible.
            ClosedError: this handle was closed.
            TypeError: `newer_than` is no version, or `timeout` no number.
        """
        deadline = deadline_of(timeout)
        known = 0 if newer_than is None else max(whole_number("newer_than", newer_than, "sets"), 0)
        while True:
            words = self._open_words()
            # Read before the version: a value that was set before the shutdown is not missed.
            state = checked_state(self._segment, words)
            version = self._checked_version(words)
            if version > known:
                newest = self._newest()
                if newest is not None:
                    self._given = newest[0]
                    return newest
            if state != READY:
                raise ShutDown(f"latest {self._name} was shut down, at version {version}")
            if not self._wait(
                self._bell, self._writer, LATEST_VERSION, version, deadline, self._open_words
            ):
                if self._watch is not None:
                    self._watch.arm(self._given)
                raise Empty(f"latest {self._name} has nothing newer than version {known}")

    def _newest(self, target: memoryview | None = None) -> tuple[int, Any] | None:
        """The newest version and its value, or its size in a target; None before the first."""
        values, words = self._map, self._words  # in this order: `close` takes the words away first
        if not READY <= words[STATE] <= CUT:
            self._check_open()
            checked_state(self._segment, words)
        data: Any
        while True:
            version = words[LATEST_VERSION]
            if version >= LIMIT:
                raise self._corrupt(f"version {version}")
            if not version:
                return None
            if not STRONG_ORDER:
                fence()
            cell = version & 3
            size = words[LATEST_LENGTHS + cell]
            # A damaged length must not lead out of the cell.
            if size <= self._cell:
                at = self._base + cell * self._cell
                if target is None:
                    data = values[at : at + size]  # step: read.copy
                else:
                    data = copied_into(target, values, at, size)
            if not STRONG_ORDER or size > LARGE:
                fence()
            passed = words[LATEST_VERSION] - version
            # Fewer than three newer versions: the writer has not come back to this cell.
            if 0 <= passed < 3 and size <= self._cell:
                if target is not None:
                    check_fits(target, size, "value")
                return version, data
            if passed < 3:
                raise self._corrupt(
                    f"version {version} has {size} bytes in a cell of {self._cell}, and "
                    f"{version + passed} came after it"
                )

    @property
    def version(self) -> int:
        """The version of the newest value; 0 before the first.

        Raises:
            ClosedError: this handle was closed.
        """
        return self._open_words()[LATEST_VERSION]

    @property
    def size(self) -> int:
        """Bytes of the largest value.

        Raises:
            ClosedError: this handle was closed.
        """
        size = self._open_words()[LATEST_SIZE]
        # A damaged size is not used: no value is larger than a cell.
        return size if 0 < size <= self._cell else self._cell

    def statistics(self) -> LatestStatistics:
        """The latest at this moment.

        Raises:
            ClosedError: this handle was closed.
        """
        with self._open_all_along() as words:
            version = words[LATEST_VERSION]
            return LatestStatistics(
                size=self.size,
                version=version,
                length=words[LATEST_LENGTHS + (version & 3)],
                state=STATES.get(words[STATE], "corrupt"),
                writers=tuple(self._writer.holders()),
                participants=tuple(self._segment.membership.members()),
                sleeps=self._bell.sleeps,
            )

    def __repr__(self) -> str:
        return self._describe(f"version {self._words[LATEST_VERSION]}")
