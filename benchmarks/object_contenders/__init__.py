"""Queues of objects, one file each: `CONTENDERS` maps a name to what makes a queue of it.

It is called with the bytes of an object, and gives something with `put`, `get` and `close`, to be
used by forked children. Where a queue can be bounded, it holds some megabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from options import import_each

__all__ = ["ROOM", "load"]

ROOM = 4 << 20  # bytes; larger than a core's second-level cache

_FILES = {
    "shmkit_queue": "shmkit",
    "multiprocessing_queue": "multiprocessing",
    "faster_fifo_queue": "faster-fifo",
}


def load() -> tuple[dict[str, Callable[[int], Any]], dict[str, str]]:
    """Import every contender.

    Returns:
        Makers by name, and for each library that is not here the reason.
    """
    modules, missing = import_each(__name__, _FILES)
    return {name: make for module in modules for name, make in module.CONTENDERS.items()}, missing
