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
_CANNOT: Final = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}


def open_unnamed(folder: str, mode: int) -> int:
    """Make an empty file in a folder, without a name; -1 where that cannot be done.

    Raises:
        OSError: the folder is not there, or not for this user to write.
    """
    if not _can_link():
        return -1
    try:
        return os.open(folder, _FLAGS, mode)
    except OSError as error:
        if error.errno in _CANNOT:
            return -1
        raise


def link_unnamed(fd: int, path: str) -> None:
    """Give such a file its name.

    Args:
        fd: descriptor of the file.
        path: absolute, in the folder where the file was made.

    Raises:
        FileExistsError: the path is there, also as a dangling link.
    """
    # Python calls linkat(), which follows the link in /proc, only if it is given directories.
    # Absolute paths do not use them, so any descriptor does.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=True)


@cache
def _can_link() -> bool:
    return hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")  # noqa: PTH112
