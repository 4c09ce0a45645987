"""Files, as those functions take them that make sense on files alone.

A file is given as open() takes it (a path, a path object, a descriptor), as a "file:" URL, or as a
file object that is open.
"""

from __future__ import annotations

import errno
import io
import os
from typing import IO, Any, TypeAlias

from shmkit.memory.creation import Opened, open_now
from shmkit.memory.identity import exact_identity, identity_of
from shmkit.memory.url import Url

__all__ = ["File", "descriptor_in", "file_url", "is_path", "open_given"]

File: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes] | int | io.IOBase | IO[Any]"


def is_path(file: Any) -> bool:
    """Whether a file is given by a path or a URL."""
    return isinstance(file, (str, bytes, os.PathLike, Url))


def file_url(path: Any) -> Url:
    """The URL of a file given by a path, as open() takes it, or by a "file:" URL.

    Raises:
        ValueError: the URL of other memory, or a path that cannot be.
    """
    if isinstance(path, (str, Url)):
        text = str(path)
        if text.startswith(("shm:", "anon:")):
            raise ValueError(
                f"{text!r} is no file, and this takes files only: for a file of that name give "
                f"'./{text}' or a pathlib.Path, for such memory use SharedBuffer.attach()"
            )
        if text.startswith("file:"):
            return Url.parse(path)
    text = os.fsdecode(path)
    if not text:
        raise ValueError("the path is empty")
    return Url.parse(f"file:{text}")


def descriptor_in(file: Any) -> int | None:
    """The descriptor that was given, or that a file object reads and writes; None if it has none.

    A file object whose bytes are not those of its descriptor (gzip) has none in this sense.

    Raises:
        TypeError: this is no file at all.
        ValueError: a file object that is closed, or a negative number.
    """
    if isinstance(file, int) and not isinstance(file, bool):
        if file < 0:
            raise ValueError(f"a descriptor is not negative, and {file} is")
        return file
    if not hasattr(file, "read") and not hasattr(file, "write"):
        raise TypeError(
            "a file is a path, a 'file:' URL, a descriptor or an open file, not "
            f"{type(file).__name__}"
        )
    if getattr(file, "closed", False):
        raise ValueError(f"{file!r} is closed: open it again, or give its path")
    raw = file
    # A temporary file, text, and buffers, from the outside in.
    for layer in ("file", "buffer", "raw"):
        raw = getattr(raw, layer, raw)
    return raw.fileno() if isinstance(raw, io.FileIO) else None


def open_given(file: Any, *, writable: bool, streams: bool) -> Opened | None:
    """Open a file that was given in any form; None for a file object without a descriptor.

    Raises:
        OSError: EBADF: the descriptor is not open, or not for this access.
    """
    if is_path(file):
        return open_now(file_url(file), writable=writable, streams=streams)
    number = descriptor_in(file)
    if number is None:
        return None
    if not isinstance(file, int) and file.writable():
        file.flush()  # what was written is to be seen
    fd = _second(number)
    try:
        _check_mode(fd, number, writable)
        status = os.fstat(fd)
        return Opened(Url("file", _path_of(fd, number)), fd, exact_identity(fd, status, "file"))
    except BaseException:
        os.close(fd)
        raise


def _second(number: int) -> int:
    try:
        return os.dup(number)
    except OSError as error:
        raise OSError(error.errno, f"descriptor {number} is not open") from None


def _check_mode(fd: int, number: int, writable: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if mode == os.O_WRONLY or (writable and mode != os.O_RDWR):
        how = "'r+b'" if writable else "'rb'"
        raise OSError(
            errno.EBADF, f"descriptor {number} is not open for this access: open it with {how}"
        )


def _path_of(fd: int, number: int) -> str:
    """Where an open file is; its number in /dev/fd if it has no name."""
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
        if identity_of(os.stat(path)) == identity_of(os.fstat(fd)):  # noqa: PTH116
            return path
    except OSError:
        pass  # a pipe, a file without a name, or no /proc
    return f"/dev/fd/{number}"
