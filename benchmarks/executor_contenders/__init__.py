"""Pools of processes, one file each: `CONTENDERS` maps a name to what makes a pool of it.

It is called with a number of workers, and gives something with `submit(function, *args)`, which
gives something with `result()`, and with `close()`. Workers are forked, where there is a choice.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

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
    found: dict[str, Callable[[int], Any]] = {}
    missing: dict[str, str] = {}
    for file, library in _FILES.items():
        try:
            found |= importlib.import_module(f"executor_contenders.{file}").CONTENDERS
        except (ImportError, OSError) as error:
            missing[library] = f"{type(error).__name__}: {error}"
    return found, missing
