"""OnPage: what a lock and an event have in common: a control page, and the ways to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from shmkit.errors import ClosedError
from shmkit.memory.url import Url
from shmkit.segment.located import Located
from shmkit.segment.segment import CONTROL_PARTICIPANTS, Segment
from shmkit.segment.words import KEPT

if TYPE_CHECKING:
    from shmkit.memory.buffer import SharedBuffer
    from shmkit.memory.url import Where
    from shmkit.segment.words import Kind

__all__ = ["OnPage", "PageStatistics", "who_uses"]


class PageStatistics(NamedTuple):
    """Who used it at one moment.

    Attributes:
        participants: pids of the processes that have handles, one for each handle.
        most_participants: how many handles there may be at a time.
    """

    participants: tuple[int, ...]
    most_participants: int


def who_uses(segment: Segment) -> PageStatistics:
    """Who uses a control page at this moment."""
    membership = segment.membership
    return PageStatistics(tuple(membership.members()), membership.participants.count)


class OnPage(Located):
    """A handle on a control page (segment/segment.py): made, attached, described.

    A subclass has `_open`, which takes a segment over, and `close`.
    """

    __slots__ = ()

    _KIND: ClassVar[Kind]

    def __init__(
        self,
        name: str | None = None,
        *,
        participants: int = CONTROL_PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
        trust_owner: bool = False,
    ) -> None:
        self._open(
            Segment.control(
                name,
                self._KIND,
                participants=participants,
                keep=keep,
                mode=mode,
                trust_owner=trust_owner,
            )
        )

    def _open(self, segment: Segment) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Leave it. The last one out removes the name. Idempotent."""
        raise NotImplementedError

    @classmethod
    def _over(cls, segment: Segment) -> Self:
        self = cls.__new__(cls)
        self._open(segment)
        return self

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        *,
        participants: int = CONTROL_PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Make a new one.

        Args:
            where: its memory: None (anonymous), "NAME", "shm:NAME", "file:PATH" or a Path.
            participants: how many handles there may be at a time, of all processes.
            keep: leave the name in place when its last user leaves; files always stay.
            mode: permissions of a segment or file, less the umask; a process of another user has
                to say `trust_owner=True` as well.

        Raises:
            FileExistsError: there is something of that name.
            ValueError: a bad name, or participants that cannot be.
            OSError: no room for it.
        """
        url = Url.parse(where)
        while True:
            try:
                return cls._over(
                    Segment.create(
                        url,
                        cls._KIND,
                        flags=KEPT if keep else 0,
                        participants=participants,
                        keep=True,  # by the process that makes it: the last user removes it
                        mode=mode,
                    )
                )
            except FileNotFoundError:
                # Another user of the name came and went, as the last one, before this was in.
                if url.scheme != "shm":
                    raise

    @classmethod
    def attach(
        cls, where: Where | Url, *, timeout: float | None = 0, trust_owner: bool = False
    ) -> Self:
        """Join one that exists.

        Args:
            where: its memory: "NAME", "shm:NAME", "file:PATH" or a Path.
            timeout: seconds to wait for it to be there; None for ever.
            trust_owner: take what another user made, too: one that you trust, for a creator can
                do with it what it likes.

        Raises:
            FileNotFoundError: there is none of that name.
            IncompatibleSegment: the name belongs to something else.
            CorruptSegment: its memory was overwritten.
            PermissionError: it is another user's, or one without access for this user.
            OSError: no place for another handle.
        """
        return cls._over(Segment.attach(where, cls._KIND, timeout=timeout, trust_owner=trust_owner))

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        *,
        participants: int = CONTROL_PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
        trust_owner: bool = False,
    ) -> Self:
        """Join the one of that name, or make it; as the constructor, with any `where`.

        Args:
            where: as in `create`.
            participants: as in `create`; what exists keeps its own, also of what follows.
            keep: as in `create`.
            mode: as in `create`.
            trust_owner: as in `attach`.

        Raises:
            IncompatibleSegment, CorruptSegment, PermissionError: as `attach`.
            ValueError, OSError: as `create`.
        """
        return cls._over(
            Segment.control(
                Url.parse(where),
                cls._KIND,
                participants=participants,
                keep=keep,
                mode=mode,
                trust_owner=trust_owner,
            )
        )

    def statistics(self) -> PageStatistics:
        """Who uses it at this moment.

        Raises:
            ClosedError: this handle was closed.
        """
        self._check_open()
        return who_uses(self._segment)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"this {self._KIND.noun} ({self.url}) was closed")

    def __reduce__(self) -> tuple[object, ...]:
        self._check_open()
        return _rejoin, (type(self), self._segment.buffer)


def _rejoin(cls: type[OnPage], buffer: SharedBuffer) -> OnPage:
    return cls._over(Segment.control(buffer, cls._KIND))
