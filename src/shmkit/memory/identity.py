"""Which memory a descriptor or a name leads to, however it is called.

Device and inode number tell files apart as long as a descriptor or a map holds the file. ext4 gives
the number of a removed file to the next one, so `close()` and then `unlink()` could remove another
program's new file. The inode's generation tells the two apart. tmpfs, where named segments live,
never uses a number again.
"""

from __future__ import annotations

import os
import stat
import sys
from functools import cache, reduce
from operator import or_
from typing import Any, Final, TypeAlias

if sys.platform == "linux":
    import fcntl

__all__ = [
    "Exact",
    "Identity",
    "close_if",
    "exact_identity",
    "generation_at",
    "identity_of",
    "is_own",
    "open_flags",
]

# (device, inode)
Identity: TypeAlias = tuple[int, int]
# The same, and the generation of a file; b"" where the filesystem does not tell it.
Exact: TypeAlias = tuple[int, int, bytes]

# FS_IOC_GETVERSION of linux/fs.h, as most architectures have it. Elsewhere no file answers.
_GET_GENERATION: Final = 0x80087601
_LONG: Final = bytes(8)
_OVERFLOW_UID: Final = 65534  # unless /proc says otherwise


def open_flags(*names: str) -> int:
    """Flags of open(); a flag that this system does not have counts as 0."""
    return reduce(or_, (getattr(os, f"O_{name}", 0) for name in names))


_FLAGS: Final = open_flags("RDONLY", "NOFOLLOW", "NONBLOCK", "NOCTTY", "CLOEXEC")


def identity_of(status: os.stat_result) -> Identity:
    """The memory that a stat result describes."""
    return status.st_dev, status.st_ino


def is_own(status: os.stat_result) -> bool:
    """Whether a stat result describes a file that this user made.

    In a user namespace the kernel shows all users that are not known there as one, the overflow
    user: that one is nobody.
    """
    uid = status.st_uid
    return uid == os.geteuid() and (uid != _overflow_uid() or _are_all_users_known())


@cache
def _overflow_uid() -> int:
    try:
        with open("/proc/sys/fs/overflowuid", "rb") as file:  # noqa: PTH123 - pathlib is slow
            return int(file.read())
    except OSError:
        return _OVERFLOW_UID


def _are_all_users_known() -> bool:
    """Whether each number of a user means that user, as outside of all user namespaces."""
    try:
        with open("/proc/self/uid_map", "rb") as file:  # noqa: PTH123
            return file.read().split() == [b"0", b"0", b"4294967295"]
    except OSError:
        return sys.platform != "linux"  # only Linux has them; without /proc there is no telling


def close_if(
    fd: int, identity: Identity, close: Any = os.close, fstat: Any = os.fstat, error: Any = OSError
) -> None:
    """Close a descriptor that was kept, if it still leads to the memory meant.

    A program that closed all descriptors, as a daemon does, may have a file of its own there now.

    Args:
        fd: the descriptor.
        identity: the memory it led to.
        close: these are bound here because a finalizer at exit finds the globals gone.
        fstat: see `close`.
        error: see `close`.
    """
    try:
        status = fstat(fd)
    except error:
        return  # closed already
    if (status.st_dev, status.st_ino) == identity:
        close(fd)


def exact_identity(fd: int, status: os.stat_result, scheme: str) -> Exact:
    """The memory behind an open descriptor; `status` is its `os.fstat`. Files have a generation."""
    is_file = scheme == "file" and stat.S_ISREG(status.st_mode)
    return status.st_dev, status.st_ino, _generation_of(fd) if is_file else b""


def generation_at(path: str) -> bytes:
    """The generation of the regular file at a path; b"" if it cannot be opened for reading."""
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        return b""
    try:
        return _generation_of(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)


def _generation_of(fd: int) -> bytes:
    if sys.platform == "linux":
        try:
            return fcntl.ioctl(fd, _GET_GENERATION, _LONG)
        except OSError:
            pass  # this filesystem has none
    return b""
