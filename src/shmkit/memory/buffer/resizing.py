"""Memory of another size under a live handle.

Growing harms no process: old maps stay as they are. Shrinking can: a process that touches a page
that was cut off is killed by SIGBUS. So memory shrinks only if no other process maps it, which
/proc/*/maps tells. A process that attaches after that look and before the cut is not seen. A lock
against it would cost every attach two system calls, and wait for every program that holds it.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from shmkit.memory.allocation import reserve
from shmkit.memory.creation import Opened
from shmkit.memory.mappers import mappers
from shmkit.memory.mapping import map_region

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkit.memory.buffer.handle import Handle
    from shmkit.memory.identity import Identity

__all__ = ["resize"]

# What flock says where this kind of memory has no such locks (macOS: shared memory).
_NO_LOCKS: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}

_locking: Final[dict[int, int]] = {}  # descriptors in `locked`, and the thread of each


def resize(handle: Handle, size: int) -> None:
    """Give the memory another size, and the handle all of it; see `SharedBuffer.resize`."""
    handle._open_region()
    if handle._access != "rw" or not handle._complete:
        raise ValueError(
            f"{handle!r} cannot be resized: that takes a handle with access='rw' on all of the "
            "memory"
        )
    opened = Opened(handle._url, handle.descriptor(), handle._identity)
    with opened, locked(opened.fd):
        present = os.fstat(opened.fd).st_size
        if size < present:
            _shrink(handle, opened.fd, size)
            return
        if size > present:
            reserve(opened.fd, size, handle._url, start=present)
        old = handle._move(map_region(opened.fd, "rw", 0, size))
        if not old.close() and old.memory is not None:
            handle._exports.add(old.memory, "a view of the memory before it was resized")


def _shrink(handle: Handle, fd: int, size: int) -> None:
    before, what = handle._size, repr(handle)
    # The handle goes to the smaller map first: closing the old one then shows views in use.
    old = handle._move(map_region(fd, "rw", 0, size))
    try:
        if not old.close():
            raise BufferError(
                f"{what} cannot shrink to {size} bytes: views of it are in use: "
                f"{handle._exports.describe()}"
            )
        private = handle._url.scheme == "anon" or not os.fstat(fd).st_mode & 0o077
        _refuse_if_mapped(handle._identity[:2], private=private, what=str(handle._url))
        os.truncate(fd, size)
    except BaseException:
        handle._move(map_region(fd, "rw", 0, before)).close()
        raise


def _refuse_if_mapped(identity: Identity, *, private: bool, what: str) -> None:
    """Let pass only if this process maps a memory once, and no other process does."""
    try:
        found = mappers(identity, private=private)
    except PermissionError as error:
        raise _cannot_tell(str(error.strerror)) from error
    here = found.pop(os.getpid(), 0)
    if not here:
        # Some filesystems (btrfs) show another device in /proc/*/maps than stat does.
        raise _cannot_tell("the map of this very process is not shown")
    if here == 1 and not found:
        return
    holders = [f"process {pid}" for pid in sorted(found)]
    if here > 1:
        holders.append("another handle, or a view of one, in this process")
    raise BufferError(
        f"{what} cannot shrink: it is also mapped by {', '.join(holders)}, and touching the pages "
        "cut off would kill; close them first"
    )


def _cannot_tell(reason: str) -> OSError:
    return OSError(
        errno.ENOTSUP,
        f"cannot shrink: whether other processes map this memory is not known ({reason}); make "
        "smaller memory and copy",
    )


@contextmanager
def locked(fd: int) -> Iterator[None]:
    """Hold the kernel's lock on memory, where it has one; wait for it without end."""
    if sys.platform == "win32":
        yield
        return
    _locking[fd] = threading.get_ident()
    try:
        _flock(fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            _flock(fd, fcntl.LOCK_UN)  # by hand: a child that is being forked has it, too
    finally:
        _locking.pop(fd, None)


def _flock(fd: int, operation: int) -> None:
    try:
        fcntl.flock(fd, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _after_fork() -> None:
    """Let go of other threads' locks: if this child had them, they would survive their holder."""
    me = threading.get_ident()
    for fd, thread in list(_locking.items()):
        if thread != me:
            del _locking[fd]
            os.close(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
