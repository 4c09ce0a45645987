"""shared-memory-dict: one pickle of everything, with its lock for several processes."""

from __future__ import annotations

import os

os.environ["SHARED_MEMORY_USE_LOCK"] = "1"  # looked at by the import

from itertools import count
from typing import Any

from shared_memory_dict import SharedMemoryDict

__all__ = ["CONTENDERS"]

_ROOM = 1 << 23
_numbers = count()


class _Pickled:
    def __init__(self, content: dict[Any, Any]) -> None:
        self._name = f"benchmark-{os.getpid()}-{next(_numbers)}"
        self._dict = SharedMemoryDict(self._name, _ROOM)
        self._dict.update(content)

    def open(self) -> Any:
        return self._dict  # inherited: its lock is a multiprocessing.Lock

    def close(self) -> None:
        self._dict.shm.close()
        self._dict.shm.unlink()


CONTENDERS = {"shared-memory-dict": _Pickled}
