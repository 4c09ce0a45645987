"""Views: of memory, as items of a type; and of the bytes that a caller gives."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod
from struct import calcsize
from typing import TYPE_CHECKING, Any, Final, Literal, SupportsIndex

from shmkit.compiled import Exporter
from shmkit.memory.checks import number_of
from shmkit.memory.mapping import checked_range

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Buffer

__all__ = [
    "_FORMATS",
    "array_on",
    "array_view",
    "as_bytes",
    "checked_array",
    "dimensions_of",
    "some_bytes",
    "typed_view",
    "view_of",
]

_FORMATS: Final = "bBhHiIlLqQnNfdcP?"


def typed_view(
    whole: memoryview,
    format: str,  # noqa: A002 - as in memoryview.cast
    offset: SupportsIndex,
    count: SupportsIndex | None,
    what: str,
) -> memoryview:
    """A memoryview whose items have one of `_FORMATS`, with or without "@" before it."""
    code = str(format).removeprefix("@")
    if len(code) != 1 or code not in _FORMATS:
        raise ValueError(
            f"'format' must be one of {' '.join(_FORMATS)} (native size and order), not {format!r}"
        )
    itemsize = calcsize(format)
    length = None if count is None else number_of(count, "count") * itemsize
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
    """A numpy array on the bytes; a ValueError if it reaches outside of `what`."""
    dimensions, kind = checked_array(shape, dtype)
    first, length = checked_range(offset, prod(dimensions) * kind.itemsize, len(whole), what)
    return array_on(whole[first : first + length], dimensions, kind)


def dimensions_of(shape: SupportsIndex | Sequence[SupportsIndex]) -> tuple[int, ...]:
    """A shape as numpy takes it, a number for one dimension, as a tuple."""
    try:
        if isinstance(shape, SupportsIndex):
            return (operator.index(shape),)
        return tuple(operator.index(n) for n in shape)
    except TypeError:
        raise TypeError(
            f"'shape' must be a number, or one for each dimension, as in (3, 4), not {shape!r:.80}"
        ) from None


def checked_array(
    shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """A shape and a dtype that memory can hold; the dimensions of a subarray go to the shape."""
    import numpy as np

    kind, dimensions = np.dtype(dtype), dimensions_of(shape)
    if kind.hasobject:
        raise TypeError(
            f"dtype {kind} holds Python objects, whose addresses mean nothing to other processes: "
            "use a fixed-size dtype"
        )
    if kind.subdtype is not None:
        kind, inner = kind.subdtype
        dimensions += inner
    if not kind.itemsize:
        raise TypeError(f"dtype {kind} has no size: say how many bytes, as in 'S16' or 'U16'")
    if any(n < 0 for n in dimensions):
        raise ValueError(f"'shape' must not be negative anywhere, and is {dimensions}")
    return dimensions, kind


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
    """
    import numpy as np

    if not len(view):
        nothing = np.ndarray(shape, dtype, order=order)
        nothing.flags.writeable = not view.readonly
        return nothing
    return np.ndarray(shape, dtype, np.frombuffer(view, "u1"), offset, strides, order)


def view_of(value: Buffer) -> memoryview:
    """What `memoryview(value)` is; also of a buffer of ours, which plain Python 3.11 cannot see.

    Raises:
        TypeError: it has no bytes.
    """
    try:
        return memoryview(value)
    except TypeError:
        if isinstance(value, Exporter):
            return value._exported()
    hint = ": encode it first" if isinstance(value, str) else ""
    raise TypeError(f"bytes are needed, or what has some, not {type(value).__name__}{hint}")


def as_bytes(value: Buffer) -> memoryview:
    """The bytes of an object that has some; copied only if they do not lie side by side."""
    source = view_of(value)
    if source.format == "B" and source.ndim == 1:
        return source
    return source.cast("B") if source.nbytes and source.c_contiguous else memoryview(bytes(source))


def some_bytes(value: Buffer) -> bytes:
    """A copy of the bytes of an object; `bytes()` would take a number for a length."""
    return value if type(value) is bytes else view_of(value).tobytes()
