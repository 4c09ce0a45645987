"""This library against what it was, its best peers, and raw C: `benchmarks/compare.py --help`.

    python benchmarks/compare.py --pure OTHER/src

Rows and bars are in bars.py. "here" is the source tree that this file belongs to, "pure" another
checkout of it, given by the path of its `src`. Every measurement runs in a fresh interpreter. All
sides of a row take turns within every round, each round begun by another; figures are medians over
the rounds, and ratios medians of the ratios within each round. A row's best peer is that with the
best median.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bars import DEADLINE, RAW, ROWS, Row
from contenders import Channel, Contender, load
from harness import Failed
from options import is_wanted, new_parser
from report import Table, Watch, conditions, print_conditions, print_table, write_json
from ring import Cell, in_turns

__all__ = ["Verdict", "judge", "main"]

HERE = Path(__file__).resolve().parent.parent / "src"
MEASURE = Path(__file__).with_name("bars.py")
HEADS = ["", "here", "x pure", "best peer", "x best peer", "x raw C"]


class Side:
    """One side of a row: a contender, with the library of a source tree; the same count each time.

    Args:
        row: what is measured.
        name: the contender's.
        source: directory with the library.
        seconds: of each measurement, about.
    """

    def __init__(self, row: Row, name: str, source: Path, seconds: float) -> None:
        self._words = [row.title, name, str(seconds)]
        self._source = source
        self._count = 0

    def __call__(self) -> float:
        """Measure once more, in a fresh interpreter."""
        command = [sys.executable, str(MEASURE), *self._words, str(self._count)]
        found = json.loads(_output(command, self._source))
        if not Path(found["library"]).is_relative_to(self._source):
            raise Failed(f"imported {found['library']}, which is not in {self._source}")
        self._count = found["count"]
        return float(found["value"])


def _output(command: list[str], source: Path) -> str:
    # A group of its own, to end what it forked too. Not a session: that has its own priority.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
        process_group=0,
    ) as child:
        try:
            out, err = child.communicate(timeout=4 * DEADLINE)
        except subprocess.TimeoutExpired:
            raise Failed("was not done when its time was up") from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode:
        lines = err.strip().splitlines() or [f"ended with {child.returncode}"]
        raise Failed(lines[-1])
    return out


class Verdict(NamedTuple):
    """Whether a bar is kept.

    Attributes:
        row: its title.
        against: "pure", the name of the best peer, or "raw C".
        bar: the ratio that is asked for.
        ratio: the one that was measured, None if it was not.
        kept: None if it was not measured.
    """

    row: str
    against: str
    bar: float
    ratio: float | None
    kept: bool | None


def judge(row: Row, values: dict[str, list[float]]) -> list[Verdict]:
    """Hold what was measured against a row's bars.

    Args:
        row: the row.
        values: by side ("here", "pure", a peer's name, "raw C") one value of each round.

    Returns:
        In the order pure, best peer, raw C; the last only for a row that has such a bar.
    """
    peers = [name for name in row.peers if values.get(name)]
    best = (min if row.less else max)(peers, key=lambda name: median(values[name]), default="")
    bars = [("pure", row.pure), (best, row.peer)]
    if row.raw is not None:
        bars.append((RAW, row.raw))
    found = []
    for against, bar in bars:
        ratio = _ratio(values.get("here"), values.get(against))
        kept = None if ratio is None else row.keeps(ratio, bar)
        if against == RAW and row.enough is not None and kept is False:
            kept = row.keeps(median(values["here"]), row.enough)
        found.append(Verdict(row.title, against, bar, ratio, kept))
    return found


def _ratio(ours: list[float] | None, theirs: list[float] | None) -> float | None:
    if not ours or not theirs:
        return None
    return median(own / other for own, other in zip(ours, theirs, strict=False))


def _text(row: Row, values: list[float]) -> str:
    if not values:
        return "failed"
    value = median(values)
    if row.unit == "/s":
        return f"{value / 1000:,.4g} k/s"
    return f"{value:.3g} {row.unit}"


def _cell(row: Row, verdict: Verdict) -> str:
    if verdict.ratio is None:
        return "not measured"
    bound = f"{'<=' if row.less else '>='} {verdict.bar:.3g}"
    return f"{verdict.ratio:.2f} ({bound}: {'kept' if verdict.kept else 'MISSED'})"


def _line(row: Row, values: dict[str, list[float]], verdicts: list[Verdict]) -> list[str]:
    pure, peer, *raw = (_cell(row, verdict) for verdict in verdicts)
    best = verdicts[1].against or "-"
    return [row.title, _text(row, values["here"]), pure, best, peer, *(raw or ["-"])]


def _sides(row: Row, pure: Path | None, seconds: float) -> list[Cell]:
    sides = {"here": (row.ours, HERE)}
    if pure:
        sides["pure"] = (row.ours, pure)
    sides |= {name: (name, HERE) for name in row.peers}
    if row.raw is not None:
        sides[RAW] = (RAW, HERE)
    return [
        Cell(Contender(side, Channel, side == "here"), row.title, Side(row, name, source, seconds))
        for side, (name, source) in sides.items()
    ]


def _why_pure() -> str:
    """Why this library runs without its compiled core; "" if it does not."""
    code = "from shmkit import compiled; print(compiled.WHY_PURE)"
    return _output([sys.executable, "-c", code], HERE).strip()


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; 1 if this library failed somewhere. A missed bar is no failure."""
    parser = new_parser(__doc__, rounds=5, seconds=0.4, contenders=False)
    parser.add_argument("--pure", type=Path, metavar="SRC", help="the library before the core")
    parser.add_argument("--rows", nargs="+", default=[], metavar="TEXT", help="only these")
    given = parser.parse_args(argv)
    pure = given.pure and given.pure.resolve()
    if pure and not (pure / "shmkit").is_dir():
        parser.error(f"there is no shmkit in {pure}")
    found: dict[str, Any] = conditions()
    print_conditions(found, load()[1])
    found["core"] = _why_pure() or "compiled"
    print(f"here     {HERE}, core: {found['core']}\npure     {pure}\n", flush=True)
    rows = [row for row in ROWS if is_wanted(row.title, given.rows)]
    seconds = given.seconds or (0.05 if given.quick else 0.4)
    cells = [cell for row in rows for cell in _sides(row, pure, seconds)]
    watch = Watch()
    in_turns(cells, given.rounds or (1 if given.quick else 5))
    found["meanwhile"] = watch.report()
    lines, verdicts, results = [], [], {}
    for row in rows:
        results[row.title] = {c.contender.name: c.values for c in cells if c.column == row.title}
        judged = judge(row, results[row.title])
        lines.append(_line(row, results[row.title], judged))
        verdicts += judged
    print_table(Table("Ratios and their bars", HEADS, lines), markdown=given.markdown)
    _sum_up(verdicts)
    for cell in cells:
        if cell.failure:
            print(f"{cell.column}, {cell.contender.name}: {cell.failure}")
    if given.json:
        told = [verdict._asdict() for verdict in verdicts]
        write_json(given.json, found, {"values": results, "verdicts": told})
    return int(any(cell.failure for cell in cells if cell.contender.ours))


def _sum_up(verdicts: list[Verdict]) -> None:
    missed = [f"{v.row} / {v.against}" for v in verdicts if v.kept is False]
    kept = sum(v.kept is True for v in verdicts)
    print(f"{kept} bars kept, {len(missed)} missed{': ' if missed else ''}{'; '.join(missed)}")


if __name__ == "__main__":
    sys.exit(main())
