"""once: what costs much to build is built by one process, and mapped by all.

    process 1   once("model", load)  ->  not built yet: load(), publish        -> read-only view
    process 2   once("model", load)  ->  waits                                 -> the same memory
    process 3   once("model", load)  ->  (later) it is there                   -> the same memory

Under the name lies a control page (segment/segment.py) with a lock and the name of the segment that
has the bytes. The lock is held while building; if the builder dies, the lock passes on and the next
process builds. A process that maps the bytes is a participant of the page, so the kernel knows
which are left, and the last one out removes both. What was left behind by processes that were all
killed is removed by the next one that asks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from shmkit.deadline import Deadline
from shmkit.memory.buffer import SharedBuffer
from shmkit.segment.array import SharedArray
from shmkit.segment.segment import Segment
from shmkit.segment.words import (
    BUILT_ARRAY,
    BUILT_BYTES,
    ONCE_BUILT,
    ONCE_KIND,
    ONCE_LENGTH,
    ONCE_NAME,
)
from shmkit.sync.mutex import Mutex
from shmkit.sync.semaphore import check_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["once"]

_PARTICIPANTS: Final = 1000


def once(
    name: str,
    build: Callable[[], Any],
    *,
    timeout: float | None = None,
    participants: int = _PARTICIPANTS,
    mode: int = 0o600,
    trust_owner: bool = False,
) -> SharedBuffer | SharedArray:
    """Have `build` called by the first process that asks, and its result mapped by all.

    Args:
        name: what it is called on this machine; processes of this user that give the same name
            share.
        build: makes the bytes (any contiguous buffer) or the numpy array; called with the name's
            lock held, by one process at a time: it must not ask for the same name.
        timeout: seconds to wait while another process builds; None for ever.
        participants: how many handles on it there may be at a time, of all processes.
        mode: permissions, less the umask; a process of another user has to say `trust_owner=True`
            as well, and needs the right to write.
        trust_owner: take what another user made, too: one that you trust.

    Returns:
        A read-only `SharedBuffer`, or a read-only `SharedArray` if `build` made a numpy array.
        Close it, or leave its `with`; the memory goes when the last process has done so.

    Raises:
        PermissionError: the name is another user's.
        TimeoutError: another process was still building.
        ValueError: a bad name.
        TypeError: `build` made neither bytes nor an array, or an array of Python objects.
        OSError: ENOSPC, no room for it.
        BaseException: what `build` raises; the next waiter builds then.
    """
    page = _Page(check_name(name), participants, mode, trust_owner)
    try:
        deadline = Deadline(timeout)
        if not page.is_built:
            lock = Mutex(page.segment.membership, page.segment.words, 0)
            if not lock.acquire(True, None if timeout is None else deadline.remaining()):
                raise TimeoutError(f"{name!r} was not built within {timeout} s by its builder")
            try:
                # Again under the lock: another process may have built it during the wait.
                if not page.is_built:
                    page.publish(build())
            finally:
                lock.release()
        return page.open()
    except BaseException:
        page.close()
        raise


class _Page:
    """The control page under a name."""

    def __init__(self, name: str, participants: int, mode: int, trust_owner: bool) -> None:
        self.mode = mode
        self.segment = segment = Segment.control(
            f"shmkit-once-{name}",
            ONCE_KIND,
            participants=participants,
            mode=mode,
            first=_remove_content,
            trust_owner=trust_owner,
        )

        def remove() -> None:
            _remove_content(segment)
            segment.buffer.unlink()

        segment.membership.call_when_last(remove)

    @property
    def is_built(self) -> bool:
        """Whether a builder has published."""
        return bool(self.segment.words[ONCE_BUILT])

    def publish(self, content: Any) -> None:
        """Copy what was built into a segment of its own, and say where it is."""
        is_array = hasattr(content, "dtype") and hasattr(content, "shape")
        try:
            view = memoryview(b"") if is_array else memoryview(content)
        except TypeError as error:
            raise TypeError(
                f"build made a {type(content).__name__}: let it make bytes, or a numpy array"
            ) from error
        segment = self.segment
        _remove_content(segment)  # of a builder that died here
        # The name before the content: after a kill, the next builder finds it and removes it.
        segment.buffer.buf[ONCE_NAME] = os.urandom(ONCE_NAME.stop - ONCE_NAME.start)
        where = _content(segment)
        if is_array:
            SharedArray.from_array(content, where, keep=True, mode=self.mode).close()
        else:
            size = view.nbytes
            with SharedBuffer.create(where, size=max(1, size), keep=True, mode=self.mode) as buffer:
                buffer[:size] = view.tobytes() if not view.c_contiguous else view
            segment.words[ONCE_LENGTH] = size
        # Last: a builder killed before this store has published nothing.
        segment.words[ONCE_BUILT] = BUILT_ARRAY if is_array else BUILT_BYTES

    def open(self) -> SharedBuffer | SharedArray:
        """A read-only view of what was published; closing it leaves the page."""
        shared: _Buffer | _Array
        words, where = self.segment.words, _content(self.segment)
        if words[ONCE_BUILT] == BUILT_BYTES:
            shared = _Buffer.attach(where, access="r", length=words[ONCE_LENGTH])
        else:
            shared = _Array.attach(where, access="r")
        shared._page = self
        self.segment.membership.watch(shared, self.close)
        return shared

    def close(self) -> None:
        """Leave the page. Idempotent."""
        self.segment.close()


def _content(segment: Segment) -> str:
    """Where the segment with the content is."""
    return f"shm:shmkit-once-{bytes(segment.buffer.buf[ONCE_NAME]).hex()}"


def _remove_content(segment: Segment) -> None:
    """Remove the segment with the content: no process uses it."""
    if any(segment.buffer.buf[ONCE_NAME]):
        try:
            with SharedBuffer.attach(_content(segment), access="r") as stale:
                stale.unlink()
        except FileNotFoundError:
            pass  # its builder did not get that far
        segment.words[ONCE_BUILT] = 0
        segment.buffer.buf[ONCE_NAME] = bytes(ONCE_NAME.stop - ONCE_NAME.start)


class _Buffer(SharedBuffer):
    """A SharedBuffer whose close leaves a page, in the process that asked for it."""

    __slots__ = ("_page",)

    _page: _Page

    def close(self, *, strict: bool = False) -> None:
        super().close(strict=strict)
        _leave(self)


class _Array(SharedArray):
    """A SharedArray whose close leaves a page, in the process that asked for it."""

    __slots__ = ("__weakref__", "_page")

    _page: _Page

    def close(self, *, strict: bool = False) -> None:
        super().close(strict=strict)
        _leave(self)

    def __exit__(self, *failure: object) -> None:
        super().__exit__(*failure)  # type: ignore[arg-type]
        _leave(self)


def _leave(shared: _Buffer | _Array) -> None:
    page: _Page | None = getattr(shared, "_page", None)  # one that came by pickle has none
    if page is not None:
        page.close()
