"""A file that two processes change through memory, at the same time.

Each process maps the same file and writes into its own half: no seek, no write, no copy. What one
writes the other sees at once, and any program finds it in the file afterwards.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

from shmkit import SharedBuffer

LINE = 32
LINES = 500


def fill(path: Path, who: str, start: int) -> None:
    """Write every line of one half of the file, in place."""
    with SharedBuffer.attach(path) as memory:
        for number in range(start, start + LINES):
            line = f"line {number:4} by {who}".ljust(LINE - 1) + "\n"
            memory[number * LINE : (number + 1) * LINE] = line.encode()


def main() -> None:
    """Make the file, change it from two processes, and read it as any file."""
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
            memory.flush()  # now it would survive a power cut, too

        lines = path.read_text().splitlines()
        print(lines[0].rstrip(), "...", lines[-1].rstrip(), sep="\n")
        assert len(lines) == 2 * LINES
        assert all(f"line {n:4} by the parent" == lines[n].rstrip() for n in range(LINES))
        assert all(f"line {n:4} by the child" == lines[n].rstrip() for n in range(LINES, 2 * LINES))


if __name__ == "__main__":
    main()
    print("ok")
