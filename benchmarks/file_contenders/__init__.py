"""One file per contender. A library that is not here or does not load is named with the reason."""

from __future__ import annotations

import importlib

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
    found: list[FileContender] = []
    missing: dict[str, str] = {}
    for file, library in FILES.items():
        try:
            module = importlib.import_module(f"file_contenders.{file}")
        except ImportError as error:
            missing[library] = f"{type(error).__name__}: {error}"
        else:
            found += module.CONTENDERS
    return found, missing
