"""A file that two processes change through memory, at the same time.

Each process maps the same file and fills its own part: no seek, no write, no copy. A change by one
process is seen by the other at once, and afterwards any program finds it in the file.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

from shmkit import SharedBuffer

LINE = 32
LINES = 500


def fill(path: Path, writer: str, start: int) -> None:
    """Write LINES lines of the file in place, from line `start` on."""
    with SharedBuffer.attach(path) as memory:
        for number in range(start, start + LINES):
            line = f"line {number:4} by {writer}".ljust(LINE - 1) + "\n"
            memory[number * LINE : (number + 1) * LINE] = line.encode()


def main() -> None:
    """Make the file, change it from two processes, and read it like any other file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "shared.txt")
        with SharedBuffer.create(path, 2 * LINES * LINE) as memory:
            other = multiprocessing.get_context("spawn").Process(
                target=fill, args=(path, "the child", LINES)
            )
            other.start()
            fill(path, "the parent", 0)
            other.join(20)
            assert other.exitcode == 0, f"the child ended with {other.exitcode}"
            other.close()
            memory.flush()  # to the disk: from here on the file survives a power cut

        lines = path.read_text().splitlines()
        print(lines[0].rstrip(), "...", lines[-1].rstrip(), sep="\n")
        assert len(lines) == 2 * LINES
        assert all(f"line {n:4} by the parent" == lines[n].rstrip() for n in range(LINES))
        assert all(f"line {n:4} by the child" == lines[n].rstrip() for n in range(LINES, 2 * LINES))


if __name__ == "__main__":
    main()
    print("ok")
