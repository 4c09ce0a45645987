"""Views: of memory, as items of a type; and of the bytes that a caller gives."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from struct import calcsize
from typing import TYPE_CHECKING, Any, Final, Literal, SupportsIndex

from shmkit.memory.mapping import checked_range

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Buffer

__all__ = ["FORMATS", "array_on", "array_view", "as_bytes", "some_bytes", "typed_view"]

FORMATS: Final = "bBhHiIlLqQnNfdcP?"


def typed_view(
    whole: memoryview,
    format: str,  # noqa: A002 - as in memoryview.cast
    offset: SupportsIndex,
    count: SupportsIndex | None,
    what: str,
) -> memoryview:
    """A memoryview whose items have one of the native formats of `struct`.

    Args:
        whole: the bytes.
        format: one of `FORMATS`, with or without "@" before it.
        offset: first byte; any.
        count: items, None for as many as fit.
        what: name for messages.

    Raises:
        ValueError: no such format, or the items reach outside.
    """
    code = format.removeprefix("@")
    if len(code) != 1 or code not in FORMATS:
        raise ValueError(
            f"'format' must be one of {' '.join(FORMATS)} (native size and order), not {format!r}"
        )
    itemsize = calcsize(format)
    length = None if count is None else operator.index(count) * itemsize
    first, length = checked_range(offset, length, len(whole), what)
    length -= length % itemsize
    if not length:
        # cast() refuses views without bytes.
        nothing = memoryview(bytes(itemsize) if whole.readonly else bytearray(itemsize))
        return nothing.cast(format)[:0]  # type: ignore[call-overload, no-any-return]
    return whole[first : first + length].cast(format)  # type: ignore[call-overload, no-any-return]


def array_view(
    whole: memoryview,
    shape: SupportsIndex | Sequence[SupportsIndex],
    dtype: Any,
    offset: SupportsIndex,
    what: str,
) -> np.ndarray[Any, Any]:
    """A numpy array on the bytes.

    Raises:
        ImportError: numpy is not installed.
        TypeError: a dtype that holds Python objects: addresses mean nothing to another process.
        ValueError: the array reaches outside.
    """
    import numpy as np

    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(
            f"dtype {kind} holds Python objects, whose addresses mean nothing to other processes: "
            "use a fixed-size dtype"
        )
    if isinstance(shape, SupportsIndex):
        dimensions: tuple[int, ...] = (operator.index(shape),)
    else:
        dimensions = tuple(operator.index(n) for n in shape)
    if any(n < 0 for n in dimensions):
        raise ValueError(f"'shape' must not be negative anywhere, and is {dimensions}")
    length = kind.itemsize
    for n in dimensions:
        length *= n
    first, length = checked_range(offset, length, len(whole), what)
    return array_on(whole[first : first + length], dimensions, kind)


def array_on(
    view: memoryview,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
    order: Literal["C", "F"] = "C",
) -> np.ndarray[Any, Any]:
    """A numpy array on a view, which it keeps; read-only if the view is.

    `numpy.ndarray` would keep the mmap below the view instead. The mmap does not know, and could be
    closed under the array. `numpy.frombuffer` keeps the view.

    Args:
        view: the bytes.
        shape: items in each dimension.
        dtype: of fixed size.
        offset: first byte.
        strides: bytes from one item to the next in each dimension; None for those of `order`.
        order: "C" or "F".
    """
    import numpy as np

    if not len(view):
        nothing = np.ndarray(shape, dtype, order=order)
        nothing.flags.writeable = not view.readonly
        return nothing
    return np.ndarray(shape, dtype, np.frombuffer(view, "u1"), offset, strides, order)


def as_bytes(value: Buffer) -> memoryview:
    """The bytes of an object that has some; copied only if they do not lie side by side."""
    source = memoryview(value)
    if source.format == "B" and source.ndim == 1:
        return source
    return source.cast("B") if source.nbytes and source.c_contiguous else memoryview(bytes(source))


def some_bytes(value: Buffer) -> bytes:
    """A copy of the bytes of an object that has some. `bytes()` would take a number for a length.

    Raises:
        TypeError: it has none.
    """
    return value if type(value) is bytes else memoryview(value).tobytes()
