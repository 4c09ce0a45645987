"""An asyncio program that hands heavy work to processes through queues, and stays awake.

    feed()  --jobs-->  three processes: hash  --done-->  collect()
    tick()  ...  goes on every few milliseconds all the while

`AsyncQueue` lets the loop await a queue that the processes use with plain calls. An await can be
cancelled while it waits, and then it has taken nothing from the queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
from typing import Any

from shmkit import Queue
from shmkit.channels.aio import AsyncQueue

JOBS = 60
SIZE = 1 << 20  # bytes of each
PROCESSES = 3


def hash_all(jobs: Queue[Any], done: Queue[Any]) -> None:
    """Runs in a process: hash every job, until a None says that there are no more."""
    for number, data in iter(jobs.get, None):
        done.put((number, hashlib.sha256(data).hexdigest()))


def job(number: int) -> bytes:
    """The bytes of a job."""
    return number.to_bytes(4, "little") * (SIZE // 4)


async def pipeline(jobs: Queue[Any], done: Queue[Any]) -> tuple[dict[int, str], int]:
    """Feed, collect and tick at once.

    Returns:
        The digests by job number, and how often the loop ticked meanwhile.
    """
    to_do, results = AsyncQueue(jobs), AsyncQueue(done)
    ticks = 0

    async def feed() -> None:
        for number in range(JOBS):
            await to_do.put((number, job(number)))
        for _ in range(PROCESSES):
            await to_do.put(None)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.002)
            ticks += 1

    impatient = asyncio.create_task(results.get())
    await asyncio.sleep(0.01)
    impatient.cancel()  # the queue was empty, so the cancelled get has taken nothing

    feeding, ticking = asyncio.create_task(feed()), asyncio.create_task(tick())
    digests = dict([await results.get() for _ in range(JOBS)])
    await feeding  # it may still be putting the last None, though every digest is here
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
    return digests, ticks


def main() -> None:
    """Start the processes, run the loop, and check every digest."""
    context = multiprocessing.get_context("spawn")
    with Queue[Any](8) as jobs, Queue[Any]() as done:
        workers = [context.Process(target=hash_all, args=(jobs, done)) for _ in range(PROCESSES)]
        for worker in workers:
            worker.start()
        digests, ticks = asyncio.run(asyncio.wait_for(pipeline(jobs, done), 60))
        for worker in workers:
            worker.join(20)
            assert worker.exitcode == 0, f"{worker.name} ended with {worker.exitcode}"
            worker.close()
    assert digests == {n: hashlib.sha256(job(n)).hexdigest() for n in range(JOBS)}
    assert ticks
    print(f"{JOBS} digests of {SIZE} bytes by {PROCESSES} processes; the loop ticked {ticks} times")


if __name__ == "__main__":
    main()
    print("ok")
