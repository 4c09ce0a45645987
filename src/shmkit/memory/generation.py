"""Which of the files that had an inode number one after the other a file is.

Device and number tell files apart only as long as somebody holds them: ext4 gives the number of a
file that is gone to the next one. Its generation is another then.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import Final

if sys.platform == "linux":
    import fcntl

__all__ = ["generation_at", "generation_of"]

# FS_IOC_GETVERSION of linux/fs.h, as most architectures have it; on others no file answers.
_GET_GENERATION: Final = 0x80087601
_ROOM: Final = bytes(8)
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


def generation_of(fd: int) -> bytes:
    """The generation of an inode.

    Args:
        fd: descriptor of a regular file.

    Returns:
        b"" where the filesystem does not tell. (tmpfs does not, but never uses a number again.)
    """
    if sys.platform == "linux":
        try:
            return fcntl.ioctl(fd, _GET_GENERATION, _ROOM)
        except OSError:
            pass
    return b""


def generation_at(name: str) -> bytes:
    """The same of the regular file of a name; b"" if it cannot be opened for reading."""
    try:
        fd = os.open(name, _FLAGS)
    except OSError:
        return b""
    try:
        return generation_of(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
