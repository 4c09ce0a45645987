"""Memory without a name: a memfd on Linux, elsewhere a map that only fork hands on."""

from __future__ import annotations

import os
from typing import NoReturn

from shmkit.memory.identity import Identity

__all__ = ["AnonymousBackend"]


class AnonymousBackend:
    """Anonymous memory lives as long as a descriptor or a map of it."""

    creator_unlinks = False

    def fresh_name(self) -> str:
        """No name at all."""
        return ""

    def create_unnamed(self, name: str, mode: int) -> int:  # noqa: ARG002 - it has neither
        """Make a memfd; -1 where the system has none."""
        if not hasattr(os, "memfd_create"):
            return -1
        return os.memfd_create("shmkit", os.MFD_CLOEXEC)

    create = create_unnamed

    def link(self, fd: int, name: str) -> bool:  # noqa: ARG002
        """There is no name to give."""
        return True

    def open(self, name: str, *, writable: bool) -> NoReturn:  # noqa: ARG002
        """There is no name to open it by."""
        raise ValueError(
            "anonymous memory cannot be attached to by name: inherit its handle by fork, or pickle "
            "it to the other process; for a name use 'shm:NAME'"
        )

    def identify(self, name: str) -> Identity:  # noqa: ARG002
        """No memory has the name."""
        raise FileNotFoundError("anonymous memory has no name")

    def unlink(self, name: str) -> None:
        """There is no name to remove."""
