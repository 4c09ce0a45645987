"""Which core there is: the compiled one, or why not; and the classes it lends its methods to.

`shmkit._core` is an optional extension (src/shmkit/_core.c). It imports nothing, and this module
alone imports it. A class that has a compiled twin derives from it, has the same methods in plain
Python, and is marked with `@twin`. Environment:

    SHMKIT_PURE=1      the plain Python is used
    SHMKIT_CORE=steps  the build for tests is used, in which a process can be killed at each step
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "WHY_PURE",
    "BellCore",
    "Exporter",
    "LockCore",
    "MutexCore",
    "ReadCursor",
    "RingCore",
    "Semaphore",
    "WriteCursor",
    "close_in_children",
    "copied",
    "copy",
    "core",
    "keep_in_children",
    "python_forks",
    "twin",
    "use_python",
]

T = TypeVar("T")


def _load() -> tuple[Any, str]:
    if os.environ.get("SHMKIT_PURE") == "1":
        return None, "SHMKIT_PURE=1"
    if os.environ.get("SHMKIT_SEMAPHORES") == "named":
        return None, "SHMKIT_SEMAPHORES=named"
    try:
        steps = "_steps" if os.environ.get("SHMKIT_CORE") == "steps" else ""
        return importlib.import_module(f"shmkit._core{steps}"), ""
    except ImportError as error:
        return None, f"it was not built, or is of another system ({error})"


_loaded = _load()
core: Final[Any] = _loaded[0]
"""The extension; None without it."""

WHY_PURE: Final[str] = _loaded[1]
"""Why there is none; "" if there is."""


class _NoTwin:
    """What a class derives from where there is no compiled core."""


class _Exporter:
    """A buffer, from Python 3.12 on: that of what its method `_exported` gives."""

    __slots__ = ()

    def _exported(self) -> memoryview:
        raise NotImplementedError

    def __buffer__(self, flags: int) -> memoryview:
        return self._exported()


if core is None or TYPE_CHECKING:
    Semaphore: TypeAlias = _NoTwin
    MutexCore: TypeAlias = _NoTwin
    LockCore: TypeAlias = _NoTwin
    BellCore: TypeAlias = _NoTwin
    WriteCursor: TypeAlias = _NoTwin
    ReadCursor: TypeAlias = _NoTwin
    RingCore: TypeAlias = _NoTwin
    Exporter: TypeAlias = _Exporter

    def copy(to: memoryview, source: bytes | memoryview) -> None:
        """Copy the bytes of one buffer into another; the compiled core does it without the GIL."""
        to[:] = source

    def copied(source: memoryview) -> bytes:
        """The bytes of a buffer, copied; the compiled core does it without the GIL."""
        return bytes(source)

    def close_in_children(descriptor: int) -> None:
        """Have a descriptor closed in children that C code forks; only the compiled core can."""

    def keep_in_children(descriptor: int, device: int, inode: int) -> None:
        """No longer."""

    def python_forks(whether: bool) -> None:
        """Whether this thread is in os.fork(), whose hooks see to the descriptors."""

else:
    Semaphore, MutexCore, LockCore, BellCore = (
        core.Semaphore,
        core.MutexCore,
        core.LockCore,
        core.BellCore,
    )
    WriteCursor, ReadCursor, RingCore = core.WriteCursor, core.ReadCursor, core.RingCore
    Exporter, copy, copied = core.Exporter, core.copy, core.copied
    close_in_children, keep_in_children = core.close_in_children, core.keep_in_children
    python_forks = core.python_forks

_twins: list[tuple[type, str, Any]] = []


def twin(base: type) -> Callable[[type[T]], type[T]]:
    """Mark a class that derives from its compiled twin: that one's methods count.

    A method that both have is `_plain_NAME` in the class: there the compiled one goes on with what
    is no common case.
    """

    def prefer(kind: type[T]) -> type[T]:
        for name, plain in list(vars(kind).items()) if core is not None else ():
            if callable(plain) and name in vars(base):
                setattr(kind, f"_plain_{name}", plain)
                delattr(kind, name)
                _twins.append((kind, name, plain))
        return kind

    return prefer


def use_python(whether: bool) -> None:
    """Have the plain methods used in this process, and not the compiled ones; or no longer.

    For what has to see each step in Python: a tracer that kills a process at one (tools/testing).
    """
    for kind, name, plain in _twins:
        if whether:
            setattr(kind, name, plain)
        elif name in vars(kind):
            delattr(kind, name)
