"""Presence: which participants are alive, told by locks that the kernel holds.

A participant holds a lock on one byte of the segment's file, far behind its data. The kernel drops
the lock when the process ends, however it ends: there is no pid that could be reused, no heartbeat
that could be late, no namespace that could be read wrongly. LMDB and SQLite know their readers and
writers the same way.

The locks are open-file-description locks (`F_OFD_SETLK`): they belong to one descriptor, opened for
that alone. Plain POSIX locks would vanish when *any* descriptor of the file is closed in this
process. A forked child inherits the descriptor, and with it the locks, which would then outlive
their owner: so an at-fork hook gives the child a descriptor of its own, without locks, and closes
every inherited one, whatever the other threads were doing with it. C code that forks runs no such
hook: there the compiled core closes them, in a hook of the C library (`pthread_atfork`). Without
the core the child of such a fork keeps its parent alive in the eyes of its peers, until it ends.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import threading
import time
import weakref
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from shmkit import compiled
from shmkit.deadline import Deadline
from shmkit.errors import ClosedError
from shmkit.memory.backends import backend_for
from shmkit.memory.identity import Identity, close_if, identity_of
from shmkit.segment.words import DOOR_BYTE, LOCK_BYTES_AT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.memory.buffer import SharedBuffer

__all__ = ["Presence", "lock_range", "locked_range", "unlock_range"]

if sys.platform == "darwin":
    _FLOCK = struct.Struct("qqihh")  # start, len, pid, type, whence
    _GETLK, _SETLK = 92, 90  # <sys/fcntl.h>; the fcntl module does not name them there
else:
    _FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, len, pid
    _GETLK, _SETLK = fcntl.F_OFD_GETLK, fcntl.F_OFD_SETLK

_FCNTL: Final = fcntl.fcntl
_POLL: Final = 0.0005  # seconds
# O_NONBLOCK: the program may have closed the descriptor, and a pipe may have its number.
_REOPENED: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK


def _flock(kind: int, byte: int, count: int = 1) -> bytes:
    if sys.platform == "darwin":
        return _FLOCK.pack(LOCK_BYTES_AT + byte, count, 0, kind, os.SEEK_SET)
    return _FLOCK.pack(kind, os.SEEK_SET, LOCK_BYTES_AT + byte, count, 0)


def _kind(flock: bytes) -> int:
    return int(_FLOCK.unpack(flock)[3 if sys.platform == "darwin" else 0])


def lock_range(fd: int, start: int, count: int) -> bool:
    """Lock bytes of a file for a descriptor's open file description; False if another has some."""
    try:
        fcntl.fcntl(fd, _SETLK, _flock(fcntl.F_WRLCK, start - LOCK_BYTES_AT, count))
    except BlockingIOError:
        return False
    return True


def unlock_range(fd: int, start: int, count: int) -> None:
    """Give bytes back that `lock_range` got."""
    fcntl.fcntl(fd, _SETLK, _flock(fcntl.F_UNLCK, start - LOCK_BYTES_AT, count))


def locked_range(fd: int, start: int, count: int) -> tuple[int, int] | None:
    """First byte and end of a lock in a range that another open file description has."""
    reply = fcntl.fcntl(fd, _GETLK, _flock(fcntl.F_WRLCK, start - LOCK_BYTES_AT, count))
    if _kind(reply) == fcntl.F_UNLCK:
        return None
    at, size = _FLOCK.unpack(reply)[:2] if sys.platform == "darwin" else _FLOCK.unpack(reply)[2:4]
    return at, at + size


class Presence:
    """The lock bytes that one handle holds on one segment; a forked child starts with none.

    Args:
        buffer: the memory; a descriptor of its own is opened on it, and kept until `close`.

    Raises:
        FileNotFoundError: the name of the memory is gone or leads to other memory.
        OSError: no descriptor could be opened.
    """

    def __init__(self, buffer: SharedBuffer) -> None:
        with _FORKING:  # no other thread forks between these steps
            self._url = buffer.url
            self._fd = buffer.descriptor()
            try:
                self._identity = identity_of(os.fstat(self._fd))
                self._closer = self._closes(self._fd)
            except BaseException:
                os.close(self._fd)  # a signal handler raised: nothing else closes it
                raise
        self._now = [self._fd]  # for `unlocks`, which goes on in a forked child
        self._held: set[int] = set()
        self._after_fork: weakref.WeakMethod[Callable[[], None]] | None = None
        _alive.add(self)

    def _closes(self, fd: int) -> weakref.finalize[[object, int, Identity], Presence]:
        key = object()  # not the number: a new descriptor may get it before this is forgotten
        _open[key] = fd, self._identity
        compiled.close_in_children(fd)
        closer = weakref.finalize(self, _close, key, fd, self._identity)
        closer.atexit = False  # at exit it would come before handles that still need the locks
        return closer

    def call_after_fork(self, method: Callable[[], None]) -> None:
        """Have a bound method called in every forked child, when this has its own descriptor there.

        The method's object is not kept alive for it.
        """
        self._after_fork = weakref.WeakMethod(method)

    def try_lock(self, byte: int) -> bool:
        """Lock a byte for this handle, without waiting.

        Returns:
            False while another handle, of any process, has it.
        """
        if byte in self._held:
            return False
        unlocks = self.unlocks(byte)
        try:
            self._held.add(byte)  # first: the kernel would give it to two threads of this handle
            fcntl.fcntl(self.descriptor, _SETLK, _flock(fcntl.F_WRLCK, byte))
        except BlockingIOError:
            self._held.discard(byte)
            return False
        except ClosedError:
            # No lock was taken: there is no descriptor to unlock it by.
            self._held.discard(byte)
            raise
        except BaseException:
            for _ in unlocks:  # a signal handler raised, perhaps when it was locked already
                break
            raise
        return True

    def unlocks(self, byte: int) -> Iterator[object]:
        """An endless iterator of which each step gives a byte back that `try_lock` gets.

        For a `finally:` that has to hold whatever signal handlers raise, and how often. A handler
        may raise where a function begins, before its first line. It does not come at the step of an
        iterator that is written in C (core.py says more).
        """
        fds: Iterator[int] = map(self._now.__getitem__, repeat(0))
        unlock = map(_FCNTL, fds, repeat(_SETLK), repeat(_flock(fcntl.F_UNLCK, byte)))
        return zip(unlock, map(self._held.discard, repeat(byte)), strict=False)

    def try_door(self, patience: float, where: str) -> None:
        """Be alone at the door; `unlocks(DOOR_BYTE)` gives it back.

        Args:
            patience: seconds to wait for the handle at the door. It takes microseconds, unless
                stopped.
            where: url of the segment, for the message.

        Raises:
            TimeoutError: that was not enough.
        """
        if self.try_lock(DOOR_BYTE):
            return
        deadline = Deadline(patience)
        while not self.try_lock(DOOR_BYTE):
            if deadline.expired():
                raise TimeoutError(
                    f"a process has been entering or leaving {where!r} for {patience} s: is it "
                    "stopped there?"
                )
            time.sleep(_POLL)  # the blocking form of this lock has no timeout

    def unlock(self, byte: int) -> None:
        """Give a byte back that `try_lock` got."""
        try:
            if not self.is_lost:  # else the kernel took it back when the descriptor was closed
                fcntl.fcntl(self.descriptor, _SETLK, _flock(fcntl.F_UNLCK, byte))
        finally:
            self._held.discard(byte)

    def is_held(self, byte: int) -> bool:
        """Whether any live handle, this one included, holds the byte."""
        # The kernel does not tell a handle of its own locks.
        return byte in self._held or self.others(byte)

    def others(self, byte: int, count: int = 1) -> bool:
        """Whether a live handle other than this one holds any of `count` bytes from `byte` on."""
        reply = fcntl.fcntl(self.descriptor, _GETLK, _flock(fcntl.F_WRLCK, byte, count))
        return _kind(reply) != fcntl.F_UNLCK

    def holds(self, byte: int) -> bool:
        """Whether this handle holds the byte."""
        return byte in self._held

    def close(self) -> None:
        """Give back every byte, and the descriptor. Idempotent."""
        _alive.discard(self)
        self._held.clear()
        self._fd = self._now[0] = -1
        self._closer()

    @property
    def descriptor(self) -> int:
        """The descriptor that holds the locks; it stays this object's.

        Raises:
            ClosedError: it was closed, or could not follow a fork.
        """
        fd = self._fd
        if fd < 0:
            raise ClosedError(
                "this handle was closed; or it came by a fork and its memory could not be opened "
                "again: no /proc, no descriptor left, or its name is gone"
            )
        if not self._is_ours(fd):  # a lock on another file would say that no other handle is here
            raise ClosedError(
                "this program closed the descriptor by which a handle takes part, as a daemon "
                "that closes all of them, or C code forked this process: make or attach the handle "
                "after that"
            )
        return fd

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or could not follow a fork."""
        return self._fd < 0

    @property
    def is_lost(self) -> bool:
        """Whether the program closed the descriptor behind this object's back."""
        return self._fd >= 0 and not self._is_ours(self._fd)

    def _is_ours(self, fd: int) -> bool:
        """Whether a descriptor leads to the memory; the program may have closed it, and more."""
        try:
            return identity_of(os.fstat(fd)) == self._identity
        except OSError:
            return False

    def _start_anew(self) -> None:
        inherited, self._fd = self._fd, -1
        self._held.clear()
        if inherited >= 0:
            self._closer.detach()  # the hook closes it
            self._fd = self._reopen(inherited)
            self._now[0] = self._fd
            if self._fd >= 0:
                self._closer = self._closes(self._fd)
        notify = self._after_fork() if self._after_fork is not None else None
        if notify is not None:
            notify()

    def _reopen(self, inherited: int) -> int:
        """A descriptor of this process's own; -1 if there is none to be had.

        Then this handle is unusable in the child and says so at its first use. With the inherited
        one the parent would look alive after its death.
        """
        for by_name in False, True:  # by name where there is no /proc
            try:
                if not by_name:
                    fd = os.open(f"/proc/self/fd/{inherited}", _REOPENED)
                elif self._url.scheme == "anon":
                    return -1
                else:
                    fd = backend_for(self._url.scheme).open(self._url.name, writable=True)
            except OSError:
                continue
            if self._is_ours(fd):
                return fd
            os.close(fd)
        return -1


_alive: weakref.WeakSet[Presence] = weakref.WeakSet()
_open: dict[object, tuple[int, Identity]] = {}  # descriptors with locks, until they are closed
# Held over a fork, so that no descriptor is half made then. Reentrant: a handler may fork.
_FORKING: Final = threading.RLock()


def _close(
    key: object,
    fd: int,
    identity: Identity,
    close: Any = close_if,
    forget: Any = _open.pop,
    keep: Any = compiled.keep_in_children,
) -> None:
    # Closed first: a child forked in between must not find it open and forgotten.
    close(fd, identity)
    keep(fd, *identity)  # by number and file: both may be another Presence's already
    forget(key, None)


def _in_forked_child() -> None:
    compiled.python_forks(False)
    inherited = list(_open.values())
    _open.clear()
    for fd, identity in inherited:
        compiled.keep_in_children(fd, *identity)
    try:
        for presence in list(_alive):
            presence._start_anew()
    finally:
        for fd, identity in inherited:
            close_if(fd, identity)
        _FORKING.release()


def _before_fork() -> None:
    _FORKING.acquire()
    compiled.python_forks(True)


def _in_parent() -> None:
    compiled.python_forks(False)
    _FORKING.release()


os.register_at_fork(
    before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_forked_child
)
