"""How a handle crosses to another process: by name and place, or by descriptor.

A named segment or file is attached to again, and must be the same memory. Anonymous memory goes
as a descriptor. Where multiprocessing starts a process (spawn, forkserver) it is passed on. Through
a queue or pipe the receiver takes it out of the sender, which has to be there still. Bytes that
were read and not mapped go as a copy. The receiver of a handle never owns the name.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from shmkit.memory.creation import Opened, open_existing
from shmkit.memory.identity import Exact, exact_identity, identity_of
from shmkit.memory.mapping import Access, read_region
from shmkit.memory.url import Url

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkit.memory.buffer.handle import Handle

__all__ = ["reduced"]

_Range = tuple[Access, int, int]


def reduced(handle: Handle) -> tuple[Callable[..., Handle], tuple[Any, ...]]:
    """What `__reduce__` of a handle returns; a TypeError if it cannot cross."""
    region = handle._open_region()
    span: _Range = handle.access, handle.offset, handle.size
    identity = handle._identity
    if handle.access == "cow":
        raise TypeError(
            f"cannot pickle {handle!r}: its private changes would be lost; send the bytes, or "
            "attach with access='cow' in the other process"
        )
    if not region.mapped:  # a copy already: there is no memory to share
        content = region.whole.tobytes()
        return _from_bytes, (type(handle), handle.url, content, handle.offset, identity)
    if handle.url.scheme != "anon":
        return _from_name, (type(handle), str(handle.url), span, identity)
    kept = handle._descriptors[:1]
    if not kept:
        raise TypeError(
            f"cannot pickle {handle!r}: anonymous memory has no descriptor on this system; use the "
            "start method 'fork', or memory with a name ('shm:NAME', 'file:PATH')"
        )
    from multiprocessing import context, reduction

    descriptor = kept[0]
    if context.get_spawning_popen() is not None:
        return _from_descriptor, (type(handle), reduction.DupFd(descriptor), span, identity)
    return _from_sender, (type(handle), os.getpid(), descriptor, span, identity)


def _received(
    kind: type[Handle], opened: Opened, span: _Range, identity: Exact, gone: str, *where: str
) -> Handle:
    """A handle that this process does not have to close, on the memory that was sent."""
    with opened:
        if opened.identity != identity:
            raise FileNotFoundError(errno.ENOENT, gone, *where)
        self = kind._attached_from(opened, *span)
    self._pid = 0
    return self


def _from_bytes(
    kind: type[Handle], url: Url, content: bytes, offset: int, identity: Exact
) -> Handle:
    self = kind._make(Opened(url, -1, identity), "r", read_region(content), offset, complete=False)
    self._pid = 0
    return self


def _from_name(kind: type[Handle], where: str, span: _Range, identity: Exact) -> Handle:
    opened = open_existing(Url.parse(where), writable=span[0] == "rw", timeout=0)
    gone = "was unlinked, and the name leads to other memory now"
    return _received(kind, opened, span, identity, gone, where)


def _from_descriptor(kind: type[Handle], passed: Any, span: _Range, identity: Exact) -> Handle:
    gone = "anonymous memory was closed by its sender while it was sent"
    return _received(kind, _anonymous(passed.detach()), span, identity, gone)


def _from_sender(
    kind: type[Handle], pid: int, number: int, span: _Range, identity: Exact
) -> Handle:
    path = f"/proc/{pid}/fd/{number}"
    gone = (
        f"anonymous memory was closed by its sender, process {pid}, before it was received: keep "
        "it open until then, or use memory with a name"
    )
    try:
        # Looked at before it is opened: by now the number may be a pipe, and opening would wait.
        if identity_of(os.stat(path)) != identity[:2]:  # noqa: PTH116
            raise FileNotFoundError
        fd = os.open(path, (os.O_RDWR if span[0] == "rw" else os.O_RDONLY) | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, gone, path) from None
    return _received(kind, _anonymous(fd), span, identity, gone, path)


def _anonymous(fd: int) -> Opened:
    return Opened(Url("anon"), fd, exact_identity(fd, os.fstat(fd), "anon"))
