"""The same programs over the standard library's queues and shared memory, and over shmkit's.

    main  --tasks-->  worker, worker  --results-->  main

`run` takes `Queue` and `JoinableQueue` from the module that it is given: from `multiprocessing`, or
with the import swapped from `shmkit`. The tasks are small records first, and then images of eight
megabytes, which the workers darken and send back. The seconds are compared.

`share` takes the class `SharedMemory`, from `multiprocessing.shared_memory` or from `shmkit`. A
worker fills a block of memory that it was given. Then the block is closed while an array still uses
it: a BufferError in the standard library, and safe here.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing import shared_memory
from types import ModuleType
from typing import Any

import numpy as np

import shmkit

RECORDS = 4000
IMAGES = 12
SHAPE = (1024, 8192)  # a byte each


def work(tasks: Any, results: Any) -> None:
    """Take tasks and answer them until there is a None."""
    while (task := tasks.get()) is not None:
        if isinstance(task, dict):
            results.put(task["id"] * task["factor"])
        else:
            results.put(task // 2)
        tasks.task_done()
    tasks.task_done()


def run(module: ModuleType) -> dict[str, float]:
    """Do everything with one module's queues.

    Returns:
        Seconds for the records, and for the images.
    """
    tasks, results = module.JoinableQueue(), module.Queue()
    workers = [multiprocessing.Process(target=work, args=(tasks, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    seconds = {}

    begin = time.perf_counter()
    for number in range(RECORDS):
        tasks.put({"id": number, "factor": 3, "name": "a record"})
    total = sum(results.get() for _ in range(RECORDS))
    tasks.join()
    seconds["records"] = time.perf_counter() - begin
    assert total == 3 * sum(range(RECORDS))

    image = np.full(SHAPE, 200, "u1")
    begin = time.perf_counter()
    for _ in range(IMAGES):
        tasks.put(image)
        darker = results.get()
    tasks.join()
    seconds["images"] = time.perf_counter() - begin
    assert darker.shape == SHAPE
    assert (darker == 100).all()
    darker[0] = 0  # it is this process's own

    for _ in workers:
        tasks.put(None)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0, f"{worker.name} ended with {worker.exitcode}"
        worker.close()
    for queue in tasks, results:
        queue.close()
        queue.join_thread()
    return seconds


def fill(block: Any) -> None:
    """Count up in a block of memory."""
    numbers = np.frombuffer(block.buf, "i8")
    numbers[:] = range(len(numbers))
    del numbers
    block.close()


def share(kind: Any) -> str:
    """Give a block of one class to a worker, and close it while its content is in use.

    Returns:
        What came of closing it.
    """
    block = kind(create=True, size=8000)
    worker = multiprocessing.Process(target=fill, args=(block,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0, f"{worker.name} ended with {worker.exitcode}"
    worker.close()
    numbers = np.frombuffer(block.buf, "i8")
    try:
        block.close()
        told = "closed"
    except BufferError:
        told = "BufferError"
    assert numbers.sum() == sum(range(1000))
    del numbers
    block.close()
    block.unlink()
    return told


def main() -> None:
    """Run both over both, and compare."""
    theirs, ours = run(multiprocessing), run(shmkit)
    for what, number in (("records", RECORDS), ("images", IMAGES)):
        print(
            f"{number} {what} there and back: multiprocessing {theirs[what]:.2f} s, "
            f"shmkit {ours[what]:.2f} s, {theirs[what] / ours[what]:.1f} times as fast"
        )
    was, is_now = share(shared_memory.SharedMemory), share(shmkit.SharedMemory)
    print(f"close() while an array is in use: multiprocessing {was}, shmkit {is_now}")
    assert is_now == "closed"


if __name__ == "__main__":
    main()
    print("ok")
