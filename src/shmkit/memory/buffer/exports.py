"""Which views of a handle are still in use, and where each was made.

A view keeps its memory by itself; this is bookkeeping for people. It holds weak references, so a
view made from a view (a slice of `.buf`) is not known here. The map knows: it does not close.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from pathlib import Path
from typing import Any, Final, TypeVar

__all__ = ["Loans"]

T = TypeVar("T")

_HERE: Final = str(Path(__file__).parent)


class Loans:
    """The views that a handle has given out and that are still referred to.

    Places are noted when the interpreter runs in development mode (`-X dev`) or with the
    environment variable SHMKIT_DEBUG set to anything but "" and "0".
    """

    __slots__ = ("_notes_places", "_out")

    def __init__(self) -> None:
        self._out: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._notes_places: bool | None = None  # not asked yet: most handles give out nothing

    def give(self, view: T, label: str) -> T:
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
        """Whether a whole map was noted that is still in use: one the handle has moved on from."""
        return any(isinstance(ref(), mmap.mmap) for ref, _ in list(self._out.values()))

    def describe(self) -> list[str]:
        """A line for each view that is still in use."""
        return [label for ref, label in list(self._out.values()) if ref() is not None]


def _is_debugging() -> bool:
    return sys.flags.dev_mode or os.environ.get("SHMKIT_DEBUG", "0") not in ("", "0")


def _caller() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
