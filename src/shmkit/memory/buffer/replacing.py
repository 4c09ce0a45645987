"""Replacing into a file: written beside the place it takes, then renamed.

A buffer may stand on the very file whose name the new one takes. Then it goes over to the new file
in the same step. On the old one, which has no name any more, its later edits would be lost, and a
second replacing would throw the first one away.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from shmkit.memory.files import descriptor_in, file_url, is_path
from shmkit.memory.identity import exact_identity, identity_of, open_flags
from shmkit.memory.mapping import map_region, read_region
from shmkit.memory.opening import followed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shmkit.memory.buffer.content import Content
    from shmkit.memory.files import File
    from shmkit.memory.mapping import Region

__all__ = ["write_into"]

_BUFFERED: Final = 1 << 18  # bytes
# For reading, too: a buffer may go over to the new file.
_FLAGS: Final = open_flags("RDWR", "CREAT", "EXCL", "NOFOLLOW", "CLOEXEC", "BINARY")


def write_into(handle: Content, file: File, parts: Iterable[bytes], mode: int) -> None:
    """Write the parts to a file; see `SharedBuffer.replace_into`."""
    if not is_path(file):
        _write_on(handle, file, parts)
        return
    target = followed(file_url(file).name)
    own = _is_own(handle, target)
    if own:
        _refuse_loss(handle, target)
    # In the same directory: a rename cannot cross filesystems.
    unfinished = f"{os.path.dirname(target)}/.shmkit-{os.urandom(8).hex()}"  # noqa: PTH120
    fd = os.open(unfinished, _FLAGS, mode)
    try:
        with os.fdopen(fd, "wb", buffering=_BUFFERED) as new:
            with suppress(FileNotFoundError):  # there may be no file yet
                _take_permissions(fd, os.lstat(target))
            new.writelines(parts)
            new.flush()
            os.fsync(fd)  # the name never leads to less than the whole, even after a power cut
            if own:
                _go_over(handle, fd, unfinished, target)
            else:
                os.replace(unfinished, target)  # noqa: PTH105
    except BaseException:
        with suppress(FileNotFoundError):  # renamed already
            os.unlink(unfinished)  # noqa: PTH108
        raise


def _write_on(handle: Content, file: Any, parts: Iterable[bytes]) -> None:
    """Write to a file that is open, from its position on, as any other write."""
    number = descriptor_in(file)
    if number is not None and identity_of(os.fstat(number)) == handle._identity[:2]:
        raise ValueError(
            f"{handle!r} is on this very file, which is read while it is written: give its path, "
            "and the new file takes its place"
        )
    if isinstance(file, int):
        with os.fdopen(file, "wb", buffering=_BUFFERED, closefd=False) as new:
            new.writelines(parts)
        return
    if hasattr(file, "encoding"):
        raise TypeError(f"{file!r} takes text, not bytes: open it in binary mode")
    for part in parts:
        file.write(part)
    file.flush()


def _take_permissions(fd: int, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode) and hasattr(os, "fchmod"):
        with suppress(PermissionError):  # only the superuser gives files away
            os.fchown(fd, status.st_uid, status.st_gid)
        os.fchmod(fd, stat.S_IMODE(status.st_mode))


def _is_own(handle: Content, target: str) -> bool:
    """Whether a path is the name of the file that a buffer is on, or was on."""
    if handle.url.scheme != "file" or os.path.basename(target) != os.path.basename(handle.name):  # noqa: PTH119
        return False
    try:
        return os.path.samefile(os.path.dirname(target), os.path.dirname(handle.name))  # noqa: PTH120, PTH121
    except FileNotFoundError:
        return False


def _refuse_loss(handle: Content, target: str) -> None:
    """Refuse to replace a file by what a buffer has, if the file has something else."""
    try:
        status = os.stat(target)  # noqa: PTH116
    except FileNotFoundError:
        return  # its name is gone: it gets one again
    if identity_of(status) != handle._identity[:2]:
        raise OSError(
            errno.ESTALE,
            f"was replaced since {handle!r} was attached, and that would be lost: attach again, or "
            "give another path",
            target,
        )
    if handle.offset or (handle.mapped and not handle._complete):
        raise ValueError(
            f"{handle!r} is on a part of this file, and the rest would be lost: attach to all of "
            "it, or give another path"
        )
    if handle.size != status.st_size or not _has_content(handle, target):
        raise OSError(
            errno.ESTALE,
            f"has changed since {handle!r} was attached ({status.st_size} bytes now), and that "
            "would be lost: attach again, or give another path",
            target,
        )


def _has_content(handle: Content, target: str) -> bool:
    """Whether a file has the bytes that were read from it; what is mapped changes with it."""
    if handle.mapped:
        return True
    with open(target, "rb") as file:  # noqa: PTH123
        return file.read(handle.size + 1) == handle[:]


def _go_over(handle: Content, fd: int, unfinished: str, target: str) -> None:
    """Give the new file its name, and the buffer the new file."""
    size, before = os.fstat(fd).st_size, handle._identity
    old = handle._move(_region_on(handle, fd, size))
    handle._identity = exact_identity(fd, os.fstat(fd), "file")
    try:
        if handle.access == "rw" and not old.close():
            # Its user would write to the old file by it.
            old.reopen()
            raise BufferError(
                f"{handle!r} cannot go over to the new file: views of it are in use: "
                f"{handle._exports.describe()}. Delete them first, or give another path"
            )
        os.replace(unfinished, target)  # noqa: PTH105
    except BaseException:
        if os.path.lexists(unfinished):  # else it was renamed, and this came after it
            handle._move(_again(old, target)).close()
            handle._identity = before
        raise
    if handle.access != "rw":
        old.close()
    handle._complete = True
    handle._unlinked = False


def _again(old: Region, target: str) -> Region:
    """The map that was left; or, if it was closed, another one of the same file."""
    if old.memory is None or not old.memory.closed:
        return old
    fd = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        return map_region(fd, "rw", 0, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _region_on(handle: Content, fd: int, size: int) -> Region:
    if handle.mapped:
        return map_region(fd, handle.access, 0, size)
    with os.fdopen(fd, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        return read_region(file.readall())
