"""Named segments on Linux: files in /dev/shm, where the C library's shm_open has them, too.

They are the segments of multiprocessing.shared_memory and of posix_ipc, under the same names.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from shmkit.memory.backends.base import fresh_name
from shmkit.memory.backends.unnamed import link_unnamed, open_unnamed
from shmkit.memory.identity import Identity, identity_of, open_flags

__all__ = ["NamedBackend"]

_FOLDER: Final = "/dev/shm"
# As shm_open; and O_NONBLOCK, for a FIFO in the place of a segment would wait for its other end.
_ALWAYS: Final = open_flags("NOFOLLOW", "CLOEXEC", "NONBLOCK")


class NamedBackend:
    """A segment lives until its name is unlinked and its last map is gone."""

    creator_unlinks = True

    fresh_name: staticmethod[[], str] = staticmethod(fresh_name)

    def create_unnamed(self, name: str, mode: int) -> int:
        """Make an empty segment without a name; `mode` loses the bits of the umask."""
        try:
            return open_unnamed(_FOLDER, mode)
        except OSError as error:
            raise _not_made(error, name) from error

    def link(self, fd: int, name: str) -> bool:
        """Give it its name."""
        try:
            return link_unnamed(fd, _path(name))
        except OSError as error:
            raise _not_made(error, name) from None

    def create(self, name: str, mode: int) -> int:
        """Make an empty segment; `mode` loses the bits of the umask."""
        try:
            return os.open(_path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | _ALWAYS, mode)
        except OSError as error:
            raise _not_made(error, name) from None

    def open(self, name: str, *, writable: bool) -> int:
        """Open a segment; a symlink in its place is not followed."""
        try:
            return os.open(_path(name), (os.O_RDWR if writable else os.O_RDONLY) | _ALWAYS)
        except OSError as error:
            raise _not_opened(error, name) from None

    def identify(self, name: str) -> Identity:
        """Look at the name without opening it."""
        return identity_of(os.lstat(_path(name)))

    def unlink(self, name: str) -> None:
        """Remove the name; maps of the segment stay."""
        try:
            os.unlink(_path(name))  # noqa: PTH108
        except OSError as error:
            raise _not_opened(error, name) from None


def _path(name: str) -> str:
    return f"{_FOLDER}/{name}"


def _not_made(error: OSError, name: str) -> OSError:
    number, url = error.errno, f"shm:{name}"
    if number == errno.EEXIST:
        return FileExistsError(
            number,
            "there is a shared memory segment of this name; attach() to it, or use ensure()",
            url,
        )
    if number == errno.ENOENT:
        return _no_folder(url)
    return OSError(
        number,
        f"cannot be made in {_FOLDER}: {error.strerror}; use 'anon:' or 'file:PATH' instead",
        url,
    )


def _not_opened(error: OSError, name: str) -> OSError:
    number, url = error.errno, f"shm:{name}"
    if number == errno.ENOENT:
        if not os.path.isdir(_FOLDER):  # noqa: PTH112
            return _no_folder(url)
        hint = f", but a file: use 'file:{name}'" if os.path.exists(name) else ""  # noqa: PTH110
        return FileNotFoundError(
            number, f"there is no shared memory segment of this name{hint}", url
        )
    if number in (errno.EACCES, errno.EPERM):
        return PermissionError(number, "another user's segment, or one without this access", url)
    return OSError(number, f"cannot be opened: {error.strerror}", url)


def _no_folder(url: str) -> OSError:
    # Not a FileNotFoundError: waiting for the name would be in vain.
    return OSError(
        errno.ENOTSUP, f"this system has no {_FOLDER}: use 'anon:' or 'file:PATH' instead", url
    )
