"""Replacing bytes: splitting memory at them, and writing a changed copy to a file."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["replaced_into", "split"]

_READ_AT_ONCE: Final = 1 << 16  # bytes: they stay in the processor's cache
_FLAGS: Final = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def split(view: memoryview, old: bytes, most: int) -> Iterator[tuple[int, list[bytes]]]:
    """Consecutive parts of the bytes, each split at every `old` in it, as `bytes.split` does.

    Splitting is how the places of many small needles are found fastest, twice as fast as one by
    one.

    Args:
        view: the bytes.
        old: at least one byte.
        most: how often to split; negative for no limit.

    Returns:
        Where each part begins, and its pieces.
    """
    start, size, more = 0, len(view), len(old) - 1
    while start < size:
        cut = min(start + _READ_AT_ONCE, size)
        data = view[start : min(cut + more, size)].tobytes()
        pieces = data.split(old, most)
        if most > 0:
            most -= len(pieces) - 1
        last = start + len(data) - len(pieces[-1])
        cut = max(cut, last)  # what is behind it belongs to the next part
        pieces[-1] = pieces[-1][: cut - last]
        yield start, pieces
        start = cut


def replaced_into(
    path: str | os.PathLike[str],
    view: memoryview,
    old: bytes,
    new: bytes,
    most: int,
    mode: int,
) -> int:
    """Write the bytes to a file, with `new` for `old`, and rename it to `path`.

    Args:
        path: of the file; a link there is replaced, not followed.
        view: the bytes.
        old: at least one byte.
        new: what stands there instead.
        most: how often at most; negative for all.
        mode: permissions of a file that was not there.

    Returns:
        How often.

    Raises:
        OSError: it cannot be written; nothing stays behind.
    """
    target = Path(os.fsdecode(path)).absolute()
    unfinished = target.with_name(f".shmkit-{secrets.token_hex(8)}")
    fd = os.open(unfinished, _FLAGS, mode)
    try:
        with os.fdopen(fd, "wb", buffering=4 * _READ_AT_ONCE) as file:
            _keep_permissions(fd, target)
            done = 0
            for _, pieces in split(view, old, most):
                file.write(new.join(pieces))
                done += len(pieces) - 1
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
