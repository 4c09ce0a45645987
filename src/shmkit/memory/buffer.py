"""SharedBuffer: bytes that processes share, over anonymous memory, named segments and files."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from shmkit.memory.handle import Handle
from shmkit.memory.views import array_view, typed_view

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Buffer

__all__ = ["SharedBuffer"]


class SharedBuffer(Handle):
    """Bytes that processes share: the same calls on anonymous, named and file memory.

    `SharedBuffer.create(where, size)` makes memory, `attach(where)` maps it in another process,
    `ensure(where, size)` does what is needed. Threads may share a handle.
    """

    __slots__ = ()

    @property
    def buf(self) -> memoryview:
        """The bytes, as a memoryview; read-only if the access is "r".

        It stays valid after `close`: the memory goes with its last view.

        Raises:
            ClosedError: the handle was closed.
        """
        return self._loans.give(self._bytes()[:], "memoryview (.buf)")

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
        view = typed_view(self._bytes(), format, offset, count, repr(self))
        return self._loans.give(view, f"memoryview (.view({format!r}))")

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
        array = array_view(self._bytes(), shape, dtype, offset, repr(self))
        return self._loans.give(array, f"ndarray{array.shape} of {array.dtype}")

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: SupportsIndex | slice) -> int | bytes:
        whole = self._bytes()
        if isinstance(key, slice):
            return whole[key].tobytes()
        return whole[operator.index(key)]

    @overload
    def __setitem__(self, key: SupportsIndex, value: SupportsIndex) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: Buffer) -> None: ...
    def __setitem__(self, key: SupportsIndex | slice, value: Any) -> None:
        whole = self._bytes()
        if whole.readonly:
            raise TypeError(f"{self!r} is read-only: attach with access='rw', or 'cow'")
        if not isinstance(key, slice):
            whole[operator.index(key)] = operator.index(value)
            return
        target, source = whole[key], _as_bytes(value)
        if len(target) != len(source):
            raise ValueError(
                f"{len(source)} bytes do not replace {len(target)}: a buffer keeps its size"
            )
        target[:] = source

    def _bytes(self) -> memoryview:
        whole = self._whole
        if whole is None:
            raise self._closed_error()
        return whole


def _as_bytes(value: Buffer) -> memoryview:
    source = memoryview(value)
    if source.format == "B" and source.ndim == 1:
        return source
    return source.cast("B") if source.nbytes and source.c_contiguous else memoryview(bytes(source))
