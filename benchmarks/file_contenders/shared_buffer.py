"""shmkit: SharedBuffer; and PagedFile, for what it is for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from file_contenders.base import BLOCK, EARLY, FROM, LATE, WORD, FileContender
from shmkit import PagedFile, SharedBuffer

__all__ = ["CONTENDERS"]


def _open(path: Path) -> AbstractContextManager[Any]:
    return SharedBuffer.attach(path)


def _open_paged(path: Path) -> AbstractContextManager[Any]:
    return PagedFile(path)


def _write(buffer: Any, data: Any) -> int:
    buffer[:] = data
    return len(buffer)


CONTENDERS = [
    FileContender(
        "shmkit.SharedBuffer",
        _open,
        {
            "read": lambda buffer, _: len(buffer[:]),
            "find, soon": lambda buffer, _: buffer.find(EARLY),
            "find, at the end": lambda buffer, _: buffer.find(LATE),
            "regex": lambda buffer, _: sum(1 for _ in buffer.finditer(WORD)),
            "seek and find": lambda buffer, _: buffer.find(EARLY, FROM),
            "write": _write,
            "find and replace": lambda buffer, words: buffer.replace(*words),
            "random 4 KiB": lambda buffer, places: sum(buffer[at : at + BLOCK][0] for at in places),
        },
        ours=True,
    ),
    FileContender(
        "shmkit.PagedFile",
        _open_paged,
        {
            "find, soon": lambda file, _: file.find(EARLY),
            "find, at the end": lambda file, _: file.find(LATE),
            "seek and find": lambda file, _: file.find(EARLY, FROM),
            "random 4 KiB": lambda file, places: sum(file[at : at + BLOCK][0] for at in places),
        },
    ),
]
