"""Leaks: the names, descriptors, maps and children that a process has, compared with before."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import sys
import time
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from shmkit.tools.testing.makers import maker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "Held",
    "Leak",
    "assert_no_leaks",
    "children",
    "helpers",
    "leaks_since",
    "names_in_use",
    "snapshot",
]

_SHM: Final = Path("/dev/shm")
_POLL: Final = 0.05  # seconds
_SHARED_MAP: Final = re.compile(r"(/dev/shm/\S.*|/memfd:shmkit.*)$")


class Leak(NamedTuple):
    """Something that is there and was not before.

    Attributes:
        kind: "segment", "semaphore", "descriptor", "map" or "child".
        what: which one: a name in /dev/shm, a descriptor and what it leads to, what is mapped, a
            process id and its command.
    """

    kind: str
    what: str

    @property
    def key(self) -> tuple[str, str]:
        """Which one it is: the command of a child may change, and not its pid."""
        return self.kind, self.what.partition(" ")[0] if self.kind == "child" else self.what

    @property
    def made(self) -> str:
        """The line of code that made it, as "FILE:LINE in FUNCTION"; "" if that is not known."""
        return maker(self.kind, self.what)

    def __str__(self) -> str:
        what = f"/dev/shm/{self.what}" if self.kind in ("segment", "semaphore") else self.what
        return f"{self.kind} {what}" + (f", made at {self.made}" if self.made else "")


class Held(NamedTuple):
    """What a process holds at one moment."""

    names: frozenset[str]
    descriptors: frozenset[str]
    maps: frozenset[str]
    children: frozenset[int]

    def with_new(self, before: Held, after: Held) -> Held:
        """This, and what came between two other moments."""
        return Held(
            self.names | (after.names - before.names),
            self.descriptors | (after.descriptors - before.descriptors),
            self.maps | (after.maps - before.maps),
            self.children | (after.children - before.children),
        )


@contextmanager
def assert_no_leaks(*, timeout: float = 2.0, names: str = "") -> Iterator[None]:
    r"""Fail if a `with` block, or a decorated function, leaves anything behind.

    It looks for names of shared memory and of semaphores, for descriptors, maps of shared memory
    and child processes. A name that is open in a process which is no child of this one is that
    process's own. A name that no process has open is a leak: run no program beside it that leaves
    names on purpose, or say which `names` to look at. If the block raises, nothing is compared.

    Args:
        timeout: seconds that ending children get to end.
        names: a regular expression for the names to look at, as they stand in /dev/shm.

    Raises:
        AssertionError: something was left; a line for each.
        NotImplementedError: this system has no /proc to ask.
    """
    looked_at = re.compile(names).search
    before = snapshot()
    yield
    left = leaks_since(before, timeout=timeout, ours=lambda name: bool(looked_at(name)))
    if left:
        raise AssertionError("left behind:\n  " + "\n  ".join(map(str, left)))


def snapshot() -> Held:
    """What this process holds now, and the names in /dev/shm of this user.

    Raises:
        NotImplementedError: this system has no /proc to ask.
    """
    if not sys.platform.startswith("linux"):
        raise NotImplementedError("what a process holds is read from /proc, which only Linux has")
    return Held(
        frozenset(_names()), frozenset(_descriptors()), frozenset(_maps()), frozenset(children())
    )


def leaks_since(
    before: Held, *, timeout: float = 2.0, ours: Callable[[str], bool] = bool
) -> list[Leak]:
    """What is new since a snapshot, and does not go within a time.

    Args:
        before: the snapshot.
        timeout: seconds that ending children get to end.
        ours: whether a name in /dev/shm may be one of the leaks.
    """
    end = time.monotonic() + timeout
    left = _new(before, ours)
    while left:
        gc.collect()  # what only a reference cycle keeps alive is no leak
        multiprocessing.active_children()  # reaps the ones that have ended
        # A name that another process makes and removes is not seen twice.
        again = {leak.key: leak for leak in _new(before, ours)}
        left = [again[leak.key] for leak in left if leak.key in again]
        if time.monotonic() > end:
            break
        time.sleep(_POLL)
    return left


def children(pid: int | str = "self") -> set[int]:
    """Pids of a process's children, zombies too, except this one's helpers of `multiprocessing`."""
    found: set[int] = set()
    for task in _listdir(f"/proc/{pid}/task"):
        try:
            found.update(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended
    return found - helpers()


def helpers() -> set[int | None]:
    """Pids of the processes that `multiprocessing` keeps until this process ends."""
    return {
        getattr(resource_tracker._resource_tracker, "_pid", None),
        getattr(forkserver._forkserver, "_forkserver_pid", None),
    }


def names_in_use(pids: Iterable[int]) -> set[str]:
    """Names in /dev/shm that one of these processes has open or mapped."""
    used: set[str] = set()
    for pid in pids:
        try:
            used.update(re.findall(r" /dev/shm/(\S+)", Path(f"/proc/{pid}/maps").read_text()))
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in _listdir(f"/proc/{pid}/fd")]  # noqa: PTH115
        except OSError:
            continue  # ended, or another user's
        used.update(link.removeprefix("/dev/shm/") for link in links)
    return used


def _new(before: Held, ours: Callable[[str], bool]) -> list[Leak]:
    after = snapshot()
    names = set(filter(ours, after.names - before.names))
    # Only if there are any: it reads all of /proc.
    if names:
        own = children() | {os.getpid()}
        pids = {int(name) for name in _listdir("/proc") if name.isdigit()}
        names -= names_in_use(pids - own)
    left = [Leak(_kind(name), name) for name in sorted(names)]
    left += [Leak("descriptor", each) for each in sorted(after.descriptors - before.descriptors)]
    left += [Leak("map", each) for each in sorted(after.maps - before.maps)]
    left += [
        Leak("child", f"{pid} {_command(pid)}") for pid in sorted(after.children - before.children)
    ]
    return left


def _kind(name: str) -> str:
    return "semaphore" if name.startswith("sem.") else "segment"


def _names() -> Iterator[str]:
    for name in _listdir(str(_SHM)):
        try:
            if (_SHM / name).lstat().st_uid == os.geteuid():
                yield name
        except FileNotFoundError:
            continue


def _descriptors() -> Iterator[str]:
    kept = {
        getattr(resource_tracker._resource_tracker, "_fd", None),
        getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
    }
    for fd in _listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - raw text
        except FileNotFoundError:
            continue  # the descriptor of this very listing
        if int(fd) not in kept:
            yield f"{fd} -> {target}"


def _maps() -> Iterator[str]:
    """Shared memory that is mapped here; a map may outlive its descriptor and its name."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if found := _SHARED_MAP.search(line):
            yield f"{found[0]} (inode {line.split()[4]})"


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208 - names, not paths
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
        return []


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "(gone)"
    return b" ".join(words).decode(errors="replace").strip()[:200] or "(ended, and not waited for)"
