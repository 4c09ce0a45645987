"""What a kind of memory has to offer: descriptors by name. Everything else is common to all."""

from __future__ import annotations

from typing import Protocol

from shmkit.memory.identity import Identity, identity_of

__all__ = ["Backend", "Identity", "identity_of"]


class Backend(Protocol):
    """System calls of one kind of memory: no state, no retries, no clean-up.

    Descriptors are not inherited over exec. The caller closes them.

    Attributes:
        creator_unlinks: whether memory goes with its creator unless it is to be kept.
    """

    creator_unlinks: bool

    def fresh_name(self) -> str:
        """A name that cannot be guessed, where creation may choose one."""
        ...

    def create_unnamed(self, name: str, mode: int) -> int:
        """Make empty memory in the place of a name, but without the name yet.

        Returns:
            A descriptor, open for reading and writing, for `link`; or -1 where the system or the
            filesystem cannot do this.
        """
        ...

    def link(self, fd: int, name: str) -> bool:
        """Give unnamed memory its name, in one step.

        Returns:
            False where that cannot be done; `create` then tells why, or can do it.

        Raises:
            FileExistsError: the name is there.
        """
        ...

    def create(self, name: str, mode: int) -> int:
        """Make empty memory under a new name at once.

        Returns:
            A descriptor, open for reading and writing; or -1 where the system maps such memory
            without one.

        Raises:
            FileExistsError: the name is there.
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
