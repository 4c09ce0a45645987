"""How fast one core reads what another has just written: what bounds every copy between processes.

Where the cores share a cache that is tens of gigabytes a second. On a virtual machine it may change
from one minute to the next, by a factor of ten, as the host moves the processors about; figures for
large frames tell something only together with this one.
"""

from __future__ import annotations

import mmap
import os
import time
from statistics import median

from harness import Failed, Line, Run

__all__ = ["exchange"]

BLOCK = 256 << 10  # bytes: less than a core's second-level cache
TIMES = 40
READY = BLOCK  # index of a byte: 1 while there is something to read


def exchange() -> float | None:
    """Measure it.

    Returns:
        Gigabytes a second; None with a single core, or when it could not be measured.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    shared = mmap.mmap(-1, BLOCK + mmap.PAGESIZE)
    try:
        with Run(5) as run:
            writer = run.start(_write, shared, cores[0])
            reader = run.start(_read, shared, cores[1])
            run.go()
            _, times = run.results(writer, reader)
            return float(BLOCK / median(times) / 1e9)
    except Failed:
        return None


def _write(line: Line, shared: mmap.mmap, core: int) -> None:
    os.sched_setaffinity(0, {core})
    line.ready()
    for number in range(TIMES):
        shared[:BLOCK] = bytes([number]) * BLOCK
        shared[READY] = 1
        while shared[READY]:
            os.sched_yield()
    line.tell(None)
    line.wait_to_leave()


def _read(line: Line, shared: mmap.mmap, core: int) -> None:
    os.sched_setaffinity(0, {core})
    mine = mmap.mmap(-1, BLOCK)
    mine[:] = bytes([1]) * BLOCK
    view = memoryview(shared)[:BLOCK]
    times = []
    line.ready()
    for _ in range(TIMES):
        while not shared[READY]:
            os.sched_yield()
        begin = time.perf_counter()
        mine[:] = view
        times.append(time.perf_counter() - begin)
        shared[READY] = 0
    line.tell(times)
    line.wait_to_leave()
