"""Leftovers: parcels whose ring nobody has any more, told by what is written at their end.

Behind its content a parcel says which ring it is of, where nobody reads who has a label:

    url and identity of the ring's memory, as JSON | length of that, 8 bytes | a nonce | a mark

The nonce is in the label, too: that tells this parcel from all others. Where a file is, its device
and inode, changes when its file system is mounted again, or a copy is brought back.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmkit.memory.backends import backend_for
from shmkit.memory.mappers import is_somewhere
from shmkit.memory.url import Url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkit.memory.backends.base import Identity

__all__ = ["NONCE", "PREFIX", "SHM", "leftovers", "nonce_of", "trailer", "unsent"]

SHM: Final = Path("/dev/shm")
PREFIX: Final = "shmkit-p"

NONCE: Final = 16  # bytes
_TRAILER: Final = struct.Struct(f"<Q{NONCE}s8s")
_MAGIC: Final = b"SHMKIT\x02\0"
_LONGEST: Final = 1 << 14  # the longest path and two numbers


def trailer(url: Url, identity: Identity, nonce: bytes) -> bytes:
    """What stands at the end of a parcel of the ring that is there."""
    ring = json.dumps([str(url), *identity]).encode()
    return ring + _TRAILER.pack(len(ring), nonce, _MAGIC)


def nonce_of(fd: int, size: int) -> bytes:
    """The nonce of a parcel of that many bytes, trailer included; b"" if there is none."""
    end = size - _TRAILER.size
    if end < 0:
        return b""
    _, nonce, magic = _TRAILER.unpack(os.pread(fd, _TRAILER.size, end))
    return nonce if magic == _MAGIC else b""


def leftovers() -> list[str]:
    """Names of segments of this user that were parcels, and that nobody sends or will receive.

    Of rings that can still be found by their name only their users know: those have `sweep`. Who
    uses a ring is looked up in /proc: not beside containers that share /dev/shm but not that.
    """
    return [path.name for path in SHM.glob(f"{PREFIX}*") if _is_left(Url("shm", path.name))]


def _is_left(parcel: Url) -> bool:
    with unsent(parcel) as fd:
        if fd < 0 or os.fstat(fd).st_uid != os.geteuid():
            return False
        ring = _ring_of(fd)
    return ring is None or not is_somewhere(*ring)


def _ring_of(fd: int) -> tuple[Url, Identity] | None:
    """Where a parcel's ring is, or was; None if that was not written."""
    end = os.fstat(fd).st_size - _TRAILER.size
    if end < 0:
        return None
    length, _, magic = _TRAILER.unpack(os.pread(fd, _TRAILER.size, end))
    if magic != _MAGIC or length > min(end, _LONGEST):
        return None
    try:
        where, *identity = json.loads(os.pread(fd, length, end - length))
        device, inode = struct.unpack("QQ", struct.pack("QQ", *identity))
        return Url.parse(where), (device, inode)
    except (ValueError, TypeError, struct.error, RecursionError):
        return None  # these bytes are part of an object that was cut off, or anybody's


@contextmanager
def unsent(parcel: Url) -> Iterator[int]:
    """A descriptor of a parcel that nobody alive is sending, nor begins to inside the `with`.

    -1 if somebody is, or if it is gone, or not this user's to open.
    """
    try:
        fd = backend_for(parcel.scheme).open(parcel.name, writable=False)
    except (FileNotFoundError, PermissionError):
        yield -1
        return
    try:
        yield fd if _may_share(fd) else -1
    finally:
        os.close(fd)


def _may_share(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # its sender has it for itself
    return True
