"""multiprocessing.SimpleQueue: pickles through a pipe, no thread."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from contenders.base import Channel, Contender

__all__ = ["CONTENDERS"]


class _SimpleQueue(Channel):
    def make(self) -> None:
        self.queue: Any = multiprocessing.get_context("fork").SimpleQueue()

    def producer(self) -> Callable[[Any], object]:
        put: Callable[[Any], object] = self.queue.put
        return put

    def consumer(self) -> Callable[[], Any]:
        get: Callable[[], Any] = self.queue.get
        return get

    def close(self) -> None:
        self.queue.close()


CONTENDERS = [Contender("multiprocessing.SimpleQueue", _SimpleQueue)]
