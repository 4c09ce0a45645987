"""Checkup: what of this machine shmkit needs, whether it is there, and what to do if not.

Each check tries the thing itself where it can, in memory that goes with the check: a kernel may
have a feature that a container's rules forbid.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from shmkit import compiled
from shmkit.memory.allocation import free_memory
from shmkit.segment.fences import join_fence_all
from shmkit.segment.presence import lock_range, locked_range
from shmkit.segment.semaphores import uses_names
from shmkit.tools.inspection.processes import is_all_visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Check", "Level", "check_up"]

Level = Literal["ok", "note", "wrong"]
"""Works; works, and there is something to know; does not work."""

_SHM: Final = "/dev/shm"
_DOCKER: Final = 64 << 20  # bytes of a container's /dev/shm, unless it is asked for more
_FEW: Final = 1024  # descriptors; a handle takes two
_FULL: Final = 0.9
_MEBIBYTE: Final = 1 << 20
_EXTRAS: Final = ("posix_ipc", "numpy", "typer", "rich", "textual", "psutil")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        level: "ok", "note" or "wrong".
        found: what was found.
        remedy: what to do; "" if nothing.
    """

    name: str
    level: Level
    found: str
    remedy: str = ""


def check_up(shm: str = _SHM) -> list[Check]:
    """Look at everything; no check fails with an error.

    Args:
        shm: where named segments are.
    """
    checks = [*_folder(Path(shm)), *_limits(), *_features(shm), *_container(), _core()]
    return [*checks, *_versions()]


# -- /dev/shm --------------------------------------------------------------------------------------


def _folder(shm: Path) -> Iterator[Check]:
    name = str(shm)
    try:
        room = os.statvfs(shm)
        mode = shm.stat().st_mode
    except OSError as error:
        yield Check(
            name,
            "wrong",
            error.strerror or str(error),
            f"mount -t tmpfs -o mode=1777 shm {shm}; until then use 'file:PATH' or 'anon:'",
        )
        return
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    share = 1 - free / total if total else 1.0
    found = f"{_mebibytes(total)}, {share:.0%} used, {room.f_favail:,} inodes free"
    if total and total <= _DOCKER:
        remedy = "start the container with --shm-size=1g (Kubernetes: an emptyDir of medium Memory)"
        yield Check(f"{name} size", "note", f"{found}: a container's default", remedy)
    elif share > _FULL or not room.f_favail:
        remedy = f"see `shmkit ls`, then `shmkit gc`; or mount -o remount,size=... {shm}"
        yield Check(f"{name} size", "wrong", found, remedy)
    else:
        yield Check(f"{name} size", "ok", found)
    if not os.access(shm, os.W_OK | os.X_OK):
        remedy = f"chmod 1777 {shm}, as root; until then use 'file:PATH' or 'anon:'"
        yield Check(
            f"{name} permissions", "wrong", f"mode {mode & 0o7777:04o}, not writable", remedy
        )
    elif mode & 0o002 and not mode & 0o1000:
        remedy = f"chmod 1777 {shm}, as root"
        found = f"mode {mode & 0o7777:04o}: every user may remove other users' segments"
        yield Check(f"{name} permissions", "wrong", found, remedy)
    else:
        yield Check(f"{name} permissions", "ok", f"mode {mode & 0o7777:04o}, writable")
    free_now = free_memory()
    if free_now is not None:
        level: Level = "note" if free_now < 256 * _MEBIBYTE else "ok"
        remedy = "segments are memory: make fewer, or put them on files" if level == "note" else ""
        yield Check("memory", level, f"{_mebibytes(free_now)} may still be filled", remedy)


# -- limits ----------------------------------------------------------------------------------------


def _limits() -> Iterator[Check]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)} ({_limit(hard)} at most); a handle takes two"
    few = resource.RLIM_INFINITY != soft <= _FEW
    remedy = f"ulimit -n {_limit(hard)} before the program starts, if it has many handles"
    yield Check("descriptors", "note" if few else "ok", found, remedy if few else "")
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = f"{_limit(soft, _mebibytes)} may be locked into memory"
    yield Check("mlock", "ok", found)
    pages = _read("/proc/sys/vm/nr_hugepages").strip()
    policy = _read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    chosen = policy.partition("[")[2].partition("]")[0]
    if pages or chosen:
        yield Check(
            "huge pages", "ok", f"{pages or '0'} reserved; of shared memory: {chosen or '?'}"
        )


def _limit(value: int, told: Callable[[int], str] = str) -> str:
    return "no limit" if value == resource.RLIM_INFINITY else told(value)


# -- kernel and C library --------------------------------------------------------------------------


def _features(shm: str) -> Iterator[Check]:
    yield _tried(
        "memfd", _memfd, "anonymous memory then goes by fork alone", "use 'shm:' or 'file:'"
    )
    yield _tried(
        "O_TMPFILE",
        lambda: _tmpfile(shm),
        "a segment then has its name before it is whole",
        "a kernel from 3.11 on, and /proc",
    )
    yield _tried(
        "OFD locks",
        _ofd_locks,
        "rings, queues and locks need them",
        "a kernel from 3.15 on; under gVisor and the like use a newer one",
        needed=True,
    )
    fenced = join_fence_all()
    yield Check(
        "membarrier",
        "ok" if fenced else "note",
        "one side's fence is enough" if fenced else "not here: each put and get fences itself",
    )
    clocked = hasattr(ctypes.CDLL(None), "sem_clockwait")
    found = "waits go by the monotonic clock" if clocked else "not here: setting the clock may "
    remedy = "" if clocked else "a glibc from 2.30 on"
    yield Check(
        "sem_clockwait",
        "ok" if clocked else "note",
        found if clocked else f"{found}stretch a wait by 50 ms",
        remedy,
    )
    named = uses_names()
    found = "with names, in /dev/shm" if named else "in the segment, without names"
    remedy = "unset SHMKIT_SEMAPHORES" if os.environ.get("SHMKIT_SEMAPHORES") else ""
    yield Check("semaphores", "note" if named else "ok", found, remedy if named else "")


def _tried(
    name: str, trial: Callable[[], None], without: str, remedy: str, *, needed: bool = False
) -> Check:
    try:
        trial()
    except (OSError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "not in this Python"
        return Check(name, "wrong" if needed else "note", f"{reason}: {without}", remedy)
    return Check(name, "ok", "works")


def _memfd() -> None:
    os.close(os.memfd_create("shmkit-doctor", os.MFD_CLOEXEC))


def _tmpfile(shm: str) -> None:
    os.close(os.open(shm, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600))
    os.stat("/proc/self/fd")  # noqa: PTH116 - a name is given by its links


def _ofd_locks() -> None:
    fd = os.memfd_create("shmkit-doctor", os.MFD_CLOEXEC)
    try:
        lock_range(fd, 0, 1)
        with open(f"/proc/self/fd/{fd}", "rb") as other:  # noqa: PTH123
            seen = locked_range(other.fileno(), 0, 1)
        if seen is None:
            raise OSError(0, "a lock is not seen by others")
    finally:
        os.close(fd)


# -- containers ------------------------------------------------------------------------------------


def _container() -> Iterator[Check]:
    is_container = any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
    if is_container:
        yield Check(
            "IPC namespace",
            "note",
            "a container: its /dev/shm is its own, unless it is shared",
            "between containers: --ipc=container:NAME, or rings on a volume they share",
        )
    if is_all_visible():
        yield Check("PID namespace", "ok", "every process is seen")
    else:
        yield Check(
            "PID namespace",
            "note",
            "private: pids elsewhere are other processes here, and `ls` does not see those",
            "shmkit asks the kernel's locks, not pids; for `ls` and `gc` use --pid=host",
        )


# -- shmkit itself ---------------------------------------------------------------------------------


def _core() -> Check:
    if compiled.core is not None:
        return Check("compiled core", "ok", "in use")
    why = compiled.WHY_PURE
    remedy = (
        f"unset {why.partition('=')[0]}"
        if why.startswith("SHMKIT_")
        else "install a wheel, or a C compiler and `pip install --no-binary shmkit shmkit`"
    )
    return Check("compiled core", "note", f"plain Python: {why}", remedy)


def _versions() -> Iterator[Check]:
    libc = " ".join(platform.libc_ver()).strip() or "an unknown C library"
    system = f"Python {platform.python_version()}, Linux {platform.release()}, {libc}"
    if sys.platform != "linux":
        system = f"Python {platform.python_version()}, {platform.platform()}"
    yield Check("versions", "ok", f"shmkit {metadata.version('shmkit')}, {system}")
    found = []
    for name in _EXTRAS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    yield Check("packages", "ok", ", ".join(found))


def _mebibytes(size: int) -> str:
    return f"{size / _MEBIBYTE:,.0f} MiB"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
