"""How a ring is made: its options, checked in one place, and the flags they are stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmkit.channels.handle import whole_number
from shmkit.memory.url import Url
from shmkit.segment.words import (
    CHECKED,
    LEAST_DATA,
    MANY_CONSUMERS,
    MANY_PRODUCERS,
    POLICIES,
    POLICY_SHIFT,
)

if TYPE_CHECKING:
    from shmkit.memory.url import Where

__all__ = ["ALL_FLAGS", "stored"]

ALL_FLAGS: Final = CHECKED | MANY_PRODUCERS | MANY_CONSUMERS | (len(POLICIES) - 1) << POLICY_SHIFT
_MOST: Final = 1 << 46  # bytes: what fits into an address space


def stored(
    where: Where | Url, capacity: int, producers: str, consumers: str, when_full: str
) -> tuple[int, int]:
    """The flags and the data size that a new ring gets; `Ring.create` says what the options mean.

    Raises:
        ValueError: an option is none of its choices, or the memory's name is bad.
        TypeError: the capacity is no integer.
    """
    for name, value, choices in (
        ("producers", producers, ("one", "many")),
        ("consumers", consumers, ("one", "many")),
        ("when_full", when_full, POLICIES),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: it is one of {', '.join(map(repr, choices))}")
    if isinstance(where, int):
        raise TypeError(f"where={where!r} is no place: did you mean capacity={where}?")
    capacity = whole_number("capacity", capacity, "bytes")
    if not 0 < capacity <= _MOST:
        raise ValueError(f"capacity={capacity}: a ring has 1 byte or more, and fits into memory")
    flags = POLICIES.index(when_full) << POLICY_SHIFT
    # After a loss of power a file may have some of its pages, and not all: hence checksums.
    if Url.parse(where).scheme == "file":
        flags |= CHECKED
    if producers == "many":
        flags |= MANY_PRODUCERS
    if consumers == "many":
        flags |= MANY_CONSUMERS
    # A power of two: one mask turns a position into an index.
    return flags, max(LEAST_DATA, 1 << (capacity - 1).bit_length())
