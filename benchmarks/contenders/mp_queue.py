"""multiprocessing.Queue: pickles, and a thread that feeds a pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from contenders.base import Channel, Contender

__all__ = ["CONTENDERS"]


class _Queue(Channel):
    def make(self) -> None:
        # A pipe holds less than any of the frames that count, so bound what waits for the feeder.
        slots = max(4, min(self.room // self.size, 32_000))
        self.queue: Any = multiprocessing.get_context("fork").Queue(slots)

    def producer(self) -> Callable[[Any], object]:
        put: Callable[[Any], object] = self.queue.put
        return put

    def consumer(self) -> Callable[[], Any]:
        get: Callable[[], Any] = self.queue.get
        return get

    def finish(self) -> None:
        self.queue.close()
        self.queue.join_thread()

    def close(self) -> None:
        self.finish()


CONTENDERS = [Contender("multiprocessing.Queue", _Queue, topologies=("spsc", "rtt", "mpmc"))]
