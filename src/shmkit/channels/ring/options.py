"""How a ring is made: its options, checked in one place, and the flags they are stored as."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final, NamedTuple

from shmkit.memory.url import Url
from shmkit.segment.segment import PARTICIPANTS
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

__all__ = ["ALL_FLAGS", "RingOptions"]

ALL_FLAGS: Final = CHECKED | MANY_PRODUCERS | MANY_CONSUMERS | (len(POLICIES) - 1) << POLICY_SHIFT
_MOST: Final = 1 << 46  # bytes: what fits into an address space


class RingOptions(NamedTuple):
    """How a ring is to be made; `Ring.create` says what each option means."""

    capacity: int = 1 << 20
    producers: str = "one"
    consumers: str = "one"
    when_full: str = "block"
    participants: int = PARTICIPANTS
    keep: bool = False

    def stored(self, where: Where | Url) -> tuple[int, int]:
        """The flags and the data size that a new ring gets.

        Raises:
            ValueError: an option is none of its choices, or the memory's name is bad.
            TypeError: the capacity is no integer.
        """
        for name, value, choices in (
            ("producers", self.producers, ("one", "many")),
            ("consumers", self.consumers, ("one", "many")),
            ("when_full", self.when_full, POLICIES),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r}: it is one of {', '.join(map(repr, choices))}")
        capacity = operator.index(self.capacity)
        if not 0 < capacity <= _MOST:
            raise ValueError(
                f"capacity={capacity}: a ring has 1 byte or more, and fits into memory"
            )
        flags = POLICIES.index(self.when_full) << POLICY_SHIFT
        if Url.parse(where).scheme == "file":
            flags |= CHECKED
        if self.producers == "many":
            flags |= MANY_PRODUCERS
        if self.consumers == "many":
            flags |= MANY_CONSUMERS
        return flags, max(LEAST_DATA, 1 << (capacity - 1).bit_length())
