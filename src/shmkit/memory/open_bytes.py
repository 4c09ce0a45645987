"""open_bytes: the bytes of a file, to read: small files are read, large ones mapped."""

from __future__ import annotations

import os
import stat
from typing import Final

from shmkit.memory.buffer import SharedBuffer
from shmkit.memory.checks import number_of
from shmkit.memory.creation import Opened
from shmkit.memory.files import File, open_given
from shmkit.memory.mapping import read_region
from shmkit.memory.url import Url

__all__ = ["open_bytes"]

_SMALL: Final = 1 << 20


def open_bytes(
    path: File,
    *,
    small: int = _SMALL,
) -> SharedBuffer:
    """The bytes of a file, to read: small files are read at once, larger ones mapped.

    What cannot be mapped (a pipe, a file of /proc) is read. What was read does not change with the
    file, and no longer depends on it; `mapped` tells.

    Args:
        path: of the file, as open() takes it, or as a "file:" URL; a symbolic link is followed. Or
            a descriptor, or an open file: of a file they give all bytes, of anything else (a pipe,
            `sys.stdin`, a file in an archive) the ones from here to the end. It stays open.
        small: bytes; from this size on a file is mapped.

    Returns:
        A buffer of access "r".

    Raises:
        FileNotFoundError: there is no file.
        OSError: it cannot be read; ENXIO: a pipe without a writer; ENODEV: a socket, or a device
            without an end; EBADF: a descriptor that is not open for reading.
        TypeError: this is no file, or one of text.
        ValueError: a URL of other memory, or a closed file.
    """
    limit = number_of(small, "small")
    opened = open_given(path, writable=False, streams=True)
    if opened is None:
        return _read(path.read(), getattr(path, "name", ""))  # type: ignore[union-attr]
    with opened:
        status = os.fstat(opened.fd)
        if not stat.S_ISREG(status.st_mode) and hasattr(path, "read"):
            # Some bytes may be in the file object already.
            return _read(getattr(path, "buffer", path).read(), opened.url.name)
        if not stat.S_ISREG(status.st_mode) or status.st_size >= limit:
            return SharedBuffer._attached_from(opened, "r")
        content = _content(opened.fd, status.st_size)
        return SharedBuffer._make(opened, "r", read_region(content), 0, complete=False)


def _content(fd: int, size: int) -> bytes:
    """All bytes of a small file; not by read(), whose position others may share."""
    parts: list[bytes] = []
    at = 0
    while part := os.pread(fd, max(1, size - at), at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _read(content: object, name: object) -> SharedBuffer:
    """A buffer on bytes that a file object gave."""
    if not isinstance(content, bytes):
        raise TypeError(
            f"{name!r} gives {type(content).__name__}, not bytes: open it in binary mode"
        )
    opened = Opened(Url("file", str(name)), -1)
    return SharedBuffer._make(opened, "r", read_region(content), 0, complete=False)
