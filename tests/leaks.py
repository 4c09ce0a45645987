"""What outlives a whole run of the tests. After each test the plugin of shmkit itself looks.

All of it is read from /proc and /dev/shm, which Linux has; elsewhere nothing is found.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from shmkit.tools.testing.leaks import helpers, names_in_use

__all__ = [
    "RUN",
    "after_run",
    "born",
    "library_names",
    "used_elsewhere",
]

RUN = "SHMKIT_TEST_RUN"  # a variable in the environment of every process of a run

_SHM = Path("/dev/shm")
_OURS = re.compile(r"^(sem\.)?(shmkit|t-)")


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
            names -= names_in_use(map(int, _pids()))
        processes = [f"{pid} {_command(pid)}" for pid in _strays()]
        if not (names or processes) or time.monotonic() > end:
            return sorted(names), processes
        time.sleep(0.05)


def used_elsewhere() -> bool:
    """Whether a process outside this run uses the library, and may leave names, too."""
    ours = os.environ.get(RUN)
    outside = [pid for pid in _pids() if int(pid) != os.getpid() and _run_of(pid) != ours]
    used = names_in_use(map(int, outside))
    return any(_run_of(pid) for pid in outside) or any(map(_OURS.match, used))


def born(name: str) -> float:
    """When a name in /dev/shm was made, in seconds since 1970; 0 if it is gone."""
    try:
        return (_SHM / name).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def library_names() -> set[str]:
    """Names in /dev/shm that the library or one of its tests made."""
    return {name for name in _listdir(_SHM) if _OURS.match(name)}


def _listdir(path: Path) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208 - names, not paths
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
        return []


def _command(pid: str) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return "(gone)"
    return f"[{state}] " + b" ".join(words).decode(errors="replace")[:200]


def _pids() -> Iterator[str]:
    return (name for name in _listdir(Path("/proc")) if name.isdigit())


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
    expected = helpers() | {os.getpid()}
    for pid in _pids():
        if int(pid) not in expected and _run_of(pid) == os.environ.get(RUN, "-"):
            command = _command(pid)
            if command != "(gone)" and not command.startswith("[Z]"):
                yield pid
