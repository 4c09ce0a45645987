"""Every exception shmkit raises on its own account, named by who acted.

    ShmkitError
     +- ClosedError (ValueError)            we closed this handle
     +- Full (queue.Full)                   no room, and the caller would not wait longer
     +- Empty (queue.Empty)                 nothing there, and the caller would not wait longer
     +- ShutDown (queue.ShutDown, EOFError) somebody shut the channel down: the end
     +- PeerDied (BrokenPipeError)          the other side was killed       .pid .role
     +- RoleTaken (RuntimeError)            a live process has that role    .pid .role
     +- FrameTooLarge (ValueError)          it can never fit                .size .limit
     +- IncompatibleSegment (ValueError)    not ours, or another layout     .where
     +- CorruptSegment (ValueError)         ours, an invariant is broken    .where .detail
     +- WorkerDied (BrokenProcessPool)      the worker that ran a call died .pid .exitcode

A message gives the cause, the value and the remedy; what a program may want to know is an
attribute. All of them survive pickling, with their attributes: they travel between processes.
"""

from __future__ import annotations

import queue
from importlib import import_module
from typing import Any

__all__ = [
    "ClosedError",
    "CorruptSegment",
    "Empty",
    "FrameTooLarge",
    "Full",
    "IncompatibleSegment",
    "PeerDied",
    "RoleTaken",
    "ShmkitError",
    "ShutDown",
]


def _rebuild(cls: type[ShmkitError], args: tuple[Any, ...], fields: dict[str, Any]) -> ShmkitError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class ShmkitError(Exception):
    """Base of everything shmkit raises on its own account."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls __init__ with args alone: fields would be lost.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class ClosedError(ShmkitError, ValueError):
    """This handle was closed."""


class Full(ShmkitError, queue.Full):
    """No room came free before the timeout."""


class Empty(ShmkitError, queue.Empty):
    """Nothing arrived before the timeout."""


# 3.13 gave queue.Queue a shutdown; before it, the end of a stream is an EOFError.
_EndOfStream: Any = getattr(queue, "ShutDown", EOFError)


class ShutDown(ShmkitError, _EndOfStream):  # type: ignore[misc]
    """The channel was shut down: nothing more goes in, and what was in it has been read."""


class PeerDied(ShmkitError, BrokenPipeError):
    """The other side of a channel died without closing it.

    Attributes:
        pid: process id it had, 0 if unknown.
        role: "producer" or "consumer"; "publisher" of a Broadcast, "writer" of a Latest.
    """

    def __init__(self, message: str, *, pid: int = 0, role: str = "") -> None:
        super().__init__(message)
        self.pid = pid
        self.role = role


class RoleTaken(ShmkitError, RuntimeError):
    """A live handle already has a role that only one may have.

    Attributes:
        pid: process id of the holder, 0 if unknown.
        role: "producer" or "consumer"; "publisher" of a Broadcast, "writer" of a Latest.
    """

    def __init__(self, message: str, *, pid: int = 0, role: str = "") -> None:
        super().__init__(message)
        self.pid = pid
        self.role = role


class FrameTooLarge(ShmkitError, ValueError):
    """A frame that could not fit into this channel even if it were empty.

    Attributes:
        size: bytes the frame has.
        limit: bytes the largest frame may have.
    """

    def __init__(self, message: str, *, size: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class IncompatibleSegment(ShmkitError, ValueError):
    """The memory is not a shmkit segment, or has another kind or layout version.

    Attributes:
        where: url of the memory.
    """

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class CorruptSegment(ShmkitError, ValueError):
    """The memory is a shmkit segment whose bytes break one of its rules.

    Attributes:
        where: url of the memory.
        detail: the rule that does not hold, with the value found.
    """

    def __init__(self, message: str, *, where: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.detail = detail


def __getattr__(name: str) -> Any:
    """WorkerDied is imported when it is asked for: what it derives from takes long to import."""
    if name == "WorkerDied":
        return import_module("shmkit.work.died").WorkerDied
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
