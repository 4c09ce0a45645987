"""Memory of another size under a live handle.

Growing is harmless to everybody: old maps stay as they are. Shrinking is not: whoever touches a
page that was cut off is killed by SIGBUS. So it is done only if nobody else maps the memory,
which /proc/*/maps tells. One who attaches after that was read, and before the cut, is not seen: a
lock against him would cost every attach two system calls, and wait for all who hold it.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from shmkit.memory.mappers import mappers

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from shmkit.memory.identity import Identity

__all__ = ["RESIZING", "locked", "refuse_if_mapped"]

# What flock says where this kind of memory has no such locks (macOS: shared memory).
_NO_LOCKS: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}

_locking: Final[dict[int, int]] = {}  # descriptors in `locked`, and the thread of each

RESIZING: Final = threading.Lock()  # one resize at a time in this process
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RESIZING._at_fork_reinit)  # type: ignore[attr-defined]


def refuse_if_mapped(identity: Identity, *, private: bool, what: str) -> None:
    """Let pass only if this process maps a memory once, and nobody else does.

    Raises:
        BufferError: it is mapped elsewhere.
        OSError: ENOTSUP: this system does not tell.
    """
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
        "cut off would kill; close those first"
    )


def _cannot_tell(reason: str) -> OSError:
    return OSError(
        errno.ENOTSUP,
        f"cannot shrink: whether others map this memory is not known ({reason}); make smaller "
        "memory and copy",
    )


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
