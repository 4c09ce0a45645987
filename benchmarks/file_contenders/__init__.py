"""One file per contender. A library that is not here or does not load is named with the reason."""

from __future__ import annotations

from options import import_each

from file_contenders.base import BLOCK, EARLY, FROM, LATE, WORD, WORDS, FileContender

__all__ = [
    "BLOCK",
    "EARLY",
    "FILES",
    "FROM",
    "LATE",
    "WORD",
    "WORDS",
    "FileContender",
    "load",
]

FILES = {
    "shared_buffer": "shmkit",
    "bare_mmap": "mmap",
    "np_memmap": "numpy",
    "builtin_open": "open",
}


def load() -> tuple[list[FileContender], dict[str, str]]:
    """Import every contender.

    Returns:
        Those that are here, and for each library that is not, the reason.
    """
    modules, missing = import_each(__name__, FILES)
    return [contender for module in modules for contender in module.CONTENDERS], missing
