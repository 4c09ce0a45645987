"""Who has a memory: which processes map it, or have it open; whether anybody can still find it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from shmkit.memory.backends import backend_for
from shmkit.memory.identity import Identity, identity_of
from shmkit.memory.url import Url

__all__ = ["is_somewhere", "mappers"]


def mappers(identity: Identity, *, private: bool) -> dict[int, int]:
    """Which processes map a memory, and how often.

    Args:
        identity: the memory.
        private: whether other users have no access to it; then those whose maps this process
            may not see do not count.

    Returns:
        Number of maps by process id.

    Raises:
        PermissionError: a process hides its maps.
    """
    device, inode = identity
    mark = f"{os.major(device):02x}:{os.minor(device):02x}", str(inode)
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            maps = (process / "maps").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        except PermissionError as error:
            if private:
                continue
            raise PermissionError(errno.EACCES, f"process {process.name} hides its maps") from error
        fields = (line.split(maxsplit=5)[3:5] for line in maps.splitlines())
        number = sum(tuple(pair) == mark for pair in fields)
        if number:
            found[int(process.name)] = number
    return found


def is_somewhere(url: Url, identity: Identity, *, but: int = 0) -> bool:
    """Whether a memory can be found by its name, or some process of this user has it.

    Args:
        url: where it was.
        identity: the memory.
        but: pid of a process that does not count.
    """
    try:
        if url.scheme != "anon" and backend_for(url.scheme).identify(url.name) == identity:
            return True
    except FileNotFoundError:
        pass  # its name is gone, but not necessarily its memory
    return bool(mappers(identity, private=True).keys() - {but}) or _is_open(identity, but)


def _is_open(identity: Identity, but: int) -> bool:
    """Whether a process has a descriptor of a memory: one that was just started has no map yet."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if identity_of(link.stat()) == identity and link.parts[2] != str(but):
                return True
        except OSError:
            continue  # closed or ended meanwhile, or another user's
    return False
