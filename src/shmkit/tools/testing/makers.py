"""Makers: which line of code made a name, opened a file or started a process.

Python tells of these by audit events (PEP 578). A hook can not be taken away again, and every event
of the process goes through it: it is set when it is first wanted.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["maker", "watch_makers"]

_OWN: Final = str(Path(__file__).parents[2])
_STDLIB: Final = sysconfig.get_path("stdlib")
_SITES: Final = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
_SHM: Final = "/dev/shm/"
_STARTS: Final = frozenset({"os.fork", "os.forkpty", "subprocess.Popen", "os.posix_spawn"})
_MOST: Final = 10_000  # what is remembered; the oldest goes first

_paths: Final[dict[str, str]] = {}
_starts: Final[list[tuple[float, str]]] = []
_watched = False


def watch_makers() -> None:
    """Begin to remember, for the rest of this process and in what it forks."""
    global _watched
    if not _watched:
        _watched = True
        sys.addaudithook(_hear)


def maker(kind: str, what: str) -> str:
    """The line that made a leak, as "FILE:LINE in FUNCTION"; "" if that is not known.

    Args:
        kind: as in `Leak`.
        what: as in `Leak`.
    """
    if kind == "child":
        return _starter(int(what.partition(" ")[0]))
    if kind in ("segment", "semaphore"):
        return _paths.get(_SHM + what, "")
    if kind == "descriptor":
        fd, _, path = what.partition(" -> ")
        try:
            target, inode = _target_of(int(fd))
        except OSError:
            return _paths.get(path, "")  # it was closed meanwhile
        return _paths.get(f"{target} (inode {inode})") or _paths.get(path, "")
    return _paths.get(what, "")


def _hear(
    event: str, args: tuple[Any, ...], is_finalizing: Callable[[], bool] = sys.is_finalizing
) -> None:
    if is_finalizing():
        return  # the globals may be gone
    if event == "open":
        _hear_open(args[0])
    elif event == "os.link":
        _remember(os.fsdecode(args[1]))
    elif event == "shmkit.semaphore":
        _remember(f"{_SHM}sem.{args[0]}")
    elif event == "mmap.__new__":
        _hear_map(args[0])
    elif event in _STARTS:
        _remember_start()


def _hear_open(path: object) -> None:
    if isinstance(path, int):
        # How `multiprocessing` begins to talk to a process that it has just spawned.
        if sys._getframe(2).f_code.co_filename.endswith("popen_spawn_posix.py"):
            _remember_start()
    elif isinstance(path, str | bytes):
        name = os.fsdecode(path)
        if not name.endswith((".py", ".pyc")):
            try:
                _remember(os.path.abspath(name))  # noqa: PTH100 - a link stays one
            except FileNotFoundError:
                return  # the working directory is gone


def _hear_map(fd: int) -> None:
    try:
        target, inode = _target_of(fd)
    except OSError:
        return  # anonymous
    _remember(target)
    _remember(f"{target} (inode {inode})")  # several have the name of one


def _target_of(fd: int) -> tuple[str, int]:
    return os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_ino  # noqa: PTH115 - raw text


def _remember_start() -> None:
    _starts.append((time.clock_gettime(time.CLOCK_BOOTTIME), _line()))
    del _starts[:-_MOST]


def _remember(path: str) -> None:
    if line := _line():
        _paths[path] = line
        if len(_paths) > _MOST:
            _paths.pop(next(iter(_paths)), None)  # another thread may have been faster


def _line() -> str:
    """The innermost line that is neither of this library nor of an installed one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_OWN, _STDLIB, *_SITES, "<")):
            return f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def _starter(pid: int) -> str:
    """The line that started a process at about the time when this one began."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return min(_starts, key=lambda start: abs(start[0] - began), default=(0, ""))[1]
