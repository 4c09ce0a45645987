"""Room for memory is taken when it is made, so that a full machine is an error and not a SIGBUS."""

from __future__ import annotations

import errno
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Final, SupportsIndex

from shmkit.memory.checks import number_of

if TYPE_CHECKING:
    from shmkit.memory.url import Url

__all__ = [
    "ADDRESS_SPACE",
    "checked_size",
    "fill_holes",
    "free_memory",
    "reserve",
    "reserve_holes",
    "room_left",
]

# User addresses have 47 bits on x86-64 and at most 48 on arm64 (Linux, macOS).
ADDRESS_SPACE: Final = min(sys.maxsize, 1 << 48)

_PROC: Final = "/proc"
_CGROUPS: Final = "/sys/fs/cgroup"

# To ask how much memory is free costs 100 microseconds. Up to 1 MiB, and up to this part of the
# memory there is, it is not asked.
_SMALL: Final = 1 << 20
_PART: Final = 64

# These all mean to a caller that it does not fit.
_NO_ROOM: Final = {errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT}
_CANNOT_RESERVE: Final = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_KEEP_SIZE: Final = 1  # FALLOC_FL_KEEP_SIZE of linux/falloc.h
_BLOCK: Final = 512  # bytes, what `st_blocks` counts


def checked_size(size: SupportsIndex | None) -> int:
    """The size of memory to be made, in bytes; an error if it is none, or not in reach."""
    if size is None:
        raise TypeError("'size' is missing: memory is made with a size in bytes")
    number = number_of(size, "size")
    if number <= 0:
        raise ValueError(f"'size' must be at least 1 byte, not {number}")
    if number > ADDRESS_SPACE:
        raise ValueError(f"'size' is {number} bytes: more than an address can reach")
    return number


def reserve(fd: int, size: int, url: Url, *, start: int = 0) -> None:
    """Make memory `size` bytes long and take the room for bytes `start` to `size`.

    Files and segments get their blocks now: a filesystem that is full later would answer a write
    with SIGBUS. Anonymous memory is on no filesystem, and gets its pages when they are touched, as
    the memory of malloc does.

    Raises:
        OSError: ENOSPC: the disk, /dev/shm or the machine's memory has less room than asked for.
    """
    wanted = size - start
    if (
        wanted > _SMALL
        and wanted > _never_too_much()
        and sys.platform == "linux"
        and (url.scheme != "file" or _is_memory(os.fstat(fd).st_dev))
    ):
        # The kernel promises such pages freely. When it cannot keep the promise, it kills.
        free = free_memory()
        if free is not None and wanted > free:
            raise _no_room(wanted, url, free, "memory")
    try:
        if url.scheme == "anon" or not hasattr(os, "posix_fallocate"):
            os.ftruncate(fd, size)
        else:
            os.posix_fallocate(fd, start, wanted)
    except OSError as error:
        if os.fstat(fd).st_size > start:
            os.ftruncate(fd, start)  # a part of the room may have been taken
        if error.errno not in _NO_ROOM:
            raise
        raise _no_room(wanted, url, _free_space(fd), "its filesystem") from error


def fill_holes(fd: int, size: int, url: Url, *, start: int = 0) -> None:
    """Take the room that a file lacks: a copy has holes where the original had room but no bytes.

    Neither bytes nor size change. No other process should write meanwhile: where a filesystem
    cannot reserve room, the C library writes zeros into what it finds empty.

    Args:
        fd: descriptor, open for writing.
        size: byte behind the last that is to be written through a map.
        url: where it is.
        start: the first such byte.

    Raises:
        OSError: ENOSPC: there is no room; the file stays as it is.
    """
    status = os.fstat(fd)
    # Blocks behind these bytes would count, too.
    is_whole = status.st_size == size and status.st_blocks * _BLOCK >= size
    if is_whole or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, start, size - start)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _no_room(size - start, url, _free_space(fd), "its filesystem") from error
        if error.errno not in _CANNOT_RESERVE:
            raise


def room_left(fd: int) -> int | None:
    """Bytes that a file may still take: of its filesystem, and of memory if it is kept there.

    None where the system does not tell.
    """
    rooms = [_free_space(fd)]
    if _is_memory(os.fstat(fd).st_dev):
        rooms.append(free_memory())
    return min((room for room in rooms if room is not None), default=None)


def reserve_holes(fd: int, start: int, size: int, url: Url) -> None:
    """Take the room that a part of a file lacks, while others may write to it.

    Neither bytes nor size change. Where the filesystem cannot reserve room, nothing is done: what
    the C library does instead is no good beside other writers.

    Args:
        fd: descriptor, open for writing.
        start: first byte of the part.
        size: bytes of the part.
        url: where it is.

    Raises:
        OSError: ENOSPC: there is no room.
    """
    status = os.fstat(fd)
    if sys.platform != "linux" or status.st_blocks * _BLOCK >= status.st_size or not size:
        return
    import ctypes  # for a file with holes only: it takes longer to import than to reserve

    library = ctypes.CDLL(None, use_errno=True)
    # musl has one name for it, glibc two: of files of 64 bits on every machine, this one.
    fallocate = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if fallocate is None:
        return
    wide = ctypes.c_int64
    while fallocate(fd, _KEEP_SIZE, wide(start), wide(size)):
        number = ctypes.get_errno()
        if number in _NO_ROOM:
            error = _no_room(size, url, _free_space(fd), "its filesystem")
            error.strerror = f"{error.strerror}; access='r' and PagedFile need none"
            raise error
        if number != errno.EINTR:
            return


def _free_space(fd: int) -> int | None:
    volume = os.fstatvfs(fd) if hasattr(os, "fstatvfs") else None
    # The kernel's own mount, where a memfd lives, has no size.
    return volume.f_bavail * volume.f_frsize if volume and volume.f_blocks else None


def _no_room(wanted: int, url: Url, free: int | None, place: str) -> OSError:
    what = str(url) if url.name else "anonymous memory"
    known = "" if free is None else f", and {place} has {free} free"
    return OSError(
        errno.ENOSPC,
        f"no room for {what}: {wanted} bytes are wanted{known}; ask for less, unlink segments that "
        "are not used, or put it elsewhere with 'file:PATH'",
    )


@cache
def _never_too_much() -> int:
    """Bytes that are too few to matter: a part of what this machine and this process may have."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return _SMALL
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [limit for limit, _ in _limits(_PROC, _CGROUPS)]
    return min([machine, *limits]) // _PART


@cache
def _is_memory(device: int) -> bool:
    """Whether a device is a tmpfs, or has no mount at all."""
    mark = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _read(f"{_PROC}/self/mountinfo")
    except OSError:
        return False
    for line in mounts.splitlines():
        fields = line.split()
        if fields[2] == mark:
            # Optional fields end at a lone "-"; the type of filesystem follows it.
            return fields[fields.index("-", 6) + 1] in ("tmpfs", "ramfs")
    return True  # the kernel's own mount


def free_memory(
    proc: str | os.PathLike[str] = _PROC, cgroups: str | os.PathLike[str] = _CGROUPS
) -> int | None:
    """Bytes this process may still fill: of the machine, and of its control groups (v2).

    None where the system does not tell.
    """
    try:
        table = dict(line.split(":", 1) for line in _read(f"{proc}/meminfo").splitlines() if line)
        kilobytes = sum(int(table[key].split()[0]) for key in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None
    rooms = [kilobytes * 1024]
    for limit, group in _limits(proc, cgroups):
        try:
            used = int(_read(f"{group}/memory.current"))
            usage = dict(line.split() for line in _read(f"{group}/memory.stat").splitlines())
            # Cached files go when room is needed. Shared memory counts as cached, but stays.
            used -= int(usage["active_file"]) + int(usage["inactive_file"])
        except (OSError, KeyError, ValueError):
            continue
        rooms.append(max(0, limit - used))
    return min(rooms)


def _limits(proc: str | os.PathLike[str], cgroups: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """Limit and directory of each control group of this process that has one, inner first."""
    found: list[tuple[int, str]] = []
    try:
        groups = _read(f"{proc}/self/cgroup").splitlines()
        path = next(line[3:] for line in groups if line.startswith("0::")).strip("/")
    except (OSError, StopIteration):
        return found
    while True:
        group = f"{cgroups}/{path}"
        try:
            found.append((int(_read(f"{group}/memory.max")), group))
        except (OSError, ValueError):
            pass  # no limit ("max"), or not told
        if not path:
            return found
        # The limits of all groups above hold, too.
        path = path.rpartition("/")[0]


def _read(path: str) -> str:
    # Without open(): its text layer takes longer than the kernel does.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts).decode(errors="replace")
    finally:
        os.close(fd)
