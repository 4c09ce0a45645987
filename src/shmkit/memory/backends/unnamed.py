"""Files without a name, which get one when they are whole: O_TMPFILE and linkat (Linux).

A file that has no name goes with its last descriptor. So a creator that is killed leaves nothing.
"""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import Final

__all__ = ["link_unnamed", "open_unnamed"]

# O_TMPFILE contains O_DIRECTORY: a kernel or filesystem without it refuses to write a directory.
_FLAGS: Final = os.O_RDWR | getattr(os, "O_TMPFILE", 0) | getattr(os, "O_CLOEXEC", 0)
_CANNOT_OPEN: Final = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}
# Some sandboxes do not let a link in /proc be followed here.
_CANNOT_LINK: Final = {*_CANNOT_OPEN, errno.ENOENT, errno.EXDEV, errno.EPERM, errno.EACCES}


def open_unnamed(folder: str, mode: int) -> int:
    """Make an empty file in a folder, without a name; -1 where that cannot be done."""
    if not _can_link():
        return -1
    try:
        return os.open(folder, _FLAGS, mode)
    except OSError as error:
        if error.errno in _CANNOT_OPEN:
            return -1
        raise


def link_unnamed(fd: int, path: str) -> bool:
    """Give such a file an absolute path in its folder; False where that cannot be done.

    Raises:
        FileExistsError: the path is there, also as a dangling link.
    """
    # Python calls linkat(), which follows the link in /proc, only if it is given directories.
    # Absolute paths do not use them, so any descriptor does.
    try:
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=True)
    except OSError as error:
        if error.errno in _CANNOT_LINK:
            return False
        raise
    return True


@cache
def _can_link() -> bool:
    return hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")  # noqa: PTH112
