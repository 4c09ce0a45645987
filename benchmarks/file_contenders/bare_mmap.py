"""mmap.mmap, the way the tutorials use it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from file_contenders.base import BLOCK, EARLY, FROM, LATE, WORD, FileContender

__all__ = ["CONTENDERS"]


@contextmanager
def _open(path: Path) -> Iterator[mmap.mmap]:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        yield memory


def _write(memory: Any, data: Any) -> int:
    memory[:] = data
    return len(memory)


def _replace(memory: Any, words: Any) -> int:
    text = memory[:]
    memory[:] = text.replace(*words)
    return int(text.count(words[0]))


CONTENDERS = [
    FileContender(
        "mmap.mmap",
        _open,
        {
            "read": lambda memory, _: len(memory[:]),
            "find, soon": lambda memory, _: memory.find(EARLY),
            "find, at the end": lambda memory, _: memory.find(LATE),
            "regex": lambda memory, _: sum(1 for _ in WORD.finditer(memory)),
            "seek and find": lambda memory, _: memory.find(EARLY, FROM),
            "write": _write,
            "find and replace": _replace,
            "random 4 KiB": lambda memory, places: sum(memory[at : at + BLOCK][0] for at in places),
        },
    )
]
