"""Four processes count the words of the standard library's sources into one SharedDict.

`increment` adds to a number, and no addition is lost, whichever process makes it. In the end the
counts are those that one process finds alone.
"""

from __future__ import annotations

import multiprocessing
import re
import string
from collections import Counter
from pathlib import Path

from shmkit import SharedDict

PROCESSES = 4
FILES = sorted(Path(string.__file__).parent.glob("[a-d]*.py"))


def words(path: Path) -> Counter[str]:
    """How often each word is in a file."""
    return Counter(re.findall(r"[a-z]{4,}", path.read_text(encoding="utf-8").lower()))


def count(board: SharedDict, files: list[Path]) -> None:
    """Add the words of some files to the board."""
    for path in files:
        for word, number in words(path).most_common(200):
            board.increment(word, number)
        board.increment(("files", "done"))


def main() -> None:
    """Count with all of them, and once more alone."""
    context = multiprocessing.get_context("spawn")
    with SharedDict.create(capacity=1 << 18, grow=True) as board:
        processes = [
            context.Process(target=count, args=(board, FILES[me::PROCESSES]))
            for me in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0, f"{process.name} ended with {process.exitcode}"
        assert board.pop(("files", "done")) == len(FILES)
        totals = board.copy()
        statistics = board.statistics()
    expected: Counter[str] = Counter()
    for path in FILES:
        expected.update(dict(words(path).most_common(200)))
    assert totals == expected
    print(f"{len(FILES)} files, {len(totals)} words, {statistics.writes} additions")
    for word, number in expected.most_common(5):
        print(f"{number:6} {word}")


if __name__ == "__main__":
    main()
    print("ok")
