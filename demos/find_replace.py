"""Replace a word everywhere in a big text: in place, and the regular way, side by side.

The regular way reads the file, decodes it, makes a changed copy, encodes the copy and writes all of
it back. In place only the bytes of the word are written, and the file keeps its name, its inode and
the rest of its bytes. A word of another length does not fit in place: `replace_into` streams the
result to a new file, and gives it the old file's name when it is complete.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shmkit import SharedBuffer

TEXT = (
    """\
It was a time of wisdom, it was a time of foolishness; we had everything before us, we had
nothing before us. Some of its noisiest authorities insisted on its being received, for good
or for evil, in a superlative degree of comparison only.
"""
    * 16_000
)  # 4 MB
TIMES = TEXT.count(" authorities ")


def in_place(path: Path) -> int:
    """Replace " authorities " by " seitirohtua " in the mapped file."""
    with SharedBuffer.attach(path) as memory:
        return memory.replace(b" authorities ", b" seitirohtua ")


def regular(path: Path) -> int:
    """Replace " authorities " by " seitirohtua " by reading and writing the file."""
    with path.open(encoding="utf-8") as file:
        text = file.read()
    count = text.count(" authorities ")
    with path.open("w", encoding="utf-8") as file:
        file.write(text.replace(" authorities ", " seitirohtua "))
    return count


def timed(way: Callable[[Path], int], path: Path) -> float:
    """Seconds that one way takes on a fresh copy of the text; the best of three."""
    taken = []
    for _ in range(3):
        path.write_text(TEXT)
        begin = time.perf_counter()
        count = way(path)
        taken.append(time.perf_counter() - begin)
        assert count == TIMES, f"{count} replaced, {TIMES} are there"
        assert path.read_text() == TEXT.replace(" authorities ", " seitirohtua ")
    return min(taken)


def main() -> None:
    """Do it both ways, then with a word of another length."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "text.txt")
        ours, theirs = timed(in_place, path), timed(regular, path)
        print(f"{TIMES} words in {len(TEXT) / 1e6:.0f} MB replaced")
        print(f"in place:     {ours * 1e3:6.1f} ms")
        print(f"read, write:  {theirs * 1e3:6.1f} ms")

        with SharedBuffer.attach(path, access="r") as memory:
            count = memory.replace_into(path, b" seitirohtua ", b" voices ", count=1)
            assert count == 1
            count = memory.replace_into(path, b" seitirohtua ", b" voices ")
        text = path.read_text()
        print(f"{count} more replaced by a shorter one: now {len(text) / 1e6:.1f} MB")
        assert text == TEXT.replace(" authorities ", " voices ")


if __name__ == "__main__":
    main()
    print("ok")
