"""Room for memory is taken when it is made, so that a full machine is an error and not a SIGBUS."""

from __future__ import annotations

import errno
import operator
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final, SupportsIndex

__all__ = ["ADDRESS_SPACE", "checked_size", "free_memory", "reserve"]

# User addresses have 47 bits on x86-64 and at most 48 on arm64 (Linux, macOS).
ADDRESS_SPACE: Final = min(sys.maxsize, 1 << 48)

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")

# Asking costs 100 microseconds; what is smaller than this does not fill a machine.
_WORTH_A_LOOK: Final = 1 << 16

# What these say is the same to a caller: it does not fit.
_NO_ROOM: Final = {errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT}


def checked_size(size: SupportsIndex | None) -> int:
    """The size of memory to be made, in bytes.

    Raises:
        TypeError: `size` is not an integer.
        ValueError: it is 0, negative, or more than addresses can reach.
    """
    if size is None:
        raise TypeError("'size' is missing: memory is made with a size in bytes")
    number = operator.index(size)
    if number <= 0:
        raise ValueError(f"'size' must be at least 1 byte, not {number}")
    if number > ADDRESS_SPACE:
        raise ValueError(f"'size' is {number} bytes: more than an address can reach")
    return number


def reserve(fd: int, size: int, what: str, *, start: int = 0) -> None:
    """Make memory `size` bytes long and take the room for bytes `start` to `size`.

    Args:
        fd: descriptor, open for writing.
        size: bytes it shall have.
        what: name for messages.
        start: bytes it has.

    Raises:
        OSError: ENOSPC: the disk, /dev/shm or the machine's memory has less room than asked for.
    """
    wanted = size - start
    if wanted >= _WORTH_A_LOOK and _in_memory(os.fstat(fd).st_dev):
        # The kernel promises such pages freely and kills somebody when it cannot keep the promise.
        free = free_memory()
        if free is not None and wanted > free:
            raise _no_room(wanted, what, free, "memory")
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, start, wanted)
        else:
            os.ftruncate(fd, size)
    except OSError as error:
        if os.fstat(fd).st_size > start:
            os.ftruncate(fd, start)  # a part of the room may have been taken
        if error.errno not in _NO_ROOM:
            raise
        raise _no_room(wanted, what, _free_space(fd), "its filesystem") from error


def _no_room(wanted: int, what: str, free: int | None, place: str) -> OSError:
    known = "" if free is None else f", and {place} has {free} free"
    return OSError(
        errno.ENOSPC,
        f"no room for {what}: {wanted} bytes are wanted{known}; ask for less, unlink segments that "
        "nobody uses, or put it elsewhere with 'file:PATH'",
    )


def _free_space(fd: int) -> int | None:
    if not hasattr(os, "fstatvfs"):
        return None
    volume = os.fstatvfs(fd)
    # The kernel's own mount, where a memfd lives, has no size.
    return volume.f_bavail * volume.f_frsize if volume.f_blocks else None


@lru_cache(maxsize=64)
def _in_memory(device: int) -> bool:
    """Whether the pages of a device's files live in memory: of memfds, and of a tmpfs."""
    if sys.platform != "linux":
        return False
    mark = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = (_PROC / "self/mountinfo").read_text(errors="replace")
    except OSError:
        return False
    for line in mounts.splitlines():
        fields = line.split()
        if fields[2] == mark:
            # Optional fields end at a lone "-"; the type of filesystem follows it.
            return fields[fields.index("-", 6) + 1] in ("tmpfs", "ramfs")
    return True  # on no mount anyone can see: a memfd


def free_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Bytes this process may still fill: of the machine, and of its control groups (v2).

    Args:
        proc: where the kernel tells about the machine.
        cgroups: where it tells about control groups.

    Returns:
        None where the system does not tell.
    """
    try:
        table = dict(
            line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if line
        )
        kilobytes = sum(int(table[key].split()[0]) for key in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None
    return min([kilobytes * 1024, *_cgroup_rooms(proc, cgroups)])


def _cgroup_rooms(proc: Path, cgroups: Path) -> list[int]:
    rooms: list[int] = []
    try:
        groups = (proc / "self/cgroup").read_text().splitlines()
        own = next(line[3:] for line in groups if line.startswith("0::"))
    except (OSError, StopIteration):
        return rooms
    group = cgroups / own.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(cgroups):
            break
        try:
            limit = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text())
            usage = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            # Cached files go when room is needed; shared memory counts as such but stays.
            used -= int(usage["active_file"]) + int(usage["inactive_file"])
        except (OSError, KeyError, ValueError):
            continue  # no limit ("max"), or not told
        rooms.append(max(0, limit - used))
    return rooms
