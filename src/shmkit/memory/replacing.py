"""Writing a changed copy of memory to a file, which appears only when it is whole."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["replaced_into"]

_BUFFERED: Final = 1 << 18
_FLAGS: Final = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def replaced_into(
    path: str | os.PathLike[str],
    content: memoryview,
    places: Iterable[int],
    size: int,
    new: bytes,
    most: int,
    mode: int,
) -> int:
    """Write `content` to a file, with `new` in some places, and rename it to `path`.

    Args:
        path: of the file; a link there is replaced, not followed.
        content: the bytes.
        places: where bytes are replaced, ascending.
        size: how many bytes each time.
        new: what stands there instead.
        most: places at most; negative for all.
        mode: permissions of a file that was not there.

    Returns:
        How many were replaced.

    Raises:
        OSError: it cannot be written; nothing stays behind.
    """
    target = Path(os.fsdecode(path)).absolute()
    unfinished = target.with_name(f".{target.name[:200]}.{secrets.token_hex(8)}")
    fd = os.open(unfinished, _FLAGS, mode)
    try:
        with os.fdopen(fd, "wb", buffering=_BUFFERED) as file:
            _keep_permissions(fd, target)
            done = position = 0
            for place in places:
                if done == most:
                    break
                file.write(content[position:place])
                file.write(new)
                position = place + size
                done += 1
            file.write(content[position:])
            file.flush()
            os.fsync(fd)  # a name must never lead to less than the whole, even after a power cut
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return done


def _keep_permissions(fd: int, target: Path) -> None:
    try:
        status = target.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(status.st_mode) and hasattr(os, "fchmod"):
        os.fchmod(fd, stat.S_IMODE(status.st_mode))
