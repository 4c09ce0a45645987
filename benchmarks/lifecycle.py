"""What it costs to make an object and let it go again: `python benchmarks/lifecycle.py --help`.

A section is one object: its contenders make, close and unlink it, in turns. The first row of a
section is the yardstick that the others are compared with.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import shared_memory
from statistics import median
from typing import Any, NamedTuple

from harness import clock
from options import new_parser
from report import Table, Watch, conditions, print_conditions, print_table, write_json

from shmkit import Event, Lock, Queue, Ring, SharedBuffer

NAME = f"shmkit-bench-{os.getpid()}"
PAGE = 4096


class Section(NamedTuple):
    """One object.

    Attributes:
        title: what is measured.
        rows: contenders by name, the yardstick first; a call of one is one life.
        count: lives in one round.
    """

    title: str
    rows: dict[str, Callable[[], None]]
    count: int


# -- memory ----------------------------------------------------------------------------------------


def their_segment() -> None:
    segment = shared_memory.SharedMemory(NAME, create=True, size=PAGE)
    segment.close()
    segment.unlink()


def our_segment() -> None:
    buffer = SharedBuffer.create(f"shm:{NAME}", PAGE)
    buffer.close()
    buffer.unlink()


def our_kept_segment() -> None:
    buffer = SharedBuffer.create(f"shm:{NAME}", PAGE, keep=True)
    buffer.close()
    buffer.unlink()


def our_anonymous() -> None:
    SharedBuffer.create(None, PAGE).close()


MEMORY = Section(
    "SharedBuffer of a page",
    {
        "multiprocessing.shared_memory.SharedMemory": their_segment,
        "SharedBuffer, shm:": our_segment,
        "SharedBuffer, shm:, keep=True": our_kept_segment,
        "SharedBuffer, anon:": our_anonymous,
    },
    500,
)

# -- rings, queues and locks -----------------------------------------------------------------------


def their_queue() -> None:
    queue: Any = multiprocessing.Queue()
    queue.close()
    queue.join_thread()


def our_queue() -> None:
    Queue().close()


def our_ring() -> None:
    Ring.create().close()


CHANNELS = Section(
    "Rings and queues",
    {
        "multiprocessing.Queue": their_queue,
        "Queue": our_queue,
        "Ring": our_ring,
    },
    100,
)


def their_lock() -> None:
    multiprocessing.Lock()


def our_lock() -> None:
    Lock().close()


def our_event() -> None:
    Event().close()


LOCKS = Section(
    "Locks",
    {
        "multiprocessing.Lock": their_lock,
        "Lock": our_lock,
        "Event": our_event,
    },
    200,
)

# -- imports ---------------------------------------------------------------------------------------


def importing(statement: str) -> Callable[[], None]:
    """A life is a fresh interpreter with the statement; compiled files are kept beside."""

    def run() -> None:
        subprocess.run([sys.executable, "-c", statement], check=True, env=ENVIRONMENT)

    return run


CACHE = tempfile.TemporaryDirectory(prefix="shmkit-bench-")
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
    "PYTHONPYCACHEPREFIX": CACHE.name,
}
IMPORTS = Section(
    "Import, with the interpreter",
    {
        "multiprocessing.shared_memory": importing("import multiprocessing.shared_memory"),
        "nothing": importing("pass"),
        "shmkit.SharedBuffer": importing("import shmkit; shmkit.SharedBuffer"),
        "shmkit.Ring": importing("import shmkit; shmkit.Ring"),
    },
    3,
)

SECTIONS = {"memory": MEMORY, "channels": CHANNELS, "locks": LOCKS, "imports": IMPORTS}


def measure(section: Section, rounds: int, share: float) -> dict[str, list[float]]:
    """Microseconds of one life for each contender and round, in turns."""
    values: dict[str, list[float]] = {name: [] for name in section.rows}
    count = max(1, int(section.count * share))
    for use in section.rows.values():
        use()
    for number in range(rounds):
        names = list(section.rows)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            use = section.rows[name]
            begin = clock()
            for _ in range(count):
                use()
            values[name].append((clock() - begin) / count * 1e6)
    return values


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for."""
    parser = new_parser(__doc__, rounds=9, contenders=False)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a section")
    given = parser.parse_args(argv)
    found = conditions()
    print_conditions(found, {})
    watch = Watch()
    rounds = given.rounds or (1 if given.quick else 9)
    flat: dict[str, list[float]] = {}
    for key in given.only or SECTIONS:
        section = SECTIONS[key]
        values = measure(section, rounds, 0.02 if given.quick else 1)
        yardstick = median(next(iter(values.values())))
        rows = [
            [
                name,
                f"{median(times):,.0f}",
                f"{min(times):,.0f}",
                f"{median(times) / yardstick:.2f}",
            ]
            for name, times in values.items()
        ]
        print_table(Table(section.title, ["", "us", "least", "x"], rows), markdown=given.markdown)
        flat.update({f"{section.title}, {name}": times for name, times in values.items()})
    found["others"] = watch.report()
    if given.json:
        write_json(given.json, found, flat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
