"""UltraDict, with its lock for several processes."""

from __future__ import annotations

from typing import Any

from UltraDict import UltraDict

__all__ = ["CONTENDERS"]


class _Ultra:
    def __init__(self, content: dict[Any, Any]) -> None:
        # Room for all content: what does not fit is dumped as a whole, again and again.
        self._dict = UltraDict(content, buffer_size=1 << 24, shared_lock=True)

    def open(self) -> Any:
        return UltraDict(name=self._dict.name, shared_lock=True)

    def close(self) -> None:
        self._dict.unlink()
        self._dict.close()


CONTENDERS = {"UltraDict": _Ultra}
