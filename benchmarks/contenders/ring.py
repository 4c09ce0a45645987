"""shmkit.Ring: frame by frame, in batches, and in place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from contenders.base import LARGE, SMALL, Channel, Contender
from shmkit import Ring

__all__ = ["CONTENDERS", "SKIPPED"]


class _Frames(Channel):
    sides = "one"

    def make(self) -> None:
        self.ring = Ring.create(capacity=self.room, producers=self.sides, consumers=self.sides)

    def producer(self) -> Callable[[Any], object]:
        return self.ring.put

    def consumer(self) -> Callable[[], Any]:
        return self.ring.get

    def finish(self) -> None:
        self.ring.close()

    def close(self) -> None:
        self.ring.close()


class _Batches(_Frames):
    def producer(self) -> Callable[[Any], object]:
        return self.ring.put_many

    def consumer(self) -> Callable[[], Any]:
        return partial(self.ring.get_many, 64)


class _InPlace(_Frames):
    def producer(self) -> Callable[[Any], object]:
        reserve = self.ring.reserve

        def put(data: bytes) -> None:
            with reserve(len(data)) as frame:
                frame[:] = data

        return put

    def consumer(self) -> Callable[[], Any]:
        peek = self.ring.peek

        def get() -> bytes:
            with peek() as frame:
                return bytes(frame)

        return get


class _ManyFrames(_Frames):
    sides = "many"


class _ManyBatches(_Batches):
    sides = "many"


_batches = partial(Contender, "shmkit.Ring, batches", ours=True, puts_many=True, gets_many=True)

CONTENDERS = [
    Contender("shmkit.Ring", _Frames, ours=True),
    _batches(_Batches, sizes=SMALL, topologies=("spsc",)),
    Contender("shmkit.Ring, reserve/peek", _InPlace, True, sizes=LARGE, topologies=("spsc",)),
]
SKIPPED: dict[str, str] = {}

try:
    Ring.create(producers="many", consumers="many").close()
except ValueError as error:
    SKIPPED["shmkit.Ring, several to several"] = f"skipped, {error}"
else:
    CONTENDERS += [
        Contender("shmkit.Ring", _ManyFrames, ours=True, topologies=("mpmc",)),
        _batches(_ManyBatches, topologies=("mpmc",)),
    ]
