"""The bytes of a handle: indexed, sliced, and seen through typed views."""

from __future__ import annotations

import errno
import mmap
import operator
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NoReturn,
    SupportsIndex,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from shmkit.memory.buffer.handle import Handle
from shmkit.memory.checks import byte_of, named_plainly, number_of
from shmkit.memory.mapping import checked_range
from shmkit.memory.views import array_view, as_bytes, typed_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from typing_extensions import Buffer

__all__ = ["Advice", "Content"]

T = TypeVar("T")

_ITERATED: Final = 1 << 16  # bytes copied at a time

Advice: TypeAlias = Literal["sequential", "random", "willneed", "dontneed", "hugepage"]

_ADVICE: Final = ("sequential", "random", "willneed", "dontneed", "hugepage")


@named_plainly
class Content(Handle):
    """A fixed number of bytes, as a sequence of ints and as memory for views of any type."""

    __slots__ = ()

    @property
    def buf(self) -> memoryview:
        """The bytes, as a memoryview; read-only if the access is "r".

        It stays valid after `close`: the memory goes with its last view.

        Raises:
            ClosedError: the handle was closed.
        """
        view = self._buf
        if view is not None:
            try:
                view.nbytes  # noqa: B018 - fails if its user has released it
                return view
            except ValueError:
                pass
        while True:
            whole = self._bytes()
            try:
                view = whole[:]
            except ValueError:
                if self._whole is whole:
                    raise
                continue  # another thread closed or resized it in between
            self._buf = view
            if self._whole is whole:
                return self._exports.add(view, "memoryview (.buf)")
            self._buf = None  # another thread moved the handle to other bytes

    def _exported(self) -> memoryview:
        """What the buffer protocol gives: `memoryview(buffer)`, `hashlib.sha256(buffer)`."""
        return self._exports.add(self._on_bytes(lambda whole: whole[:]), "buffer")

    def view(
        self,
        format: str,  # noqa: A002 - as in memoryview.cast
        offset: SupportsIndex = 0,
        count: SupportsIndex | None = None,
    ) -> memoryview:
        """The bytes as items of a native format.

        Args:
            format: one of `struct`'s native codes, "b" to "d", "c", "P", "?".
            offset: first byte; any.
            count: items; None for as many as fit.

        Returns:
            A memoryview of `count` items on the same memory.

        Raises:
            ClosedError: the handle was closed.
            ValueError: no such format, or the items reach outside.
        """
        view = self._on_bytes(lambda whole: typed_view(whole, format, offset, count, repr(self)))
        return self._exports.add(view, f"memoryview (.view({format!r}))")

    def ndarray(
        self,
        shape: SupportsIndex | Sequence[SupportsIndex],
        dtype: Any,
        offset: SupportsIndex = 0,
    ) -> np.ndarray[Any, Any]:
        """A numpy array on the memory, without a copy.

        Args:
            shape: items in each dimension, C order.
            dtype: of fixed size.
            offset: first byte; any.

        Returns:
            An array of `shape` and `dtype`; read-only if the access is "r".

        Raises:
            ClosedError: the handle was closed.
            ImportError: numpy is not installed: it comes with shmkit[numpy].
            TypeError: a dtype that holds Python objects.
            ValueError: the array reaches outside.
        """
        array = self._on_bytes(lambda whole: array_view(whole, shape, dtype, offset, repr(self)))
        return self._exports.add(array, f"ndarray{array.shape} of {array.dtype}")

    def __bytes__(self) -> bytes:
        return self[:]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """The bytes as numpy takes them: an array of uint8 on the memory."""
        array = self.ndarray(self._size, "u1")
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"the bytes of {self!r} are uint8: as {dtype} they are a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def flush(self, offset: SupportsIndex = 0, size: SupportsIndex | None = None) -> None:
        """Write changes to the disk, and return when they are there.

        Does nothing for memory that is on no disk, and for access "r" and "cow".

        Args:
            offset: first byte; any.
            size: bytes, None for all from there.

        Raises:
            ClosedError: the handle was closed.
            OSError: the disk failed, or is full.
            ValueError: `offset` and `size` reach outside.
        """
        region = self._open_region()
        first, count = checked_range(offset, size, self._size, repr(self))
        if region.memory is None or not count or self._access != "rw":
            return
        begin = region.start + first
        # The system writes whole pages only.
        aligned = begin - begin % mmap.PAGESIZE
        try:
            region.memory.flush(aligned, begin + count - aligned)
        except ValueError:
            if self._region is region:
                raise
            self.flush(offset, size)  # another thread closed or resized it in between

    def advise(
        self, advice: Advice, offset: SupportsIndex = 0, length: SupportsIndex | None = None
    ) -> None:
        """Tell the kernel how the bytes will be used. Advice that it does not know has no effect.

        Args:
            advice: "sequential", "random", "willneed" (read it now), "dontneed" (give the pages
                back; the bytes stay where they are), "hugepage".
            offset: first byte; any. The kernel takes whole pages: the one that it is in counts.
            length: bytes; None for all from there.

        Raises:
            ClosedError: the handle was closed.
            ValueError: no such advice; `offset` and `length` reach outside; or "dontneed" with
                access "cow", whose private changes it would throw away.
        """
        region = self._open_region()
        if advice not in _ADVICE:
            raise ValueError(f"'advice' must be one of {', '.join(_ADVICE)}, not {advice!r}")
        if advice == "dontneed" and self._access == "cow":
            raise ValueError(
                f"{self!r}: 'dontneed' would throw its private changes away; close it instead"
            )
        first, count = checked_range(offset, length, self._size, repr(self))
        option = getattr(mmap, f"MADV_{advice.upper()}", None)
        if option is None or region.memory is None or not count:
            return
        begin = region.start + first
        aligned = begin - begin % mmap.PAGESIZE
        try:
            region.memory.madvise(option, aligned, begin + count - aligned)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel without huge pages
                raise
        except ValueError:
            if self._region is region:
                raise
            self.advise(advice, offset, length)  # another thread closed or resized it in between

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self._size, _ITERATED):
            yield from self[start : start + _ITERATED]

    @overload
    def __getitem__(self, key: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: SupportsIndex | slice) -> int | bytes:
        exact = self._map
        whole = self._whole  # not _bytes(): the call would take a quarter of the time of this
        try:
            if exact is not None:
                found: int | bytes = exact[key]  # in half the time that a view needs
                return found
            if whole is None:
                raise self._closed_error()
            if isinstance(key, slice):
                return whole[key].tobytes()
            return whole[operator.index(key)]
        except ValueError:
            if self._whole is whole:
                raise
            return self[key]  # another thread closed or resized it in between
        except (IndexError, TypeError):
            raise self._bad_key(key) from None

    @overload
    def __setitem__(self, key: SupportsIndex, value: SupportsIndex) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: Buffer) -> None: ...
    def __setitem__(self, key: SupportsIndex | slice, value: Any) -> None:
        whole = self._bytes()
        self._check_writable()
        try:
            _assign(whole, key, value)
        except ValueError:
            if self._whole is whole:
                raise
            self[key] = value  # another thread closed or resized it in between
        except IndexError:
            raise self._bad_key(key) from None

    def __delitem__(self, key: object) -> NoReturn:
        raise TypeError(f"{self!r} keeps its size: no byte of it can be deleted")

    def _bad_key(self, key: Any) -> Exception:
        if isinstance(key, SupportsIndex):
            return IndexError(f"byte {operator.index(key)} is outside of {self!r}")
        return TypeError(f"bytes are found by an integer or a slice of integers, not {key!r:.80}")

    def _check_writable(self) -> None:
        if self._access == "r":
            self._open_region()
            raise TypeError(f"{self!r} is read-only: attach with access='rw', or 'cow'")

    def _pin(self, label: str) -> tuple[mmap.mmap | bytes | bytearray, int, memoryview]:
        """The bytes for a longer operation, which the view keeps from going away.

        Args:
            label: what uses them, for messages.

        Returns:
            What has them, the index in it of this buffer's byte 0, and a view of all of them.
        """
        while True:
            region = self._open_region()
            try:
                view = region.whole[:]
            except ValueError:
                if self._region is region:
                    raise
                continue  # another thread closed or resized it in between
            memory = region.memory
            if memory is None:
                return cast("bytes | bytearray", view.obj), 0, self._exports.add(view, label)
            return memory, region.start, self._exports.add(view, label)

    def _bytes(self) -> memoryview:
        whole = self._whole
        if whole is None:
            raise self._closed_error()
        return whole

    def _on_bytes(self, operation: Callable[[memoryview], T]) -> T:
        """Do something with the bytes, and again if another thread moves the handle."""
        while True:
            whole = self._bytes()
            try:
                return operation(whole)
            except ValueError:
                if self._whole is whole:
                    raise


def _assign(whole: memoryview, key: SupportsIndex | slice, value: Any) -> None:
    if not isinstance(key, slice):
        try:
            whole[operator.index(key)] = operator.index(value)
        except (TypeError, ValueError):
            number_of(key, "index")
            byte_of(value)  # these say what is wrong, if it is one of them
            raise
        return
    target, source = whole[key], as_bytes(value)
    if len(target) != len(source):
        raise ValueError(
            f"{len(source)} bytes do not replace {len(target)}: a buffer keeps its size"
        )
    target[:] = source
