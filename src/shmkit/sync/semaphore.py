"""Semaphore: a counting semaphore between processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from shmkit import compiled
from shmkit.compiled import twin
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError
from shmkit.memory.url import Url
from shmkit.segment.segment import CONTROL_PARTICIPANTS, Segment
from shmkit.segment.words import SEMAPHORE_KIND
from shmkit.sync.page import PageStatistics, who_uses
from shmkit.sync.tokens import MOST, Tokens, filled

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from shmkit.memory.buffer import SharedBuffer
    from shmkit.memory.url import Where
    from shmkit.sync.posix_count import PosixCount

__all__ = ["ReleasedTooOften", "Semaphore", "check_name"]

_FOREVER: Final = Deadline(None)
_NAME_LIMIT: Final = 250  # NAME_MAX less the "sem." glibc puts before it


class ReleasedTooOften(OverflowError, ValueError):
    """The counter is as high as it can be; `multiprocessing` raises ValueError then."""


def check_name(name: str, *, tracked: bool = False) -> str:
    """Give back `name` if a POSIX semaphore may have it.

    Args:
        name: without the "/" in front.
        tracked: whether the resource tracker is to know it.

    Raises:
        ValueError: it is empty, too long, or has a "/" or a NUL in it; `tracked`, and it is not of
            ASCII alone, or has a colon or a line break in it.
    """
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise ValueError(f"{name!r} is no name for a semaphore: take letters, digits, '-' and '_'")
    length = len(name.encode(errors="surrogateescape"))
    if length > _NAME_LIMIT:
        raise ValueError(f"name of {length} bytes, {_NAME_LIMIT} are allowed: take a shorter one")
    if tracked and (not name.isascii() or not name.isprintable() or ":" in name):
        raise ValueError(
            f"{name!r} is no name for a POSIX semaphore that is to go with its creator: the "
            "resource tracker takes ASCII without ':' alone; take another name, or tracked=False"
        )
    return name


@twin(compiled.SemaphoreCore)
class Semaphore(compiled.SemaphoreCore):
    """A counter that processes raise and lower; lowering waits while it is 0.

    Without a name it is reached by forking or pickling it; with one, by every process of the same
    user that gives the same name. The last one out removes the name.

    What a process had acquired when it died, or dropped its handle, comes back within a second.
    But never so that there is more than at first: what `release` put on top of that are signals,
    and a signal that was taken has arrived. Any process may release what another one acquired.

    With `posix=True` it is a plain POSIX semaphore instead: C programs open it by its name, too.
    Of such a one the kernel keeps the count alone: what a dead process had acquired is lost. The
    process that created it owns its name: that is removed by `unlink`, or at the process's end.

    Args:
        value: the count it is created with; ignored when it exists.
        name: a name without "/", or None.
        posix: whether it is a POSIX semaphore, which has to have a name, and no other options.
        participants: how many handles there may be at a time, of all processes.
        keep: leave the name in place when its last user leaves.
        mode: permissions of the name, less the umask.
        trust_owner: take what another user made, too: one that you trust.

    Raises:
        IncompatibleSegment: the name belongs to something else.
        CorruptSegment: its memory was overwritten.
        TypeError: a value that is no int, or a name that is no str.
        ValueError: a bad name, or a value below 0 or too large for a semaphore.
        PermissionError: the name belongs to another user.
        OSError: no room, or as many handles are there as there may be.

    Notes:
        A signal handler may call it. In the middle of a call of the same thread on the same handle
        a `release` is done at the end of that call, and all else is a RuntimeError at once.
    """

    _count: Tokens | PosixCount
    _takes: Iterable[bool] = ()  # each step takes one, if that is the common case

    def __init__(
        self,
        value: int = 1,
        name: str | None = None,
        *,
        posix: bool = False,
        participants: int = CONTROL_PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
        trust_owner: bool = False,
    ) -> None:
        _check(value, name, posix)
        self._closed = False
        if name is None or not posix:
            segment = Segment.control(
                name,
                SEMAPHORE_KIND,
                participants=participants,
                keep=keep,
                mode=mode,
                fill=filled(value),
                trust_owner=trust_owner,
            )
            self._use(Tokens(segment))
            return
        from shmkit.sync.posix_count import PosixCount

        check_name(name, tracked=True)
        while True:
            try:
                self._count = PosixCount(name, value, tracked=True)
            except FileExistsError:
                try:
                    self._count = PosixCount(name)
                except FileNotFoundError:
                    continue  # unlinked between the two: it is ours to make after all
            return

    @classmethod
    def create(
        cls,
        where: Where | Url = None,
        value: int = 0,
        *,
        posix: bool = False,
        tracked: bool = True,
        participants: int = CONTROL_PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
    ) -> Self:
        """Make a new one.

        Args:
            where: its memory: None (anonymous), "NAME", "shm:NAME", "file:PATH" or a Path; of a
                POSIX semaphore its name.
            value: the count it starts with.
            posix: whether it is a POSIX semaphore; it has no options but `tracked`.
            tracked: of a POSIX semaphore, whether its name is removed at the process's end,
                however that comes. False leaves it to `unlink`.
            participants: how many handles there may be at a time, of all processes.
            keep: leave the name in place when its last user leaves; files always stay.
            mode: permissions of a segment or file, less the umask.

        Raises:
            FileExistsError: there is one of that name.
            TypeError, ValueError, OSError: as the constructor.
        """
        if posix:
            name = _posix_name(where, value, tracked=tracked)
            from shmkit.sync.posix_count import PosixCount

            return cls._of(PosixCount(name, value, tracked=tracked))
        _check(value, None, posix)
        url = Url.parse(where)
        segment = Segment.control(
            None if url.scheme == "anon" else url,
            SEMAPHORE_KIND,
            participants=participants,
            keep=keep,
            mode=mode,
            fill=filled(value),
            exclusive=True,
        )
        return cls._of(Tokens(segment))

    @classmethod
    def attach(
        cls,
        where: Where | Url,
        *,
        timeout: float | None = 0,
        posix: bool = False,
        trust_owner: bool = False,
    ) -> Self:
        """Join one that exists.

        Args:
            where: its memory: "NAME", "shm:NAME", "file:PATH" or a Path; of a POSIX semaphore its
                name.
            timeout: seconds to wait for it to be there; None for ever. Not of a POSIX semaphore.
            posix: whether it is a POSIX semaphore.
            trust_owner: take what another user made, too: one that you trust.

        Raises:
            FileNotFoundError: there is none of that name.
            IncompatibleSegment, CorruptSegment, TypeError, ValueError, OSError: as the constructor.
        """
        from shmkit.sync.posix_count import PosixCount

        if posix:
            return cls._of(PosixCount(_posix_name(where, 0)))
        try:
            segment = Segment.attach(
                where, SEMAPHORE_KIND, timeout=timeout, trust_owner=trust_owner
            )
        except FileNotFoundError as error:
            url = Url.parse(where)
            try:
                PosixCount(check_name(url.name)).close()
            except (OSError, ValueError):
                raise error from None
            raise FileNotFoundError(
                f"no semaphore {url.name!r} of shmkit's own, but a POSIX one of that name: "
                "Semaphore.attach(name, posix=True)"
            ) from error
        return cls._of(Tokens(segment))

    @classmethod
    def ensure(
        cls,
        where: Where | Url,
        value: int = 1,
        *,
        participants: int = CONTROL_PARTICIPANTS,
        keep: bool = False,
        mode: int = 0o600,
        trust_owner: bool = False,
    ) -> Self:
        """Join the one of that name, or make it; as the constructor, with any `where`.

        Args:
            where: as in `create`.
            value: the count it starts with; what exists keeps its own, also of what follows.
            participants: as in `create`.
            keep: as in `create`.
            mode: as in `create`.
            trust_owner: as in `attach`.

        Raises:
            IncompatibleSegment, CorruptSegment, TypeError, ValueError, OSError: as the constructor.
        """
        _check(value, None, False)
        segment = Segment.control(
            Url.parse(where),
            SEMAPHORE_KIND,
            participants=participants,
            keep=keep,
            mode=mode,
            fill=filled(value),
            trust_owner=trust_owner,
        )
        return cls._of(Tokens(segment))

    @classmethod
    def _of(cls, count: Tokens | PosixCount) -> Self:
        self = cls.__new__(cls)
        self._closed = False
        if isinstance(count, Tokens):
            self._use(count)
        else:
            self._count = count
        return self

    def _use(self, tokens: Tokens) -> None:
        self._count = tokens
        if compiled.core is not None:
            self._takes = tokens

    @property
    def name(self) -> str:
        """Name of the segment or POSIX semaphore, path of the file; "" for anonymous memory."""
        count = self._count
        return count.segment.buffer.name if isinstance(count, Tokens) else count.name

    @property
    def url(self) -> Url:
        """Where it is; `str` of it is what `attach` takes. A POSIX one: where Linux has it."""
        count = self._count
        return count.segment.buffer.url if isinstance(count, Tokens) else _posix_url(count.name)

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._closed

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Lower the counter by one, waiting while it is 0.

        A signal handler that raises (Ctrl-C) ends it at any moment; then it was not lowered.

        Args:
            block: wait at all.
            timeout: seconds to wait at most: None for ever, 0 or less not at all.

        Returns:
            Whether it was lowered.

        Raises:
            ClosedError: this handle was closed, now or before.
            CorruptSegment: its memory was overwritten.
            RuntimeError: called inside another call of this thread on this handle.
            TypeError, ValueError: a timeout that is no number, or NaN.
        """
        deadline = _FOREVER if timeout is None else Deadline(timeout)
        # No call before the return, after which a handler could come.
        for taken in self._takes:
            if taken:
                return True
            break
        return self._count.acquire(deadline if block else Deadline(0))

    def release(self) -> None:
        """Raise the counter by one; a process that waits goes on.

        Raises:
            ClosedError: this handle was closed.
            CorruptSegment: its memory was overwritten.
            ReleasedTooOften: an OverflowError and ValueError: the counter is as high as it can be.
        """
        if not self._count.release():
            raise ReleasedTooOften(
                f"{self!r} cannot be raised further than {MOST}: it is released more often than "
                "acquired"
            )

    @property
    def value(self) -> int:
        """The count at this moment.

        Raises:
            ClosedError: this handle was closed.
        """
        return self._count.count

    def get_value(self) -> int:
        """The same as `value`, by multiprocessing's name.

        Raises:
            ClosedError: this handle was closed.
        """
        return self.value

    def close(self) -> None:
        """Leave it; a thread that waits on this handle gets ClosedError. Idempotent.

        What this process acquired stays acquired: another one may release it.

        Raises:
            RuntimeError: called inside another call of this thread on this handle.
        """
        self._count.close()
        self._closed = True

    def unlink(self) -> None:
        """Remove the name: no process can attach any more; open handles go on. Idempotent."""
        count = self._count
        if not isinstance(count, Tokens):
            count.unlink()
        elif count.segment.buffer.name:
            count.segment.unlink()

    def statistics(self) -> PageStatistics:
        """Who uses it at this moment; of a POSIX semaphore nobody knows.

        Raises:
            ClosedError: this handle was closed.
        """
        if self._closed:
            raise ClosedError(f"{self!r}: attach again, or make another one")
        count = self._count
        return who_uses(count.segment) if isinstance(count, Tokens) else PageStatistics((), 0)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __reduce__(self) -> tuple[object, ...]:
        if self._closed:
            raise ClosedError(f"{self!r}: attach again, or make another one")
        if isinstance(self._count, Tokens):
            return _rejoin, (type(self), self._count.segment.buffer)
        return _reattach, (type(self), self.name)

    def __repr__(self) -> str:
        where = self.url if isinstance(self._count, Tokens) else repr(self.name)
        return f"<Semaphore {where} {'closed' if self._closed else f'value={self.value}'}>"


def _rejoin(cls: type[Semaphore], buffer: SharedBuffer) -> Semaphore:
    return cls._of(Tokens(Segment.control(buffer, SEMAPHORE_KIND)))


def _reattach(cls: type[Semaphore], name: str) -> Semaphore:
    return cls.attach(name, posix=True)


_CALL: Final = "Semaphore(value=1, name=None)"


def _check(value: object, name: object, posix: bool) -> None:
    """Refuse what no semaphore can have, in the words of the call."""
    if not isinstance(value, int):
        remedy = f": Semaphore(name={value!r})" if isinstance(value, str) else f": {_CALL}"
        raise TypeError(
            f"the value of a semaphore is an int, the count it begins with, not {value!r}, which "
            f"is of type {type(value).__name__!r}{remedy}"
        )
    if name is not None and not isinstance(name, str):
        raise TypeError(
            f"the name of a semaphore is a str or None, not {name!r}, which is of type "
            f"{type(name).__name__!r}: {_CALL}"
        )
    if posix and name is None:
        raise ValueError("a POSIX semaphore is opened by its name: give it one, or leave posix")
    if not 0 <= value <= MOST:  # the C library would cut off what is above 32 bits
        raise ValueError(f"a semaphore counts from 0 to {MOST}, so not from {value}")


def _posix_name(where: object, value: object, *, tracked: bool = False) -> str:
    """The name of a POSIX semaphore, checked."""
    _check(value, where, True)
    assert isinstance(where, str)
    return check_name(where, tracked=tracked)


def _posix_url(name: str) -> Url:
    return Url("shm", f"sem.{name}")
