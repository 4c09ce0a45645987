"""What a contender is: a way to get at a file's bytes, and what is done with them.

Every operation gives back something that says what it found, the same for everybody: who gives
another answer has failed. `opened` gets an object to work on, from the path; operations that are
measured with the opening do that, too, as a program would that does one thing with a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BLOCK", "EARLY", "FROM", "LATE", "WORD", "WORDS", "FileContender"]

EARLY = b" the "  # found soon
LATE = b"the very last words"  # found at the end
FROM = 10_000  # byte from which to seek and find
WORD = re.compile(rb"\bclass (\w+)")
WORDS = (b" the ", b" eht ")  # found and replaced, and back again the next time
BLOCK = 4096  # bytes of a random read


@dataclass(frozen=True)
class FileContender:
    """One row of the tables.

    Attributes:
        name: how it is called there.
        opened: a context manager with the object that the operations take.
        operations: by name; each takes that object and an argument, and tells what it found.
        ours: whether it is the library these benchmarks are for.
    """

    name: str
    opened: Callable[[Path], AbstractContextManager[Any]]
    operations: dict[str, Callable[[Any, Any], Any]]
    ours: bool = False
