"""Which views of a handle are in use, and where each was made.

A view keeps its memory by itself; this is for error messages. It holds weak references. A view made
from a view (a slice of `.buf`) is not known here, but the map knows it, and does not close.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from typing import Any, Final, TypeVar

__all__ = ["Exports"]

T = TypeVar("T")

_LIBRARY: Final = __file__[: -len("memory/buffer/exports.py")]


class Exports:
    """The views that a handle has given out and that are in use.

    Places are noted when the interpreter runs in development mode (`-X dev`) or with the
    environment variable SHMKIT_DEBUG set to anything but "" and "0".
    """

    __slots__ = ("_notes_places", "_out")

    def __init__(self) -> None:
        self._out: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._notes_places: bool | None = None  # not asked yet: most handles give out nothing

    def add(self, view: T, label: str) -> T:
        """Note a view that goes to the user, and return it."""
        if self._notes_places is None:
            self._notes_places = _is_debugging()
        key = id(view)
        out = self._out

        def forget(_: weakref.ref[T]) -> None:
            out.pop(key, None)

        out[key] = (
            weakref.ref(view, forget),
            f"{label}, made at {_caller()}" if self._notes_places else label,
        )
        return view

    def has_map(self) -> bool:
        """Whether a whole map was noted that is in use: one from before a resize."""
        # A copy of the values: a view that goes meanwhile changes the dict.
        return any(isinstance(ref(), mmap.mmap) for ref, _ in list(self._out.values()))

    def describe(self) -> str:
        """The views that are in use, for a message."""
        labels = [label for ref, label in list(self._out.values()) if ref() is not None]
        return "; ".join(labels or ["a view of a view that it gave out, or its map"])


def _is_debugging() -> bool:
    return sys.flags.dev_mode or os.environ.get("SHMKIT_DEBUG", "0") not in ("", "0")


def _caller() -> str:
    """The line of the user's that called the library."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
