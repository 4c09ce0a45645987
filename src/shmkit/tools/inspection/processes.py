"""Which processes map or have open which memory, by one look at all of /proc."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from shmkit.memory.identity import Identity, identity_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["Holders", "command_of", "is_all_visible", "process_started", "scan"]

# The device and inode of a line of /proc/PID/maps, of what is a file.
_LINE: Final = re.compile(rb"^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) ([1-9]\d*)", re.MULTILINE)
# The first namespace of processes, include/linux/proc_ns.h: its /proc shows every process there is.
_FIRST_NAMESPACE: Final = "pid:[4026531836]"
_SHM: Final = "/dev/shm/"
_NAMELESS: Final = "/memfd:shmkit (deleted)"
_DELETED: Final = " (deleted)"


@dataclass
class Holders:
    """Which processes have which memory.

    Attributes:
        maps: pids that map a memory, by its device and inode.
        opens: pids that have it open.
        nameless: a path by which memory can be read that has no name, or has one no more: for each
            such memory, the path and what it was called.
        hidden: pids of processes that hide from this user what they map.
    """

    maps: dict[Identity, set[int]] = field(default_factory=dict)
    opens: dict[Identity, set[int]] = field(default_factory=dict)
    nameless: dict[Identity, tuple[str, str]] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)

    def of(self, identity: Identity) -> tuple[int, ...]:
        """Pids that map it or have it open, in order."""
        return tuple(sorted(self.maps.get(identity, set()) | self.opens.get(identity, set())))


def scan(paths: Collection[str] = (), pids: Iterable[int] | None = None) -> Holders:
    """Look at every process once.

    Args:
        paths: files outside of /dev/shm to look for among open descriptors. Maps are found anyhow.
        pids: the processes to look at; None for all.
    """
    found = Holders()
    for pid in _processes() if pids is None else pids:
        try:
            _add_maps(found, pid)
            _add_descriptors(found, pid, paths)
        except PermissionError:
            found.hidden.add(pid)
        except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
            continue  # it ended meanwhile
    return found


def _add_maps(found: Holders, pid: int) -> None:
    with open(f"/proc/{pid}/maps", "rb") as file:  # noqa: PTH123 - speed
        for major, minor, inode in set(_LINE.findall(file.read())):
            identity = os.makedev(int(major, 16), int(minor, 16)), int(inode)
            found.maps.setdefault(identity, set()).add(pid)


def _add_descriptors(found: Holders, pid: int, paths: Collection[str]) -> None:
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):  # noqa: PTH208 - speed
        path = f"{folder}/{fd}"
        try:
            target = os.readlink(path)  # noqa: PTH115 - raw text
            is_memory = target.startswith(_SHM) or target == _NAMELESS
            # Not every descriptor: a stat of a file on a dead server would never end.
            if not (is_memory or target in paths):
                continue
            identity = identity_of(os.stat(path))  # noqa: PTH116 - speed
        except OSError:
            continue  # closed meanwhile
        found.opens.setdefault(identity, set()).add(pid)
        if target.endswith(_DELETED) and is_memory:
            name = "" if target == _NAMELESS else target[len(_SHM) : -len(_DELETED)]
            found.nameless.setdefault(identity, (path, name))


def command_of(pid: int) -> str:
    """The command line of a process in a line; "" if it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            words = file.read(4096).rstrip(b"\0").split(b"\0")
        if words == [b""]:  # a zombie, or a thread of the kernel
            with open(f"/proc/{pid}/comm", "rb") as file:  # noqa: PTH123
                words = [file.read().strip()]
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace")


def process_started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            stat = file.read()
    except OSError:
        return None
    # The program's name stands in parentheses, and may have spaces and parentheses in it.
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def is_all_visible() -> bool:
    """Whether /proc shows every process of the machine, and not those of a container alone."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST_NAMESPACE  # noqa: PTH115
    except OSError:
        return False


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208
    except FileNotFoundError:
        return []  # not Linux, or /proc is not mounted
