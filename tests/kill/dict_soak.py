"""Soak of a dict: eight processes write and read it, are killed and replaced; nothing may be lost.

    python -m tests.kill.dict_soak --seconds 300 [--where shm:NAME | file:PATH] [--seed N]

Each process has keys of its own, and notes in a ledger, which is memory of its own kind, what it is
about to write and what it has written. When it was killed, each of its keys has the last value that
it noted as written, or the one that it was about to write. All add to one number, which in the end
lies between what was noted as done and what was begun. Everybody reads the keys of the others, and
finds whole values that do not go back.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import random
import sys
import time
from multiprocessing.process import BaseProcess

from shmkit import SharedDict

PROCESSES = 8
KEYS = 16
# Words of the ledger, for each process: step begun, step done; additions begun, done.
WORDS = 4


def value_of(process: int, step: int) -> bytes:
    """What a process writes at a step; its size is another one at each."""
    return step.to_bytes(8, "little") * (1 + (step * 7 + process) % 60)


def step_of(value: bytes) -> int:
    """The step of a value; AssertionError if it is torn."""
    step = int.from_bytes(value[:8], "little")
    assert value == value[:8] * (len(value) // 8), f"torn: {value!r}"
    return step


def work(shared: SharedDict, ledger: mmap.mmap, me: int, seed: int) -> None:
    """Write, add and read without end."""
    words = memoryview(ledger).cast("Q")
    at, dice, seen = me * WORDS, random.Random(seed), {}
    step = words[at + 1]  # what was only begun is done again
    while True:
        step += 1
        words[at] = step
        if step % 10 == 9:
            shared.pop((me, step % KEYS), None)
        else:
            shared[me, step % KEYS] = value_of(me, step)
        words[at + 1] = step
        words[at + 2] += 1
        shared.increment("sum")
        words[at + 3] += 1
        key = dice.randrange(PROCESSES), dice.randrange(KEYS)
        found = shared.get(key)
        if found is not None:
            assert step_of(found) >= seen.get(key, 0), "an old value came back"
            seen[key] = step_of(found)
        if step % 100 == 0:
            for name, value in shared.copy().items():
                if isinstance(name, tuple) and isinstance(name[0], int):
                    assert value == value_of(name[0], step_of(value))


def check(shared: SharedDict, ledger: mmap.mmap, process: int) -> None:
    """A process was killed: each of its keys is as noted."""
    with memoryview(ledger) as raw, raw.cast("Q") as words:
        begun, done = words[process * WORDS : process * WORDS + 2].tolist()
    for key in range(KEYS):
        value = shared.get((process, key))
        # The last step at this key that was done, and the one that was begun.
        last = done - (done - key) % KEYS
        allowed = {last} | ({begun} if begun % KEYS == key else set())
        expected = [
            None if step <= 0 or step % 10 == 9 else value_of(process, step) for step in allowed
        ]
        assert value in expected, (process, key, begun, done, value)


def soak(seconds: float, where: str | None, seed: int) -> tuple[int, int]:
    """Run it.

    Returns:
        How many processes were killed, and how many writes there were.
    """
    dice = random.Random(seed)
    context = multiprocessing.get_context("fork")
    ledger = mmap.mmap(-1, mmap.PAGESIZE)
    kills = 0
    with SharedDict.create(where, capacity=1 << 15, grow=True) as shared:

        def start(me: int) -> BaseProcess:
            given = (shared, ledger, me, dice.random())
            process = context.Process(target=work, args=given, daemon=True)
            process.start()
            return process

        processes = [start(me) for me in range(PROCESSES)]
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(dice.uniform(0, 0.03))
                victim = dice.randrange(PROCESSES)
                assert processes[victim].is_alive(), "it ended by an error of its own"
                processes[victim].kill()
                processes[victim].join()
                kills += 1
                check(shared, ledger, victim)
                processes[victim] = start(victim)
            before = shared.statistics().writes
            patience = time.monotonic() + 20
            while shared.statistics().writes < before + 100:
                assert time.monotonic() < patience, "nothing moves"
                time.sleep(0.01)
        finally:
            for process in processes:
                process.kill()
                process.join()
        for number in range(PROCESSES):
            check(shared, ledger, number)
        with memoryview(ledger) as raw, raw.cast("Q") as words:
            total = words.tolist()
        done, begun = sum(total[3::WORDS]), sum(total[2::WORDS])
        # A process may be killed between an addition and its note.
        assert done <= shared["sum"] <= done + kills + PROCESSES, (done, shared["sum"], begun)
        assert shared["sum"] <= begun
        shared["settles"] = 1
        assert len(shared) == len(shared.copy())
        return kills, shared.statistics().writes


def main() -> int:
    """Soak for as long as was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--where")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    kills, writes = soak(given.seconds, given.where, given.seed)
    print(f"{kills} processes were killed, {writes} writes; nothing was lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
