"""Queues of objects against each other: `python benchmarks/queue.py --help`.

One forked process puts, another gets; all of them the same objects, which are looked at. Contenders
take turns within every round, each round begun by another; figures are medians over the rounds, and
ratios medians of the ratios within each round, to the same kind of queue of `multiprocessing`.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from harness import Failed, Line, Run, clock
from object_contenders import load
from options import is_wanted, new_parser
from report import Table, Watch, conditions, print_conditions, print_table, write_json

__all__ = ["main"]

DEADLINE = 60.0  # seconds for one run
_LARGE = np.arange(1 << 20, dtype="f8")
# Column: the object, bytes of it, and with how many to begin.
OBJECTS: dict[str, tuple[Any, int, int]] = {
    "small dict": ({"id": 1, "name": "sensor-7", "value": 0.5, "ok": True}, 100, 2000),
    "64 KiB bytes": (b"x" * (64 << 10), 64 << 10, 200),
    "8 MiB array": (_LARGE, _LARGE.nbytes, 4),
}


def rate(make: Callable[[int], Any], column: str, count: int) -> float:
    """Objects a second from one process to one other.

    Raises:
        Failed: no result, or a wrong one.
    """
    obj, size, _ = OBJECTS[column]
    queue = make(size)
    try:
        with Run(DEADLINE) as run:
            consumer = run.start(_take, queue, obj, count)
            producer = run.start(_send, queue, obj, count)
            run.go()
            took, _ = run.results(consumer, producer)
            return float((count - 1) / took)
    finally:
        queue.close()


def _send(line: Line, queue: Any, obj: Any, count: int) -> None:
    put = queue.put
    line.ready()
    for _ in range(count):
        put(obj)
    line.tell(None)
    line.wait_to_leave()


def _take(line: Line, queue: Any, obj: Any, count: int) -> None:
    get = queue.get
    line.ready()
    got = get()
    begin = clock()
    for _ in range(count - 1):
        got = get()
    took = clock() - begin
    if type(got) is not type(obj) or not np.all(got == obj):
        raise Failed(f"got {got!r:.80} for {obj!r:.80}")
    line.tell(took)
    line.wait_to_leave()


def measure(
    makers: dict[str, Callable[[int], Any]], rounds: int, seconds: float
) -> tuple[dict[tuple[str, str], list[float]], dict[tuple[str, str], str]]:
    """Every contender in every column, in turns; and what failed."""
    rates: dict[tuple[str, str], list[float]] = {}
    failures: dict[tuple[str, str], str] = {}
    names = list(makers)
    for column, (_, _, first) in OBJECTS.items():
        counts: dict[str, int] = {}
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                if (name, column) in failures:
                    continue
                try:
                    if name not in counts:
                        probe = rate(makers[name], column, first)
                        counts[name] = max(first, int(probe * seconds))
                    found = rate(makers[name], column, counts[name])
                    rates.setdefault((name, column), []).append(found)
                except (Failed, OSError, ValueError, RuntimeError) as error:
                    failures[name, column] = str(error)
    return rates, failures


def _text(values: list[float] | None) -> str:
    if not values:
        return "-"
    value = median(values)
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(ours: list[float] | None, theirs: list[float] | None) -> str:
    if not ours or not theirs:
        return "-"
    return f"{median(a / b for a, b in zip(ours, theirs, strict=False)):.1f} x"


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; 1 if one of ours failed."""
    given = new_parser(__doc__, rounds=5, seconds=0.5).parse_args(argv)
    makers, missing = load()
    makers = {name: make for name, make in makers.items() if is_wanted(name, given.only)}
    found = conditions()
    print_conditions(found, missing)
    watch = Watch()
    rounds = given.rounds or (1 if given.quick else 5)
    rates, failures = measure(makers, rounds, given.seconds or (0.05 if given.quick else 0.5))
    found["others"] = watch.report()
    rows = [[name, *(_text(rates.get((name, column))) for column in OBJECTS)] for name in makers]
    print_table(Table("Objects a second", ["", *OBJECTS], rows), markdown=given.markdown)
    ratios = []
    for name in makers:
        peer = name.replace("shmkit", "multiprocessing")
        if name != peer and peer in makers:
            row = [_ratio(rates.get((name, c)), rates.get((peer, c))) for c in OBJECTS]
            ratios.append([f"{name} / {peer}", *row])
    if ratios:
        print_table(Table("Ratios", ["", *OBJECTS], ratios), markdown=given.markdown)
    for (name, column), reason in failures.items():
        print(f"{name}, {column}: {reason}")
    if given.json:
        write_json(
            given.json, found, {f"{name}, {column}": r for (name, column), r in rates.items()}
        )
    return int(any(name.startswith("shmkit") for name, _ in failures))
