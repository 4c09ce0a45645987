"""numpy.memmap: an array of bytes; searching takes a copy, as it has no find of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from file_contenders.base import BLOCK, EARLY, FROM, LATE, WORD, FileContender

__all__ = ["CONTENDERS"]


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    array = np.memmap(path, "u1", mode="r+")
    yield array
    array._mmap.close()  # type: ignore[attr-defined]


def _write(array: Any, data: Any) -> int:
    array[:] = np.frombuffer(data, "u1")
    return len(array)


def _replace(array: Any, words: Any) -> int:
    text = array.tobytes()
    array[:] = np.frombuffer(text.replace(*words), "u1")
    return int(text.count(words[0]))


def _find_from(array: Any) -> int:
    at = array[FROM:].tobytes().find(EARLY)
    return FROM + at if at >= 0 else -1


CONTENDERS = [
    FileContender(
        "numpy.memmap",
        _open,
        {
            "read": lambda array, _: len(array.tobytes()),
            "find, soon": lambda array, _: array.tobytes().find(EARLY),
            "find, at the end": lambda array, _: array.tobytes().find(LATE),
            "regex": lambda array, _: sum(1 for _ in WORD.finditer(array)),
            "seek and find": lambda array, _: _find_from(array),
            "write": _write,
            "find and replace": _replace,
            "random 4 KiB": lambda array, places: sum(
                array[at : at + BLOCK].tobytes()[0] for at in places
            ),
        },
    )
]
