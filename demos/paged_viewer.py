"""A pager for files far larger than the memory it may use: 256 KiB, whatever the file's size.

    python demos/paged_viewer.py FILE               in a terminal: space, b, j, k, g, G, /text, n, q
    python demos/paged_viewer.py FILE --find TEXT   where TEXT is, without a terminal
    python demos/paged_viewer.py                    looks through a sparse file of 256 MB

All text on the screen is sliced out of a PagedFile, which keeps a few pages of the file in memory.
When it needs room for another page, it drops the page that was not used for longest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shmkit import PagedFile

PAGE, PAGES = 64 * 1024, 4
KEYS = "space b j k g G /text n q"


class Pager:
    """What is on the screen: rows of the file, from a position on."""

    def __init__(self, file: PagedFile, columns: int, rows: int) -> None:
        self.file = file
        self.columns = columns
        self.rows = rows
        self.top = 0
        self.wanted = b""
        self.found = -1
        self.message = ""

    def row(self, start: int) -> tuple[str, int]:
        """The row that begins at a byte, and where the next one begins."""
        piece = self.file[start : start + self.columns + 1]
        end = piece.find(b"\n")
        shown = piece[: self.columns] if end < 0 else piece[:end]
        text = "".join(c if c.isprintable() else "." for c in shown.decode("latin-1"))
        return text, start + (len(shown) if end < 0 else end + 1)

    def screen(self) -> list[str]:
        """All rows, and the status line."""
        lines, at = [], self.top
        for _ in range(self.rows):
            text, at = self.row(at) if at < len(self.file) else ("~", at)
            lines.append(text)
        percent = 100 * at // max(1, len(self.file))
        state = self.message or f"byte {self.top} {percent}%   {KEYS}   {self.file.name}"
        self.message = ""
        return [*lines, state[: self.columns]]

    def down(self, rows: int) -> None:
        """Go forward by some rows, but not past the last row of the file."""
        for _ in range(rows):
            _, after = self.row(self.top)
            if after >= len(self.file):
                return
            self.top = after

    def up(self, rows: int) -> None:
        """Go back by some rows."""
        for _ in range(rows):
            end = self.top  # where the row above ends; its newline does not count
            if end and self.file[end - 1] == ord("\n"):
                end -= 1
            least = max(0, end - self.columns)
            self.top = max(least, self.file.rfind(b"\n", least, end) + 1)

    def end(self) -> None:
        """Go to the last screen."""
        self.top = len(self.file)
        self.up(self.rows)

    def search(self, start: int) -> None:
        """Go to the line of the next place where the wanted bytes are."""
        found = self.file.find(self.wanted, start) if self.wanted else -1
        if found < 0:
            self.message = f"not found: {self.wanted.decode(errors='replace')}"
        else:
            least = max(0, found - self.columns)
            self.top = self.file.rfind(b"\n", least, found) + 1 or found
            self.found = found

    def press(self, key: str) -> bool:
        """Do what a key says; False if it ends the program."""
        if key == "q":
            return False
        if key == " ":
            self.down(self.rows)
        elif key == "b":
            self.up(self.rows)
        elif key == "j":
            self.down(1)
        elif key == "k":
            self.up(1)
        elif key == "g":
            self.top = 0
        elif key == "G":
            self.end()
        elif key == "n":
            self.search(self.found + 1)
        return True


def interact(file: PagedFile) -> None:
    """Page through a file in the terminal."""
    import termios
    import tty

    columns, lines = shutil.get_terminal_size()
    pager = Pager(file, columns, max(1, lines - 1))
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        going = True
        while going:
            print("\033[H\033[J" + "\n".join(pager.screen()), end="", flush=True)
            key = os.read(sys.stdin.fileno(), 1).decode("latin-1")
            if key == "/":
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
                print("\r\033[K/", end="", flush=True)
                pager.wanted = sys.stdin.readline().rstrip("\n").encode()
                tty.setcbreak(sys.stdin)
                pager.search(pager.top)
            else:
                going = bool(key) and pager.press(key)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        print()


def places(file: PagedFile, text: bytes) -> Iterator[int]:
    """Where a text is in a file."""
    at = file.find(text)
    while at >= 0:
        yield at
        at = file.find(text, at + 1)


def find(file: PagedFile, text: str) -> int:
    """Print each place where a text is; returns how many there are."""
    count = 0
    for at in places(file, text.encode()):
        around = file[max(0, at - 20) : at + len(text) + 20].split(b"\n")
        shown = b" ".join(around).replace(b"\0", b"").decode(errors="replace")
        print(f"{at:>14}  {shown}")
        count += 1
    return count


def check_itself() -> None:
    """Find three texts in a sparse file of 256 MB, two of them across the edge of a page."""
    size = 1 << 28
    marks = [5 * PAGE - 3, size // 2, size - 4 * PAGE - 2]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "huge")
        with path.open("wb") as file:
            file.truncate(size)
            for mark in marks:
                file.seek(mark)
                file.write(b"needle")
        with PagedFile(path, PAGE, PAGES) as paged:
            found = list(places(paged, b"needle"))
            pager = Pager(paged, 80, 20)
            pager.end()
            assert pager.top == size - 20 * 80, pager.top
            statistics = paged.stats()
    print(f"{size} bytes, found at {found}")
    print(f"{statistics.faults} pages read, {statistics.resident} bytes of them in memory")
    assert found == marks
    assert statistics.resident <= PAGE * PAGES


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--find", metavar="TEXT", help="print where it is; status 1 if nowhere")
    given = parser.parse_args()
    if given.file is None:
        check_itself()
        print("ok")
        return 0
    try:
        with PagedFile(given.file, PAGE, PAGES) as file:
            if given.find is not None:
                return 0 if find(file, given.find) else 1
            if not sys.stdin.isatty():
                parser.error("without a terminal, say --find TEXT")
            interact(file)
    except OSError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
