"""once: what costs much to build is built by one process, and mapped by all.

    process 1   once("model", load)  ->  not built yet: load(), publish        -> read-only view
    process 2   once("model", load)  ->  waits                                 -> the same memory
    process 3   once("model", load)  ->  (later) it is there                   -> the same memory

Under the name lies a control page (segment/segment.py) with a lock and the name of the segment that
has the bytes, or the arrays: one, or several behind a table of their names. The lock is held while
building; if the builder dies, the lock passes on and the next process builds. A process that maps
the bytes is a participant of the page, so the kernel knows which are left, and the last one out
removes both. What was left behind by processes that were all killed is removed by the next one that
asks.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from shmkit.deadline import Deadline
from shmkit.errors import CorruptSegment, ShmkitError
from shmkit.memory.buffer import SharedBuffer
from shmkit.memory.url import Url
from shmkit.segment.array import SharedArray, plan_copy
from shmkit.segment.segment import Segment
from shmkit.segment.words import (
    BUILT_ARRAY,
    BUILT_BYTES,
    BUILT_MAPPING,
    ONCE_BUILT,
    ONCE_KIND,
    ONCE_LENGTH,
    ONCE_NAME,
    PAGE,
)
from shmkit.sync.mutex import Mutex
from shmkit.sync.semaphore import check_name

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    Item = TypeVar("Item", bound=np.generic)

__all__ = ["SharedArrays", "once"]

_PARTICIPANTS: Final = 1000


@overload
def once(
    name: str,
    build: Callable[[], np.ndarray[Any, np.dtype[Item]]],
    *,
    timeout: float | None = ...,
    participants: int = ...,
    mode: int = ...,
    trust_owner: bool = ...,
) -> SharedArray[Item]: ...
@overload
def once(
    name: str,
    build: Callable[[], Mapping[str, Any]],
    *,
    timeout: float | None = ...,
    participants: int = ...,
    mode: int = ...,
    trust_owner: bool = ...,
) -> SharedArrays: ...
@overload
def once(
    name: str,
    build: Callable[[], bytes | bytearray | memoryview],
    *,
    timeout: float | None = ...,
    participants: int = ...,
    mode: int = ...,
    trust_owner: bool = ...,
) -> SharedBuffer: ...
@overload
def once(
    name: str,
    build: Callable[[], Any],
    *,
    timeout: float | None = ...,
    participants: int = ...,
    mode: int = ...,
    trust_owner: bool = ...,
) -> SharedBuffer | SharedArray | SharedArrays: ...
def once(
    name: str,
    build: Callable[[], Any],
    *,
    timeout: float | None = None,
    participants: int = _PARTICIPANTS,
    mode: int = 0o600,
    trust_owner: bool = False,
) -> SharedBuffer | SharedArray | SharedArrays:
    """Have `build` called by the first process that asks, and its result mapped by all.

    Args:
        name: what it is called on this machine; processes of this user that give the same name
            share.
        build: makes the bytes (any contiguous buffer), the numpy array, or a mapping of names to
            arrays (a dict, what `np.load` makes of an .npz file); called with the name's lock
            held, by one process at a time: it must not ask for the same name.
        timeout: seconds to wait while another process builds; None for ever.
        participants: how many handles on it there may be at a time, of all processes.
        mode: permissions, less the umask; a process of another user has to say `trust_owner=True`
            as well, and needs the right to write.
        trust_owner: take what another user made, too: one that you trust.

    Returns:
        A read-only `SharedBuffer`; a read-only `SharedArray` if `build` made a numpy array; a
        mapping of names to such arrays if it made a mapping. Close it, or leave its `with`; the
        memory goes when the last process has done so.

    Raises:
        PermissionError: the name is another user's.
        TimeoutError: another process was still building.
        ValueError: a bad name, or a timeout that is NaN.
        TypeError: `build` made none of these, an array of Python objects, or names that are no
            str; or it cannot be called.
        OSError: ENOSPC, no room for it.
        BaseException: what `build` raises; the next waiter builds then.
    """
    if not callable(build):
        raise TypeError(f"'build' must be a function that makes the content, not {build!r:.80}")
    if not isinstance(name, str):
        raise TypeError(f"'name' must be a str that other processes know, not {name!r:.80}")
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
        is_mapping = isinstance(content, Mapping)
        is_array = not is_mapping and hasattr(content, "dtype") and hasattr(content, "shape")
        try:
            view = memoryview(b"") if is_array or is_mapping else memoryview(content)
        except TypeError as error:
            raise TypeError(
                f"build made a {type(content).__name__}: let it make bytes, a numpy array, or a "
                "mapping of names to arrays"
            ) from error
        segment = self.segment
        _remove_content(segment)  # of a builder that died here
        # The name before the content: after a kill, the next builder finds it and removes it.
        segment.buffer.buf[ONCE_NAME] = os.urandom(ONCE_NAME.stop - ONCE_NAME.start)
        where = _content(segment)
        if is_array:
            SharedArray.from_array(content, where, keep=True, mode=self.mode).close()
        elif is_mapping:
            length, size, fill = _plan_mapping(content)
            url = Url.parse(where)
            SharedBuffer._create_filled(url, size, fill, keep=True, mode=self.mode).close()
            segment.words[ONCE_LENGTH] = length
        else:
            size = view.nbytes
            with SharedBuffer.create(where, size=max(1, size), keep=True, mode=self.mode) as buffer:
                buffer[:size] = view.tobytes() if not view.c_contiguous else view
            segment.words[ONCE_LENGTH] = size
        # Last: a builder killed before this store has published nothing.
        built = BUILT_MAPPING if is_mapping else BUILT_ARRAY if is_array else BUILT_BYTES
        segment.words[ONCE_BUILT] = built

    def open(self) -> SharedBuffer | SharedArray | SharedArrays:
        """A read-only view of what was published; closing it leaves the page."""
        shared: _Buffer | _Array | SharedArrays
        words, where = self.segment.words, _content(self.segment)
        if words[ONCE_BUILT] == BUILT_BYTES:
            shared = _Buffer.attach(where, access="r", length=words[ONCE_LENGTH])
        elif words[ONCE_BUILT] == BUILT_MAPPING:
            shared = SharedArrays(_open_mapping(where, words[ONCE_LENGTH]))
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


def _plan_mapping(arrays: Mapping[str, Any]) -> tuple[int, int, Callable[[memoryview], None]]:
    """How arrays lie in one memory: a table of their names, then each with its header.

    Returns:
        The length of the table, the size of all, and what writes the bytes.
    """
    plans: dict[str, Any] = {}
    for name in arrays:
        if not isinstance(name, str):
            raise TypeError(f"build made a mapping with the name {name!r:.80}: names are str")
        try:
            plans[name] = plan_copy(arrays[name])
        except TypeError as error:
            raise TypeError(
                f"build made a mapping whose {name!r:.80} is no array: {error}"
            ) from error
    # From the end of the table, which is not known yet.
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for name, (size, _) in plans.items():
        places[name] = end, size
        end += _paged(size)
    table = repr(places).encode("ascii", "backslashreplace")
    begin = _paged(len(table))

    def fill(whole: memoryview) -> None:
        whole[: len(table)] = table
        for name, (size, write) in plans.items():
            first = begin + places[name][0]
            write(whole[first : first + size])

    return len(table), begin + end, fill


def _paged(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _open_mapping(where: str, length: int) -> dict[str, SharedArray]:
    """The arrays in a memory; they are checked as those are that stand alone."""
    arrays: dict[str, SharedArray] = {}
    with ExitStack() as undo:
        whole = undo.enter_context(SharedBuffer.attach(where, access="r"))
        try:
            table = ast.literal_eval(whole[:length].decode("ascii"))
            for name, (first, size) in table.items():
                offset = _paged(length) + first
                part = SharedBuffer.attach(whole, access="r", offset=offset, length=size)
                undo.callback(part.close)
                arrays[name] = SharedArray._over(part)
        except ShmkitError:
            raise
        except (ValueError, TypeError, AttributeError, SyntaxError, RecursionError) as error:
            detail = f"a table of names that means nothing: {error}"
            raise CorruptSegment(
                f"what was built is corrupt: {detail}", where=where, detail=detail
            ) from error
        undo.pop_all()
        whole.close()
    return arrays


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


class SharedArrays(Mapping[str, SharedArray]):
    """Arrays by their names, all of them read-only: what `once` gives for a mapping.

    It pickles by reference. Closing it closes its arrays; what they are used for stays valid.
    """

    __slots__ = ("__weakref__", "_arrays", "_page")

    _page: _Page

    def __init__(self, arrays: dict[str, SharedArray]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> SharedArray:
        try:
            return self._arrays[name]
        except KeyError:
            raise KeyError(
                f"there is no array {name!r:.80}, but {', '.join(self) or 'none'}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    # As two mappings would be compared, each array would have to be one truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return any(array.closed for array in self._arrays.values())

    def close(self) -> None:
        """Close all of its arrays. Idempotent."""
        for array in self._arrays.values():
            array.close()
        _leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._arrays,)

    def __repr__(self) -> str:
        return f"<SharedArrays {', '.join(self)}{' closed' if self.closed else ''}>"


def _leave(shared: _Buffer | _Array | SharedArrays) -> None:
    page: _Page | None = getattr(shared, "_page", None)  # one that came by pickle has none
    if page is not None:
        page.close()
