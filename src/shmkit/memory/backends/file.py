"""Memory in a file: it stays until somebody removes it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from shmkit.memory.backends.base import Identity, identity_of

__all__ = ["FileBackend"]

# O_NOFOLLOW: a symlink planted in a directory others can write to leads nowhere.
# O_NOCTTY: a terminal opened by name does not become ours. Windows has none of these but O_BINARY.
_ALWAYS: Final = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOINHERIT", 0)
)


class FileBackend:
    """A file is everybody's; its creator does not take it along."""

    creator_unlinks = False
    empty_is_unfinished = False

    def fresh_name(self) -> str:
        """A file is always named by its user."""
        raise ValueError("a file needs a path: 'file:PATH'")

    def create(self, name: str, mode: int) -> int:
        """Make an empty file; `mode` loses the bits of the umask."""
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _ALWAYS, mode)

    def open(self, name: str, *, writable: bool) -> int:
        """Open a file, a device or a pipe (which waits for its writer)."""
        try:
            fd = os.open(name, (os.O_RDWR if writable else os.O_RDONLY) | _ALWAYS)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK) and Path(name).is_symlink():
                raise OSError(
                    error.errno,
                    "is a symbolic link, which is not followed: give os.path.realpath(path) if you "
                    "trust where it leads",
                    name,
                ) from error
            raise
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        return fd

    def identify(self, name: str) -> Identity:
        """Look at the file without opening it."""
        return identity_of(Path(name).lstat())

    def unlink(self, name: str) -> None:
        """Remove the file."""
        Path(name).unlink()
