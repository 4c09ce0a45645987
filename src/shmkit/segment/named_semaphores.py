"""Semaphores with names, by `posix_ipc`: for `Semaphore("name")`, and where no unnamed exist.

A segment whose semaphores have names says so in its header, with the random part of the names. The
first participant makes them under fresh names, and removes what a crash may have left; the last one
to leave removes them. The names depend on the inode, too: a copy of a file has its own.

`posix_ipc` replaces what a signal handler raises inside a wait by an error of its own, except for
KeyboardInterrupt. So signals are held back while one waits here, for a slice at most.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import time
import zlib
from contextlib import suppress
from itertools import repeat
from signal import SIG_BLOCK, SIG_SETMASK
from typing import TYPE_CHECKING, Any, Final

import posix_ipc

from shmkit.segment.words import SEMAPHORE_FORMAT, SEMAPHORE_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from shmkit.segment.presence import Presence

__all__ = ["MOST", "Named", "NamedSemaphore", "remove_name"]

MOST: Final = int(posix_ipc.SEMAPHORE_VALUE_MAX)

# `signal.pthread_sigmask` makes enums of the old mask: 70 us, where this takes 1 us.
pthread_sigmask: Final = importlib.import_module("_signal").pthread_sigmask
_SIGNALS: Final = signal.valid_signals() - {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL}
_FOLDER: Final = "/dev/shm"
_DEAF: Final = 0.05  # seconds of a wait with signals held back, at most
_POLL: Final = 0.001  # seconds between tries where the system has no timed wait
_FORMAT: Final = int.from_bytes(b"by name\0", "little")


class NamedSemaphore:
    """A POSIX semaphore that has a name.

    Args:
        name: without the "/" in front.
        count: create it with this count; None to open one that exists.

    Raises:
        FileExistsError: `count`, and there is one of that name.
        FileNotFoundError: no `count`, and there is none of that name.
        PermissionError: it is another user's, or this user may make none.
        OSError: ENOSPC, no room for it; ENOTSUP, the system keeps no semaphores.
    """

    __slots__ = ("_mapped", "name", "posts", "tries")

    busy: tuple[type[Exception], ...] = (posix_ipc.BusyError,)
    # A dummy: the real word is not in the segment.
    flag: memoryview[int] = memoryview(bytearray(8)).cast("Q")
    flag_value: int = 0

    def __init__(self, name: str, count: int | None = None) -> None:
        self.name: str = name
        try:
            if count is not None:
                sys.audit("shmkit.semaphore", name)  # as Python tells of the files it opens
            flags = 0 if count is None else posix_ipc.O_CREX
            self._mapped = mapped = _Mapped(f"/{name}", flags, 0o600, count or 0)
        except (posix_ipc.Error, OSError) as error:
            raise _refusal(name, count, error) from error
        self.tries: Iterator[Any] = map(mapped.acquire, repeat(0))
        self.posts: Iterator[Any] = iter(mapped.release, 0)  # it gives None, so this has no end

    def post(self) -> bool:
        """Raise it by one; False if it is as high as it can be."""
        try:
            self._mapped.release()
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            return False
        return True

    def try_wait(self) -> bool:
        """Lower it by one, unless it is 0; whether it was lowered."""
        try:
            for _ in self.tries:  # no call: see semaphores.py
                return True
        except posix_ipc.BusyError:
            pass
        return False

    def wait(self, seconds: float) -> bool:
        """The same, waiting up to `seconds`. It ends early when a signal comes."""
        try:
            for failed in self.waiting(seconds):
                return not failed
        except posix_ipc.BusyError:
            pass
        return False

    def waiting(self, seconds: float) -> Iterator[int]:
        """`wait` as an iterator of one step."""
        # `acquire` gives None, which is false: it has not failed.
        if seconds <= 0:
            return map(self._mapped.acquire, (0,))
        return map(self._has_failed_in_chunks, (seconds,))

    def _has_failed_in_chunks(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while seconds > 0:
            if not self._has_failed(min(seconds, _DEAF)):
                return False
            seconds = end - time.monotonic()
        return True

    def _has_failed(self, seconds: float) -> bool:
        mapped = self._mapped  # kept while a thread waits, also after a close() by another
        taken = False
        held_back = pthread_sigmask(SIG_BLOCK, ())
        try:
            pthread_sigmask(SIG_BLOCK, _SIGNALS)  # runs, and may raise from, handlers that are due
            if not posix_ipc.SEMAPHORE_TIMEOUT_SUPPORTED:
                time.sleep(min(seconds, _POLL))
                seconds = 0
            mapped.acquire(seconds)
            taken = True
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            pass  # the time is up; or stopped and continued, which cuts it short
        finally:
            try:
                pthread_sigmask(SIG_SETMASK, held_back)
            except BaseException:  # a signal handler that was held back runs here
                if taken:
                    mapped.release()
                raise
        return not taken

    @property
    def value(self) -> int:
        """The count at this moment."""
        return int(self._mapped.value)

    def reset(self, count: int) -> None:
        """Make it what it is at first; only for a participant that is alone with it."""
        while self.try_wait():
            pass
        for _ in range(count):
            self.post()


def _refusal(name: str, count: int | None, error: Exception) -> Exception:
    """What to raise for an error of `posix_ipc`, which does not tell a name from its folder."""
    what, is_linux = f"semaphore {name!r}", sys.platform == "linux"
    if is_linux and not os.path.isdir(_FOLDER):  # noqa: PTH112
        # Not a FileNotFoundError or FileExistsError: neither would ever come true.
        return OSError(
            errno.ENOTSUP, f"this system has no {_FOLDER}, where semaphores with names are", name
        )
    if isinstance(error, posix_ipc.ExistentialError):
        if count is not None:
            return FileExistsError(f"{what} exists: attach to it")
        return FileNotFoundError(f"no {what}: its creator has not made it yet, or has left")
    is_denied = isinstance(error, posix_ipc.PermissionsError)
    number = errno.EACCES if is_denied else getattr(error, "errno", None)
    if is_denied and (not is_linux or os.path.lexists(f"{_FOLDER}/sem.{name}")):
        return PermissionError(number, "is another user's semaphore, or without access", name)
    if number in (errno.EACCES, errno.EROFS):
        reason = f"cannot be made in {_FOLDER}: {os.strerror(number)}; use one without a name"
        return OSError(number, reason, name)
    if number == errno.ENOSPC:
        return OSError(
            number,
            f"no room for {what}: it takes a page where the system keeps semaphores, {_FOLDER} on "
            "Linux: remove something there, or make it larger",
        )
    return error


class _Mapped(posix_ipc.Semaphore):  # type: ignore[misc]
    """One of `posix_ipc`, closed with its last reference.

    `sem_close` unmaps the word that a waiting thread sleeps on, so it must not come earlier.
    """

    __slots__ = ()

    def __del__(self, never_opened: type[Exception] = posix_ipc.ExistentialError) -> None:
        with suppress(never_opened):
            self.close()


def remove_name(name: str) -> None:
    """Remove the name of a semaphore, if it is there."""
    try:
        posix_ipc.unlink_semaphore(f"/{name}")
    except posix_ipc.ExistentialError:
        return
    except OSError as error:
        if error.errno != errno.EROFS:  # names there cannot go, nor come
            raise


class Named:
    """The semaphores of a segment, if they have names.

    Args:
        words: the segment as 8-byte words.
        presence: the lock bytes of the handle.
    """

    def __init__(self, words: memoryview[int], presence: Presence) -> None:
        self._words = words
        self._presence = presence
        self._opened = 0  # random part of the names of the open semaphores

    def make(self, counts: Mapping[str, int], opened: dict[str, Any]) -> None:
        """Make them under fresh names, and remove what a crash left."""
        for name in counts:
            remove_name(self._name(name))  # step: named.discard
        # The leading 1 keeps the word from being 0, which says that there are no names.
        fresh = int.from_bytes(b"\1" + os.urandom(4), "big")
        # Before the first is made: after a kill the next first participant removes them all.
        self._words[SEMAPHORE_NAMES] = fresh  # step: named.names
        for name, count in counts.items():
            full = self._name(name)
            remove_name(full)
            opened[name] = NamedSemaphore(full, count)  # step: named.create
        self._opened = self._words[SEMAPHORE_NAMES]
        # Last: it says that they are all made.
        self._words[SEMAPHORE_FORMAT] = _FORMAT  # step: named.format

    def open(self, names: Collection[str], opened: dict[str, Any]) -> bool:
        """Open the participants' semaphores, unless they are open; False if they have no names."""
        if self._words[SEMAPHORE_FORMAT] != _FORMAT:
            return False
        if self._opened != self._words[SEMAPHORE_NAMES]:
            for name in names:
                opened[name] = NamedSemaphore(self._name(name))
            self._opened = self._words[SEMAPHORE_NAMES]
        return True

    def remove(self, opened: Mapping[str, Any]) -> None:
        """Remove their names."""
        for semaphore in opened.values():
            remove_name(semaphore.name)
        self._words[SEMAPHORE_NAMES] = 0

    def _name(self, name: str) -> str:
        """At most 30 characters, for macOS."""
        status = os.fstat(self._presence.descriptor)
        random = self._words[SEMAPHORE_NAMES] % 4_294_967_296
        memory = zlib.crc32(f"{random}:{status.st_dev}:{status.st_ino}".encode())
        return f"shmkit-{random:08x}{memory:08x}-{name}"
