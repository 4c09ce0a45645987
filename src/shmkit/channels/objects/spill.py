"""Spill: a file for the objects that the ring's own memory has no room for.

There is at most one for a ring, in the directory for temporary files, made by the first sender that
needs it. Its first page says which ring it is of (segment/words.py: SPILL). Each handle that has it
open holds a shared lock on it (flock), from before it looks whether the name still leads there.

The last handle on the ring removes it; or its process at its end, if the ring's name goes only
then. If every process was killed, the next one that needs a spill file in that directory does: it
takes the lock for itself alone, and the ring is nowhere any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from contextlib import suppress
from multiprocessing import util
from struct import Struct
from typing import Final

from shmkit.memory.backends.base import Identity, identity_of
from shmkit.memory.identity import close_if, is_own, open_flags
from shmkit.memory.mappers import is_somewhere
from shmkit.memory.url import Url
from shmkit.segment.words import PAGE, SPILL_HEAD, SPILL_MAGIC, SPILL_URL

__all__ = ["Spill", "remove_at_end", "remove_spill", "spill_path", "sweep_spills"]

_PREFIX: Final = "shmkit-spill-"
_HEAD: Final = Struct(SPILL_HEAD)
_OPEN: Final = open_flags("RDWR", "NOFOLLOW", "CLOEXEC", "NONBLOCK", "NOCTTY")


def spill_path(incarnation: str) -> str:
    """Where the spill file of a ring is."""
    return f"{tempfile.gettempdir()}/{_PREFIX}{incarnation}"


class Spill:
    """A spill file, open in this process.

    Args:
        path: of the file.
        make_for: url and memory of the ring it is made for, if it is not there; None: only open it.

    Raises:
        FileNotFoundError: it is not there.
        PermissionError: it is another user's, or no file.
        OSError: it cannot be made.
    """

    def __init__(self, path: str, make_for: tuple[Url, Identity] | None = None) -> None:
        self.path = path
        while True:
            fd = os.open(path, _OPEN | (os.O_CREAT if make_for else 0), 0o600)
            try:
                status = os.fstat(fd)
                if not _is_ours(status):
                    raise PermissionError(
                        errno.EPERM,
                        f"belongs to user {status.st_uid}, or is no file; a pickle is code, and "
                        "only your own is run",
                        path,
                    )
                fcntl.flock(fd, fcntl.LOCK_SH)
                # A sweep before the lock may have removed the name.
                if _leads_to(path, identity_of(status)):
                    if make_for is not None and status.st_size < PAGE:
                        # All who come here at the same time write the same.
                        os.pwrite(fd, _head(*make_for), 0)
                    break
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        self._fd = fd
        self._identity = identity_of(status)

    def descriptor(self) -> int:
        """Its descriptor."""
        return self._fd

    def close(self) -> None:
        """Let go of it: it stays for the others."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close_if(fd, self._identity)


def _head(url: Url, identity: Identity) -> bytes:
    text = os.fsencode(str(url))
    head = _HEAD.pack(SPILL_MAGIC, *identity, _processes(), len(text))
    return (head + text).ljust(PAGE, b"\0")


def _processes() -> int:
    """The namespace of process ids that this process is in; 0 where the system does not tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    except OSError:
        return 0


def remove_spill(path: str, url: Url, identity: Identity) -> None:
    """Remove the spill file of a ring, unless another process has the ring, or can find it.

    This process itself does not count: views may keep the memory mapped, or it is about to end. If
    the ring has its name still, this process looks again at its end.
    """
    # Without /proc it cannot be told: then it stays.
    with suppress(OSError):
        if not _is_ours(os.lstat(path)):
            return
        if not is_somewhere(url, identity, but=os.getpid()):
            os.unlink(path)  # noqa: PTH108
            _later.pop(path, None)
            return
        _later[path] = url, identity


_PRIORITY: Final = -60  # at exit: after names were removed
_later: Final[dict[str, tuple[Url, Identity]]] = {}
_armed: Final[set[int]] = set()


def remove_at_end() -> None:
    """Have this process look again at its end; in time, since finalizers make no new ones."""
    if os.getpid() not in _armed:
        _armed.add(os.getpid())
        util.Finalize(None, _end_of_process, exitpriority=_PRIORITY)


def _end_of_process() -> None:
    for path, (url, identity) in list(_later.items()):
        remove_spill(path, url, identity)


def sweep_spills(folder: str) -> int:
    """Remove the spill files of this user in a directory whose rings are gone; how many."""
    removed = 0
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.path
                for entry in entries
                if entry.name.startswith(_PREFIX) and entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return 0
    for path in names:
        # What cannot be opened, or was just removed, is not ours to judge.
        with suppress(OSError):
            removed += _sweep(path)
    return removed


def _sweep(path: str) -> bool:
    fd = os.open(path, _OPEN)
    try:
        status = os.fstat(fd)
        if not _is_ours(status):
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # a process has it open
        if _is_orphan(os.pread(fd, PAGE, 0)) and _leads_to(path, identity_of(status)):
            os.unlink(path)  # noqa: PTH108
            return True
        return False
    finally:
        os.close(fd)


def _is_orphan(head: bytes) -> bool:
    """Whether no process has the ring that a spill file is of; False if that cannot be told."""
    if not head:
        return True  # its maker died, or is at the lock: then it looks at the name again
    if len(head) < SPILL_URL:
        return False
    magic, device, inode, processes, size = _HEAD.unpack_from(head)
    if magic != SPILL_MAGIC or not processes or processes != _processes():
        return False
    try:
        url = Url.parse(os.fsdecode(head[SPILL_URL : SPILL_URL + size]))
    except ValueError:
        return False
    return not is_somewhere(url, (device, inode))


def _is_ours(status: os.stat_result) -> bool:
    """Whether it is a file of this user."""
    return stat.S_ISREG(status.st_mode) and is_own(status)


def _leads_to(path: str, identity: Identity) -> bool:
    try:
        return identity_of(os.lstat(path)) == identity
    except FileNotFoundError:
        return False
