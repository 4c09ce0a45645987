"""LMDB in a directory of /dev/shm, not synchronized: as near to a dict in memory as it gets."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import lmdb

__all__ = ["CONTENDERS"]

_OPTIONS = {"map_size": 1 << 30, "sync": False, "metasync": False}


class _Opened:
    def __init__(self, path: str) -> None:
        self._environment = lmdb.open(path, **_OPTIONS)

    def __getitem__(self, key: str) -> bytes:
        with self._environment.begin() as transaction:
            return transaction.get(key.encode())  # type: ignore[no-any-return]

    def __setitem__(self, key: str, value: bytes) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.put(key.encode(), value)


class _Lmdb:
    def __init__(self, content: dict[Any, Any]) -> None:
        self._path = tempfile.mkdtemp(dir="/dev/shm")
        with lmdb.open(self._path, **_OPTIONS) as made, made.begin(write=True) as transaction:
            for key, value in content.items():
                transaction.put(key.encode(), value)

    def open(self) -> Any:
        return _Opened(self._path)

    def close(self) -> None:
        shutil.rmtree(self._path)


CONTENDERS = {"lmdb": _Lmdb}
