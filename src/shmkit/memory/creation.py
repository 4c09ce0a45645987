"""Getting hold of memory: made exclusively, waited for, or taken over half-made.

Whoever makes memory with a name holds a kernel lock (flock) on it from just after the exclusive
creation until its room is reserved. So one who finds memory of size 0 can tell a creator at work
from a dead one: with the lock in hand and the size still 0, the memory is his. Whoever changes its
size later holds the same lock.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from shmkit.deadline import Deadline
from shmkit.errors import IncompatibleSegment
from shmkit.memory.allocation import reserve
from shmkit.memory.backends import backend_for
from shmkit.memory.backends.base import Identity, identity_of
from shmkit.memory.generation import generation_of
from shmkit.memory.ownership import Ownership, await_tracker, leads_to, remove
from shmkit.memory.url import Url

if sys.platform != "win32":
    import fcntl

__all__ = ["Opened", "create", "ensure", "locked", "open_existing"]

_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02
_MOMENT: Final = 0.02  # seconds that a live creator does not need to get to the lock
# What flock says where this kind of memory has no such locks (macOS: shared memory).
_NO_LOCKS: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}

_locking: Final[dict[int, int]] = {}  # descriptors in `locked`, and the threads that are there


@dataclass(slots=True)
class Opened:
    """Memory in hand: an open descriptor, and the duty for its name if there is one.

    Leaving its `with` closes the descriptor unless `keep_fd` took it over; an exception undoes a
    creation first.

    Args:
        url: where it is.
        fd: descriptor; -1 if this memory has none.
        identity: the memory that was opened.
        owner: duty to remove the name.
        created: whether this call made it (or finished what a dead one had begun).
        made: whether this call made the name.
        generation: see `known_generation`; None if not asked yet.
    """

    url: Url
    fd: int
    identity: Identity = (0, 0)
    owner: Ownership | None = None
    created: bool = False
    made: bool = False
    generation: bytes | None = b""
    _taken: bool = field(default=False, init=False)

    def keep_fd(self) -> int:
        """Take the descriptor over."""
        self._taken = True
        return self.fd

    def known_generation(self) -> bytes:
        """Of a regular file, for its inode number comes again; b"" where there is none to know."""
        if self.generation is None:
            self.generation = generation_of(self.fd)
        return self.generation

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                self.undo()
        finally:
            if self.fd >= 0 and (kind is not None or not self._taken):
                os.close(self.fd)

    def undo(self) -> None:
        """Remove a name that this call made."""
        if self.owner is not None:
            self.owner.fulfil()
        elif self.made:
            remove(self.url, self.identity)


def create(url: Url, size: int, *, keep: bool, mode: int) -> Opened:
    """Make memory that was not there, with its room reserved.

    Raises:
        FileExistsError: it is there.
        OSError: ENOSPC: there is no room; nothing stays behind.
    """
    backend = backend_for(url.scheme)
    if not url.name:
        url = Url(url.scheme, backend.fresh_name())
    while True:
        fd = backend.create(url.name, mode)
        if fd < 0:
            return Opened(url, fd, created=True, made=True)
        opened = _opened(url, fd)
        if url.scheme == "anon":
            opened.created = True
            with _closed_on_error(opened):
                reserve(fd, size, "anonymous memory")
            return opened
        if _finish(opened, size, keep=keep, made=True):
            return opened
        os.close(fd)
        if leads_to(opened.url, opened.identity):
            # An ensure() found it empty and was quicker with the lock: then it was first.
            raise FileExistsError(errno.EEXIST, "was made by another process meanwhile", str(url))


def ensure(url: Url, size: int, *, keep: bool, mode: int) -> Opened:
    """Make memory, or open what is there; what a dead creator left without a size is taken over."""
    while True:
        try:
            return create(url, size, keep=keep, mode=mode)
        except FileExistsError:
            pass
        try:
            opened = _open(url, writable=True)
        except FileNotFoundError:
            continue  # its owner unlinked it between the two calls
        _await_size(opened)
        status = os.fstat(opened.fd)
        if status.st_size or not stat.S_ISREG(status.st_mode):
            return opened
        if _finish(opened, size, keep=keep, made=False):
            return opened
        os.close(opened.fd)


def _await_size(opened: Opened) -> None:
    """Let a creator get on that is between the name and the lock."""
    deadline = Deadline(_MOMENT)
    while not deadline.expired() and leads_to(opened.url, opened.identity):
        status = os.fstat(opened.fd)
        if status.st_size or not stat.S_ISREG(status.st_mode):
            return
        time.sleep(_FIRST_PAUSE)


def open_existing(url: Url, *, writable: bool, timeout: float | None) -> Opened:
    """Open what is there, waiting for it up to `timeout` seconds (None: for ever).

    Raises:
        FileNotFoundError: it is not there.
        IncompatibleSegment: it has no size: its creator is not done, or died.
    """
    deadline = Deadline(timeout)
    unfinished = backend_for(url.scheme).empty_is_unfinished
    pause = _FIRST_PAUSE
    while True:
        try:
            opened = _open(url, writable=writable)
        except FileNotFoundError:
            if deadline.expired():
                raise
        else:
            if not unfinished or os.fstat(opened.fd).st_size:
                return opened
            os.close(opened.fd)
            if deadline.expired():
                raise IncompatibleSegment(
                    f"{url} has no size yet: its creator is at work or died half-way; wait with "
                    "timeout=, or take it over with ensure()",
                    where=str(url),
                )
        # Nothing announces a name: look again, at growing distances.
        time.sleep(min(pause, deadline.remaining()))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _open(url: Url, *, writable: bool) -> Opened:
    if url.scheme == "shm" and not url.name:
        raise ValueError("'shm:' alone asks create() for a fresh name; to attach, name the segment")
    return _opened(url, backend_for(url.scheme).open(url.name, writable=writable))


def _opened(url: Url, fd: int) -> Opened:
    status = os.fstat(fd)
    opened = Opened(url, fd, identity_of(status))
    if url.scheme == "file" and stat.S_ISREG(status.st_mode):
        opened.generation = None
    return opened


def _finish(opened: Opened, size: int, *, keep: bool, made: bool) -> bool:
    """Give new memory its owner and its room.

    Returns:
        False if it got them from somebody else, or its name is gone.
    """
    with _closed_on_error(opened), locked(opened.fd):
        if not made and not os.fstat(opened.fd).st_size:
            await_tracker(opened.url, opened.identity)
        status = os.fstat(opened.fd)
        if status.st_size or not status.st_nlink:
            return False
        opened.created = True
        opened.made = made
        try:
            if backend_for(opened.url.scheme).creator_unlinks and not keep:
                opened.owner = Ownership(opened.url, opened.identity)
            reserve(opened.fd, size, str(opened.url))
        except BaseException:
            opened.undo()  # with the lock in hand: nobody takes over what is about to go
            raise
    return True


@contextmanager
def _closed_on_error(opened: Opened) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with opened:
            raise


@contextmanager
def locked(fd: int) -> Iterator[None]:
    """Hold the kernel's lock on memory, where it has one; wait for it without end."""
    if sys.platform == "win32":
        yield
        return
    _locking[fd] = threading.get_ident()
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        try:
            yield
        finally:
            # By hand: a child that is being forked has the descriptor, too.
            try:
                fcntl.flock(fd, fcntl.LOCK_UN)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
    finally:
        _locking.pop(fd, None)


def _after_fork() -> None:
    """Let go of other threads' locks: if this child had them, they would survive their holder."""
    me = threading.get_ident()
    for fd, thread in list(_locking.items()):
        if thread != me:
            del _locking[fd]
            os.close(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
