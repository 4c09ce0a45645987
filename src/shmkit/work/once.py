"""once: what costs much to build is built by one process, and mapped by all.

    process 1   once("model", load)  ->  nobody has it: load(), publish        -> read-only view
    process 2   once("model", load)  ->  waits                                 -> the same memory
    process 3   once("model", load)  ->  (later) it is there                   -> the same memory

Under the name lies a page (sync/page.py) with a lock and the name of the segment that has the
bytes. The lock is held while building; if the builder dies, the lock passes on and the next one
builds. Who maps the bytes is a participant of the page, so the kernel knows who is left, and the
last one out removes both. What was left behind by processes that were all killed is thrown away by
the next who asks.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from shmkit.deadline import Deadline
from shmkit.memory.buffer import SharedBuffer
from shmkit.segment.array import SharedArray
from shmkit.segment.page import SharedPage
from shmkit.segment.semaphores import TokenOf
from shmkit.sync.mutex import Mutex
from shmkit.sync.semaphore import check_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["once"]

_KIND: Final = 32
_PARTICIPANTS: Final = 1000
_WHAT: Final = 0x080 // 8  # 0 not built, else one of the two below; stored last
_LENGTH: Final = 0x088 // 8  # of bytes
_NAME: Final = 0x090  # 16 bytes: the random part of the name of the segment
_BYTES: Final = 1
_ARRAY: Final = 2


def once(
    name: str, build: Callable[[], Any], *, timeout: float | None = None
) -> SharedBuffer | SharedArray:
    """Have `build` called by the first process that asks, and its result mapped by all.

    Args:
        name: what it is called on this machine; processes of this user that give the same name
            share.
        build: makes the bytes (any contiguous buffer) or the numpy array; called with the name's
            lock held, by one process at a time: it must not ask for the same name.
        timeout: seconds to wait while another process builds; None for ever.

    Returns:
        A read-only `SharedBuffer`, or a read-only `SharedArray` if `build` made a numpy array.
        Close it, or leave its `with`; the memory goes with the last one of all processes.

    Raises:
        TimeoutError: another process was still building.
        ValueError: a bad name.
        TypeError: `build` made neither bytes nor an array, or an array of Python objects.
        OSError: ENOSPC, no room for it.
        BaseException: what `build` raises; the next one who waits builds then.
    """
    page = _Page(
        f"shmkit-once-{check_name(name)}", _KIND, {"lock": TokenOf(0)}, participants=_PARTICIPANTS
    )
    try:
        lock = Mutex(page.membership, page.words, 0)
        deadline = Deadline(timeout)
        if not page.words[_WHAT]:
            if not lock.acquire(True, None if timeout is None else deadline.remaining()):
                raise TimeoutError(f"{name!r} was not built within {timeout} s by who builds it")
            try:
                if not page.words[_WHAT]:
                    page.publish(build())
            finally:
                lock.release()
        return page.open()
    except BaseException:
        page.close()
        raise


class _Page(SharedPage):
    """The page under a name."""

    def publish(self, content: Any) -> None:
        """Copy what was built into a segment of its own, and say where it is."""
        is_array = hasattr(content, "dtype") and hasattr(content, "shape")
        try:
            view = memoryview(b"") if is_array else memoryview(content)
        except TypeError as error:
            raise TypeError(
                f"build made a {type(content).__name__}: let it make bytes, or a numpy array"
            ) from error
        self.tidy()  # of one who died here
        self.buffer.buf[_NAME : _NAME + 16] = secrets.token_bytes(16)
        if is_array:
            SharedArray.from_array(content, self._data_name(), keep=True).close()
        else:
            where, size = self._data_name(), view.nbytes
            with SharedBuffer.create(where, size=max(1, size), keep=True) as buffer:
                buffer[:size] = view.tobytes() if not view.c_contiguous else view
            self.words[_LENGTH] = size
        self.words[_WHAT] = _ARRAY if is_array else _BYTES

    def open(self) -> SharedBuffer | SharedArray:
        """A read-only view of what was published; closing it leaves the page."""
        shared: _Buffer | _Array
        if self.words[_WHAT] == _BYTES:
            length = self.words[_LENGTH]
            shared = _Buffer.attach(self._data_name(), access="r", length=length)
        else:
            shared = _Array.attach(self._data_name(), access="r")
        shared._page = self
        self.membership.watch(shared, self.close)
        return shared

    def tidy(self) -> None:
        """Remove the segment with the bytes: nobody is here who uses it."""
        if any(self.buffer.buf[_NAME : _NAME + 16]):
            try:
                with SharedBuffer.attach(self._data_name(), access="r") as stale:
                    stale.unlink()
            except FileNotFoundError:
                pass  # its builder did not get that far
            self.words[_WHAT] = 0
            self.buffer.buf[_NAME : _NAME + 16] = bytes(16)

    def _data_name(self) -> str:
        return f"shm:shmkit-once-{bytes(self.buffer.buf[_NAME : _NAME + 16]).hex()}"


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
