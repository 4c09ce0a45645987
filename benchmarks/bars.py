"""What the compiled core is held to: one row each, how it is measured, and three bars.

A bar is a ratio: to the same measure of the library as it was before the core ("pure"), to that of
the best peer, and to that of raw C. Where more is better it is a lower bar, else an upper one.

`python bars.py ROW CONTENDER SECONDS COUNT` measures one row once, with the library that PYTHONPATH
has, and prints the value and the count as JSON; with a count of 0 it finds one that lasts so long.
compare.py calls it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import Any

from contenders import Contender, load
from harness import Failed, clock
from measures import many_to_many, round_trips, stream

__all__ = ["DEADLINE", "RAW", "ROWS", "Row"]

DEADLINE = 30.0  # seconds for one run
SILENCE = 0.002  # seconds
ROOM = 4 << 20  # bytes
RAW = "raw C"
_SECONDS: dict[str, Callable[[float], float]] = {
    "/s": lambda rate: 1 / rate,
    "us": lambda value: value * 1e-6,
    "ns": lambda value: value * 1e-9,
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        title: what is measured.
        unit: of the value: "/s", where more is better, "us" or "ns", where less is.
        measure: called with the name of a contender and a count.
        first: the count to begin with; a multiple lasts as long as wanted, or it is fixed.
        ours: the contender of the library.
        peers: the others.
        pure: the bar to the library before the core.
        peer: the bar to the best peer.
        raw: the bar to raw C, if it does the same.
        enough: a value with which that bar is kept as well.
        fixed: whether the count is.
    """

    title: str
    unit: str
    measure: Callable[[str, int], float]
    first: int
    ours: str
    peers: tuple[str, ...]
    pure: float
    peer: float
    raw: float | None = None
    enough: float | None = None
    fixed: bool = False

    @property
    def less(self) -> bool:
        """Whether less is better."""
        return self.unit != "/s"

    def keeps(self, ratio: float, bar: float) -> bool:
        """Whether a ratio is on the right side of a bar."""
        return ratio <= bar if self.less else ratio >= bar

    def count_for(self, name: str, seconds: float) -> int:
        """A count with which a contender takes so many seconds, found out by two short runs."""
        if self.fixed:
            return self.first
        count = self.first
        for share in (0.2, 1):
            each = _SECONDS[self.unit](self.measure(name, count))
            count = max(self.first, int(share * seconds / each))
        return count


# -- the measures ----------------------------------------------------------------------------------


@cache
def _contenders() -> list[Contender]:
    return load()[0]


def _peers(topology: str, size: int) -> tuple[str, ...]:
    fitting = (c for c in _contenders() if topology in c.topologies and size in c.sizes)
    return tuple(c.name for c in fitting if not (c.ours or c.bound))


def _contender(topology: str, name: str) -> Contender:
    for contender in _contenders():
        if contender.name == name and topology in contender.topologies:
            return contender
    raise Failed("is not here")


def _stream(size: int, name: str, count: int) -> float:
    room = max(ROOM, 8 * size)
    return stream(_contender("spsc", name), size, count, room, DEADLINE)


def _many_to_many(name: str, count: int) -> float:
    each = max(1, count // 4)
    return many_to_many(_contender("mpmc", name), 64, each, 4, 4, ROOM, DEADLINE)


def _round_trip(silence: float, name: str, count: int) -> float:
    times = round_trips(_contender("rtt", name), 64, count, silence, ROOM, DEADLINE)
    return median(times) * 1e6


def _queue(name: str, count: int) -> float:
    import objects
    from object_contenders import load as load_queues

    return objects.rate(load_queues()[0][name], "small dict", count)


def _lock(how: str, name: str, count: int) -> float:
    import lock

    return lock.uncontended(lock.MAKERS[name], count, getattr(lock, how))


def _executor(how: str, name: str, count: int) -> float:
    import executor
    from executor_contenders import load as load_pools

    pool = load_pools()[0][name](executor.WORKERS)
    try:
        executor.calls(pool, 200)  # workers are up, buffers have grown
        return float(getattr(executor, how)(pool, count))
    finally:
        pool.close()


def _async_pairs(name: str, count: int) -> float:
    """Objects a second that one task puts into a queue and gets out again."""
    from shmkit import Queue
    from shmkit.channels.aio import AsyncQueue

    async def pairs(queue: Any) -> float:
        begin = clock()
        for number in range(count):
            await queue.put(number)
            if await queue.get() != number:
                raise Failed(f"got another object for {number}")
        return count / (clock() - begin)

    if name == "asyncio.Queue":
        return asyncio.run(pairs(asyncio.Queue()))
    shared: Queue[int] = Queue()
    with shared:
        return asyncio.run(pairs(AsyncQueue(shared)))


# -- the table -------------------------------------------------------------------------------------

_RING, _POOL = "shmkit.Ring", "shmkit.ProcessPoolExecutor"
_POOLS = ("concurrent.futures.ProcessPoolExecutor",)
_QUEUES = ("multiprocessing.Queue",)
_LOCK, _LOCKS = "shmkit.Lock", ("multiprocessing.Lock",)
_SMALL, _LARGE, _TRIPS = _peers("spsc", 64), _peers("spsc", 1 << 20), _peers("rtt", 64)

# fmt: off
ROWS = [
    Row("64 B", "/s", partial(_stream, 64), 2000, _RING, _SMALL, 4.5, 8, 0.8),
    Row("1 KiB", "/s", partial(_stream, 1 << 10), 2000, _RING, _SMALL, 2.7, 7, 0.65),
    Row("64 KiB", "/s", partial(_stream, 64 << 10), 200, _RING, _LARGE, 1, 1.5, 0.75),
    Row("1 MiB", "/s", partial(_stream, 1 << 20), 20, _RING, _LARGE, 1, 1.2, 0.7),
    Row("batches of 64 B", "/s", partial(_stream, 64), 2000, f"{_RING}, batches", _SMALL, 2.5, 15),
    Row("4 to 4, 64 B", "/s", _many_to_many, 2000, _RING, ("faster-fifo",), 10, 15),
    Row("round trip, hot", "us", partial(_round_trip, 0), 5000, _RING, _TRIPS, 0.3, 0.25, 2, 0.6,
        fixed=True),
    Row("round trip after 2 ms", "us", partial(_round_trip, SILENCE), 100, _RING,
        ("multiprocessing.Pipe",), 0.65, 1, fixed=True),
    Row("Queue, small dict", "/s", _queue, 2000, "shmkit.Queue", _QUEUES, 2.5, 3),
    Row("Lock, acquire and release", "ns", partial(_lock, "take_often"), 2000, _LOCK, _LOCKS, 0.12,
        1),
    Row("Lock, with", "ns", partial(_lock, "enter_often"), 2000, _LOCK, _LOCKS, 0.12, 1),
    Row("executor, calls", "/s", partial(_executor, "calls"), 300, _POOL, _POOLS, 1.5, 15),
    Row("executor, one by one", "us", partial(_executor, "one_by_one"), 50, _POOL, _POOLS, 1 / 1.5,
        1 / 8),
    Row("AsyncQueue, pairs", "/s", _async_pairs, 500, "AsyncQueue", ("asyncio.Queue",), 3, 0.5),
]
# fmt: on


def main(words: list[str]) -> int:
    """Measure one row once; 1 with the reason if that failed."""
    import shmkit

    title, name, seconds, count = words
    row = next(row for row in ROWS if row.title == title)
    try:
        often = int(count) or row.count_for(name, float(seconds))
        value = row.measure(name, often)
    except (Failed, OSError, ValueError, RuntimeError, AssertionError) as error:
        print(str(error) if isinstance(error, Failed) else repr(error), file=sys.stderr)
        return 1
    print(json.dumps({"value": value, "count": often, "library": shmkit.__file__}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
