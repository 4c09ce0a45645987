"""Parcel: an object that is larger than its ring travels in memory of its own, made for it alone.

    sender      make it, lock it -> write -> put its label into the ring -> unlock
    reader      label -> copy the content out -> release the label -> remove the name

Beside a ring without a path parcels are segments (shm:), beside a ring on a file they are files
next to it, which stay as long as the ring does. A label names the parcel, and the memory it is; it
takes room in the ring as if it were a part of the object, so that a full ring holds senders back.

Whoever is killed, and where:

- the sender before its label is committed: the parcel has no label and, since the kernel takes the
  lock (flock) back, no lock: garbage. The resource tracker of the sender's family removes a
  segment; others are found by `sweep`.
- the sender after that: nothing is lost. Memory without a name is its creator's family's, whose
  tracker goes last; it keeps the duty until a reader takes it over. Of rings with a name, and where
  the sender is a stranger that was handed the ring, the readers may outlive the sender's family, so
  its tracker is told to forget the parcel just before the commit.
- the reader before it released the label: another reader takes the parcel anew.
- the reader after that: garbage.

`sweep` removes the garbage of one ring: whenever a handle has sent some more, and on a call. It
holds the parcel's lock, and who makes a parcel looks once it has the lock whether that is still
there. The last one to leave a ring that nobody can find again calls `tidy`, which takes everything,
label or not. What neither was called for: leftovers.py.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pickle
import secrets
from contextlib import contextmanager
from glob import escape
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from shmkit.channels.objects.codec import Encoded, Received, decode
from shmkit.channels.objects.orphans import NONCE, PREFIX, SHM, nonce_of, trailer, unsent
from shmkit.errors import CorruptSegment
from shmkit.memory.allocation import free_memory
from shmkit.memory.backends import backend_for
from shmkit.memory.backends.base import Identity, identity_of
from shmkit.memory.mappers import is_somewhere
from shmkit.memory.url import Url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.memory.url import Scheme

__all__ = ["Label", "Parcel", "Parcels"]

_AT_ONCE: Final = 512  # pieces in one write; IOV_MAX is 1024
_NO_ROOM: Final = {errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT}
_TRACKED_AS: Final = "shared_memory"
_TOKEN: Final = 12  # hexadecimal digits at the end of a name
# Before them, of a segment: whether the resource tracker of its ring's family knows it.
_TRACKED: Final = "t"
_UNTRACKED: Final = "s"
_SWEEP: Final = 16  # parcels sent by a process from one sweep to the next, the first at once


class Label(NamedTuple):
    """What stands in the ring for a parcel.

    Attributes:
        where: url of its memory.
        nonce: what stands at its end, and of no other.
        size: bytes of the content.
        encoded: whether the content is an `Encoded`, and not a plain pickle.
    """

    where: str
    nonce: bytes
    size: int
    encoded: bool

    def pack(self) -> bytes:
        """As bytes; more may follow them."""
        return pickle.dumps(tuple(self), 5)

    @classmethod
    def unpack(cls, packed: bytes | memoryview) -> Label:
        """From the bytes of `pack`, whatever follows them."""
        return cls(*pickle.loads(packed))


class Parcels:
    """The parcels of one ring.

    Args:
        url: where the ring is.
        incarnation: what tells it from all others that were or will be there.
        identity: the memory it is in.
        tracked: whether parcels stay known to the resource tracker, which removes them when the
            last of this process's family is gone.
    """

    def __init__(self, url: Url, incarnation: str, identity: Identity, *, tracked: bool) -> None:
        self._tracked = tracked
        digest = hashlib.blake2b(incarnation.encode(), digest_size=4).hexdigest()
        # At most 30 characters where it is a segment: macOS.
        self._prefix = f"{url.name}.parcel-" if url.scheme == "file" else f"{PREFIX}{digest}-"
        self._kind: Scheme = "file" if url.scheme == "file" else "shm"
        self._url = url
        self._identity = identity
        self._pid, self._sent = os.getpid(), 0
        self._is_last = False

    # -- sending ---------------------------------------------------------------------------------

    @contextmanager
    def sending(
        self, content: bytes | Encoded, is_labelled: Callable[[str], bool]
    ) -> Iterator[Label]:
        """Make a parcel of its content; inside the `with` the label is to be committed.

        An exception inside the `with` removes the parcel again, unless its label was committed.

        Args:
            content: what `encode` gave.
            is_labelled: whether the ring holds a label with that url.

        Raises:
            OSError: ENOSPC: no room for it; nothing is left behind.
        """
        if self._pid != os.getpid():
            self._pid, self._sent = os.getpid(), 0
        if self._sent % _SWEEP == 0:
            self.sweep(is_labelled)  # what the killed have left
        self._sent += 1
        pieces, size = _pieces_of(content)
        nonce = secrets.token_bytes(NONCE)
        pieces.append(trailer(self._url, self._identity, nonce))
        url, forget = self._track()
        fd = -1
        try:
            while (fd := self._make(url)) < 0:
                if _remove(url) or not self._tracked:
                    forget()  # else the tracker was told by who removed it
                url, forget = self._track()
            _write(fd, pieces, size, str(url))  # step: parcel.write
            if not self._tracked:
                forget()  # step: parcel.forget
            yield Label(str(url), nonce, size, type(content) is Encoded)
        except BaseException:
            if not is_labelled(str(url)) and (fd < 0 or _remove(url)):
                forget()
            raise
        finally:
            if fd >= 0:
                os.close(fd)

    def _make(self, url: Url) -> int:
        """Make an empty parcel and lock it; -1 if a `sweep` came between the two."""
        backend = backend_for(url.scheme)
        fd = backend.create(url.name, 0o600)  # step: parcel.create
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # step: parcel.lock
            if backend.identify(url.name) == identity_of(os.fstat(fd)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass  # the sweep is at it, or through
        except BaseException:
            _remove(url)
            os.close(fd)
            raise
        os.close(fd)
        return -1

    def _track(self) -> tuple[Url, Callable[[], None]]:
        """A new name, which the tracker removes if a kill leaves it; and what ends that."""
        mark = "" if self._kind == "file" else _TRACKED if self._tracked else _UNTRACKED
        url = Url(self._kind, self._prefix + mark + secrets.token_hex(_TOKEN // 2))
        tracked = self._kind == "shm"
        if tracked:
            # Before there is anything: the tracker is not to learn of it too late.
            resource_tracker.register(f"/{url.name}", _TRACKED_AS)

        def forget() -> None:
            nonlocal tracked
            if tracked:
                tracked = False
                resource_tracker.unregister(f"/{url.name}", _TRACKED_AS)

        return url, forget

    # -- receiving -------------------------------------------------------------------------------

    def open(self, label: Label) -> Parcel:
        """Open the parcel of a label, to read it.

        Raises:
            FileNotFoundError: it is not there any more: removed by hand, or its sender's whole
                family was killed before it was taken.
            PermissionError: it is another user's.
            CorruptSegment: the name leads to other memory, or to less than the label says.
        """
        url = Url.parse(label.where)
        fd = backend_for(url.scheme).open(url.name, writable=False)
        try:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid():
                raise PermissionError(
                    errno.EPERM,
                    f"belongs to user {status.st_uid}; a pickle is code, and only your own is run",
                    label.where,
                )
            if nonce_of(fd, status.st_size) != label.nonce or status.st_size < label.size:
                raise _broken(label, "the name leads to other memory, or it was cut off")
        except BaseException:
            os.close(fd)
            raise
        return Parcel(label, url, fd)

    # -- cleaning up -----------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names or paths of all parcels of this ring that are there."""
        prefix = Path(self._prefix) if self._kind == "file" else SHM / self._prefix
        mark = "" if self._kind == "file" else f"[{_TRACKED}{_UNTRACKED}]"
        paths = prefix.parent.glob(f"{escape(prefix.name)}{mark}{'[0-9a-f]' * _TOKEN}")
        return [str(path) if self._kind == "file" else path.name for path in paths]

    def sweep(self, is_labelled: Callable[[str], bool]) -> int:
        """Remove the parcels that nobody is sending and nobody will receive.

        Args:
            is_labelled: whether the ring holds a label with that url.

        Returns:
            How many were removed.
        """
        removed = 0
        for name in self.names():
            url = Url(self._kind, name)
            with unsent(url) as fd:
                # In this order: a sender commits before it unlocks.
                if fd >= 0 and not is_labelled(str(url)):
                    self.remove(url)
                    removed += 1
        return removed

    def flush(self) -> None:
        """Have parcels that are files on the disk, and their names.

        Raises:
            OSError: the file system could not write.
        """
        if self._kind != "file":
            return
        for name in [*self.names(), os.fspath(Path(self._prefix).parent)]:
            try:
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # received meanwhile
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def note_last(self) -> None:
        """The ring's handle was the last one among all that had a line there."""
        self._is_last = True

    def tidy(self) -> None:
        """Remove every parcel, if nobody has the ring, and nobody can find it again.

        That is asked twice: of the presence locks, for who may not be in our /proc, and of that,
        for a forked child or a receiver that is not yet in. This process itself may have the memory
        still mapped: for views, or because it ends.
        """
        names = self.names() if self._is_last else []
        if names and not is_somewhere(self._url, self._identity, but=os.getpid()):
            for name in names:
                self.remove(Url(self._kind, name))

    def remove(self, url: Url) -> None:
        """Remove a parcel that was received, or that nobody will."""
        if _remove(url) and self._tracked and url.name.startswith(self._prefix + _TRACKED):
            resource_tracker.unregister(f"/{url.name}", _TRACKED_AS)


class Parcel:
    """A parcel opened by its reader: a `Source` of its content."""

    __slots__ = ("_fd", "_label", "url")

    def __init__(self, label: Label, url: Url, fd: int) -> None:
        self._label = label
        self.url = url
        self._fd = fd

    def receive(self) -> Received:
        """Copy the content out.

        Raises:
            CorruptSegment: there is less than the label says.
        """
        if self._label.encoded:
            return decode(self)
        return Received(self.bytes(0, self._label.size), [])

    def bytes(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes from `at` on."""
        got = os.pread(self._fd, size, at)
        # One read gives 2 GiB at most.
        return got if len(got) == size else bytes(self.bytearray(at, size))

    def bytearray(self, at: int, size: int) -> bytearray:
        """The same as a bytearray."""
        copy = bytearray(size)
        self.fill(at, memoryview(copy))
        return copy

    def fill(self, at: int, target: memoryview) -> None:
        """Copy as many bytes from `at` on as `target` has."""
        done = 0
        while done < len(target):
            got = os.preadv(self._fd, [target[done:]], at + done)
            if not got:
                raise _broken(self._label, f"it ends at byte {at + done}")
            done += got

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _pieces_of(content: bytes | Encoded) -> tuple[list[bytes | memoryview], int]:
    if not isinstance(content, Encoded):
        return [content], len(content)
    pieces: list[bytes | memoryview] = []
    end = 0
    for at, piece in content.pieces:
        if at > end:
            pieces.append(bytes(at - end))
        pieces.append(piece)
        end = at + len(piece)
    return pieces, end


def _write(fd: int, pieces: list[bytes | memoryview], size: int, what: str) -> None:
    """Write all pieces. A write takes pages without clearing them first, which a map does not."""
    volume = os.fstatvfs(fd)
    rooms = [volume.f_bavail * volume.f_frsize, free_memory() if what[:4] == "shm:" else None]
    free = min(room for room in rooms if room is not None)
    try:
        if size > free:
            raise OSError(errno.ENOSPC, "")
        rest = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        while rest:
            done = os.writev(fd, rest[:_AT_ONCE])
            while rest and done >= len(rest[0]):
                done -= len(rest.pop(0))
            if done:
                rest[0] = rest[0][done:]
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise OSError(
            errno.ENOSPC,
            f"no room for an object of {size} bytes, which is larger than its ring and needs memory"
            f" of its own; {free} are free: send less at once, or take a queue on a 'file:PATH'",
            what,
        ) from error


def _remove(url: Url) -> bool:
    try:
        backend_for(url.scheme).unlink(url.name)
    except FileNotFoundError:
        return False  # somebody was first
    except PermissionError:
        return False  # another user made something of such a name
    return True


def _broken(label: Label, detail: str) -> CorruptSegment:
    return CorruptSegment(
        f"parcel {label.where!r} of {label.size} bytes is broken: {detail}; what was in it is lost",
        where=label.where,
        detail=detail,
    )
