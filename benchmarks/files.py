"""What is done with files, one way and another: `python benchmarks/files.py --help`.

On a text made of the standard library's own sources, in ASCII: read all of it, find, match a
regular expression, seek and find, write all of it, find and replace, and read 4 KiB in random
places. Each is measured twice: with opening and closing the file, as a program would that does this
one thing, and alone, on what is open already. The file is in the page cache.

Every measurement is a process of its own; contenders take turns within every round, figures are
medians over the rounds, and ratios are medians of the ratios within each round. Memory is how much
the peak of the process rises; pages of a mapped file count, though they are the cache's.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from file_contenders import BLOCK, LATE, WORDS, FileContender, load
from options import is_wanted, new_parser
from report import Table, conditions, print_conditions, print_table, write_json

OPERATIONS = (
    "read",
    "find, soon",
    "find, at the end",
    "regex",
    "seek and find",
    "write",
    "find and replace",
    "random 4 KiB",
)
WAYS = ("with opening", "alone")
READS = 1000  # in random places
# How much faster than regular I/O, as text, the well-known tutorial found mmap on 2.4 MB.
TUTORIAL = {
    "read": 4.0,
    "find, soon": 20.0,
    "regex": 1.4,
    "seek and find": 24.0,
    "find and replace": 40.0,
}
OURS, BARE, REGULAR = "shmkit.SharedBuffer", "mmap.mmap", "open(), text"
DEADLINE = 120.0  # seconds for one measurement
_fork = multiprocessing.get_context("fork")
_clock = time.perf_counter


@dataclass
class Cell:
    """One contender doing one thing one way, and what it took in each round."""

    contender: FileContender
    operation: str
    way: str
    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    answer: Any = None
    failure: str = ""


# -- the text --------------------------------------------------------------------------------------


def make_text(path: Path, size: int) -> None:
    """Write a text of `size` bytes, out of the standard library's sources again and again."""
    home = Path(os.__file__).parent
    parts: list[bytes] = []
    room = size - len(LATE)
    for source in sorted(home.glob("*.py")) + sorted(home.glob("*/*.py")):
        content = source.read_bytes()
        if content.isascii() and LATE not in content and WORDS[1] not in content:
            parts.append(content)
    text = b"".join(parts)
    with path.open("wb") as file:
        while room:
            room -= file.write(text[:room])
        file.write(LATE)


# -- one measurement, in a child -------------------------------------------------------------------


def measure(cell: Cell, path: Path, seconds: float) -> None:
    """Run one cell once more, in a process of its own, unless it has failed before."""
    if cell.failure:
        return
    ours, theirs = _fork.Pipe(duplex=False)
    process = _fork.Process(target=_child, args=(theirs, cell, path, seconds), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(DEADLINE):
            cell.failure = "was not done when its time was up"
            return
        took, grown, answer = ours.recv()
    except EOFError:
        cell.failure = "its process ended early"
        return
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()
    if isinstance(answer, str):
        cell.failure = answer
        return
    cell.seconds.append(took)
    cell.memory.append(grown)
    cell.answer = answer


def _child(link: Any, cell: Cell, path: Path, seconds: float) -> None:
    try:
        link.send(_run(cell, path, seconds))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reports it
        link.send((0.0, 0, f"{type(error).__name__}: {error}"))


def _run(cell: Cell, path: Path, seconds: float) -> tuple[float, int, Any]:
    operation, opened = cell.contender.operations[cell.operation], cell.contender.opened
    alone = cell.way == "alone"
    arguments = _arguments(cell.operation, path)
    _reset_peak()
    before = _peak()
    times, answers = [], set()
    with opened(path) if alone else nullcontext() as kept:
        if alone:
            answers.add(operation(kept, next(arguments)))
        end = _clock() + seconds
        # An even number of them all: what is replaced there is replaced back.
        while not times or _clock() < end or (len(times) + alone) % 2:
            argument = next(arguments)
            begin = _clock()
            if alone:
                answer = operation(kept, argument)
            else:
                with opened(path) as target:
                    answer = operation(target, argument)
            times.append(_clock() - begin)
            answers.add(answer)
    if len(answers) != 1:
        raise ValueError(f"found now this, now that: {sorted(answers)[:3]}")
    return median(times), max(0, _peak() - before), answers.pop()


def _arguments(operation: str, path: Path) -> Iterator[Any]:
    if operation == "write":
        content = path.read_bytes()
        while True:
            yield content
    if operation == "random 4 KiB":
        chance = random.Random(1)
        last = path.stat().st_size - BLOCK
        places = [chance.randrange(last) for _ in range(READS)]
        while True:
            yield places
    while True:  # there and back again
        yield WORDS
        yield WORDS[::-1]


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


# -- all of them -----------------------------------------------------------------------------------


def in_turns(cells: list[Cell], rounds: int, path: Path, seconds: float) -> None:
    """Measure all cells, each round begun by another contender."""
    for number in range(rounds):
        for row in rows_of(cells).values():
            for cell in row[number % len(row) :] + row[: number % len(row)]:
                if sys.stderr.isatty():
                    text = f"round {number + 1}: {cell.operation}, {cell.contender.name}"
                    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
                measure(cell, path, seconds)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    for row in rows_of(cells).values():
        expected = next((cell.answer for cell in row if cell.answer is not None), None)
        for cell in row:
            if not cell.failure and cell.answer != expected:
                cell.failure = f"found {cell.answer}, others {expected}"


def rows_of(cells: list[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """The cells of each operation and way."""
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.operation, cell.way), []).append(cell)
    return rows


# -- tables ----------------------------------------------------------------------------------------


def show(cells: list[Cell], contenders: list[FileContender], size: int, *, markdown: bool) -> None:
    """Times of both ways, what they say about each other, memory."""
    operations = list(dict.fromkeys(cell.operation for cell in cells))
    table = {(cell.contender.name, cell.operation, cell.way): cell for cell in cells}
    label = f"{size / 1e6:g} MB"
    for way in WAYS:
        rows = [
            [one.name, *(_time(table.get((one.name, operation, way))) for operation in operations)]
            for one in contenders
        ]
        print_table(
            Table(f"{label}, {way}: microseconds", ["", *operations], rows), markdown=markdown
        )
        ratios = [
            ["time of shmkit / mmap.mmap"]
            + [_ratio(table, OURS, BARE, operation, way) for operation in operations],
            ["time of open(), text / shmkit"]
            + [_ratio(table, REGULAR, OURS, operation, way) for operation in operations],
        ]
        if way == WAYS[0]:
            found = [f"{TUTORIAL[o]:g} x" if o in TUTORIAL else "-" for o in operations]
            ratios.append(["the tutorial's, on 2.4 MB", *found])
        print_table(Table("Ratios", ["", *operations], ratios), markdown=markdown)
    rows = [
        [one.name]
        + [_memory(table.get((one.name, operation, WAYS[0]))) for operation in operations]
        for one in contenders
    ]
    print_table(
        Table(f"{label}, {WAYS[0]}: peak memory, MB", ["", *operations], rows), markdown=markdown
    )
    for cell in cells:
        if cell.failure:
            print(f"{cell.contender.name}, {cell.operation}, {cell.way}: {cell.failure}")


def _time(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell.failure:
        return "failed"
    return f"{median(cell.seconds) * 1e6:.1f}"


def _memory(cell: Cell | None) -> str:
    if cell is None or cell.failure:
        return "-"
    return f"{median(cell.memory) / 1e6:.1f}"


def _ratio(table: dict[Any, Cell], over: str, under: str, operation: str, way: str) -> str:
    one, other = (table.get((name, operation, way)) for name in (over, under))
    if one is None or other is None or one.failure or other.failure:
        return "-"
    pairs = zip(one.seconds, other.seconds, strict=True)
    return f"{median(a / b for a, b in pairs):.2f} x"


# -- the command line ------------------------------------------------------------------------------


@contextmanager
def _text_file(size: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="shmkit-bench-") as directory:
        path = Path(directory, "text")
        maker = _fork.Process(target=make_text, args=(path, size))  # its memory ends with it
        maker.start()
        maker.join()
        maker.close()
        yield path


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; 1 if one of ours failed."""
    parser = new_parser(__doc__, rounds=5, seconds=0.2)
    parser.add_argument(
        "--size", nargs="+", type=float, metavar="MB", default=[2.4], help="default: 2.4"
    )
    parser.add_argument("--operation", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    given = parser.parse_args(argv)
    contenders, missing = load()
    contenders = [c for c in contenders if is_wanted(c.name, given.only)]
    found = conditions()
    print_conditions(found, missing)
    results: dict[str, Any] = {}
    failed = False
    for megabytes in given.size:
        size = int(megabytes * 1e6)
        cells = [
            Cell(contender, operation, way)
            for operation in given.operation
            for way in WAYS
            for contender in contenders
            if operation in contender.operations
        ]
        with _text_file(size) as path:
            rounds = given.rounds or (1 if given.quick else 5)
            in_turns(cells, rounds, path, given.seconds or (0.01 if given.quick else 0.2))
        show(cells, contenders, size, markdown=given.markdown)
        results[f"{megabytes:g} MB"] = [_plain(cell) for cell in cells]
        failed |= any(cell.failure and cell.contender.ours for cell in cells)
    if given.json:
        write_json(given.json, found, results)
    return 1 if failed else 0


def _plain(cell: Cell) -> dict[str, Any]:
    return {
        "contender": cell.contender.name,
        "operation": cell.operation,
        "way": cell.way,
        "seconds": cell.seconds,
        "memory": cell.memory,
        "failure": cell.failure,
    }


if __name__ == "__main__":
    sys.exit(main())
