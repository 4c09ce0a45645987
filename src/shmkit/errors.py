"""Every exception that shmkit raises itself, named after the side that acted.

    ShmkitError
     +- ClosedError (ValueError)            this process closed the handle
     +- Full (queue.Full)                   no room, and the caller would not wait longer
     +- Empty (queue.Empty)                 nothing there, and the caller would not wait longer
     +- ShutDown (queue.ShutDown, EOFError) a process shut the channel down: the end
     +- PeerDied (BrokenPipeError)          the other side was killed        .pid .role
     +- RoleTaken (RuntimeError)            a live process has that role     .pid .role
     +- FrameTooLarge (ValueError)          it is larger than any room       .size .limit
     +- IncompatibleSegment (ValueError)    not shmkit's, or another layout  .where
     +- CorruptSegment (ValueError)         shmkit's, but a rule is broken   .where .detail
     +- WorkerDied (BrokenProcessPool)      the worker that ran a call died  .pid .exitcode

A message gives the cause, the value and the remedy. What a program may want to know is also an
attribute. Errors travel between processes: they pickle, and keep their attributes, and their cause
if that pickles.
"""

from __future__ import annotations

import queue
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool

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
    "WorkerDied",
]


def _rebuild(
    cls: type[ShmkitError],
    args: tuple[Any, ...],
    fields: dict[str, Any],
    cause: bytes = b"",
) -> ShmkitError:
    # Without __init__: its arguments are not kept, only what it made of them.
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    if cause:
        import pickle  # here: most programs never need it for this

        try:
            error.__cause__ = pickle.loads(cause)
        except Exception:  # noqa: BLE001 - whatever its class does: the error itself matters
            pass
    return error


class ShmkitError(Exception):
    """Base of every exception that shmkit raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own __reduce__ calls __init__ with args only: the fields would be lost.
        cause = b""
        if self.__cause__ is not None:
            import pickle

            try:
                cause = pickle.dumps(self.__cause__)
            except Exception:  # noqa: BLE001 - it holds what does not pickle: it stays here
                pass
        return _rebuild, (type(self), self.args, self.__dict__.copy(), cause)


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
    """A frame that does not fit into this channel, even when that is empty.

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


# Made at its first use: BrokenProcessPool comes from a module that takes long to import.
if TYPE_CHECKING:

    class WorkerDied(ShmkitError, BrokenProcessPool):
        """The worker process that ran this call died; the pool and its other calls go on."""

        pid: int
        exitcode: int | None

        def __init__(self, pid: int, exitcode: int | None) -> None: ...


def _make_worker_died() -> type[ShmkitError]:
    from concurrent.futures.process import BrokenProcessPool

    class WorkerDied(ShmkitError, BrokenProcessPool):
        """The worker process that ran this call died; the pool and its other calls go on.

        Args:
            pid: process id the worker had.
            exitcode: its exit status, or minus the number of the signal that killed it; None if
                unknown.

        Attributes:
            pid: as given.
            exitcode: as given.
        """

        def __init__(self, pid: int, exitcode: int | None) -> None:
            super().__init__(
                f"worker process {pid} {_describe(exitcode)} while it ran this call; it is "
                "replaced and the other calls go on: submit this one again if it may run twice"
            )
            self.pid = pid
            self.exitcode = exitcode

    WorkerDied.__qualname__ = WorkerDied.__name__  # where pickle looks for it
    return WorkerDied


def _describe(exitcode: int | None) -> str:
    """How a process ended, as the middle of a sentence."""
    if exitcode is None:
        return "ended"
    if exitcode >= 0:
        return f"exited with status {exitcode}"
    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"


def __getattr__(name: str) -> Any:
    """Make WorkerDied when it is first asked for (PEP 562)."""
    if name != "WorkerDied":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Two threads may come here at once; both have to get the same class.
    return globals().setdefault(name, _make_worker_died())
