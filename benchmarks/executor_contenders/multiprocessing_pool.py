"""The standard library's other pool."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

__all__ = ["CONTENDERS"]


class Pool:
    def __init__(self, workers: int) -> None:
        self._pool = multiprocessing.get_context("fork").Pool(workers)

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        result = self._pool.apply_async(function, args)
        result.result = result.get  # type: ignore[attr-defined]
        return result

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


CONTENDERS = {"multiprocessing.Pool": Pool}
