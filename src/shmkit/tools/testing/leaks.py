"""Leaks: the names, descriptors and children that a process has, compared with before."""

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

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["assert_no_leaks", "children"]

_SHM = Path("/dev/shm")
_POLL: Final = 0.05  # seconds


class _Held(NamedTuple):
    name: set[str]
    descriptor: set[str]
    child: set[str]


@contextmanager
def assert_no_leaks(*, timeout: float = 2.0, names: str = "") -> Iterator[None]:
    r"""Fail if a `with` block, or a decorated function, leaves anything behind.

    It looks for names of shared memory and of semaphores, for descriptors and for child processes.
    A name that is open in a process which is no child of this one is that process's own. A name
    that no process has open is a leak: run no program beside it that leaves names on purpose, or
    say which `names` to look at. If the block raises, nothing is compared.

    Args:
        timeout: seconds that ending children get to end.
        names: a regular expression for the names to look at, as they stand in /dev/shm.

    Raises:
        AssertionError: something was left; a line for each.
        NotImplementedError: this system has no /proc to ask.
    """
    if not sys.platform.startswith("linux"):
        raise NotImplementedError("what a process holds is read from /proc, which only Linux has")
    pattern = re.compile(names)
    before = _held(pattern)
    yield
    end = time.monotonic() + timeout
    left = _new(before, pattern)
    while left:
        if time.monotonic() > end:
            raise AssertionError("left behind:\n  " + "\n  ".join(left))
        gc.collect()  # what only a reference cycle keeps alive is no leak
        multiprocessing.active_children()  # reaps the ones that have ended
        time.sleep(_POLL)
        # A name that another process makes and removes is not seen twice.
        again = set(_new(before, pattern))
        left = [line for line in left if line in again]


def children() -> set[int]:
    """Pids of this process's children, zombies too, except the helpers of `multiprocessing`."""
    helpers = {
        getattr(resource_tracker._resource_tracker, "_pid", None),
        getattr(forkserver._forkserver, "_forkserver_pid", None),
    }
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended
    return found - helpers


def _held(pattern: re.Pattern[str]) -> _Held:
    return _Held(set(_names(pattern)), set(_descriptors()), {str(pid) for pid in children()})


def _new(before: _Held, pattern: re.Pattern[str]) -> list[str]:
    after = _held(pattern)
    names = after.name - before.name
    # Only if there are any: it reads all of /proc.
    if names:
        names -= _used_elsewhere()
    left = [f"name /dev/shm/{name}" for name in sorted(names)]
    left += [f"descriptor {item}" for item in sorted(after.descriptor - before.descriptor)]
    left += [f"child {pid} {_command(pid)}" for pid in sorted(after.child - before.child)]
    return left


def _names(pattern: re.Pattern[str]) -> Iterator[str]:
    for entry in os.scandir(_SHM):
        try:
            if pattern.search(entry.name) and entry.stat().st_uid == os.geteuid():
                yield entry.name
        except FileNotFoundError:
            continue


def _descriptors() -> Iterator[str]:
    helpers = {
        getattr(resource_tracker._resource_tracker, "_fd", None),
        getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
    }
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
        try:
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - raw text
        except FileNotFoundError:
            continue  # the descriptor of this very listing
        if int(name) not in helpers:
            yield f"{name} -> {target}"


def _used_elsewhere() -> set[str]:
    """Names that are open or mapped in a process other than this one and its children."""
    ours = children() | {os.getpid()}
    used: set[str] = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in ours:
            continue
        try:
            used.update(re.findall(r" /dev/shm/(\S+)", (folder / "maps").read_text()))
            links = [str(fd.readlink()) for fd in (folder / "fd").iterdir()]
        except OSError:
            continue  # ended, or another user's
        used.update(link.removeprefix("/dev/shm/") for link in links)
    return used


def _command(pid: str) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "(gone)"
    return b" ".join(words).decode(errors="replace")[:200]
