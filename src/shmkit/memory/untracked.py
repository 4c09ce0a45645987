"""Maps that keep no descriptor.

`mmap` duplicates the descriptor that it maps, for its `resize()`, and closes the duplicate at its
end without a look. A program that closed all descriptors meanwhile, as a daemon does, may have a
file of its own under that number: the file would be closed. From Python 3.13 on `mmap` can be told
not to (`trackfd=False`). Before, its duplicate is closed here at once, and forgotten in the object.

Where the object keeps the number is looked for once, with a map that is known. The versions of
Python that this is for do not change any more. Where it is not found, the duplicate stays.
"""

from __future__ import annotations

import mmap
import os
import sys
from functools import cache

__all__ = ["forget_descriptor"]

_HEAD = object.__basicsize__
_INT = 4  # bytes


def forget_descriptor(memory: mmap.mmap) -> None:
    """Close the duplicate of a descriptor that a new map has kept, if it has."""
    at = _place()
    if not at:
        return
    import ctypes

    field = ctypes.c_int.from_address(id(memory) + at)
    fd, field.value = field.value, -1
    if fd >= 0:
        os.close(fd)


@cache
def _place() -> int:
    """Bytes from the beginning of a map's object to the number of its descriptor; 0: unknown."""
    if (
        sys.version_info >= (3, 13)
        or sys.platform != "linux"
        or sys.implementation.name != "cpython"
    ):
        return 0
    try:
        import ctypes
    except ImportError:  # a Python that was built without
        return 0
    fd = os.memfd_create("shmkit", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, 1)
        # A map of a file keeps a duplicate, a map of none has -1 in its place.
        with mmap.mmap(fd, 1) as one, mmap.mmap(-1, 1) as none:

            def number(memory: mmap.mmap, at: int) -> int:
                return ctypes.c_int.from_address(id(memory) + at).value

            places = [
                at
                for at in range(_HEAD, mmap.mmap.__basicsize__ - _INT + 1, _INT)
                if number(none, at) == -1 and _is_duplicate(number(one, at), fd)
            ]
    finally:
        os.close(fd)
    return places[0] if len(places) == 1 else 0


def _is_duplicate(number: int, fd: int) -> bool:
    try:
        return number not in (-1, fd) and os.path.samestat(os.fstat(number), os.fstat(fd))
    except (OSError, OverflowError):
        return False
