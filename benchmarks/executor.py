"""Pools of processes against each other: `python benchmarks/executor.py --help`.

    calls       calls a second that do nothing, all submitted, then all waited for
    one by one  microseconds from a submit to its result, the next submitted after that
    8 MiB       calls a second with an array of 8 MiB as argument, as in "calls"

Contenders take turns within every round, each round begun by another, and keep their workers; they
and their results are looked at. Figures are medians over the rounds, ratios medians of the ratios
within each round.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from executor_contenders import load
from harness import clock
from options import is_wanted, new_parser
from report import Table, Watch, conditions, print_conditions, print_table, write_json

__all__ = ["main"]

WORKERS = 2
OURS = "shmkit.ProcessPoolExecutor"
DEADLINE = 60.0  # seconds for one result
_LARGE = np.arange(1 << 20, dtype="f8")


def nothing() -> None:
    """The call that does nothing."""


def last(array: Any) -> int:
    """Touch an array."""
    return int(array[-1])


def calls(pool: Any, count: int) -> float:
    """Calls a second."""
    begin = clock()
    futures = [pool.submit(nothing) for _ in range(count)]
    for future in futures:
        assert future.result(DEADLINE) is None
    return count / (clock() - begin)


def one_by_one(pool: Any, count: int) -> float:
    """Microseconds for each."""
    begin = clock()
    for _ in range(count):
        pool.submit(nothing).result(DEADLINE)
    return (clock() - begin) / count * 1e6


def large(pool: Any, count: int) -> float:
    """Calls a second with a large array."""
    begin = clock()
    futures = [pool.submit(last, _LARGE) for _ in range(count)]
    for future in futures:
        assert future.result(DEADLINE) == len(_LARGE) - 1
    return count / (clock() - begin)


# Column: what measures it, how often in a round, and whether less is better.
COLUMNS: dict[str, tuple[Callable[[Any, int], float], int, bool]] = {
    "calls/s": (calls, 4000, False),
    "one by one, us": (one_by_one, 400, True),
    "8 MiB calls/s": (large, 10, False),
}


def measure(
    makers: dict[str, Callable[[int], Any]], rounds: int, share: float
) -> tuple[dict[tuple[str, str], list[float]], dict[str, str]]:
    """Every contender in every column, in turns; and what failed."""
    values: dict[tuple[str, str], list[float]] = {}
    failures: dict[str, str] = {}
    pools = {}
    try:
        for name, make in makers.items():
            pools[name] = make(WORKERS)
            calls(pools[name], 200)  # workers are up, buffers have grown
        for number in range(rounds):
            names = list(pools)
            turn = number % len(names)
            for column, (run, count, _) in COLUMNS.items():
                for name in names[turn:] + names[:turn]:
                    if name in failures:
                        continue
                    try:
                        found = run(pools[name], max(2, int(count * share)))
                        values.setdefault((name, column), []).append(found)
                    except (OSError, RuntimeError, TimeoutError, AssertionError) as error:
                        failures[name] = f"{column}: {error!r}"
    finally:
        for pool in pools.values():
            pool.close()
    return values, failures


def _text(values: list[float] | None) -> str:
    return f"{median(values):,.0f}" if values else "-"


def _ratio(ours: list[float] | None, theirs: list[float] | None, less_is_better: bool) -> str:
    if not ours or not theirs:
        return "-"
    ratios = [a / b for a, b in zip(ours, theirs, strict=False)]
    return f"{median(1 / r if less_is_better else r for r in ratios):.1f} x"


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; 1 if ours failed."""
    given = new_parser(__doc__, rounds=7).parse_args(argv)
    makers, missing = load()
    makers = {name: make for name, make in makers.items() if is_wanted(name, given.only)}
    found = conditions()
    print_conditions(found, missing)
    watch = Watch()
    rounds = given.rounds or (1 if given.quick else 7)
    values, failures = measure(makers, rounds, 0.1 if given.quick else 1)
    found["others"] = watch.report()
    rows = [[name, *(_text(values.get((name, column))) for column in COLUMNS)] for name in makers]
    print_table(Table(f"{WORKERS} workers", ["", *COLUMNS], rows), markdown=given.markdown)
    ratios = [
        [
            f"{OURS} / {name}",
            *(
                _ratio(values.get((OURS, column)), values.get((name, column)), less)
                for column, (_, _, less) in COLUMNS.items()
            ),
        ]
        for name in makers
        if name != OURS and OURS in makers
    ]
    if ratios:
        print_table(Table("Times better", ["", *COLUMNS], ratios), markdown=given.markdown)
    for name, reason in failures.items():
        print(f"{name}, {reason}")
    if given.json:
        write_json(given.json, found, {f"{n}, {column}": v for (n, column), v in values.items()})
    return int(OURS in failures)


if __name__ == "__main__":
    raise SystemExit(main())
