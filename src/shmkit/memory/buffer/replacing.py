"""A file that appears when it is whole: written beside the place it takes, then renamed."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shmkit.memory.identity import open_flags

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["write_new"]

_BUFFERED: Final = 1 << 18  # bytes
_FLAGS: Final = open_flags("WRONLY", "CREAT", "EXCL", "NOFOLLOW", "CLOEXEC", "BINARY")


def write_new(path: str | os.PathLike[str], parts: Iterable[bytes], mode: int) -> None:
    """Write a file in place of what is at `path`, with its permissions; a link is not followed.

    Raises:
        OSError: it cannot be written; nothing stays behind.
    """
    target = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
    # In the same directory: a rename cannot cross filesystems.
    unfinished = f"{os.path.dirname(target)}/.shmkit-{os.urandom(8).hex()}"  # noqa: PTH120
    fd = os.open(unfinished, _FLAGS, mode)
    try:
        with os.fdopen(fd, "wb", buffering=_BUFFERED) as file:
            with suppress(FileNotFoundError):  # there may be no file yet
                status = os.lstat(target)
                if stat.S_ISREG(status.st_mode) and hasattr(os, "fchmod"):
                    os.fchmod(fd, stat.S_IMODE(status.st_mode))
            file.writelines(parts)
            file.flush()
            os.fsync(fd)  # the name never leads to less than the whole, even after a power cut
        os.replace(unfinished, target)  # noqa: PTH105
    except BaseException:
        try:
            os.unlink(unfinished)  # noqa: PTH108
        except FileNotFoundError:
            pass  # renamed already
        raise
