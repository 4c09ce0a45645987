"""Locks between processes against each other: `python benchmarks/lock.py --help`.

uncontended   one process acquires and releases, and nobody else wants it: nanoseconds for both
with          the same as `with lock: pass`
two at once   two processes acquire and release, each as often as it can: pairs a second of both
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Callable
from statistics import median
from typing import Any

import posix_ipc
from harness import Failed, Line, Run, clock
from options import new_parser
from report import Table, Watch, conditions, print_conditions, print_table, write_json

from shmkit import Lock, Semaphore

OURS = "shmkit.Lock"
DEADLINE = 60.0  # seconds for one measurement
COLUMNS = ("uncontended, ns", "with, ns", "two at once, thousand/s")


class Unnamed:
    """A bare semaphore of `posix_ipc`: what a lock costs that does not survive its holder."""

    def __init__(self) -> None:
        self._semaphore = posix_ipc.Semaphore(None, posix_ipc.O_CREX, initial_value=1)
        self._semaphore.unlink()
        self.acquire, self.release = self._semaphore.acquire, self._semaphore.release
        self.close = self._semaphore.close

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


MAKERS: dict[str, Callable[[], Any]] = {
    OURS: Lock,
    "shmkit.Semaphore": Semaphore,
    "multiprocessing.Lock": multiprocessing.get_context("fork").Lock,
    "posix_ipc.Semaphore": Unnamed,
    "threading.Lock, in one process": threading.Lock,
}


def take_often(lock: Any, count: int) -> float:
    """Seconds for so many pairs."""
    acquire, release = lock.acquire, lock.release
    begin = clock()
    for _ in range(count):
        acquire()
        release()
    return clock() - begin


def enter_often(lock: Any, count: int) -> float:
    """The same by `with`."""
    begin = clock()
    for _ in range(count):
        with lock:
            pass
    return clock() - begin


def contend(line: Line, lock: Any, count: int) -> None:
    """In a child: the same, from the start line on."""
    take_often(lock, 10)
    line.ready()
    line.tell(take_often(lock, count))
    line.wait_to_leave()


def uncontended(
    make: Callable[[], Any], count: int, often: Callable[[Any, int], float] = take_often
) -> float:
    """Nanoseconds for each pair."""
    lock = make()
    try:
        often(lock, 1000)
        return often(lock, count) / count * 1e9
    finally:
        getattr(lock, "close", int)()


def two_at_once(make: Callable[[], Any], count: int) -> float:
    lock = make()
    try:
        with Run(DEADLINE) as run:
            children = [run.start(contend, lock, count) for _ in range(2)]
            run.go()
            return 2 * count / max(run.results(*children)) / 1000
    finally:
        getattr(lock, "close", int)()


def measure(
    makers: dict[str, Callable[[], Any]], rounds: int, share: float
) -> dict[str, dict[str, list[float]]]:
    """Every lock in every column, in turns."""
    values: dict[str, dict[str, list[float]]] = {name: {c: [] for c in COLUMNS} for name in makers}
    for number in range(rounds):
        names = list(makers)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found = values[name]
            alone, entered, both = found.values()
            alone.append(uncontended(makers[name], int(200_000 * share)))
            entered.append(uncontended(makers[name], int(200_000 * share), enter_often))
            if makers[name] is not threading.Lock:
                both.append(two_at_once(makers[name], int(50_000 * share)))
    return values


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for."""
    given = new_parser(__doc__, rounds=7, contenders=False).parse_args(argv)
    found = conditions()
    print_conditions(found, {})
    watch = Watch()
    rounds = given.rounds or (1 if given.quick else 7)
    try:
        values = measure(MAKERS, rounds, 0.02 if given.quick else 1)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    found["others"] = watch.report()
    rows = [
        [name, *(f"{median(cells):,.0f}" if cells else "-" for cells in values[name].values())]
        for name in MAKERS
    ]
    print_table(Table("Acquire and release", ["", *COLUMNS], rows), markdown=given.markdown)
    if given.json:
        flat = {f"{name}, {column}": values[name][column] for name in values for column in COLUMNS}
        write_json(given.json, found, flat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
