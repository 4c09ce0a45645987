"""What a kind of memory has to offer: descriptors by name. Everything else is common to all."""

from __future__ import annotations

import os
from typing import Protocol, TypeAlias

__all__ = ["Backend", "Identity", "identity_of"]

# (device, inode): what a name leads to, however it is called.
Identity: TypeAlias = tuple[int, int]


def identity_of(status: os.stat_result) -> Identity:
    """The memory that a stat result speaks of."""
    return status.st_dev, status.st_ino


class Backend(Protocol):
    """System calls of one kind of memory. No state, no retries, no clean-up of anybody's names.

    Descriptors are not inherited over exec, and belong to the caller.

    Attributes:
        creator_unlinks: whether memory goes with its creator unless it is to be kept.
        empty_is_unfinished: whether size 0 means that its creator has not got further.
    """

    creator_unlinks: bool
    empty_is_unfinished: bool

    def fresh_name(self) -> str:
        """A name nobody can guess, where creation may choose one."""
        ...

    def create(self, name: str, mode: int) -> int:
        """Make empty memory that was not there, open for reading and writing.

        Returns:
            A descriptor, or -1: this system maps such memory without one.

        Raises:
            FileExistsError: it is there.
        """
        ...

    def open(self, name: str, *, writable: bool) -> int:
        """Open what is there; never makes, resizes or waits.

        Raises:
            FileNotFoundError: it is not there.
        """
        ...

    def identify(self, name: str) -> Identity:
        """What the name leads to now.

        Raises:
            FileNotFoundError: nothing.
        """
        ...

    def unlink(self, name: str) -> None:
        """Remove the name.

        Raises:
            FileNotFoundError: it is not there.
        """
        ...
