"""What callers give, checked: an error says which argument it was, and what it takes."""

from __future__ import annotations

import operator
from types import FunctionType
from typing import Any, SupportsIndex, TypeVar

__all__ = ["byte_of", "checked_mode", "named_plainly", "number_of"]

T = TypeVar("T", bound=type)


def number_of(value: SupportsIndex, name: str) -> int:
    """An integer argument; a TypeError with its name if it is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name!r} must be an integer, not {value!r:.80}") from None


def byte_of(value: SupportsIndex) -> int:
    """The value of one byte.

    Raises:
        TypeError: no integer.
        ValueError: less than 0, or more than 255.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"one byte is an integer of 0 to 255, not {value!r:.80}; bytes go into a slice, as in "
            "b[0:3] = b'abc'"
        ) from None
    if not 0 <= number <= 255:
        raise ValueError(f"the value of one byte must be in range(0, 256), not {number}")
    return number


def checked_mode(mode: Any) -> int:
    """The permissions of a file."""
    number = number_of(mode, "mode")
    if not 0 <= number <= 0o7777:
        raise ValueError(f"'mode' is permissions, as 0o600, and not {number:#o}")
    return number


def named_plainly(base: T) -> T:
    """Have errors about a call name the method alone, and not the base class that it is from."""
    for name, member in vars(base).items():
        if isinstance(member, FunctionType):
            member.__qualname__ = name
    return base
