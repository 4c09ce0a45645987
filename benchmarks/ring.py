"""Rings against what else carries bytes between processes: `python benchmarks/ring.py --help`.

    spsc    one process to one process: how many frames a second
    rtt     there and back: how long, back to back and after 2 ms of silence
    mpmc    several to several through one channel: how many frames a second

Everybody does the same work: `bytes` objects in, `bytes` objects out, all of them, in order where
there is one producer. Contenders take turns within every round, so that whatever else the machine
does meanwhile hits all of them; figures are medians over the rounds, and ratios are medians of the
ratios within each round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from contenders import Contender, load
from harness import Failed
from measures import many_to_many, round_trips, stream
from options import is_wanted, new_parser
from report import Table, Watch, conditions, print_conditions, print_table, write_json

SIZES = {64: "64 B", 1 << 10: "1 KiB", 64 << 10: "64 KiB", 1 << 20: "1 MiB"}
SHAPES = ((1, 1), (2, 2), (4, 1), (1, 4), (4, 4))
SILENCE = 0.002  # seconds
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
BASELINES = {
    "spsc": ("multiprocessing.Queue", "pyzmq ipc", "raw C"),
    "mpmc": ("multiprocessing.Queue", "faster-fifo"),
}
DEADLINE = 30.0  # seconds for one run


@dataclass
class Options:
    """What the command line said.

    Attributes:
        rounds: how often each cell is measured.
        seconds: about how long each measurement of a stream lasts.
        count: frames of each instead, None to go by the seconds.
        trips: round trips back to back, and after silence.
        markdown: tables for a document.
    """

    rounds: int
    seconds: float
    count: int | None
    trips: tuple[int, int]
    markdown: bool


@dataclass
class Cell:
    """One contender in one column, and what it did in each round."""

    contender: Contender
    column: str
    measure: Callable[[], Any]
    values: list[Any] = field(default_factory=list)
    failure: str = ""

    def run(self) -> None:
        """Measure once more, unless it has failed before."""
        if self.failure:
            return
        try:
            self.values.append(self.measure())
        except Failed as failed:
            self.fail(str(failed))
        except (OSError, ValueError, RuntimeError) as error:
            self.fail(f"{type(error).__name__}: {error}")

    def fail(self, reason: str) -> None:
        """Take part no further."""
        self.failure = reason.splitlines()[-1] if reason else "failed"


def in_turns(cells: list[Cell], rounds: int) -> None:
    """Measure all cells, column after column, each round begun by another contender."""
    columns = list(dict.fromkeys(cell.column for cell in cells))
    for number in range(rounds):
        for column in columns:
            row = [cell for cell in cells if cell.column == column]
            for cell in row[number % len(row) :] + row[: number % len(row)]:
                _progress(f"round {number + 1} of {rounds}: {column}, {cell.contender.name}")
                cell.run()
    _progress("")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def room(size: int) -> int:
    """Bytes a channel should hold: a few megabytes, and a few frames if they are large.

    More than a core's second-level cache: what the consumer reads has left the producer's by then.
    """
    return max(4 << 20, 8 * size)


class _Calibrated:
    """Measures with as many frames as take about as long as wanted, found out by a short run."""

    def __init__(self, options: Options, measure: Callable[[int], float], size: int) -> None:
        self._measure = measure
        self._seconds = options.seconds
        self._count = options.count
        self._probe = 2000 if size <= 1 << 10 else 200 if size <= 64 << 10 else 20

    def __call__(self) -> float:
        if self._count is None:
            rate = self._measure(self._probe)
            rate = self._measure(max(self._probe, int(rate * self._seconds / 5)))
            self._count = max(self._probe, int(rate * self._seconds))
        return self._measure(self._count)


# -- spsc and mpmc: frames a second --------------------------------------------------------------


def spsc(contenders: list[Contender], options: Options) -> list[Cell]:
    """One to one, all sizes."""
    cells = []
    for size, column in SIZES.items():
        for contender in contenders:
            if size in contender.sizes:
                run = partial(stream, contender, size, room=room(size), seconds=DEADLINE)
                cells.append(Cell(contender, column, _Calibrated(options, run, size)))
    in_turns(cells, options.rounds)
    title = "One to one: thousand frames a second"
    _show_rates(title, contenders, cells, options, BASELINES["spsc"])
    return cells


def mpmc(contenders: list[Contender], options: Options) -> list[Cell]:
    """Several to several, 64 bytes."""
    cells = []
    for shape in SHAPES:
        for contender in contenders:
            producers, consumers = shape
            run = partial(_several, contender, producers, consumers)
            calibrated = _Calibrated(options, run, 64)
            cells.append(Cell(contender, f"{producers} to {consumers}", calibrated))
    in_turns(cells, options.rounds)
    title = "Several to several, 64 B: thousand frames a second"
    _show_rates(title, contenders, cells, options, BASELINES["mpmc"])
    return cells


def _several(contender: Contender, producers: int, consumers: int, count: int) -> float:
    each = max(1, count // producers)
    return many_to_many(contender, 64, each, producers, consumers, room(64), DEADLINE)


def _show_rates(
    title: str,
    contenders: list[Contender],
    cells: list[Cell],
    options: Options,
    baselines: tuple[str, ...],
) -> None:
    columns = list(dict.fromkeys(cell.column for cell in cells))
    names = list(dict.fromkeys(contender.name for contender in contenders))
    table = {(cell.contender.name, cell.column): cell for cell in cells}
    rows = [[name, *(_rate(table.get((name, column))) for column in columns)] for name in names]
    print_table(Table(title, ["", *columns], rows), markdown=options.markdown)
    best = [_best_peer(cells, column) for column in columns]
    ratios = [["the best peer", *(cell.contender.name if cell else "-" for cell in best)]]
    for name in dict.fromkeys(contender.name for contender in contenders if contender.ours):
        own = [table.get((name, column)) for column in columns]
        ratios.append([f"{name} / the best peer", *map(_ratio, own, best)])
        for peer in baselines:
            others = [table.get((peer, column)) for column in columns]
            ratios.append([f"{name} / {peer}", *map(_ratio, own, others)])
    if len(ratios) > 1:
        print_table(Table("Ratios", ["", *columns], ratios), markdown=options.markdown)
    _show_failures(cells)


def _best_peer(cells: list[Cell], column: str) -> Cell | None:
    peers = [
        cell
        for cell in cells
        if cell.column == column
        and cell.values
        and not (cell.contender.ours or cell.contender.bound)
    ]
    return max(peers, key=lambda cell: float(median(cell.values)), default=None)


def _rate(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if not cell.values:
        return "failed"
    rate = median(cell.values) / 1000
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"


def _ratio(ours: Cell | None, other: Cell | None) -> str:
    if ours is None or other is None or not (ours.values and other.values):
        return "-"
    pairs = zip(ours.values, other.values, strict=False)
    return f"{median(own / value for own, value in pairs):.2f} x"


def _show_failures(cells: list[Cell]) -> None:
    for cell in cells:
        if cell.failure:
            print(f"{cell.contender.name}, {cell.column}: {cell.failure}")


# -- rtt: microseconds ---------------------------------------------------------------------------


def rtt(contenders: list[Contender], options: Options) -> list[Cell]:
    """There and back, 64 bytes."""
    cells = []
    for column, trips, silence in (
        ("back to back", options.trips[0], 0.0),
        ("after 2 ms of silence", options.trips[1], SILENCE),
    ):
        for contender in contenders:
            measure = partial(
                round_trips,
                contender,
                64,
                count=trips,
                silence=silence,
                room=room(64),
                seconds=DEADLINE,
            )
            cells.append(Cell(contender, column, measure))
    in_turns(cells, options.rounds)
    for column in dict.fromkeys(cell.column for cell in cells):
        rows = [_trip_row(cell) for cell in cells if cell.column == column]
        title = f"Round trip of 64 B, {column}: microseconds"
        print_table(Table(title, ["", *QUANTILES], rows), markdown=options.markdown)
    _show_failures(cells)
    return cells


def _trip_row(cell: Cell) -> list[str]:
    if not cell.values:
        return [cell.contender.name, *("failed" for _ in QUANTILES)]
    rounds = [sorted(times) for times in cell.values]
    row = [cell.contender.name]
    for part in QUANTILES.values():
        found = [times[min(int(part * len(times)), len(times) - 1)] for times in rounds]
        # The worst of all, but of the others the median: one bad round is the machine's.
        row.append(f"{(max(found) if part == 1 else median(found)) * 1e6:.1f}")
    return row


# -- the command line ----------------------------------------------------------------------------

TOPOLOGIES = {"spsc": spsc, "rtt": rtt, "mpmc": mpmc}


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; 1 if one of ours failed."""
    parser = new_parser(__doc__, rounds=5, seconds=0.4)
    parser.add_argument(
        "--topology", choices=[*TOPOLOGIES, "all"], default="all", help="default: all"
    )
    parser.add_argument("--count", type=int, help="frames of each measurement instead")
    given = parser.parse_args(argv)
    options = Options(
        rounds=given.rounds or (1 if given.quick else 5),
        seconds=given.seconds or (0.05 if given.quick else 0.4),
        count=given.count,
        trips=(200, 20) if given.quick else (5000, 300),
        markdown=given.markdown,
    )
    contenders, missing = load()
    contenders = [c for c in contenders if is_wanted(c.name, given.only)]
    found = conditions() | {"meanwhile": {}}
    print_conditions(found, missing)
    cells: dict[str, list[Cell]] = {}
    for name, run in TOPOLOGIES.items():
        if given.topology in {name, "all"}:
            watch = Watch()
            cells[name] = run([c for c in contenders if name in c.topologies], options)
            found["meanwhile"][name] = watch.report()
    if given.json:
        write_json(given.json, found, {name: _plain(row) for name, row in cells.items()})
    failed = [c for row in cells.values() for c in row if c.failure and c.contender.ours]
    return 1 if failed else 0


def _plain(cells: list[Cell]) -> list[dict[str, Any]]:
    return [
        {
            "contender": cell.contender.name,
            "column": cell.column,
            "rounds": cell.values,
            "failure": cell.failure,
        }
        for cell in cells
    ]


if __name__ == "__main__":
    sys.exit(main())
