"""The library against an older state of it, its best peers, and C: `compare.py --pure PATH/src`.

Each row is measured in turns: this source tree, the older one (a checkout, by the path of its
`src`), and the row's peers; figures are medians, ratios medians of the ratios within each round.
Every measurement runs in an interpreter of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent import futures
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from harness import clock
from report import Table, conditions, print_conditions, print_table

HERE = Path(__file__).resolve().parent.parent / "src"
SMALL = {"id": 1, "name": "sensor-7", "value": 0.5, "ok": True}
DEADLINE = 60.0  # seconds for one measurement
RAW_NAME = "raw C"


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        name: what is measured.
        measure: in the child: called with the name of the contender.
        ours: the contender's name for the library's own side.
        peers: the others.
        pure: how many times the older state it should be.
        best: how many times the best peer; None for no bar.
        raw: which part of raw C; None for none.
        less: whether less is better; then the bars are upper ones.
    """

    name: str
    measure: Callable[[str], float]
    ours: str
    peers: tuple[str, ...]
    pure: float
    best: float | None
    raw: float | None = None
    less: bool = False


# -- what the children measure -------------------------------------------------------------------


def _contender(name: str, topology: str) -> Any:
    from contenders import load

    return next(c for c in load()[0] if c.name == name and topology in c.topologies)


def _room(size: int) -> int:
    return max(4 << 20, 8 * size)


def _stream(size: int, seconds: float, name: str) -> float:
    from measures import stream
    from raw import raw_stream

    def run(count: int) -> float:
        if name == RAW_NAME:
            return raw_stream(size, count, _room(size), DEADLINE)
        return stream(_contender(name, "spsc"), size, count, _room(size), DEADLINE)

    rate = run(2000 if size <= 1024 else 200)
    return run(max(200, int(run(max(200, int(rate * seconds / 5))) * seconds)))


def _mpmc(seconds: float, name: str) -> float:
    from measures import many_to_many

    def run(count: int) -> float:
        contender, each = _contender(name, "mpmc"), max(64, count // 4)
        return many_to_many(contender, 64, each, 4, 4, 4 << 20, DEADLINE)

    return run(int(run(4000) * seconds))


def _trip(silence: float, seconds: float, name: str) -> float:
    from measures import round_trips
    from raw import raw_trips

    count = int(min(5000, 1000 * seconds / max(silence, 1e-4)))
    if name == RAW_NAME:
        times = raw_trips(count, silence, DEADLINE)
    else:
        times = round_trips(_contender(name, "rtt"), 64, count, silence, 4 << 20, DEADLINE)
    return median(times) * 1e6


def _queue(seconds: float, name: str) -> float:
    import objects

    import shmkit

    makers = {"shmkit": lambda _: shmkit.Queue(), "mp": lambda _: _McQueue()}
    objects.OBJECTS["row"] = (SMALL, 100, 2000)
    probe = objects.rate(makers[name], "row", 2000)
    return objects.rate(makers[name], "row", max(2000, int(probe * seconds)))


class _McQueue:
    def __init__(self) -> None:
        queue = multiprocessing.get_context("fork").Queue()
        self.put, self.get, self.close = queue.put, queue.get, queue.close


def _lock(with_it: bool, seconds: float, name: str) -> float:
    import shmkit

    lock: Any = shmkit.Lock() if name == "shmkit" else multiprocessing.get_context("fork").Lock()
    count = int(200_000 * seconds)

    def pairs(count: int) -> float:
        begin = clock()
        if with_it:
            for _ in range(count):
                with lock:
                    pass
        else:
            acquire, release = lock.acquire, lock.release
            for _ in range(count):
                acquire()
                release()
        return clock() - begin

    pairs(1000)
    value = min(pairs(count) for _ in range(3)) / count * 1e9
    getattr(lock, "close", int)()
    return value


def _executor(one_by_one: bool, seconds: float, name: str) -> float:
    import executor

    import shmkit

    context = multiprocessing.get_context("fork")
    makers: dict[str, Any] = {
        "shmkit": shmkit.ProcessPoolExecutor,
        "concurrent.futures": futures.ProcessPoolExecutor,
    }
    with makers[name](2, context) as pool:
        executor.calls(pool, 300)
        if one_by_one:
            return executor.one_by_one(pool, int(1000 * seconds))
        return executor.calls(pool, int(20_000 * seconds))


def _aio(seconds: float, name: str) -> float:
    import shmkit
    from shmkit.channels.aio import AsyncQueue

    count = int(50_000 * seconds)

    async def pairs(queue: Any) -> float:
        for number in range(200):
            await queue.put(number)
            await queue.get()
        begin = clock()
        for number in range(count):
            await queue.put(number)
            await queue.get()
        return count / (clock() - begin)

    async def run() -> float:
        if name != "shmkit":
            return await pairs(asyncio.Queue())
        with shmkit.Queue() as queue:
            return await pairs(AsyncQueue(queue))

    return asyncio.run(run())


def rows(seconds: float) -> list[Row]:
    """The table."""
    ring, fifo, iox = "shmkit.Ring", "faster-fifo", "iceoryx2, polled"
    small, large = ("pyzmq ipc", "posix_ipc.MessageQueue", iox), (fifo, iox)
    return [
        Row("64 B one to one", partial(_stream, 64, seconds), ring, small, 4.5, 8, 0.8),
        Row("1 KiB", partial(_stream, 1 << 10, seconds), ring, small, 2.7, 7, 0.65),
        Row("64 KiB", partial(_stream, 64 << 10, seconds), ring, large, 1.0, 1.5, 0.75),
        Row("1 MiB", partial(_stream, 1 << 20, seconds), ring, large, 1.0, 1.2, 0.7),
        Row(
            "batches of 64 B",
            partial(_stream, 64, seconds),
            "shmkit.Ring, batches",
            ("faster-fifo, batches", "pyzmq ipc"),
            2.5,
            15,
        ),
        Row(
            "many to many, 4 and 4",
            partial(_mpmc, seconds),
            "shmkit.Ring",
            ("faster-fifo", "multiprocessing.Queue"),
            10,
            15,
        ),
        Row(
            "round trip hot, us",
            partial(_trip, 0.0, seconds),
            ring,
            ("pyzmq ipc", "multiprocessing.Pipe"),
            0.3,
            0.25,
            2,
            less=True,
        ),
        Row(
            "round trip after 2 ms, us",
            partial(_trip, 0.002, seconds),
            ring,
            ("multiprocessing.Pipe",),
            0.65,
            1,
            None,
            less=True,
        ),
        Row("Queue, small dict", partial(_queue, seconds), "shmkit", ("mp",), 2.5, 3),
        Row("Lock, ns", partial(_lock, False, seconds), "shmkit", ("mp",), 0.12, 1, less=True),
        Row("Lock, with, ns", partial(_lock, True, seconds), "shmkit", ("mp",), 0.12, 1, less=True),
        Row(
            "executor, calls",
            partial(_executor, False, seconds),
            "shmkit",
            ("concurrent.futures",),
            1.5,
            15,
        ),
        Row(
            "executor, one by one, us",
            partial(_executor, True, seconds),
            "shmkit",
            ("concurrent.futures",),
            1 / 1.5,
            1 / 8,
            less=True,
        ),
        Row("AsyncQueue pairs", partial(_aio, seconds), "shmkit", ("asyncio.Queue",), 3, 0.5),
    ]


# -- the parent ----------------------------------------------------------------------------------


def _measure(source: Path, row: str, name: str, seconds: float) -> float | None:
    """One measurement, in an interpreter that imports the library from `source`."""
    command = [sys.executable, __file__, "--row", row, "--name", name, "--seconds", str(seconds)]
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        print(f"{row}, {name}: {lines[-1] if lines else ended.returncode}", file=sys.stderr)
        return None
    return float(ended.stdout.split()[-1])


def _compare(row: Row, pure: Path, rounds: int, seconds: float) -> dict[str, list[float | None]]:
    raw = (RAW_NAME,) if row.raw is not None else ()
    sides = [("here", HERE, row.ours), ("pure", pure, row.ours)]
    sides += [(name, HERE, name) for name in (*row.peers, *raw)]
    values: dict[str, list[float | None]] = {side: [] for side, _, _ in sides}
    for number in range(rounds):
        turn = number % len(sides)
        for side, source, name in sides[turn:] + sides[:turn]:
            values[side].append(_measure(source, row.name, name, seconds))
    return values


def _ratio(values: dict[str, list[float | None]], other: str) -> float | None:
    pairs = zip(values["here"], values.get(other, []), strict=False)
    ratios = [own / theirs for own, theirs in pairs if own and theirs]
    return median(ratios) if ratios else None


def _cell(ratio: float | None, bar: float | None, less: bool, name: str = "") -> str:
    if ratio is None:
        return "-"
    if bar is None:
        return f"{ratio:.2f} {name}"
    kept = ratio <= bar if less else ratio >= bar
    return f"{ratio:.2f} of {bar:.2f} {name}{'' if kept else ' MISSED'}"


def _line(row: Row, values: dict[str, list[float | None]]) -> list[str]:
    found = [value for value in values["here"] if value]
    peers = [(name, ratio) for name in row.peers if (ratio := _ratio(values, name)) is not None]
    # The best peer is the one against which we look worst.
    best = (max if row.less else min)(peers, key=lambda peer: peer[1], default=("", None))
    return [
        row.name,
        f"{median(found):,.4g}" if found else "-",
        _cell(_ratio(values, "pure"), row.pure, row.less),
        _cell(best[1], row.best, row.less, best[0]),
        _cell(_ratio(values, RAW_NAME), row.raw, row.less),
    ]


def main() -> int:
    """Run all rows, or the one measurement that a parent asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pure", type=Path, help="`src` of the older state")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement, about")
    parser.add_argument("--only", nargs="*", default=[], help="rows that contain one of these")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    given = parser.parse_args()
    table = rows(given.seconds)
    if given.row:
        print(next(row for row in table if row.name == given.row).measure(given.name))
        return 0
    found = conditions()
    print_conditions(found, {})
    lines, everything = [], {}
    for row in table:
        if given.only and not any(part in row.name for part in given.only):
            continue
        values = _compare(row, given.pure or HERE, given.rounds, given.seconds)
        everything[row.name] = values
        lines.append(_line(row, values))
        print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    heads = ["", "here", "x the older state", "x the best peer", "x raw C"]
    print_table(Table("Bars", heads, lines), markdown=given.markdown)
    if given.json:
        given.json.write_text(json.dumps({"conditions": found, "values": everything}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
