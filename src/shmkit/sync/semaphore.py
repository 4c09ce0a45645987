"""Semaphore: a counting semaphore between processes, over `posix_ipc`.

Two facts of the layer below shape this file. `posix_ipc` closes a semaphore under the feet of a
thread that waits on it (`sem_close` unmaps the word the kernel looks at), so here it is closed when
nothing refers to it any more; a thread inside a call does. And where the system has no
`sem_timedwait` (macOS), `posix_ipc` waits for ever on any timeout, so there a timeout is a try,
repeated.
"""

from __future__ import annotations

import errno
import importlib
import os
import secrets
import signal
import time
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.util import Finalize
from pathlib import Path
from signal import SIG_BLOCK, SIG_SETMASK
from typing import TYPE_CHECKING, Any, Final, Self

import posix_ipc

from shmkit.deadline import Deadline
from shmkit.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Not of `signal`, which makes enums of the mask that was: 70 us, for what is 1 us underneath.
pthread_sigmask: Final = importlib.import_module("_signal").pthread_sigmask

__all__ = ["SLICE", "NoSemaphore", "Semaphore", "check_name"]

NAME_LIMIT: Final = 250  # NAME_MAX less the "sem." glibc puts before it
# At exit: after the children of this process were joined, who may still want to attach (0 and above
# run before that), and before multiprocessing removes its temporary directory at -100.
_PRIORITY: Final = -60
_MOST: Final = posix_ipc.SEMAPHORE_VALUE_MAX
SLICE: Final = 0.05  # seconds: how long a signal or a close may have to wait for a sleeper
_SIGNALS: Final = signal.valid_signals() - {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL}
_POLL: Final = 0.001  # seconds between tries where the system has no timed wait


def check_name(name: str) -> str:
    """Give back `name` if a semaphore may have it.

    Raises:
        ValueError: it is empty, too long, or has a "/" or a NUL in it.
    """
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise ValueError(f"{name!r} is no name for a semaphore: take letters, digits, '-' and '_'")
    if len(name.encode()) > NAME_LIMIT:
        raise ValueError(
            f"name of {len(name.encode())} bytes, {NAME_LIMIT} are allowed: take a shorter one"
        )
    return name


class Semaphore:
    """A counter that processes raise and lower; lowering waits while it is 0.

    Without a name it is reached by forking or pickling the object; with one, any process of the
    same user that gives the same name has the same semaphore. Whoever created it owns the name: it
    is removed by `unlink`, or at that process's end; without a name also when the handle that made
    it is closed or dropped.

    Args:
        value: the count it is created with; ignored when it exists.
        name: a name without "/", or None for an unguessable one.

    Raises:
        ValueError: a bad name, or a value below 0 or too large for a semaphore.
        PermissionError: the name belongs to another user.
    """

    def __init__(self, value: int = 1, name: str | None = None) -> None:
        if name is None:
            name = f"shmkit-{secrets.token_hex(8)}"
            self._open(name, value, create=True, tracked=True, unnamed=True)
            return
        check_name(name)
        while True:
            try:
                self._open(name, value, create=True, tracked=True)
            except FileExistsError:
                try:
                    self._open(name)
                except FileNotFoundError:
                    continue  # unlinked between the two: it is ours to make after all
            return

    @classmethod
    def create(cls, name: str, value: int = 0, *, tracked: bool = True) -> Semaphore:
        """Create it, and own its name.

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
        self._open(check_name(name), value, create=True, tracked=tracked)
        return self

    @classmethod
    def attach(cls, name: str) -> Semaphore:
        """Open the one that exists.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        self = cls.__new__(cls)
        self._open(check_name(name))
        return self

    def _open(
        self,
        name: str,
        value: int = 0,
        *,
        create: bool = False,
        tracked: bool = False,
        unnamed: bool = False,
    ) -> None:
        posix_name = f"/{name}"
        if not 0 <= value <= _MOST:  # `posix_ipc` cuts off what is above 32 bits
            raise ValueError(f"a semaphore counts from 0 to {_MOST}, so not from {value}")
        try:
            mapped = _Mapped(posix_name, posix_ipc.O_CREX if create else 0, 0o600, value)
        except posix_ipc.ExistentialError as error:
            if create:
                raise FileExistsError(f"semaphore {name!r} exists: attach to it") from error
            raise FileNotFoundError(
                f"no semaphore {name!r}: its creator has not made it yet, or has left"
            ) from error
        except posix_ipc.PermissionsError as error:
            raise PermissionError(f"semaphore {name!r} belongs to another user") from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                errno.ENOSPC,
                f"no room for semaphore {name!r}: it takes a page where the system keeps "
                "semaphores, /dev/shm on Linux: remove something there, or make it larger",
            ) from error
        self.name = name
        self.closed = False
        self._mapped: _Mapped | NoSemaphore = mapped
        self._finalizer: Finalize | None = None
        self._owner = os.getpid()
        self._unnamed = unnamed
        if create and tracked:
            resource_tracker.register(posix_name, "semaphore")
            self._finalizer = Finalize(
                self if unnamed else None,  # whose end is the name's, beside that of the process
                _remove,
                (posix_name, _identity(posix_name)),
                exitpriority=_PRIORITY,
            )

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
            if self.closed:
                raise ClosedError(f"semaphore {self.name!r} was closed")
            if self.acquire_within(0):  # a wait costs microseconds before it begins
                return True
            left = deadline.remaining()
            if left == 0:
                return False
            if self.acquire_within(min(left, SLICE)):
                return True

    def acquire_within(self, seconds: float) -> bool:
        """One wait without looking up, for loops that have more to look after than this.

        Signals are held back during the wait: of a handler that raises, `posix_ipc` keeps nothing
        but a KeyboardInterrupt.

        Args:
            seconds: how long to wait at most; keep it to a fraction of a second.

        Returns:
            Whether it was lowered.
        """
        mapped = self._mapped  # kept, also over a close() in another thread
        acquire = mapped.acquire
        # After a call a handler may raise; not after the next of an iterator.
        if seconds <= 0:
            try:
                for _ in map(acquire, (0,)):
                    return True
            except posix_ipc.BusyError:
                return False
        taken = False
        held_back = pthread_sigmask(SIG_BLOCK, ())
        try:
            pthread_sigmask(SIG_BLOCK, _SIGNALS)  # runs, and may raise from, handlers that are due
            if not posix_ipc.SEMAPHORE_TIMEOUT_SUPPORTED:
                time.sleep(min(seconds, _POLL))
                seconds = 0
            for _ in map(acquire, (seconds,)):
                taken = True
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            pass  # the time is up; or stopped and continued, which cuts it short
        finally:
            try:
                pthread_sigmask(SIG_SETMASK, held_back)
            except BaseException:  # of a handler, which runs here
                if taken:
                    mapped.release()
                raise
        return taken

    def release(self) -> None:
        """Raise the counter by one; a process that waits goes on.

        Raises:
            ClosedError: this handle was closed.
            OverflowError: the counter is as high as it can be.
        """
        if self.closed:
            raise ClosedError(f"semaphore {self.name!r} was closed")
        try:
            self._mapped.release()
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            raise OverflowError(
                f"semaphore {self.name!r} is at {_MOST}, and cannot be raised further: somebody "
                "releases what was not acquired"
            ) from error

    @property
    def duty(self) -> Callable[[], None]:
        """What removes the name, if that is this handle's duty; it does not keep the semaphore."""
        return self._finalizer if self._finalizer is not None else _nothing

    @property
    def raw(self) -> Any:
        """The semaphore of `posix_ipc` underneath, for hot paths; a NoSemaphore once closed."""
        return self._mapped

    @property
    def value(self) -> int:
        """The count at this moment.

        Raises:
            ClosedError: this handle was closed.
        """
        if self.closed:
            raise ClosedError(f"semaphore {self.name!r} was closed")
        return int(self._mapped.value)

    def reset(self, value: int) -> None:
        """Make the count what it was at first; only for one that is alone with it."""
        while self.acquire_within(0):
            pass
        for _ in range(value):
            self._mapped.release()

    def close(self) -> None:
        """Leave it; a thread that waits on this handle gets ClosedError."""
        self.closed = True
        self._mapped = _NOTHING
        if self._unnamed and self._owner == os.getpid():
            self.unlink()

    def unlink(self) -> None:
        """Remove the name: nobody can attach any more, who has it goes on. Idempotent."""
        if self._finalizer is not None and self._owner == os.getpid():
            self._finalizer()  # a no-op from the second time on
        else:
            _unlink(f"/{self.name}")

    @staticmethod
    def discard(name: str) -> None:
        """Remove a name if it is there, whoever made it: what a crash left behind."""
        _unlink(f"/{check_name(name)}")

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
        if self.closed:
            raise ClosedError(f"semaphore {self.name!r} was closed")
        return Semaphore.attach, (self.name,)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"value={self.value}"
        return f"<Semaphore {self.name!r} {state}>"


def _nothing() -> None:
    pass


class _Mapped(posix_ipc.Semaphore):  # type: ignore[misc]
    """One of `posix_ipc`, closed when nobody refers to it any more, nor to a method of it."""

    __slots__ = ()

    def __del__(self, never_opened: type[Exception] = posix_ipc.ExistentialError) -> None:
        with suppress(never_opened):
            self.close()


class NoSemaphore:
    """What a closed handle has in place of its semaphore, so that the real one can go."""

    closed = True
    value = 0

    def acquire(self, timeout: float = 0) -> None:  # noqa: ARG002 - as of `posix_ipc`
        """There is nothing to be had."""
        raise posix_ipc.BusyError

    def acquire_within(self, seconds: float) -> bool:  # noqa: ARG002 - as of a Semaphore
        """There is nothing to be had, and nothing to wait for."""
        return False

    def release(self) -> None:
        """Nobody waits here."""

    def close(self) -> None:
        """It is closed."""

    @property
    def raw(self) -> NoSemaphore:
        """Itself."""
        return self


_NOTHING: Final = NoSemaphore()


def _unlink(posix_name: str) -> None:
    try:
        posix_ipc.unlink_semaphore(posix_name)
    except posix_ipc.ExistentialError:
        return  # somebody else removed it: what was wanted


def _identity(posix_name: str) -> tuple[int, int] | None:
    """What the name leads to; None if nothing, or where the system does not show it."""
    try:
        status = Path(f"/dev/shm/sem.{posix_name[1:]}").stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _remove(posix_name: str, identity: tuple[int, int] | None) -> None:
    if _identity(posix_name) == identity:  # else somebody removed it, and another made one
        _unlink(posix_name)
    resource_tracker.unregister(posix_name, "semaphore")
