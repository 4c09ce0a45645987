"""A little database of fixed-size records in a file: two writers and a reader, at the same time.

All three processes map the same file. A writer fills the fields of a row in place, the field `done`
last, and then releases a semaphore. The reader sleeps on that semaphore and never polls. Text keeps
its length: names in many alphabets, and with trailing NULs, come back as they were stored.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shmkit import Semaphore, SharedBuffer

ROWS = 400
ROW_SIZE = 40
NAMES = ["Ada", "Jürgen", "Наталья", "小林", "trailing\0\0"]


@dataclass
class Row:
    """One record of the file, laid out as C would."""

    done: int
    writer: Annotated[int, "B"]
    name: Annotated[str, 20]
    amount: float


def write(path: Path, writer: int, written: Semaphore) -> None:
    """Fill every other row."""
    with SharedBuffer.attach(path) as memory:
        rows = memory.records(Row)
        for number in range(writer, ROWS, 2):
            row = rows[number]
            row.writer = writer
            row.name = NAMES[number % len(NAMES)]
            row.amount = number / 8
            row.done = 1  # last: a reader that sees it sees the other fields, too
            written.release()


def read(rows: Sequence[Row], written: Semaphore) -> float:
    """Read each row as soon as it is done; returns the sum of the amounts."""
    total, left = 0.0, set(range(ROWS))
    while left:
        assert written.acquire(timeout=20), "no writer wrote for 20 s"
        for number in [number for number in left if rows[number].done]:
            row = rows[number]
            assert row.writer == number % 2
            assert row.name == NAMES[number % len(NAMES)]
            total += row.amount
            left.remove(number)
    return total


def main() -> None:
    """Start the writers, read while they write, and look for the largest amount in the end."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        written = Semaphore(0)
        path = Path(directory, "rows.db")
        with SharedBuffer.create(path, ROWS * ROW_SIZE) as memory:
            rows = memory.records(Row)
            assert (rows.itemsize, len(rows)) == (ROW_SIZE, ROWS)
            writers = [
                context.Process(target=write, args=(path, writer, written)) for writer in (0, 1)
            ]
            for writer in writers:
                writer.start()
            total = read(rows, written)
            for writer in writers:
                writer.join(20)
                assert writer.exitcode == 0, f"{writer.name} ended with {writer.exitcode}"
                writer.close()
            written.unlink()

            print(f"{len(rows)} rows of {rows.itemsize} bytes; the amounts add up to {total}")
            assert total == sum(number / 8 for number in range(ROWS))
            found = max(rows, key=lambda row: row.amount)
            print(f"the largest: {found}")
            assert found == Row(1, 1, "trailing\0\0", (ROWS - 1) / 8)


if __name__ == "__main__":
    main()
    print("ok")
