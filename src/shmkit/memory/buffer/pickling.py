"""How a handle crosses to another process: by name and place, or by descriptor.

A named segment or file is attached to again, and must be the same memory. Anonymous memory goes
as a descriptor: passed on where multiprocessing starts a process (spawn, forkserver), otherwise
(through a queue or pipe) taken by the receiver out of the sender, which has to be there still.
Bytes that were read and not mapped go as a copy.
Whoever receives a handle never owns the name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmkit.memory.creation import Opened, open_existing
from shmkit.memory.identity import Exact, exact_identity, identity_of
from shmkit.memory.mapping import Access, read_region
from shmkit.memory.url import Url

if TYPE_CHECKING:
    from shmkit.memory.buffer.buffer import SharedBuffer
    from shmkit.memory.buffer.handle import Handle

__all__ = ["reduced"]

_Range = tuple[Access, int, int]


def reduced(
    handle: Handle, span: _Range, identity: Exact, descriptor: int | None
) -> tuple[Callable[..., Handle], tuple[Any, ...]]:
    """What `__reduce__` of a handle returns.

    Args:
        handle: an open handle.
        span: its access, offset and length.
        identity: the memory it is on.
        descriptor: the descriptor it keeps, if it keeps one.

    Raises:
        TypeError: this handle cannot cross.
    """
    if handle.access == "cow":
        raise TypeError(
            f"cannot pickle {handle!r}: its private changes would be lost; send the bytes, or "
            "attach with access='cow' in the other process"
        )
    if not handle.mapped:  # a copy already: there is no memory to share
        content = handle._open_region().whole.tobytes()
        return _from_bytes, (type(handle), handle.url, content, span[1], identity)
    if handle.url.scheme != "anon":
        return _from_name, (type(handle), str(handle.url), span, identity)
    if descriptor is None:
        raise TypeError(
            f"cannot pickle {handle!r}: anonymous memory has no descriptor on this system; use the "
            "start method 'fork', or memory with a name ('shm:NAME', 'file:PATH')"
        )
    from multiprocessing import context, reduction

    if context.get_spawning_popen() is not None:
        return _from_descriptor, (type(handle), reduction.DupFd(descriptor), span, identity)
    return _from_sender, (type(handle), os.getpid(), descriptor, span, identity)


def _from_bytes(
    kind: type[SharedBuffer], url: Url, content: bytes, offset: int, identity: Exact
) -> SharedBuffer:
    self = kind._make(Opened(url, -1, identity), "r", read_region(content), offset, complete=False)
    self._pid = 0
    return self


def _from_name(
    kind: type[SharedBuffer],
    where: str,
    span: _Range,
    identity: Exact,
) -> SharedBuffer:
    opened = open_existing(Url.parse(where), writable=span[0] == "rw", timeout=0)
    with opened:
        if opened.identity != identity:
            raise FileNotFoundError(
                errno.ENOENT, "was unlinked, and the name leads to other memory now", where
            )
        return kind._received(opened, *span)


def _from_descriptor(
    kind: type[SharedBuffer], passed: Any, span: _Range, identity: Exact
) -> SharedBuffer:
    fd = passed.detach()
    with Opened(Url("anon"), fd, exact_identity(fd, os.fstat(fd), "anon")) as opened:
        if opened.identity != identity:
            raise FileNotFoundError(
                errno.ENOENT, "anonymous memory was closed by its sender while it was sent"
            )
        return kind._received(opened, *span)


def _from_sender(
    kind: type[SharedBuffer], pid: int, number: int, span: _Range, identity: Exact
) -> SharedBuffer:
    path = f"/proc/{pid}/fd/{number}"
    gone = FileNotFoundError(
        errno.ENOENT,
        f"anonymous memory was closed by its sender, process {pid}, before it was received: keep "
        "it open until then, or use memory with a name",
        path,
    )
    try:
        # Looked at before it is opened: by now the number may be a pipe, and opening would wait.
        if identity_of(os.stat(path)) != identity[:2]:  # noqa: PTH116
            raise gone
        fd = os.open(path, (os.O_RDWR if span[0] == "rw" else os.O_RDONLY) | os.O_CLOEXEC)
    except FileNotFoundError:
        raise gone from None
    with Opened(Url("anon"), fd, exact_identity(fd, os.fstat(fd), "anon")) as opened:
        if opened.identity != identity:
            raise gone
        return kind._received(opened, *span)
