"""Which processes map a memory or have it open, and whether it can still be found."""

from __future__ import annotations

import errno
import os

from shmkit.memory.backends import backend_for
from shmkit.memory.identity import Identity, identity_of
from shmkit.memory.url import Url

__all__ = ["is_somewhere", "mappers"]


def mappers(identity: Identity, *, private: bool) -> dict[int, int]:
    """Which processes map a memory: its number of maps by process id.

    Args:
        identity: the memory.
        private: whether other users have no access to it. Then processes whose maps this process
            may not see do not count.

    Raises:
        PermissionError: a process hides its maps.
    """
    device, inode = identity
    mark = f"{os.major(device):02x}:{os.minor(device):02x}", str(inode)
    found: dict[int, int] = {}
    for pid in _processes():
        try:
            maps = _maps_of(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        except PermissionError as error:
            if private:
                continue
            raise PermissionError(errno.EACCES, f"process {pid} hides its maps") from error
        # The fourth and fifth field of a line: device and inode.
        fields = (line.split(maxsplit=5)[3:5] for line in maps.splitlines())
        number = sum(tuple(pair) == mark for pair in fields)
        if number:
            found[pid] = number
    return found


def is_somewhere(url: Url, identity: Identity, *, but: int = 0) -> bool:
    """Whether a memory can be found by its name, or another process than `but` has it."""
    try:
        if url.scheme != "anon" and backend_for(url.scheme).identify(url.name) == identity:
            return True
    except FileNotFoundError:
        pass  # its name is gone, but not necessarily its memory
    return bool(mappers(identity, private=True).keys() - {but}) or _is_open(identity, but)


def _is_open(identity: Identity, but: int) -> bool:
    """Whether a process has a descriptor of a memory: one that was just started has no map yet."""
    for pid in _processes():
        if pid == but:
            continue
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
                if _identity_at(f"/proc/{pid}/fd/{fd}") == identity:
                    return True
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return False


def _identity_at(path: str) -> Identity | None:
    try:
        return identity_of(os.stat(path))  # noqa: PTH116
    except OSError:
        return None  # closed meanwhile


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208


def _maps_of(pid: int) -> str:
    with open(f"/proc/{pid}/maps", errors="replace") as file:  # noqa: PTH123
        return file.read()
