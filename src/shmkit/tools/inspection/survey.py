"""Every segment there is, and any one of them by where it is."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shmkit.memory.url import Url
from shmkit.tools.inspection.decode import MOST_FRAMES, Inspection, decode, describe
from shmkit.tools.inspection.processes import scan
from shmkit.tools.inspection.raw import NotAFile, Raw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from shmkit.tools.inspection.decode import Segment
    from shmkit.tools.inspection.processes import Holders

__all__ = ["inspect", "locate", "survey"]

_SHM: Final = "/dev/shm"


def survey(
    *,
    everybody: bool = False,
    paths: Iterable[str | os.PathLike[str]] = (),
    holders: Holders | None = None,
    frames: int | None = None,
    count: int = MOST_FRAMES,
) -> list[Inspection]:
    """Look at every segment and semaphore: named, anonymous, or removed and still in use.

    Args:
        everybody: those of other users, too.
        paths: files, and directories of files, to look at instead. Of a directory the files of
            this library are taken.
        holders: what an earlier look at the processes found; None to look now.
        frames: how many frames to show of each; None: not even to count them.
        count: how many frames to count of each at most.

    Returns:
        The inspections, in the order of their names, without the fields of their headers. What may
        not be read is of kind "not readable".

    Raises:
        OSError: one of the paths cannot be read.
    """
    files = [os.path.abspath(os.fsdecode(path)) for path in paths]  # noqa: PTH100
    if files:
        listed = list(_listed(files))
        holders = holders or scan({path for path, _ in listed})
        found = [(path, f"file:{path}", is_explicit) for path, is_explicit in listed]
        looks = [
            look
            for path, where, is_explicit in found
            if (look := _look(path, where, holders, frames, count)) is not None
            and (is_explicit or look.segment.ours)
        ]
        return _with_owners(looks)
    holders = holders or scan()
    names: list[tuple[str, str, str]] = [
        (f"{_SHM}/{name}", f"shm:{name}", name) for name in _names_in(_SHM)
    ]
    for (_, inode), (path, name) in holders.nameless.items():
        names.append((path, f"shm:({name})" if name else f"anon:{inode}", name))
    uid = os.geteuid()
    looks = [
        look
        for path, where, name in names
        if (look := _look(path, where, holders, frames, count, name=name)) is not None
        and (everybody or look.segment.owner == uid)
    ]
    return _with_owners(looks)


def inspect(where: str | os.PathLike[str], *, frames: int = 10) -> Inspection:
    """Look at one segment.

    Args:
        where: "NAME", "shm:NAME", "file:PATH", a path, or "anon:INODE" as `survey` gives it.
        frames: how many frames to show.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it cannot be a name.
        NotAFile: it is a directory, a pipe, a link, or a device.
        OSError: it cannot be read.
    """
    path, told, holders = locate(where)
    name = told.removeprefix("shm:") if told.startswith("shm:") else ""
    # A link of /proc leads to memory without a name. A file that is named by hand may be one, too.
    follow = not told.startswith("shm:") or path.startswith("/proc/")
    try:
        raw = Raw(path, follow=follow)
    except FileNotFoundError:
        raise FileNotFoundError(
            errno.ENOENT, "there is nothing of this name: see `shmkit ls`", told
        ) from None
    with raw:
        return decode(raw, told, path, holders, name=name.strip("()"), frames=frames)


def locate(where: str | os.PathLike[str]) -> tuple[str, str, Holders]:
    """Where a segment can be read, what it is called, and which processes have which memory.

    Raises:
        FileNotFoundError: no process has anonymous memory of that number.
        ValueError: it cannot be a name.
    """
    if isinstance(where, str) and where.startswith(("anon:", "shm:(")):
        holders = scan()
        for (_, inode), (path, name) in holders.nameless.items():
            told = f"shm:({name})" if name else f"anon:{inode}"
            if told == where:
                return path, told, holders
        raise FileNotFoundError(
            errno.ENOENT, "no process of this user has such memory: see `shmkit ls`", where
        )
    if isinstance(where, str) and where.startswith(f"{_SHM}/"):
        where = f"shm:{where.removeprefix(_SHM + '/')}"
    elif isinstance(where, str) and "/" in where and not where.startswith(("file:", "shm:")):
        where = f"file:{where}"
    url = Url.parse(where)
    path = f"{_SHM}/{url.name}" if url.scheme == "shm" else url.name
    return path, str(url), scan({path})


def _look(
    path: str, where: str, holders: Holders, frames: int | None, count: int, *, name: str = ""
) -> Inspection | None:
    """What is there; None if it is gone, not to be read, or no file."""
    try:
        with Raw(path, follow=path.startswith("/proc/")) as raw:
            return decode(
                raw, where, path, holders, name=name, frames=frames, count=count, header=False
            )
    except PermissionError:
        return _unreadable(path, where, holders)
    except (FileNotFoundError, NotAFile):
        return None
    except OSError as error:
        # A link, which is not followed; a process that ended; the file is under a lease.
        if error.errno in (errno.ELOOP, errno.ESRCH, errno.EAGAIN, errno.ENXIO):
            return None
        raise


def _unreadable(path: str, where: str, holders: Holders) -> Inspection | None:
    """What can be told of a file that this user may not read."""
    try:
        status = os.lstat(path)
    except OSError:
        return None  # it went meanwhile, or not even that may be told
    if not stat.S_ISREG(status.st_mode):
        return None
    return Inspection(describe(status, where, path, holders, kind="not readable"))


def _with_owners(looks: Iterable[Inspection]) -> list[Inspection]:
    """Say of what belongs to something else to what, and that it lives as long as that."""
    looks = sorted(looks, key=lambda look: look.segment.where)
    owners: dict[str, Segment] = {}
    for look in looks:
        if look.content:
            owners[look.content] = look.segment
    return [_with_owner(look, owners) for look in looks]


def _with_owner(look: Inspection, owners: Mapping[str, Segment]) -> Inspection:
    segment = look.segment
    owner = owners.get(segment.where) if segment.kind == "once bytes" else None
    if owner is None:
        return look
    status = owner.status if segment.status in ("orphan", "idle") else segment.status
    return replace(look, segment=replace(segment, belongs_to=owner.where, status=status))


def _listed(files: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Files to look at, and whether each was asked for by its own name."""
    for path in files:
        if os.path.isdir(path):  # noqa: PTH112
            yield from ((f"{path}/{name}", False) for name in _names_in(path))
        else:
            os.stat(path)  # noqa: PTH116 - an error if it is not there
            yield path, True


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except FileNotFoundError:
        return []  # this system has no /dev/shm
