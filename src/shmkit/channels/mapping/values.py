"""Values as bytes, and back. What is no number, text, bytes or array of numbers is a pickle."""

from __future__ import annotations

import math
import pickle
import struct
import sys
from typing import Any, Final

__all__ = [
    "ARRAY",
    "FLOAT",
    "INT",
    "PICKLE",
    "Damaged",
    "decode_value",
    "encode_value",
    "view_array",
]

PICKLE: Final = 0
BYTES: Final = 1
TEXT: Final = 2
INT: Final = 3
FLOAT: Final = 4
ARRAY: Final = 5

_ALIGN: Final = 8
_FLOAT: Final = struct.Struct("<d")
_LENGTH: Final = struct.Struct("<Q")


class Damaged(Exception):
    """The bytes of a value were overwritten."""


def encode_value(value: object) -> tuple[int, bytes]:
    """Kind and bytes of a value.

    Raises:
        Exception: it does not pickle; whatever its own code raises.
    """
    kind = type(value)
    if kind is bytes:
        return BYTES, value  # type: ignore[return-value]
    if kind is str:
        return TEXT, value.encode("utf-8", "surrogatepass")  # type: ignore[attr-defined]
    if kind is int:
        size = value.bit_length() // 8 + 1  # type: ignore[attr-defined]
        return INT, value.to_bytes(size, "little", signed=True)  # type: ignore[attr-defined]
    if kind is float:
        return FLOAT, _FLOAT.pack(value)
    # numpy is not imported for this: where there is an array, it is loaded.
    if kind is getattr(sys.modules.get("numpy"), "ndarray", None) and _is_plain(value):
        return ARRAY, _encode_array(value)
    return PICKLE, pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def decode_value(kind: int, content: bytes) -> Any:
    """Give back the value; arrays are copies, and writable.

    Raises:
        Damaged: its bytes are none of this kind, or there is no such kind.
        Exception: whatever a pickle's own code raises.
    """
    if kind == PICKLE:
        return pickle.loads(content)
    if kind == ARRAY:
        return view_array(memoryview(bytearray(content)))
    try:
        return _decode_plain(kind, content)
    except (ValueError, struct.error) as error:
        raise Damaged(f"its value is no value of kind {kind}") from error


def _decode_plain(kind: int, content: bytes) -> Any:
    if kind == BYTES:
        return content
    if kind == TEXT:
        return content.decode("utf-8", "surrogatepass")
    if kind == INT:
        return int.from_bytes(content, "little", signed=True)
    if kind == FLOAT:
        return _FLOAT.unpack(content)[0]
    raise ValueError(f"no value has kind {kind}")


def _is_plain(array: Any) -> bool:
    return not array.dtype.hasobject and not array.dtype.metadata


def _encode_array(array: Any) -> bytes:
    """Length of the description, the description, and the numbers at a multiple of 8."""
    numpy = sys.modules["numpy"]
    dtype = array.dtype.str if numpy.dtype(array.dtype.str) == array.dtype else array.dtype
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    order = "F" if fortran else "C"
    text = pickle.dumps((array.shape, dtype, order), pickle.HIGHEST_PROTOCOL)
    head = _LENGTH.pack(len(text)) + text
    numbers: bytes = array.tobytes(order)
    return head + bytes(-len(head) % _ALIGN) + numbers


def view_array(content: memoryview) -> Any:
    """The array in the bytes of a value, without a copy; read-only if they are.

    It, and all that is made of it without a copy, keep a memoryview: `base_of`.

    Raises:
        Damaged: they do not hold what they say they hold.
    """
    import numpy as np

    try:
        (length,) = _LENGTH.unpack_from(content)
        start = _LENGTH.size + length
        shape, dtype, order = pickle.loads(content[_LENGTH.size : start])
        if np.dtype(dtype).hasobject:
            raise TypeError("an array of objects")
        count = math.prod(shape)
        if not count:
            return np.empty(shape, dtype)
        # Not numpy.ndarray(buffer=...): that would keep the map below the view, not the view.
        flat = np.frombuffer(content[start + -start % _ALIGN :], dtype, count)
        return flat.reshape(shape, order=order)
    except Exception as error:
        # Whatever a broken pickle of numbers raises; there is no code of others in it.
        raise Damaged("its value is no array") from error


def base_of(array: Any) -> Any:
    """What is below an array that `view_array` made: a memoryview; None if it has no elements."""
    base = array.base
    while base is not None and not isinstance(base, memoryview):
        base = base.base
    return base
