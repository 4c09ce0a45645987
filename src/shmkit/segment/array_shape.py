"""What shape and dtype a shared array may have."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Shape", "checked_array", "dimensions_of"]

Shape = SupportsIndex | Sequence[SupportsIndex]


def dimensions_of(shape: Shape) -> tuple[int, ...]:
    """A shape as numpy takes it, a number for one dimension, as a tuple."""
    if isinstance(shape, SupportsIndex):
        return (operator.index(shape),)
    return tuple(operator.index(n) for n in shape)


def checked_array(shape: Shape, dtype: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """A shape and a dtype that memory can hold; the dimensions of a subarray go to the shape.

    Raises:
        TypeError: a dtype that holds Python objects, or has no size.
        ValueError: a shape that cannot be.
    """
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
