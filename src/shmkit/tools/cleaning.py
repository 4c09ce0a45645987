"""Cleaning: the removal of what is left in /dev/shm, and provably nobody's.

The proof is the kernel's: it gives a write lease on a file (`F_SETLEASE`) only while no other
descriptor and no map of it exists, in any process of the machine, in whatever container. While the
lease is held no process can open the file. So between the proof and the removal of the name nobody
can come. A process that tries to attach just then is told that it should try again (EAGAIN).

What has no process may still be somebody's: the bytes of a `once` are their page's. They go with
it, and not before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shmkit.memory.identity import identity_of
from shmkit.tools.inspection.raw import NotAFile, Raw
from shmkit.tools.inspection.survey import survey

if TYPE_CHECKING:
    from shmkit.memory.identity import Identity
    from shmkit.tools.inspection.decode import Segment

__all__ = ["Verdict", "clean"]

_SHOWN: Final = 5  # pids in a reason


@dataclass(frozen=True)
class Verdict:
    """What became of a segment, semaphore or stored object.

    Attributes:
        where: as `Segment.where`.
        kind: what it is.
        size: bytes of memory that it takes.
        removed: whether it was removed; of a dry run, whether it would be.
        reason: why it was left; "" if it was removed.
    """

    where: str
    kind: str
    size: int
    removed: bool
    reason: str


def clean(*, older_than: float = 0, foreign: bool = False, dry_run: bool = False) -> list[Verdict]:
    """Remove what is left in /dev/shm and provably nobody's, and say what stays and why.

    Args:
        older_than: seconds since it was last known to be used.
        foreign: take also what this library did not make, if no process has it.
        dry_run: say what would be done, and do nothing.

    Returns:
        A verdict on each name of this user's.

    Raises:
        NotImplementedError: this system gives no leases on files.
    """
    if not sys.platform.startswith("linux"):
        raise NotImplementedError("only Linux proves that a segment is nobody's")
    named = [look.segment for look in survey() if _has_name(look.segment)]
    # What belongs to something else is judged after that.
    named.sort(key=lambda segment: bool(segment.belongs_to))
    before = time.time() - older_than
    gone: set[str] = set()
    verdicts = []
    for segment in named:
        reason = _why_left(segment, before, gone, foreign=foreign)
        reason = reason or _remove(segment.path, segment.identity, dry_run=dry_run)
        if not reason:
            gone.add(segment.where)
        verdicts.append(Verdict(segment.where, segment.kind, segment.resident, not reason, reason))
    return verdicts


def _has_name(segment: Segment) -> bool:
    return segment.where.startswith("shm:") and not segment.where.startswith("shm:(")


def _why_left(segment: Segment, before: float, gone: set[str], *, foreign: bool) -> str:
    """Why a segment is left, before the kernel is asked; "" if there is no reason."""
    owner = segment.belongs_to
    if owner and owner not in gone:
        return f"belongs to {owner}"
    if segment.status == "live" and not owner:
        shown = ", ".join(map(str, segment.pids[:_SHOWN])) or "in another container"
        return f"in use by process {shown}"
    if not segment.ours and not foreign:
        return "not known to be shmkit's: --foreign removes it"
    if not segment.sound and not foreign:
        return "its header is broken, so it may not be shmkit's: --foreign removes it"
    if segment.used > before:
        return f"used {time.time() - segment.used:.0f} s ago, later than --older-than allows"
    return ""


def _remove(path: str, identity: Identity, *, dry_run: bool) -> str:
    """Remove a name if no process has what it leads to; why not, or ""."""
    try:
        raw = Raw(path)
    except FileNotFoundError:
        return "gone meanwhile"
    except NotAFile as error:
        return str(error.strerror)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    with raw:
        # Else a process that opens the file meanwhile has the kernel end this one, by SIGIO. Nobody
        # minds this signal.
        fcntl.fcntl(raw.fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(raw.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return "a process has it, which this user may not see or which has just come"
            return f"the kernel does not prove that it is nobody's: {error.strerror}"
        try:
            if raw.identity != identity or identity_of(os.lstat(path)) != identity:
                return "replaced meanwhile"
            if not dry_run:
                os.unlink(path)  # noqa: PTH108 - while the lease is held
        except FileNotFoundError:
            return "gone meanwhile"
        except OSError as error:
            return f"cannot be removed: {error.strerror}"
        finally:
            fcntl.fcntl(raw.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return ""
