"""Workers are killed again and again while they count. In the end the sum is right.

    main  --jobs-->  worker, worker, worker    each adds to one total, under a Lock

No job is lost: a worker reads a job in place (`peek`), and writes down that it has the job before
the ring releases it. When the worker is killed, main gives that job to another worker. So a job may
be begun twice. But no job is counted twice:

- A Lock guards the total, and a mark for each job that is in the total. A holder that is killed may
  leave them changed in part. The next holder is told so (`AFTER_DEATH`), and repairs them.
- A worker writes into a journal of one entry what it is about to change, before it does. So the
  next holder can finish what was begun.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess

from shmkit import Acquired, Lock, PeerDied, Ring, SharedBuffer, ShutDown

JOBS = 4000
WORKERS = 3
KILLS = 25

# Words of the shared memory: the total; the journal (three words); the job each worker has, plus 1;
# then a mark for each job that was counted.
TOTAL, OPEN, JOB, BEFORE, HAS = 0, 1, 2, 3, 4
DONE = HAS + WORKERS


def count(memory: memoryview[int], job: int) -> None:
    """Add a job's number to the total, exactly once, even if workers are killed here.

    Called with the lock.
    """
    if memory[DONE + job]:
        return  # another worker counted it, and was killed before it could say so
    memory[JOB], memory[BEFORE] = job, memory[TOTAL]
    memory[OPEN] = 1
    finish(memory)


def finish(memory: memoryview[int]) -> None:
    """Do what the journal says, or the rest of it."""
    if memory[OPEN]:
        job = memory[JOB]
        memory[TOTAL] = memory[BEFORE] + job
        memory[DONE + job] = 1
        memory[OPEN] = 0


def work(jobs: Ring, lock: Lock, shared: SharedBuffer, me: int) -> None:
    """Do one job after the other."""
    with jobs, shared.view("Q") as memory:
        while True:
            try:
                with jobs.peek() as frame:
                    job = int.from_bytes(frame, "little")
                    memory[HAS + me] = job + 1
            except ShutDown:
                break
            with lock as how:
                if how is Acquired.AFTER_DEATH:
                    finish(memory)
                count(memory, job)
            memory[HAS + me] = 0
    lock.close()


def put(jobs: Ring, job: int) -> None:
    """Put a job into the ring; the first worker that is free takes it."""
    while True:
        try:
            return jobs.put(job.to_bytes(8, "little"))
        except PeerDied:
            continue  # all earlier workers were killed, and new ones are here


def main() -> None:
    """Kill workers until there is nothing left to do."""
    context = multiprocessing.get_context("fork")
    dice = random.Random()
    killed = again = 0

    with (
        Ring.create(capacity=4096, consumers="many") as jobs,
        SharedBuffer.create(size=8 * (DONE + JOBS)) as shared,
    ):
        lock = Lock()

        def hire(me: int) -> BaseProcess:
            worker = context.Process(target=work, args=(jobs, lock, shared, me))
            worker.start()
            return worker

        workers = [hire(me) for me in range(WORKERS)]
        for job in range(JOBS):
            put(jobs, job)
            if job % (JOBS // KILLS) == 0:
                time.sleep(dice.uniform(0, 0.005))
                me = dice.randrange(WORKERS)
                workers[me].kill()
                workers[me].join()
                workers[me].close()
                with shared.view("Q") as memory:
                    begun, memory[HAS + me] = memory[HAS + me], 0
                workers[me] = hire(me)
                if begun:
                    put(jobs, begun - 1)
                    again += 1
                killed += 1
        jobs.shutdown()
        for worker in workers:
            worker.join(20)
            assert worker.exitcode == 0, f"{worker.name} ended with {worker.exitcode}"
            worker.close()

        with lock as how, shared.view("Q") as memory:
            if how is Acquired.AFTER_DEATH:
                finish(memory)
            total, done = memory[TOTAL], sum(memory[DONE : DONE + JOBS])
        lock.close()

    print(f"{killed} workers were killed, {again} of them at a job, which another did")
    print(f"{done} jobs were done; their numbers add up to {total}")
    assert done == JOBS
    assert total == sum(range(JOBS))


if __name__ == "__main__":
    main()
    print("ok")
