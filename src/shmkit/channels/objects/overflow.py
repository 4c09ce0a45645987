"""Overflow: an object that is larger than its ring travels in memory of its own.

    sender      make it, lock it -> write -> put its label into the ring -> unlock
    receiver    label -> copy the content out -> release the label -> remove the name

The memory is a segment beside a ring without a path, and a file next to a ring on a file. The ring
holds a label in its place: which memory it is, and how many bytes. The label takes as much room as
if it were a part of the object, so a full ring holds its senders back. At the end of the content,
behind what a receiver copies, stands a random number that the label has, too: a name may lead to
other memory by the time the label is read.

What a kill leaves, by the moment it comes:

- the sender before its label is committed: memory without a label and, since the kernel takes the
  lock (flock) back, without a lock. It is garbage. The sender's resource tracker removes a segment;
  `sweep` finds the rest.
- the sender after that: nothing is lost. The tracker must not remove it now. A ring without a name
  is used by one family of processes, which share a tracker: the tracker keeps the duty until a
  receiver takes it over. The receivers of every other ring may outlive the sender's tracker, so it
  is told to forget the memory just before the commit.
- the receiver before it released the label: another receiver takes the object.
- the receiver after that: garbage, for `sweep`.

`sweep` runs when a process has sent some objects, and when it is called. It holds the lock of each
memory that it looks at, and a sender checks, once it has the lock, that its memory still has its
name. The last handle on a ring that cannot be found any more calls `remove_all`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pickle
import secrets
from contextlib import contextmanager
from multiprocessing import resource_tracker
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from shmkit.channels.objects.codec import Encoded, Received, Source, decode
from shmkit.errors import CorruptSegment
from shmkit.memory.allocation import free_memory
from shmkit.memory.backends import backend_for
from shmkit.memory.backends.base import Identity, identity_of
from shmkit.memory.mappers import is_somewhere
from shmkit.memory.url import Url
from shmkit.segment.words import OVERFLOW_MAGIC, OVERFLOW_NONCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkit.memory.url import Scheme

__all__ = ["Label", "Overflow", "StoredObject"]

_SHM: Final = "/dev/shm"
_PREFIX: Final = "shmkit-o"
_TOKEN: Final = 12  # hexadecimal digits at the end of a name
# In the name of a segment, before the token: whether the tracker of the ring's family knows it.
_TRACKED: Final = "t"
_UNTRACKED: Final = "s"
_TRACKED_AS: Final = "shared_memory"
_HEXADECIMAL: Final = frozenset("0123456789abcdef")

_END: Final = Struct(f"<{OVERFLOW_NONCE}s{len(OVERFLOW_MAGIC)}s")
_AT_ONCE: Final = 512  # pieces in one write; IOV_MAX is 1024
_NO_ROOM: Final = {errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT}
_SWEEP: Final = 16  # objects that a process sends from one sweep to the next; the first at once


class Label(NamedTuple):
    """What stands in the ring in place of an object.

    Attributes:
        name: of its memory, beside the ring: a directory may move, and be spelled in many ways.
        nonce: the random number at the end of the content; no other content has it.
        size: bytes of the content.
        encoded: whether the content is an `Encoded`, and not a plain pickle.
    """

    name: str
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


class Overflow:
    """The objects of one ring that have memory of their own.

    Args:
        url: where the ring is.
        incarnation: tells the ring from earlier and later rings of the same name.
        identity: the memory the ring is in.
        tracked: whether the resource tracker of this process keeps the duty to remove an object
            until it is received.
    """

    def __init__(self, url: Url, incarnation: str, identity: Identity, *, tracked: bool) -> None:
        self._tracked = tracked
        self._url = url
        self._identity = identity
        self._pid, self._sent = os.getpid(), 0
        self._is_last = False
        self._kind: Scheme
        if url.scheme == "file":
            self._kind = "file"
            self._folder, ring = os.path.split(url.name)
            self._prefix = f"{ring}.overflow-"
        else:
            self._kind, self._folder = "shm", ""
            digest = hashlib.blake2b(incarnation.encode(), digest_size=4).hexdigest()
            # With mark and token at most 30 characters, for macOS.
            self._prefix = f"{_PREFIX}{digest}-"

    @contextmanager
    def sending(
        self, content: bytes | Encoded, is_labelled: Callable[[str], bool]
    ) -> Iterator[Label]:
        """Store an object; inside the `with` its label is to be committed.

        An exception inside the `with` removes the memory again, unless the label was committed.

        Args:
            content: what `codec.encode` gave.
            is_labelled: whether the ring holds a label with that name.

        Raises:
            OSError: ENOSPC: there is no room for it; nothing is left behind.
        """
        self._sweep_sometimes(is_labelled)
        pieces, size = _pieces_of(content)
        nonce = secrets.token_bytes(OVERFLOW_NONCE)
        pieces.append(_END.pack(nonce, OVERFLOW_MAGIC))
        name, forget = self._new_name()
        fd = -1
        try:
            while (fd := self._make(name)) < 0:
                if self._unlink(name) or not self._tracked:
                    forget()  # else the process that removed it has told the tracker
                name, forget = self._new_name()
            _write(fd, pieces, size, str(self._place(name)))  # step: overflow.write
            if not self._tracked:
                forget()  # step: overflow.forget
            yield Label(name, nonce, size, type(content) is Encoded)
        except BaseException:
            # The label may have been committed before the exception: then the memory stays.
            if not is_labelled(name) and (fd < 0 or self._unlink(name)):
                forget()
            raise
        finally:
            # This unlocks it: from now on a sweep may judge it.
            if fd >= 0:
                os.close(fd)

    def _sweep_sometimes(self, is_labelled: Callable[[str], bool]) -> None:
        if self._pid != os.getpid():  # a forked child counts its own
            self._pid, self._sent = os.getpid(), 0
        if self._sent % _SWEEP == 0:
            self.sweep(is_labelled)
        self._sent += 1

    def _new_name(self) -> tuple[str, Callable[[], None]]:
        """A fresh name that the tracker removes after a kill; and the call that ends that."""
        mark = "" if self._kind == "file" else _TRACKED if self._tracked else _UNTRACKED
        name = self._prefix + mark + secrets.token_hex(_TOKEN // 2)
        tracked = self._kind == "shm"
        if tracked:
            # Before the memory exists: after a kill in between, the tracker knows the name.
            resource_tracker.register(f"/{name}", _TRACKED_AS)

        def forget() -> None:
            nonlocal tracked
            if tracked:
                tracked = False
                resource_tracker.unregister(f"/{name}", _TRACKED_AS)

        return name, forget

    def _make(self, name: str) -> int:
        """Make empty memory and lock it; -1 if a sweep came between the two."""
        url = self._place(name)
        backend = backend_for(url.scheme)
        fd = backend.create(url.name, 0o600)  # step: overflow.create
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # step: overflow.lock
            # A sweep before the lock may have removed the name.
            if backend.identify(url.name) == identity_of(os.fstat(fd)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass  # a sweep has the lock, or has removed the name
        except BaseException:
            self._unlink(name)
            os.close(fd)
            raise
        os.close(fd)
        return -1

    def open(self, label: Label) -> StoredObject:
        """Open the memory of an object, to read it.

        Raises:
            FileNotFoundError: it is gone: removed by hand, or its sender's whole family was killed
                before it was received.
            PermissionError: it is another user's.
            CorruptSegment: the name leads to other memory, or to less than the label says.
        """
        url = self._place(label.name)
        fd = backend_for(url.scheme).open(url.name, writable=False)
        try:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid():
                raise PermissionError(
                    errno.EPERM,
                    f"belongs to user {status.st_uid}; a pickle is code, and only your own is run",
                    str(url),
                )
            if status.st_size < label.size or _nonce_at_end(fd, status.st_size) != label.nonce:
                raise _broken(url, label.size, "the name leads to other memory, or it was cut off")
        except BaseException:
            os.close(fd)
            raise
        return StoredObject(label, url, fd)

    def names(self) -> list[str]:
        """Names of all objects of this ring that are stored.

        Links, pipes and directories of such a name are not ours: they are neither opened nor
        removed.
        """
        folder = self._folder if self._kind == "file" else _SHM
        try:
            with os.scandir(folder) as entries:
                return [
                    entry.name
                    for entry in entries
                    if self._is_ours(entry.name) and entry.is_file(follow_symlinks=False)
                ]
        except FileNotFoundError:
            return []  # no /dev/shm, or the ring's directory is gone

    def _is_ours(self, name: str) -> bool:
        if not name.startswith(self._prefix):
            return False
        token = name[len(self._prefix) :]
        if self._kind != "file":
            mark, token = token[:1], token[1:]
            if mark not in (_TRACKED, _UNTRACKED):
                return False
        return len(token) == _TOKEN and not set(token) - _HEXADECIMAL

    def sweep(self, is_labelled: Callable[[str], bool]) -> int:
        """Remove what is not being sent and will not be received.

        Args:
            is_labelled: whether the ring holds a label with that name.

        Returns:
            How many were removed.
        """
        removed = 0
        for name in self.names():
            with _unsent(self._place(name)) as is_unsent:
                # The lock before the label: a sender commits before it unlocks.
                if is_unsent and not is_labelled(name):
                    self.remove(name)
                    removed += 1
        return removed

    def flush(self) -> None:
        """Have what is stored in files on the disk, with its names.

        Raises:
            OSError: the file system could not write.
        """
        if self._kind != "file":
            return
        # "" is the folder: syncing it makes the names durable.
        for name in [*self.names(), ""]:
            try:
                fd = os.open(self._place(name).name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # received meanwhile
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def note_last(self) -> None:
        """Note that this handle was the ring's last participant."""
        self._is_last = True

    def remove_all(self) -> None:
        """Remove every object, if no process has the ring and none can find it again.

        It is asked twice: the participants' locks tell of processes that hide from our /proc, and
        /proc tells of a forked child or a receiver that is not yet a participant. This process
        itself does not count: views may keep the memory mapped, or it is about to end.
        """
        names = self.names() if self._is_last else []
        if names and not is_somewhere(self._url, self._identity, but=os.getpid()):
            for name in names:
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove an object that was received, or that cannot be received."""
        if self._unlink(name) and self._tracked and name.startswith(self._prefix + _TRACKED):
            resource_tracker.unregister(f"/{name}", _TRACKED_AS)

    def _unlink(self, name: str) -> bool:
        url = self._place(name)
        try:
            backend_for(url.scheme).unlink(url.name)
        except (FileNotFoundError, PermissionError):
            return False  # another process was first, or another user has something of such a name
        return True

    def _place(self, name: str) -> Url:
        return Url(self._kind, f"{self._folder}/{name}" if self._kind == "file" else name)


class StoredObject(Source):
    """An object opened by its receiver."""

    __slots__ = ("_fd", "_label", "_url", "name")

    def __init__(self, label: Label, url: Url, fd: int) -> None:
        self.name = label.name
        self._label = label
        self._url = url
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
        return got if len(got) == size else super().bytes(at, size)

    def fill(self, at: int, target: memoryview) -> None:
        """Copy as many bytes from `at` on as `target` has."""
        done = 0
        while done < len(target):
            got = os.preadv(self._fd, [target[done:]], at + done)
            if not got:
                raise _broken(self._url, self._label.size, f"it ends at byte {at + done}")
            done += got

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _pieces_of(content: bytes | Encoded) -> tuple[list[bytes | memoryview], int]:
    """What to write, padding included, and how many bytes that is."""
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


def _write(fd: int, pieces: list[bytes | memoryview], size: int, where: str) -> None:
    """Write all pieces. A write takes pages without clearing them; a map clears each one."""
    volume = os.fstatvfs(fd)
    rooms = [volume.f_bavail * volume.f_frsize, free_memory() if where[:4] == "shm:" else None]
    free = min(room for room in rooms if room is not None)
    try:
        # Asked before the first write: filling all memory would hurt every process.
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
            where,
        ) from error


def _nonce_at_end(fd: int, size: int) -> bytes:
    """The random number at the end of stored bytes; b"" if there is none."""
    end = size - _END.size
    if end < 0:
        return b""
    nonce, magic = _END.unpack(os.pread(fd, _END.size, end))
    return bytes(nonce) if magic == OVERFLOW_MAGIC else b""


@contextmanager
def _unsent(url: Url) -> Iterator[bool]:
    """Whether no live process is sending this object, nor begins to inside the `with`.

    False also if it is gone, or not this user's to open.
    """
    try:
        fd = backend_for(url.scheme).open(url.name, writable=False)
    except (FileNotFoundError, PermissionError):
        yield False
        return
    try:
        try:
            # Shared, where a sender's is exclusive: two sweeps do not take each other for one.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            is_unsent = True
        except BlockingIOError:
            is_unsent = False  # its sender has the lock
        yield is_unsent
    finally:
        os.close(fd)


def _broken(url: Url, size: int, detail: str) -> CorruptSegment:
    return CorruptSegment(
        f"{str(url)!r}, an object of {size} bytes, is broken: {detail}; what was in it is lost",
        where=str(url),
        detail=detail,
    )
