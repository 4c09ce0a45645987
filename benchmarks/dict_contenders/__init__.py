"""Dicts that processes share, one file each: `CONTENDERS` maps a name to what makes one.

It is called with the content, a dict, and gives something with `open`, to be called in a forked
child, which gives something with `d[key]` and `d[key] = value`; and with `close`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from options import import_each

__all__ = ["load"]

_FILES = {
    "shmkit_dict": "shmkit",
    "manager_dict": "multiprocessing",
    "lmdb_dict": "lmdb",
    "ultra_dict": "UltraDict",
    "shared_memory_dict_": "shared-memory-dict",
}


def load() -> tuple[dict[str, Callable[[dict[Any, Any]], Any]], dict[str, str]]:
    """Import every contender.

    Returns:
        Makers by name, and for each library that is not here the reason.
    """
    modules, missing = import_each(__name__, _FILES)
    return {name: make for module in modules for name, make in module.CONTENDERS.items()}, missing
