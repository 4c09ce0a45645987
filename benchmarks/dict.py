"""Dicts that processes share against each other: `python benchmarks/dict.py --help`.

Four forked processes read, or write, values of 100 bytes at random keys among 10,000, for a while;
the figure is the operations of all of them in a second. One process writes among 100 keys and among
10,000: what that costs should not differ. Contenders take turns within every round, each round
begun by another; figures are medians over the rounds, and ratios medians of the ratios in each.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

from dict_contenders import load
from harness import Failed, Line, Run, clock
from options import is_wanted, new_parser
from report import Table, Watch, conditions, print_conditions, print_table, write_json

__all__ = ["main"]

DEADLINE = 60.0  # seconds for one run
PROCESSES = 4
KEYS = 10_000
SIZE = 100  # bytes of a value
OURS = "shmkit.SharedDict"
# Column: what is done, by how many processes, among how many keys.
COLUMNS: dict[str, tuple[str, int, int]] = {
    "read": ("read", PROCESSES, KEYS),
    "write": ("write", PROCESSES, KEYS),
    "one writes, 100 keys": ("write", 1, 100),
    "one writes, 10,000 keys": ("write", 1, KEYS),
}


def rate(make: Callable[[dict[Any, Any]], Any], column: str, seconds: float) -> float:
    """Operations a second of all processes together.

    Raises:
        Failed: no result, or a wrong one.
    """
    what, processes, keys = COLUMNS[column]
    made = make({f"key-{number}": bytes(SIZE) for number in range(keys)})
    try:
        with Run(DEADLINE) as run:
            act = _read if what == "read" else _write
            children = [run.start(act, made, keys, seconds, seed) for seed in range(processes)]
            run.go()
            return float(sum(run.results(*children)))
    finally:
        made.close()


def _read(line: Line, made: Any, keys: int, seconds: float, seed: int) -> None:
    def read(shared: Any, names: list[str]) -> None:
        for name in names:
            if len(shared[name]) != SIZE:
                raise Failed(f"read {shared[name]!r:.80} at {name}")

    _repeat(read, line, made, keys, seconds, seed)


def _write(line: Line, made: Any, keys: int, seconds: float, seed: int) -> None:
    def write(shared: Any, names: list[str]) -> None:
        for name in names:
            shared[name] = value

    value = bytes([seed]) * SIZE
    _repeat(write, line, made, keys, seconds, seed)


def _repeat(
    act: Callable[[Any, list[str]], None],
    line: Line,
    made: Any,
    keys: int,
    seconds: float,
    seed: int,
) -> None:
    dice = random.Random(seed)
    names = [f"key-{dice.randrange(keys)}" for _ in range(1000)]
    shared = made.open()
    act(shared, names[:2])
    line.ready()
    begin, done, size = clock(), 0, 1
    while (took := clock() - begin) < seconds:
        at = done % len(names)
        part = names[at : at + size]
        act(shared, part)
        done += len(part)
        size = min(2 * size, 100)
    line.tell(done / took)
    line.wait_to_leave()


def measure(
    makers: dict[str, Callable[[dict[Any, Any]], Any]], rounds: int, seconds: float
) -> tuple[dict[tuple[str, str], list[float]], dict[tuple[str, str], str]]:
    """Every contender in every column, in turns; and what failed."""
    rates: dict[tuple[str, str], list[float]] = {}
    failures: dict[tuple[str, str], str] = {}
    names = list(makers)
    for column in COLUMNS:
        for number in range(rounds):
            turn = number % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                if (name, column) in failures:
                    continue
                try:
                    found = rate(makers[name], column, seconds)
                    rates.setdefault((name, column), []).append(found)
                except Exception as error:  # noqa: BLE001 - whatever a contender raises
                    failures[name, column] = str(error)
    return rates, failures


def _ratio(ours: list[float] | None, theirs: list[float] | None) -> str:
    if not ours or not theirs:
        return "-"
    return f"{median(a / b for a, b in zip(ours, theirs, strict=False)):.1f} x"


def _many(keys: int) -> None:
    """How long ours takes to be filled with many keys, and to be read then."""
    from shmkit import SharedDict

    with SharedDict.create(capacity=1 << 20, grow=True) as shared:
        begin = clock()
        for number in range(keys):
            shared[number] = b"x" * SIZE
        filled = clock()
        for number in range(0, keys, 10):
            if len(shared[number]) != SIZE:
                raise Failed("a wrong value")
        took = clock() - filled
        if len(shared) != keys:
            raise Failed(f"{len(shared)} keys of {keys}")
        print(
            f"{keys:,} keys, grown from 1 MiB to {shared.capacity >> 20}: "
            f"{(filled - begin) / keys * 1e6:.1f} us a write, {took / keys * 1e7:.1f} us a read"
        )


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; 1 if one of ours failed."""
    parser = new_parser(__doc__, rounds=5, seconds=0.5)
    parser.add_argument("--many", type=int, default=0, metavar="KEYS", help="fill ours with these")
    given = parser.parse_args(argv)
    makers, missing = load()
    makers = {name: make for name, make in makers.items() if is_wanted(name, given.only)}
    found = conditions()
    print_conditions(found, missing)
    watch = Watch()
    rounds = given.rounds or (1 if given.quick else 5)
    rates, failures = measure(makers, rounds, given.seconds or (0.05 if given.quick else 0.5))
    found["others"] = watch.report()

    def cell(name: str, column: str) -> str:
        values = rates.get((name, column))
        return f"{median(values):,.0f}" if values else "-"

    rows = [[name, *(cell(name, column) for column in COLUMNS)] for name in makers]
    print_table(Table("Operations a second", ["", *COLUMNS], rows), markdown=given.markdown)
    ratios = [
        [
            f"{OURS} / {name}",
            *(_ratio(rates.get((OURS, c)), rates.get((name, c))) for c in COLUMNS),
        ]
        for name in makers
        if name != OURS and OURS in makers
    ]
    if ratios:
        print_table(Table("Ratios", ["", *COLUMNS], ratios), markdown=given.markdown)
    for (name, column), reason in failures.items():
        print(f"{name}, {column}: {reason}")
    if given.many:
        _many(given.many)
    if given.json:
        write_json(
            given.json, found, {f"{name}, {column}": r for (name, column), r in rates.items()}
        )
    return int(any(name == OURS for name, _ in failures))


if __name__ == "__main__":
    sys.exit(main())
