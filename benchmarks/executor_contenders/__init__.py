"""Pools of processes, one file each: `CONTENDERS` maps a name to what makes a pool of it.

It is called with a number of workers, and gives something with `submit(function, *args)`, which
gives something with `result()`, and with `close()`. Workers are forked, where there is a choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from options import import_each

__all__ = ["load"]

_FILES = {
    "shmkit_pool": "shmkit",
    "concurrent_futures_pool": "concurrent.futures",
    "multiprocessing_pool": "multiprocessing",
    "loky_pool": "loky",
}


def load() -> tuple[dict[str, Callable[[int], Any]], dict[str, str]]:
    """Import every contender.

    Returns:
        Makers by name, and for each library that is not here the reason.
    """
    modules, missing = import_each(__name__, _FILES)
    return {name: make for module in modules for name, make in module.CONTENDERS.items()}, missing
