"""Getting hold of memory: made in one step, or opened, or waited for.

    open a file without a name  ->  reserve its room  ->  fill it  ->  give it its name

So what has a name is whole: an attacher never finds it half-made, and a creator that is killed
before the last step leaves nothing. What is there is never changed, resized or taken over here.

The resource tracker is told after the name is given. Told before, it could remove the memory of
another process that got the name first. A creator that is killed between the two steps leaves a
whole segment. A fresh name, which no other process can know, is told first.

Where there are no files without a name (some filesystems, other systems), creation takes two steps:
an exclusive create, then room and content. Content stores its first 8 bytes, the magic, last. An
attacher waits for them, up to its timeout.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

from shmkit.deadline import Deadline
from shmkit.errors import IncompatibleSegment
from shmkit.memory.allocation import reserve
from shmkit.memory.backends import THERE_ALREADY, backend_for
from shmkit.memory.identity import Exact, exact_identity, identity_of
from shmkit.memory.mapping import Region, map_anonymous, map_region
from shmkit.memory.opening import followed, open_file
from shmkit.memory.ownership import Ownership, refuse_others, remove
from shmkit.memory.url import Url

if TYPE_CHECKING:
    from shmkit.memory.backends.base import Backend

__all__ = [
    "PATIENCE",
    "Fill",
    "Opened",
    "Pauses",
    "create",
    "ensure",
    "may_be_unfinished",
    "open_existing",
    "open_now",
]

# Writes the content of new memory, given all of its bytes, zeros.
Fill = Callable[[memoryview], None]

# Tests clear it, to have memory made in two steps here, too.
ONE_STEP = True

_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02
PATIENCE = 5.0  # seconds that ensure() gives a creator between its two steps
_LARGE: Final = 1 << 16  # bytes; for less it is not worth to look first whether the name is there
_MAGIC: Final = 8  # bytes
_COPIED: Final = 1 << 20  # bytes at a time


class Opened:
    """Memory in hand: an open descriptor, and the duty to remove the name if there is one.

    Leaving its `with` closes the descriptor unless `keep_fd` took it over. An exception undoes a
    creation first.
    """

    __slots__ = ("created", "fd", "identity", "named", "owner", "region", "url")

    def __init__(self, url: Url, fd: int, identity: Exact = (0, 0, b"")) -> None:
        self.url = url
        self.fd = fd  # -1: there is none
        self.identity = identity
        self.created = False  # by this call
        self.region: Region | None = None  # its bytes, if they are mapped already
        self.owner: Ownership | None = None
        self.named = False  # by this call, which gave it its name or was about to

    def keep_fd(self) -> int:
        """Take the descriptor over."""
        fd, self.fd = self.fd, -1
        return fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self.discard()
        elif self.fd >= 0:
            os.close(self.fd)

    def discard(self) -> None:
        """Close the descriptor, and undo a creation."""
        try:
            if self.region is not None:
                self.region.close()
            if self.owner is not None:
                self.owner.fulfil()
            elif self.named:
                remove(self.url, self.identity)
        finally:
            if self.fd >= 0:
                os.close(self.fd)


def create(url: Url, size: int, fill: Fill | None, *, keep: bool, mode: int) -> Opened:
    """Make memory that was not there: reserved, filled (None: zeros), named, and mapped.

    Raises:
        FileExistsError: it is there.
        OSError: ENOSPC: there is no room; nothing stays behind.
    """
    backend = backend_for(url.scheme)
    fresh = not url.name
    if fresh:
        url = Url(url.scheme, backend.fresh_name())
    elif size > _LARGE:
        _refuse_what_is_there(backend, url)
    owned = backend.creator_unlinks and not keep
    fd = backend.create_unnamed(url.name, mode) if ONE_STEP else -1  # step: create.open
    if fd >= 0:
        opened = _opened(url, fd)
        try:
            opened.region = _fill_unnamed(opened, size, fill)
            if owned and fresh:
                opened.owner = Ownership(url, opened.identity)
            opened.named = True  # by now or in a moment: discard() looks where the name leads
            if backend.link(fd, url.name):  # step: create.link
                if owned and not fresh:
                    opened.owner = Ownership(url, opened.identity)  # step: create.track
                opened.region = opened.region or _map_by_name(backend, opened, size)
                return opened
        except BaseException:
            opened.discard()
            raise
        opened.discard()
    # This filesystem has no files without a name, or cannot name them later.
    return _create_in_two_steps(backend, url, size, fill, owned=owned, mode=mode)


def _refuse_what_is_there(backend: Backend, url: Url) -> None:
    """Refuse before any room is taken; `link` refuses in the end."""
    try:
        backend.identify(url.name)
    except OSError:
        return  # it is not there; or what is wrong is told by the steps to come
    raise FileExistsError(
        errno.EEXIST, THERE_ALREADY, url.name if url.scheme == "file" else str(url)
    )


def _fill_unnamed(opened: Opened, size: int, fill: Fill | None) -> Region | None:
    """Reserve room and write the content; the map, if the memory is to stay without a name."""
    opened.created = True
    reserve(opened.fd, size, opened.url)  # step: create.reserve
    if fill is None:
        return None
    region = map_region(opened.fd, "rw", 0, size)
    try:
        fill(region.whole[:])  # step: create.fill
    except BaseException:
        region.close()
        raise
    if opened.url.scheme == "anon":
        return region
    region.close()
    return None


def _map_by_name(backend: Backend, opened: Opened, size: int) -> Region:
    """Map memory that was just named, by its name.

    /proc/*/maps would show a map of its first descriptor as deleted and without the name, and it is
    how people find which processes use a segment.
    """
    fd = -1
    if opened.url.name:
        try:
            fd = backend.open(opened.url.name, writable=True)
        except OSError:
            pass  # unlinked already, or of a mode that does not let its owner write
    try:
        found = fd >= 0 and identity_of(os.fstat(fd)) == opened.identity[:2]
        return map_region(fd if found else opened.fd, "rw", 0, size)
    finally:
        if fd >= 0:
            os.close(fd)


def _create_in_two_steps(
    backend: Backend, url: Url, size: int, fill: Fill | None, *, owned: bool, mode: int
) -> Opened:
    opened = _opened(url, backend.create(url.name, mode))
    try:
        opened.created = opened.named = True
        if owned:
            opened.owner = Ownership(url, opened.identity)
        if opened.fd < 0:
            opened.region = map_anonymous(size)
        else:
            reserve(opened.fd, size, url)
            opened.region = map_region(opened.fd, "rw", 0, size)
        if fill is not None:
            _fill_magic_last(opened.region.whole, fill)
    except BaseException:
        opened.discard()
        raise
    return opened


def _fill_magic_last(whole: memoryview, fill: Fill) -> None:
    """Fill memory that has a name: its first 8 bytes come last, and tell that the rest is there."""
    # Into a draft first: `fill` writes in any order, the magic included.
    draft = map_anonymous(len(whole))
    fill(draft.whole[:])
    for at in range(0, len(whole), _COPIED):
        piece = draft.whole[at : at + _COPIED].tobytes()
        if piece.count(0) < len(piece):  # what is zero stays untouched
            first = _MAGIC if at == 0 else 0
            whole[at + first : at + len(piece)] = piece[first:]
    whole[:_MAGIC] = draft.whole[:_MAGIC]
    draft.close()


def ensure(
    url: Url, size: int, fill: Fill | None, *, keep: bool, mode: int, refusal: str = ""
) -> Opened:
    """Open what is there and has at least `size` bytes, or make it.

    `refusal` says why another user's is refused; "" takes it.

    Raises:
        IncompatibleSegment: what is there has fewer bytes. It stays as it is.
        PermissionError: it is another user's.
        OSError: ENOSPC: there is no room.
    """
    while url.name:
        try:
            opened = open_now(url, writable=True)
        except FileNotFoundError:
            try:
                return create(url, size, fill, keep=keep, mode=mode)
            except FileExistsError:
                if url.scheme == "file":
                    url = Url("file", followed(url.name))  # a link to nothing: make it there
                continue  # another process was faster
        try:
            refuse_others(opened.fd, url, refusal)
            _check_size(opened, size)
        except BaseException:
            os.close(opened.fd)
            raise
        return opened
    return create(url, size, fill, keep=keep, mode=mode)


def _check_size(opened: Opened, wanted: int) -> None:
    status = os.fstat(opened.fd)
    size = status.st_size
    if size >= wanted or not stat.S_ISREG(status.st_mode):
        return
    # Its creator may be between its two steps.
    if size == 0 and _takes_two_steps(opened.url):
        pauses = Pauses(PATIENCE)
        while size == 0 and pauses.take():
            size = os.fstat(opened.fd).st_size
    if size < wanted:
        raise IncompatibleSegment(
            f"{opened.url} has {size} bytes, and {wanted} are asked for: unlink it, ask for less, "
            "or take another name",
            where=str(opened.url),
        )


def open_existing(
    url: Url, *, writable: bool, timeout: float | None, streams: bool = False
) -> Opened:
    """Open what is there, waiting for it up to `timeout` seconds (None: for ever).

    Pipes and devices are opened if `streams` is set, and without waiting for their other end. A
    segment without a size counts as not there yet: the standard library's SharedMemory gives it
    one in a second step.

    Raises:
        FileNotFoundError: it is not there.
        IncompatibleSegment: a segment without a size, or something that is no segment.
        OSError: see `open_file` for what a path leads to.
    """
    pauses = Pauses(timeout)
    while True:
        try:
            opened = open_now(url, writable=writable, streams=streams)
        except FileNotFoundError as error:
            if not pauses.take():
                raise _not_there(url, error) from error
            continue
        if url.scheme != "shm" or os.fstat(opened.fd).st_size:
            return opened
        os.close(opened.fd)
        if not pauses.take():
            raise IncompatibleSegment(
                f"{url} has no size yet: its creator is at work, or died; wait with timeout=, or "
                "unlink it",
                where=str(url),
            )


class Pauses:
    """Pauses of growing length until a deadline, for what no event announces: names and sizes."""

    __slots__ = ("_deadline", "_next")

    def __init__(self, timeout: float | None) -> None:
        self._deadline = Deadline(timeout)
        self._next = _FIRST_PAUSE

    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self._deadline.remaining()

    def take(self) -> bool:
        """Sleep for a moment; False at once if the deadline has passed."""
        if self._deadline.expired():
            return False
        time.sleep(min(self._next, self._deadline.remaining()))
        self._next = min(2 * self._next, _LONGEST_PAUSE)
        return True


def may_be_unfinished(url: Url, whole: memoryview) -> bool:
    """Whether memory that begins with a magic may be between the two steps of its creation."""
    return not any(whole[:_MAGIC]) and _takes_two_steps(url)


def _takes_two_steps(url: Url) -> bool:
    try:
        fd = backend_for(url.scheme).create_unnamed(url.name, 0o600) if ONE_STEP else -1
    except OSError:
        return True  # not for this user to tell
    if fd >= 0:
        os.close(fd)
    return fd < 0


def _not_there(url: Url, error: FileNotFoundError) -> FileNotFoundError:
    what = error.strerror or ""
    if url.scheme == "file":
        what = "there is no such file"
    if "use '" not in what:
        what += ": create() or ensure() makes it, timeout= waits for it"
    return FileNotFoundError(errno.ENOENT, what, error.filename)


def open_now(url: Url, *, writable: bool, streams: bool = False) -> Opened:
    """Open what is there, without waiting; see `open_existing`."""
    if url.scheme == "file":
        fd, path = open_file(url.name, writable=writable, streams=streams)
        return _opened(url if path == url.name else Url("file", path), fd)
    if url.scheme == "shm" and not url.name:
        raise ValueError("'shm:' alone asks create() for a fresh name; to attach, name the segment")
    opened = _opened(url, backend_for(url.scheme).open(url.name, writable=writable))
    if url.scheme == "shm" and not stat.S_ISREG(os.fstat(opened.fd).st_mode):
        os.close(opened.fd)
        raise IncompatibleSegment(
            f"{url} is no segment, but a directory, a pipe or a device: take another name",
            where=str(url),
        )
    return opened


def _opened(url: Url, fd: int) -> Opened:
    if fd < 0:
        return Opened(url, fd)
    return Opened(url, fd, exact_identity(fd, os.fstat(fd), url.scheme))
