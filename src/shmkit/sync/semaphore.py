"""Semaphore: a counting semaphore between processes."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError
from shmkit.memory.buffer import SharedBuffer
from shmkit.memory.url import Url
from shmkit.segment import header
from shmkit.segment.semaphores import SLICE, NoSemaphore, semaphore_in, uses_names
from shmkit.segment.words import PAGE, SEMAPHORE_AT, SEMAPHORE_KIND

if TYPE_CHECKING:
    from types import TracebackType

    from shmkit.segment.semaphores import Semaphore as Counter

__all__ = ["Semaphore", "check_name"]

NAME_LIMIT: Final = 250  # NAME_MAX less the "sem." glibc puts before it
# At exit: after the children of this process were joined, which may still want to attach (0 and
# above run before that), and before multiprocessing removes its temporary directory at -100.
_PRIORITY: Final = -60
_PARTICIPANTS: Final = 16  # what fits into the page
_MOST: Final = os.sysconf("SC_SEM_VALUE_MAX")
_NOTHING: Final = NoSemaphore()


def check_name(name: str) -> str:
    """Give back `name` if a semaphore may have it.

    Raises:
        ValueError: it is empty, too long, or has a "/" or a NUL in it.
    """
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise ValueError(f"{name!r} is no name for a semaphore: take letters, digits, '-' and '_'")
    if len(os.fsencode(name)) > NAME_LIMIT:
        raise ValueError(
            f"name of {len(os.fsencode(name))} bytes, {NAME_LIMIT} are allowed: take a shorter one"
        )
    return name


class Semaphore:
    """A counter that processes raise and lower; lowering waits while it is 0.

    Without a name it is reached by forking or pickling the object, and leaves nothing behind, ever.
    With one it is a POSIX semaphore: any program of the same user that gives the same name has the
    same. The process that created it owns the name: it is removed by `unlink`, or at that process's
    end.

    Args:
        value: the count it is created with; ignored when it exists.
        name: a name without "/", or None.

    Raises:
        ValueError: a bad name, or a value below 0 or too large for a semaphore.
        PermissionError: the name belongs to another user.
    """

    __slots__ = ("__weakref__", "_counter", "_fresh", "_name", "_owner", "_place", "_remove")

    _counter: Counter
    _place: SharedBuffer | None  # of one without a name
    _fresh: bool  # whether its name is a random one, which goes with the handle
    _remove: Any  # what removes the name, in the process that has to

    def __init__(self, value: int = 1, name: str | None = None) -> None:
        if name is None:
            self._create_unnamed(_checked(value))
            return
        check_name(name)
        while True:
            try:
                self._create_named(name, _checked(value), tracked=True)
            except FileExistsError:
                try:
                    self._attach_named(name)
                except FileNotFoundError:
                    continue  # unlinked between the two: it is ours to make after all
            return

    @classmethod
    def create(cls, name: str, value: int = 0, *, tracked: bool = True) -> Self:
        """Create one with a name, and own the name.

        Args:
            name: the name it gets.
            value: the count it starts with.
            tracked: remove the name at the process's end, however that comes. False leaves it
                to `unlink`.

        Raises:
            FileExistsError: there is one of that name.
            ValueError: a bad name, or a value below 0 or too large for a semaphore.
        """
        self = cls.__new__(cls)
        self._create_named(check_name(name), _checked(value), tracked=tracked)
        return self

    @classmethod
    def attach(cls, name: str) -> Self:
        """Open the one of a name.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        self = cls.__new__(cls)
        self._attach_named(check_name(name))
        return self

    # -- how it is made ----------------------------------------------------------------------------

    def _create_unnamed(self, value: int) -> None:
        if uses_names():  # no unnamed semaphores here (macOS): take a random name
            name = f"shmkit-{os.urandom(8).hex()}"
            self._create_named(name, value, tracked=True, owner=self)
            self._fresh = True
            return
        fill = partial(
            header.fill, kind=SEMAPHORE_KIND, flags=0, data_size=0, participants=_PARTICIPANTS
        )
        buffer = SharedBuffer._create_filled(Url("anon"), PAGE, fill, keep=False)
        buffer._pid = 0  # a semaphore may be dropped open: this buffer does not warn then
        self._stand_in(buffer)
        self._counter.reset(value)

    def _stand_in(self, buffer: SharedBuffer) -> None:
        memory, _ = buffer.raw
        header.read(memory, SEMAPHORE_KIND, buffer.size, str(buffer.url))
        self._counter = semaphore_in(memory, SEMAPHORE_AT["data"])
        self._name, self._place = "", buffer
        self._remove, self._owner, self._fresh = None, 0, False

    def _attach_named(self, name: str) -> None:
        self._use_named(name, None)

    def _create_named(
        self, name: str, value: int, *, tracked: bool, owner: Semaphore | None = None
    ) -> None:
        self._use_named(name, value)
        if tracked:
            from multiprocessing import resource_tracker
            from multiprocessing.util import Finalize

            # The tracker removes the name if this process is killed.
            resource_tracker.register(f"/{name}", "semaphore")
            self._remove = Finalize(owner, _remove, (name, _identity(name)), exitpriority=_PRIORITY)

    def _use_named(self, name: str, value: int | None) -> None:
        from shmkit.segment.named_semaphores import NamedSemaphore

        self._counter = NamedSemaphore(name, value)
        self._name, self._place = name, None
        self._remove, self._owner, self._fresh = None, os.getpid(), False

    # -- using it ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of it; "" if it has none."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._counter is _NOTHING

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Lower the counter by one, waiting while it is 0.

        Args:
            block: wait at all.
            timeout: seconds to wait at most, None for ever.

        Returns:
            Whether it was lowered.

        Raises:
            ClosedError: this handle was closed, now or before.
            ValueError: a negative timeout.
        """
        deadline = Deadline(timeout if block else 0)
        while True:
            counter = self._open_counter()
            if counter.try_wait():  # a wait costs microseconds before it begins
                return True
            left = deadline.remaining()
            if left == 0:
                return False
            if counter.wait(min(left, SLICE)):  # a close by another thread is seen after a slice
                return True

    def release(self) -> None:
        """Raise the counter by one; a process that waits goes on.

        Raises:
            ClosedError: this handle was closed.
            OverflowError: the counter is as high as it can be.
        """
        if not self._open_counter().post():
            raise OverflowError(
                f"{self!r} cannot be raised further: it is released more often than acquired"
            )

    @property
    def value(self) -> int:
        """The count at this moment.

        Raises:
            ClosedError: this handle was closed.
        """
        return self._open_counter().value

    def close(self) -> None:
        """Leave it; a thread that waits on this handle gets ClosedError. Idempotent."""
        if self.closed:
            return
        # First: a thread that waits finds it after its slice.
        self._counter = _NOTHING
        if self._place is not None:
            self._place.close()
        elif self._fresh and self._owner == os.getpid():
            self.unlink()

    def unlink(self) -> None:
        """Remove the name: no process can attach any more; open handles go on. Idempotent."""
        if self._remove is not None and self._owner == os.getpid():
            self._remove()  # a no-op from the second time on
        elif self._name:
            from shmkit.segment.named_semaphores import remove_name

            remove_name(self._name)

    def _open_counter(self) -> Counter:
        counter = self._counter
        if counter is _NOTHING:
            raise ClosedError(f"{self!r}: attach again, or make another one")
        return counter

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
        self._open_counter()
        if self._place is not None:
            return _rejoin, (type(self), self._place)
        return type(self).attach, (self._name,)

    def __repr__(self) -> str:
        what = f"{self._name!r} " if self._name else ""
        counter = self._counter
        state = "closed" if counter is _NOTHING else f"value={counter.value}"
        return f"<Semaphore {what}{state}>"


def _rejoin(cls: type[Semaphore], buffer: SharedBuffer) -> Semaphore:
    semaphore = cls.__new__(cls)
    semaphore._stand_in(buffer)
    return semaphore


def _checked(value: int) -> int:
    """A count that a semaphore can have."""
    if not 0 <= value <= _MOST:  # the C library would cut off what is above 32 bits
        raise ValueError(f"a semaphore counts from 0 to {_MOST}, so not from {value}")
    return value


def _identity(name: str) -> tuple[int, int] | None:
    """What a name leads to; None if nothing, or where the system does not show it."""
    if sys.platform != "linux":
        return None
    try:
        status = os.stat(f"/dev/shm/sem.{name}")  # noqa: PTH116 - pathlib is slow to import
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _remove(name: str, identity: tuple[int, int] | None) -> None:
    from multiprocessing import resource_tracker

    from shmkit.segment.named_semaphores import remove_name

    if _identity(name) == identity:  # else it was removed, and another process made a new one
        remove_name(name)
    # Else the tracker would warn of a leak at its end.
    resource_tracker.unregister(f"/{name}", "semaphore")
