"""open_bytes: the bytes of a file, to read: small files are read, large ones mapped."""

from __future__ import annotations

import os
import stat
from typing import Final

from shmkit.memory.buffer import SharedBuffer
from shmkit.memory.creation import open_existing
from shmkit.memory.mapping import read_region
from shmkit.memory.url import Url

__all__ = ["open_bytes"]

_SMALL: Final = 1 << 20


def open_bytes(
    path: str | os.PathLike[str],
    *,
    small: int = _SMALL,
) -> SharedBuffer:
    """The bytes of a file, to read: small files are read at once, larger ones mapped.

    What cannot be mapped (a pipe, a file of /proc) is read. What was read does not change with the
    file, and no longer depends on it; `mapped` tells.

    Args:
        path: of the file.
        small: bytes; from this size on a file is mapped.

    Returns:
        A buffer of access "r".

    Raises:
        FileNotFoundError: there is no file.
        OSError: it cannot be read, or is a symbolic link, which is not followed.
    """
    opened = open_existing(Url.parse(f"file:{os.fsdecode(path)}"), writable=False, timeout=0)
    with opened:
        status = os.fstat(opened.fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size >= small:
            return SharedBuffer._attached_from(opened, "r")
        with open(opened.fd, "rb", buffering=0, closefd=False) as file:
            content = file.readall()
        return SharedBuffer._make(opened, "r", read_region(content), 0, complete=False)
