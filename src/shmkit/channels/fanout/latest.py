r"""Latest: the newest value only, for any number of readers; setting never waits, nor does getting.

               version 1      version 2      version 3      version 4
    data     +--------------+--------------+--------------+--------------+
             | cell 1       | cell 2       | cell 3       | cell 0       |
             +--------------+--------------+--------------+--------------+

A value's version is its number, counted from 1; it is in the cell that the two low bits of its
version name. The data begins with cell 0. Bytes of the header, all written by the writer:

    offset  field
    0x080   version: that of the newest value (u64, monotonic); 0 before the first
    0x088   size: bytes of the largest value (u64), by the creator; 0: those of a cell
    0x090   lengths: bytes of the value in each of the four cells (u64 each)

    set        length -> value -> fence -> version -> fence -> ring
    get        version -> fence -> length, value, copied -> fence -> version: three on? then anew

Version v + 4 is written into the cell of version v, and not before version v + 3 is published: so a
copy of v is whole if the version after it is at most v + 2. The cell that is being written is never
one that readers are sent to, and a writer that is killed leaves it to its successor. (Simpson's
four-slot mechanism, "Four-slot fully asynchronous communication mechanism", 1990, has as many cells
for one reader that never has to try again; here any number may read, and one that is overtaken
three times during a copy tries again.)
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from shmkit.channels.fanout.one_writer import READERS, OneWriter, contiguous
from shmkit.channels.handle import BUSY, LIMIT, STATES
from shmkit.deadline import Deadline
from shmkit.errors import Empty, FrameTooLarge, ShutDown
from shmkit.segment.fences import STRONG_ORDER, fence
from shmkit.segment.header import DATA_BELL, LEAST_DATA, POISONED, READY, STATE, TAIL

if TYPE_CHECKING:
    from shmkit.memory.url import Url, Where
    from shmkit.segment.segment import Segment

__all__ = ["Latest", "LatestStatistics"]

# Indices of 8-byte words.
VERSION: Final = TAIL
_SIZE: Final = VERSION + 1
_LENGTHS: Final = VERSION + 2

_QUICK_SIZE: Final = 1 << 16  # the copying of more than this may keep no order


@dataclass(frozen=True)
class LatestStatistics:
    """What a latest looked like at one moment.

    Attributes:
        size: bytes of the largest value.
        version: how many values were set since it was created.
        length: bytes of the newest.
        state: "open", "shut down" or "corrupt".
        writers: pid of the one who sets, if there is one.
        participants: pids of all who are attached.
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
    """One process sets a value, any number get the newest; no one waits for anyone.

    Made by `create`, `attach` and `ensure`. The first set of a handle makes it the writer. Any
    number of threads may use a handle. It pickles, and in a forked child it is a handle of the
    child's own, without the role.
    """

    __slots__ = ("_cell", "_quick_cell", "_version")

    _KIND: ClassVar[int] = 3
    _NOUN: ClassVar[str] = "latest"
    _ROLE: ClassVar[str] = "writer"

    def __init__(self, segment: Segment) -> None:
        self._cell = segment.header.data_size // 4
        self._quick_cell = self._cell if STRONG_ORDER else -1
        super().__init__(segment)

    def _begin(self) -> None:
        super()._begin()
        self._version = -1

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        size: int = 1 << 16,
        keep: bool = False,
        *,
        participants: int = READERS,
    ) -> Self:
        """Make a new one, without a value.

        Args:
            where: the memory: None (anonymous), "NAME", "shm:NAME", "file:PATH" or a Path.
            size: bytes of the largest value; it takes four times that, rounded up to a power of
                two.
            keep: leave a named segment in place when its creator goes; files always stay.
            participants: how many handles may be attached at a time, of all processes.

        Raises:
            FileExistsError: there is something of that name.
            ValueError: a bad name or size.
            OSError: ENOSPC, no room for it.
        """
        data = _data_size(size)
        self = cls._create(where, data, participants=participants, keep=keep)
        self._words[_SIZE] = size
        return self

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        size: int = 1 << 16,
        keep: bool = False,
        *,
        participants: int = READERS,
    ) -> Self:
        """Join the one of that name, or create it, also in place of one left half-made.

        Args:
            where: as in `create`.
            size: as in `create`; one that exists keeps its own, also of what follows.
            keep: as in `create`.
            participants: as in `create`.

        Raises:
            IncompatibleSegment, CorruptSegment: as `attach`.
            ValueError, OSError: as `create`.
        """
        data = _data_size(size)
        self = cls._create(where, data, participants=participants, keep=keep, ensure=True)
        if self._segment.buffer.created:
            self._words[_SIZE] = size
        return self

    # -- setting -----------------------------------------------------------------------------------

    def set(self, data: Any) -> int:
        """Copy `data` in as the newest value; never waits.

        Args:
            data: bytes, or any object with a contiguous buffer; it may be empty.

        Returns:
            Its version.

        Raises:
            FrameTooLarge: it has more than `size` bytes.
            ShutDown: it was shut down.
            RoleTaken: another live handle is the writer.
            CorruptSegment: the version in the memory is impossible.
            ClosedError: this handle was closed.
            TypeError: `data` has no contiguous buffer.
        """
        if type(data) is not bytes:
            data = contiguous(data)
        size = len(data)
        words = self._words
        # No call from here until _limit is stored.
        limit = self._limit
        if size <= limit and words[STATE] == READY:
            self._limit = BUSY
            version = self._version + 1
            cell = version & 3
            words[_LENGTHS + cell] = size  # step: set.length
            at = self._base + cell * self._cell
            self._map[at : at + size] = data  # step: set.value
            self._version = words[VERSION] = version  # step: set.version
            self._limit = limit
            if words[DATA_BELL]:  # step: set.bell
                self._bell.ring()
            return version
        return self._set_carefully(data, size)

    def _set_carefully(self, data: bytes | memoryview, size: int) -> int:
        def write(words: memoryview[int]) -> int:
            most = self.size
            if size > most:
                raise FrameTooLarge(
                    f"a value of {size} bytes, this latest takes {most} at most: create it with "
                    f"size={size} or more",
                    size=size,
                    limit=most,
                )
            if self._claim() or words[VERSION] != self._version:
                self._version = self._checked_version(words)
            fence()  # the copying of large values keeps no order
            version = self._version + 1
            cell = version & 3
            words[_LENGTHS + cell] = size  # step: set.length
            at = self._base + cell * self._cell
            self._map[at : at + size] = data  # step: set.value
            fence()
            self._version = words[VERSION] = version  # step: set.version
            self._limit = min(most, _QUICK_SIZE) if self._quick else -1
            return version

        version = self._write_in_turn(write)
        fence()  # step: set.bell
        self._bell.ring()
        return version

    def _checked_version(self, words: memoryview[int]) -> int:
        version = words[VERSION]
        if version >= LIMIT:
            raise self._corrupt(f"version {version}")
        return version

    def shutdown(self) -> None:
        """Let no more values in; who waits for one gets ShutDown, the last is there to get.

        Idempotent.

        Raises:
            CorruptSegment: it was found broken before.
            ClosedError: this handle was closed.
        """
        self._shut(immediate=False)

    # -- getting -----------------------------------------------------------------------------------

    def get(self) -> bytes:
        """The newest value, a copy.

        Raises:
            Empty: nothing was set yet.
            CorruptSegment: a version or length in the memory is impossible.
            ClosedError: this handle was closed.
        """
        words = self._words
        version = words[VERSION]
        cell = version & 3
        size = words[_LENGTHS + cell]
        if 0 < version < LIMIT and size <= self._quick_cell and words[STATE] < POISONED:
            at = self._base + cell * self._cell
            data: bytes = self._map[at : at + size]  # step: read.copy
            if words[VERSION] - version < 3:
                return data
        return self._get_carefully()

    def _get_carefully(self) -> bytes:
        words = self._open_words()
        self._checked_state(words)
        found = self._read(words)
        if found is None:
            raise Empty(f"latest {self._name} has no value yet: wait() waits for the first")
        return found[1]

    def wait(
        self, newer_than: int | None = None, timeout: float | None = None
    ) -> tuple[int, bytes]:
        """The newest value, waiting until it is newer than what the caller has.

        Args:
            newer_than: a version; None for any value, `latest.version` for the next to be set.
            timeout: seconds to wait at most; None for ever, 0 not at all.

        Returns:
            Its version and a copy of it. Versions between that and `newer_than` were passed over.

        Raises:
            Empty: nothing newer came in time.
            ShutDown: it was shut down, and there is nothing newer.
            PeerDied: there is nothing newer and the writer was killed; told once per death.
            CorruptSegment: a version or length in the memory is impossible.
            ClosedError: this handle was closed.
        """
        deadline = Deadline(timeout)
        known = 0 if newer_than is None else max(newer_than, 0)
        while True:
            words = self._open_words()
            state = self._checked_state(words)  # before the version: who shut it had set before
            version = self._checked_version(words)
            if version > known:
                found = self._read(words)
                if found is not None:
                    return found
            if state != READY:
                raise ShutDown(f"latest {self._name} was shut down, at version {version}")
            if not self._wait(
                self._bell, self._writer, VERSION, version, deadline, self._open_words
            ):
                raise Empty(f"latest {self._name} has nothing newer than version {known}")

    def _read(self, words: memoryview[int]) -> tuple[int, bytes] | None:
        """The newest value with its version, or None before the first."""
        values = self._map
        if self._closed:  # looked at after it was taken
            raise self._closed_error()
        while True:
            version = self._checked_version(words)
            if not version:
                return None
            fence()
            cell = version & 3
            size = words[_LENGTHS + cell]
            if size <= self._cell:
                at = self._base + cell * self._cell
                data: bytes = values[at : at + size]  # step: read.copy
            fence()
            now = words[VERSION]
            if now < version or (size > self._cell and now < version + 3):
                raise self._corrupt(
                    f"version {version} has {size} bytes in a cell of {self._cell}, and {now} came "
                    "after it"
                )
            if now < version + 3:
                return version, data

    # -- looking -----------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The version of the newest value; 0 before the first.

        Raises:
            ClosedError: this handle was closed.
        """
        return self._open_words()[VERSION]

    @property
    def size(self) -> int:
        """Bytes of the largest value.

        Raises:
            ClosedError: this handle was closed.
        """
        size = self._open_words()[_SIZE]
        return size if 0 < size <= self._cell else self._cell

    def statistics(self) -> LatestStatistics:
        """It at this moment.

        Raises:
            ClosedError: this handle was closed.
        """
        words = self._open_words()
        version = words[VERSION]
        return LatestStatistics(
            size=self.size,
            version=version,
            length=words[_LENGTHS + (version & 3)],
            state=STATES.get(words[STATE], "corrupt"),
            writers=tuple(self._writer.holders()),
            participants=tuple(self._segment.membership.members()),
            sleeps=self._bell.sleeps,
        )

    def __repr__(self) -> str:
        return self._story(f"version {self._words[VERSION]}")


def _data_size(size: int) -> int:
    size = operator.index(size)
    if not 0 < size <= 1 << 44:
        raise ValueError(f"size={size}: a latest has 1 byte or more, and fits into memory")
    return max(LEAST_DATA, 4 << (size - 1).bit_length())
