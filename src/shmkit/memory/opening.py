"""Opening a file by its path: links are followed where that is safe, and nothing is waited for.

A pipe or a device is looked at before it is opened: opening alone may wait, or set something going.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from shmkit.memory.identity import identity_of, open_flags

__all__ = ["followed", "kind_of", "open_file"]

# O_NONBLOCK: between the look and the open a pipe may take the place of a file.
# O_NOCTTY: a terminal opened by name does not become this process's. Windows has only O_BINARY.
_ALWAYS: Final = open_flags("CLOEXEC", "NONBLOCK", "NOCTTY", "BINARY", "NOINHERIT")
_NO_LINKS: Final = open_flags("NOFOLLOW")
_MOST_LINKS: Final = 40  # as Linux
_KERNELS: Final = "/proc/"  # where links lead to open files, and not to paths

_KINDS: Final = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a directory",
}


def kind_of(mode: int) -> str:
    """What is no file, in words; "" for a file and for a block device, which is as good as one."""
    return _KINDS.get(stat.S_IFMT(mode), "")


def open_file(path: str, *, writable: bool, streams: bool) -> tuple[int, str]:
    """Open what an absolute path leads to.

    Args:
        path: links at its end are followed, as open() does; see `followed` for writing.
        writable: open it for writing, too.
        streams: whether pipes and devices are welcome.

    Returns:
        A descriptor, and the path without links at its end.

    Raises:
        FileNotFoundError: there is nothing, or a link to nothing.
        IsADirectoryError: it is a directory.
        OSError: ENODEV: it is a pipe, a socket or a device, which is not opened then; ELOOP: a link
            that is not followed.
    """
    flags = (os.O_RDWR if writable else os.O_RDONLY) | _ALWAYS
    _refuse(os.stat(path).st_mode, path, streams)  # noqa: PTH116 - in half the time
    try:
        fd = os.open(path, flags | _NO_LINKS)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK):
            raise
        if writable:
            path = followed(path)
            is_kernels = path.startswith(_KERNELS)
            fd = os.open(path, flags if is_kernels else flags | _NO_LINKS)
        else:
            fd = os.open(path, flags)
            path = _real(path, fd)
    try:
        _refuse(os.fstat(fd).st_mode, path, streams)
    except OSError:
        os.close(fd)
        raise
    return fd, path


def followed(path: str) -> str:
    """Where the links at the end of a path lead, to be written there.

    Raises:
        OSError: ELOOP: a link is in a directory that other users can write to. One of them may
            have planted it there, to have this user's files overwritten.
    """
    for _ in range(_MOST_LINKS):
        try:
            target = os.readlink(path)  # noqa: PTH115
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return path  # no link; or nothing, to which a link may lead
            raise
        folder = os.path.dirname(path)  # noqa: PTH120
        if path.startswith(_KERNELS):
            return path
        if _others_can_write(folder):
            raise OSError(
                errno.ELOOP,
                "is a symbolic link in a directory that others can write to, and is not followed "
                "for writing: give os.path.realpath(path) if you trust where it leads",
                path,
            )
        path = os.path.join(folder, target)  # noqa: PTH118
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _refuse(mode: int, path: str, streams: bool) -> None:
    kind = kind_of(mode)
    if kind == "a directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if kind == "a socket" or (kind and not streams):
        remedy = "it cannot be read as a file" if kind == "a socket" else "access 'r' would read it"
        raise OSError(errno.ENODEV, f"is {kind}, which cannot be mapped; {remedy}", path)


def _others_can_write(folder: str) -> bool:
    """Whether another user can put a link into a directory; not counting the superuser."""
    if not hasattr(os, "geteuid"):
        return False
    status = os.stat(folder)  # noqa: PTH116
    return bool(
        status.st_mode & stat.S_IWOTH
        or (status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid())
        or status.st_uid not in (os.geteuid(), 0)
    )


def _real(path: str, fd: int) -> str:
    """The path without links, if it leads to what is open; a link of the kernel's may not."""
    real = os.path.realpath(path)
    try:
        same = identity_of(os.stat(real)) == identity_of(os.fstat(fd))  # noqa: PTH116
    except OSError:
        return path
    return real if same else path
