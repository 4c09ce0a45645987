"""The kinds of memory: each a module that is imported when its scheme is first used."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

import shmkit.memory.imports  # noqa: F401 - a fork waits for the imports below
from shmkit.memory.backends.base import THERE_ALREADY

if TYPE_CHECKING:
    from shmkit.memory.backends.base import Backend
    from shmkit.memory.url import Scheme

__all__ = ["THERE_ALREADY", "backend_for"]


@cache
def backend_for(scheme: Scheme) -> Backend:
    """The backend of a scheme.

    Raises:
        OSError: this system has no such memory.
    """
    if scheme == "anon":
        from shmkit.memory.backends.anonymous import AnonymousBackend

        return AnonymousBackend()
    if scheme == "shm" and sys.platform == "linux":
        from shmkit.memory.backends.named import NamedBackend

        return NamedBackend()
    if scheme == "shm":
        from shmkit.memory.backends.posix import PosixBackend

        return PosixBackend()
    from shmkit.memory.backends.file import FileBackend

    return FileBackend()
