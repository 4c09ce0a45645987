"""The built-in open(): as text, the way the tutorials use it, and as bytes."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from file_contenders.base import BLOCK, EARLY, FROM, LATE, WORD, FileContender

__all__ = ["CONTENDERS"]

_WORD = re.compile(WORD.pattern.decode())


def _bytes(path: Path) -> AbstractContextManager[Any]:
    return path.open("r+b")


def _text(path: Path) -> AbstractContextManager[Any]:
    return path.open("r+", encoding="utf-8", newline="")


def _read(file: Any, _: Any = None) -> Any:
    file.seek(0)
    return file.read()


def _read_from(file: Any) -> Any:
    file.seek(FROM)
    return file.read()


def _from(at: int) -> int:
    return FROM + at if at >= 0 else -1


def _write(file: Any, data: Any) -> int:
    file.seek(0)
    count: int = file.write(data)
    file.flush()
    return count


def _replace(file: Any, words: Any) -> int:
    old, new = words
    data = _read(file)
    if isinstance(data, str):
        old, new = old.decode(), new.decode()
    _write(file, data.replace(old, new))
    return int(data.count(old))


def _random(file: Any, places: Any) -> int:
    total = 0
    for at in places:
        file.seek(at)
        total += file.read(BLOCK)[0]
    return total


CONTENDERS = [
    FileContender(
        "open(), text",
        _text,
        {
            "read": lambda file, _: len(_read(file)),
            "find, soon": lambda file, _: _read(file).find(EARLY.decode()),
            "find, at the end": lambda file, _: _read(file).find(LATE.decode()),
            "regex": lambda file, _: sum(1 for _ in _WORD.finditer(_read(file))),
            "seek and find": lambda file, _: _from(_read_from(file).find(EARLY.decode())),
            "write": lambda file, data: _write(file, data.decode()),
            "find and replace": _replace,
        },
    ),
    FileContender(
        "open(), bytes",
        _bytes,
        {
            "read": lambda file, _: len(_read(file)),
            "find, soon": lambda file, _: _read(file).find(EARLY),
            "find, at the end": lambda file, _: _read(file).find(LATE),
            "regex": lambda file, _: sum(1 for _ in WORD.finditer(_read(file))),
            "seek and find": lambda file, _: _from(_read_from(file).find(EARLY)),
            "write": _write,
            "find and replace": _replace,
            "random 4 KiB": _random,
        },
    ),
]
