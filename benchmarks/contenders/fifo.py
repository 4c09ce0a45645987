"""faster-fifo: a circular buffer with a mutex in shared memory, in C++; raw bytes, no pickles.

`dumps` and `loads` are its place for another serializer. The default timeout of 10 seconds is long
enough here to be left alone.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import faster_fifo

from contenders.base import SMALL, Channel, Contender

__all__ = ["CONTENDERS"]


def _same(data: bytes) -> bytes:
    return data


class _Fifo(Channel):
    def make(self) -> None:
        self.queue: Any = faster_fifo.Queue(max_size_bytes=self.room, loads=bytes, dumps=_same)

    def producer(self) -> Callable[[Any], object]:
        put: Callable[[Any], object] = self.queue.put
        return put

    def consumer(self) -> Callable[[], Any]:
        get: Callable[[], Any] = self.queue.get
        return get

    def close(self) -> None:
        self.queue.close()
        del self.queue
        gc.collect()  # its memory goes back to multiprocessing's heap


class _GetMany(_Fifo):
    def consumer(self) -> Callable[[], Any]:
        return partial(self.queue.get_many, max_messages_to_get=64)


class _Batches(_GetMany):
    def producer(self) -> Callable[[Any], object]:
        put: Callable[[Any], object] = self.queue.put_many
        return put


CONTENDERS = [
    Contender("faster-fifo", _Fifo, topologies=("spsc", "rtt", "mpmc")),
    Contender("faster-fifo, get_many", _GetMany, gets_many=True, topologies=("spsc", "mpmc")),
    Contender(
        "faster-fifo, batches",
        _Batches,
        puts_many=True,
        gets_many=True,
        sizes=SMALL,
        topologies=("spsc", "mpmc"),
    ),
]
