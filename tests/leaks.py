"""What a process holds, to compare before and after a test, and before and after a whole run.

All of it is read from /proc and /dev/shm, which Linux has; elsewhere nothing is found.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import time
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "RUN",
    "Held",
    "after_run",
    "born",
    "library_names",
    "since",
    "snapshot",
    "used_elsewhere",
]

RUN = "SHMKIT_TEST_RUN"  # a variable in the environment of every process of a run

_SHM = Path("/dev/shm")
_OURS = re.compile(r"^(sem\.)?(shmkit|t-)")
_SHARED_MAP = re.compile(r"(/dev/shm/\S.*|/memfd:shmkit.*)$")


class Held(NamedTuple):
    """What this process holds at one moment."""

    name: set[str]
    descriptor: set[str]
    map: set[str]
    child: set[str]


def snapshot(token: str) -> Held:
    """What this process holds now; of the names, the ones that contain `token`."""
    return Held(set(_names(token)), set(_descriptors()), set(_maps()), set(_children()))


def since(before: Held, token: str) -> list[str]:
    """What is new since `before`, a line for each item. New names are removed."""
    left = _new(before, snapshot(token))
    if left:
        # What only a reference cycle keeps alive is no leak.
        gc.collect()
        multiprocessing.active_children()  # reaps the ones that have ended
        left = _new(before, snapshot(token))
    for name in _names(token):
        (_SHM / name).unlink(missing_ok=True)
    return left


def after_run(before: set[str], timeout: float = 2.0) -> tuple[list[str], list[str]]:
    """What outlived a run: its processes, and names of the library that no process uses.

    Args:
        before: `library_names()` before the run.
        timeout: seconds that processes get to end.

    Returns:
        The names, and a line for each process.
    """
    end = time.monotonic() + timeout
    while True:
        names = library_names() - before
        if names:
            # A name that is in use may belong to another run on this machine.
            names -= _names_in_use(_pids())
        processes = [f"{pid} {_command(pid)}" for pid in _strays()]
        if not (names or processes) or time.monotonic() > end:
            return sorted(names), processes
        time.sleep(0.05)


def used_elsewhere() -> bool:
    """Whether a process outside this run uses the library, and may leave names, too."""
    ours = os.environ.get(RUN)
    outside = [pid for pid in _pids() if int(pid) != os.getpid() and _run_of(pid) != ours]
    return any(_run_of(pid) for pid in outside) or any(map(_OURS.match, _names_in_use(outside)))


def born(name: str) -> float:
    """When a name in /dev/shm was made, in seconds since 1970; 0 if it is gone."""
    try:
        return (_SHM / name).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def library_names() -> set[str]:
    """Names in /dev/shm that the library or one of its tests made."""
    return {name for name in _listdir(_SHM) if _OURS.match(name)}


def _new(before: Held, after: Held) -> list[str]:
    return [
        f"{kind} {item} {_command(item)}" if kind == "child" else f"{kind} {item}"
        for kind, old, new in zip(Held._fields, before, after, strict=True)
        for item in sorted(new - old)
    ]


def _listdir(path: Path) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208 - names, not paths
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
        return []


def _names(token: str) -> Iterator[str]:
    return (name for name in _listdir(_SHM) if token in name)


def _descriptors() -> Iterator[str]:
    """Open descriptors, except those that multiprocessing keeps for its helpers."""
    helpers = {
        getattr(resource_tracker._resource_tracker, "_fd", None),
        getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
    }
    for fd in _listdir(Path("/proc/self/fd")):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - raw text
        except FileNotFoundError:
            continue  # the descriptor with which this directory was listed
        if int(fd) not in helpers:
            yield f"{fd} -> {target}"


def _maps() -> Iterator[str]:
    """Shared memory that is mapped here; a map may outlive its descriptor and its name."""
    try:
        text = Path("/proc/self/maps").read_text()
    except FileNotFoundError:
        return
    for line in text.splitlines():
        if found := _SHARED_MAP.search(line):
            yield f"{found[0]} (inode {line.split()[4]})"


def _children() -> Iterator[str]:
    """Pids of child processes, zombies too, except multiprocessing's helpers."""
    helpers = _helpers()
    for task in _listdir(Path("/proc/self/task")):
        try:
            pids = Path(f"/proc/self/task/{task}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for pid in pids:
            if int(pid) not in helpers:
                yield pid


def _helpers() -> set[int | None]:
    """Pids of the helpers that `multiprocessing` keeps until this process ends."""
    return {
        getattr(resource_tracker._resource_tracker, "_pid", None),
        getattr(forkserver._forkserver, "_forkserver_pid", None),
    }


def _command(pid: str) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return "(gone)"
    return f"[{state}] " + b" ".join(words).decode(errors="replace")[:200]


def _pids() -> Iterator[str]:
    return (name for name in _listdir(Path("/proc")) if name.isdigit())


def _names_in_use(pids: Iterable[str]) -> set[str]:
    """Names in /dev/shm that one of these processes has open or mapped."""
    used: set[str] = set()
    for pid in pids:
        try:
            used.update(re.findall(r" /dev/shm/(\S+)", Path(f"/proc/{pid}/maps").read_text()))
            fds = Path(f"/proc/{pid}/fd")
            links = [os.readlink(fds / fd) for fd in _listdir(fds)]  # noqa: PTH115 - raw text
        except OSError:
            continue
        used.update(link.removeprefix("/dev/shm/") for link in links)
    return used


def _run_of(pid: str) -> str | None:
    """The run of the tests that a process belongs to; None for none."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    mark = f"{RUN}=".encode()
    return next((v.removeprefix(mark).decode() for v in variables if v.startswith(mark)), None)


def _strays() -> Iterator[str]:
    """Processes of this run that still live, other than this one and its helpers."""
    expected = _helpers() | {os.getpid()}
    for pid in _pids():
        if int(pid) not in expected and _run_of(pid) == os.environ.get(RUN, "-"):
            command = _command(pid)
            if command != "(gone)" and not command.startswith("[Z]"):
                yield pid
