"""Memory in a file: it stays until it is removed."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from shmkit.memory.backends.base import THERE_ALREADY
from shmkit.memory.backends.unnamed import link_unnamed, open_unnamed
from shmkit.memory.identity import Identity, identity_of, open_flags

__all__ = ["FileBackend"]

# O_NOFOLLOW: another user may plant a symlink in a directory like /tmp.
# O_NOCTTY: a terminal opened by name does not become this process's. Windows has only O_BINARY.
# O_NONBLOCK: a pipe in the place of a file would wait for its other end.
_ALWAYS: Final = open_flags("NOFOLLOW", "CLOEXEC", "NONBLOCK", "NOCTTY", "BINARY", "NOINHERIT")


class FileBackend:
    """A file outlives its creator."""

    creator_unlinks = False

    def fresh_name(self) -> str:
        """A file is always named by its user."""
        raise ValueError("a file needs a path: 'file:PATH'")

    def create_unnamed(self, name: str, mode: int) -> int:
        """Make an empty file without a name in the directory of `name`."""
        try:
            return open_unnamed(os.path.dirname(name), mode)  # noqa: PTH120
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None

    def link(self, fd: int, name: str) -> bool:
        """Give it its name."""
        try:
            return link_unnamed(fd, name)
        except OSError as error:
            raise _not_made(error, name) from None

    def create(self, name: str, mode: int) -> int:
        """Make an empty file; `mode` loses the bits of the umask."""
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _ALWAYS, mode)
        except OSError as error:
            raise _not_made(error, name) from None

    def open(self, name: str, *, writable: bool) -> int:
        """Open what is at the path itself, without waiting; opening.py takes a user's path."""
        try:
            fd = os.open(name, (os.O_RDWR if writable else os.O_RDONLY) | _ALWAYS)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(name):  # noqa: PTH114
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
        return identity_of(os.lstat(name))

    def unlink(self, name: str) -> None:
        """Remove the file."""
        os.unlink(name)  # noqa: PTH108


def _not_made(error: OSError, name: str) -> OSError:
    there = error.errno == errno.EEXIST
    return OSError(error.errno, THERE_ALREADY if there else error.strerror, name)
