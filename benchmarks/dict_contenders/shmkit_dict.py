"""shmkit.SharedDict."""

from __future__ import annotations

from typing import Any

from shmkit import SharedDict

__all__ = ["CONTENDERS"]


class _Ours:
    def __init__(self, content: dict[Any, Any]) -> None:
        self._dict = SharedDict.create(capacity=1 << 23, grow=True)
        self._dict.update(content)

    def open(self) -> Any:
        return self._dict

    def close(self) -> None:
        self._dict.close()


CONTENDERS = {"shmkit.SharedDict": _Ours}
