"""What a kind of memory has to offer: descriptors by name. Everything else is common to all."""

from __future__ import annotations

import os
from typing import Final, Protocol

from shmkit.memory.identity import Identity, identity_of

__all__ = ["THERE_ALREADY", "Backend", "Identity", "fresh_name", "identity_of"]


THERE_ALREADY: Final = "is there already: attach() to it, or use ensure()"


class Backend(Protocol):
    """System calls of one kind of memory: no state, no retries, no clean-up.

    Descriptors are open for reading and writing, and not inherited over exec. The caller closes
    them. `creator_unlinks` tells whether memory goes with its creator unless it is to be kept.
    """

    creator_unlinks: bool

    def fresh_name(self) -> str:
        """A name that cannot be guessed, where creation may choose one."""
        ...

    def create_unnamed(self, name: str, mode: int) -> int:
        """Make empty memory in the place of a name, but without it yet; -1 where that cannot be."""
        ...

    def link(self, fd: int, name: str) -> bool:
        """Give unnamed memory its name, in one step.

        False where that cannot be done; `create` then tells why, or can do it. FileExistsError if
        the name is there.
        """
        ...

    def create(self, name: str, mode: int) -> int:
        """Make empty memory under a new name at once, or raise FileExistsError.

        -1 where the system maps such memory without a descriptor.
        """
        ...

    def open(self, name: str, *, writable: bool) -> int:
        """Open what is there, or raise FileNotFoundError; never makes, resizes or waits."""
        ...

    def identify(self, name: str) -> Identity:
        """What the name leads to now; FileNotFoundError if nothing."""
        ...

    def unlink(self, name: str) -> None:
        """Remove the name, or raise FileNotFoundError."""
        ...


def fresh_name() -> str:
    """A segment's name that cannot be guessed: 88 random bits, and short enough for macOS."""
    return f"shmkit_{os.urandom(11).hex()}"
