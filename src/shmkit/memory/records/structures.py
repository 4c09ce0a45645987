"""Structures of ctypes as records: each is the structure itself, on the memory.

On memory that may only be read, a record is a copy as of now: ctypes has no read-only structures.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, Final

__all__ = ["StructureLayout", "is_structure"]

_KINDS: Final = (ctypes.Structure, ctypes.Union, ctypes.Array)
# Codes of simple types that hold an address: char *, wchar_t *, PyObject *.
_ADDRESSES: Final = ("z", "Z", "O")


def is_structure(source: type[Any]) -> bool:
    """Whether it is a structure, a union or an array of ctypes."""
    return issubclass(source, _KINDS)


class StructureLayout:
    """What `Layout` is for other records; the bytes are ctypes' own affair.

    Args:
        make: the structure.

    Raises:
        TypeError: it holds addresses.
        ValueError: it has no bytes.
    """

    __slots__ = ("kind", "make", "size")

    def __init__(self, make: Any) -> None:
        self.kind = make.__name__
        self.size = ctypes.sizeof(make)
        self.make = make
        if not self.size:
            raise ValueError(f"a record of {self.kind} has no bytes")
        _refuse_addresses(make, self.kind)

    def item(self, *, readonly: bool) -> Any:
        """What makes a record of a view and a byte."""
        return _read_only(self.make).from_buffer_copy if readonly else self.make.from_buffer

    def copied(self, view: memoryview, at: int) -> Any:
        """A copy of a record."""
        return self.make.from_buffer_copy(view, at)

    def packed(self, value: Any) -> list[tuple[int, bytes]]:
        """The bytes of a structure, or of one made of a sequence of values."""
        if not isinstance(value, self.make):
            value = self._made_of(value)
        return [(0, bytes(value))]

    def _made_of(self, values: Any) -> Any:
        try:
            given = tuple(values)
        except TypeError:
            raise TypeError(
                f"a record of {self.kind} is set to one, or to a value for each of its fields, not "
                f"to {values!r:.80}"
            ) from None
        try:
            return self.make(*given)
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise ValueError(
                f"a record of {self.kind} cannot be made of {given!r:.80}: {error}"
            ) from error

    def dtype(self) -> Any:
        """The same for numpy."""
        import numpy as np

        return np.dtype(self.make)


def _refuse_addresses(kind: Any, label: str) -> None:
    """Refuse pointers: an address means nothing to other processes, and following it can crash."""
    if issubclass(kind, ctypes.Array):
        _refuse_addresses(kind._type_, label)
    elif issubclass(kind, ctypes.Structure | ctypes.Union):
        for base in kind.__mro__:
            for name, part, *_ in vars(base).get("_fields_", ()):
                _refuse_addresses(part, f"{label}.{name}")
    elif not issubclass(kind, ctypes._SimpleCData) or kind._type_ in _ADDRESSES:
        raise TypeError(
            f"{label} is a {kind.__name__}, an address, which means nothing to other processes: "
            "put the bytes themselves into the structure, as an array of c_char"
        )


@lru_cache(maxsize=256)
def _read_only(kind: Any) -> Any:
    def refuse(*_: object) -> None:
        raise TypeError("these records are read-only: attach with access='rw', or 'cow'")

    return type(kind.__name__, (kind,), {"__setattr__": refuse, "__setitem__": refuse})
