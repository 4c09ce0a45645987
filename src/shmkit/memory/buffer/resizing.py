"""Memory of another size under a live handle.

Growing is harmless to everybody: old maps stay as they are. Shrinking is not: whoever touches a
page that was cut off is killed by SIGBUS. So it is done only if nobody else maps the memory,
which /proc/*/maps tells. One who attaches after that was read, and before the cut, is not seen: a
lock against him would cost every attach two system calls, and wait for all who hold it.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Final

from shmkit.memory.mappers import mappers

if TYPE_CHECKING:
    from shmkit.memory.backends.base import Identity

__all__ = ["RESIZING", "refuse_if_mapped"]

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
