"""What the demo computes: the lines and words of files, without any process.

A word is a run of bytes between whitespace, as `bytes.split()` finds it; a line is a newline byte.
A file is fed to its `FileTally` in chunks. The serial and the parallel count run the same code.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import stat
import struct
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

__all__ = [
    "CHUNK",
    "FileCount",
    "FileTally",
    "Report",
    "count_serially",
    "fill",
    "find_files",
    "open_regular",
    "reason",
    "standard_library",
]

CHUNK: Final = 64 * 1024
_PENDING_WORDS: Final = 1 << 16  # words that are collected, to be counted at once
_COUNTS: Final = struct.Struct("<32s3Q")


@dataclass(frozen=True, slots=True)
class FileCount:
    """The counts of one file, and its hash."""

    sha256: bytes
    size: int
    lines: int
    words: int

    def pack(self) -> bytes:
        """These fields in 56 bytes, for a frame and for the digest."""
        return _COUNTS.pack(self.sha256, self.size, self.lines, self.words)

    @classmethod
    def unpack(cls, data: bytes) -> FileCount:
        """The opposite of `pack`."""
        return cls(*_COUNTS.unpack(data))


class FileTally:
    """Counts one file, fed in chunks; a word may span any number of them."""

    __slots__ = ("_counts", "_lines", "_open", "_pending", "_sha", "_size", "_words")

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._size = self._lines = self._words = 0
        self._open: list[bytes] = []  # pieces of a word that goes on in the next chunk
        self._pending: list[bytes] = []
        self._counts: Counter[bytes] = Counter()

    def feed(self, chunk: bytes) -> None:
        """Count the next chunk of the file."""
        if not chunk:
            return
        self._sha.update(chunk)
        self._size += len(chunk)
        self._lines += chunk.count(b"\n")
        words = chunk.split()
        ends_inside_word = not chunk[-1:].isspace()
        if self._open:
            if not chunk[:1].isspace():
                self._open.append(words.pop(0))
                if not words and ends_inside_word:
                    return
            self._close_word()
        if ends_inside_word:
            self._open.append(words.pop())
        self._words += len(words)
        self._pending += words
        if len(self._pending) > _PENDING_WORDS:
            self._counts.update(self._pending)
            self._pending.clear()

    def _close_word(self) -> None:
        self._pending.append(b"".join(self._open))
        self._words += 1
        self._open.clear()

    def finish(self, totals: Counter[bytes]) -> FileCount:
        """End the file, and add its words to `totals`.

        Nothing is added before: a file that fails in the middle counts for nothing.
        """
        if self._open:
            self._close_word()
        totals.update(self._pending)
        if self._counts:
            totals.update(self._counts)
        return FileCount(self._sha.digest(), self._size, self._lines, self._words)


@dataclass(slots=True)
class Report:
    """The result for all files. Equal reports: the same count for every file and every word."""

    files: dict[str, FileCount] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)  # path -> reason
    words: Counter[bytes] = field(default_factory=Counter)

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(count.size for count in self.files.values())

    @property
    def line_count(self) -> int:
        """Lines in all files."""
        return sum(count.lines for count in self.files.values())

    @property
    def word_count(self) -> int:
        """Words in all files."""
        return sum(count.words for count in self.files.values())

    def top(self, count: int = 10) -> list[tuple[bytes, int]]:
        """The most frequent words, (word, times); equally frequent ones in byte order."""
        ranked = heapq.nsmallest(count, ((-times, word) for word, times in self.words.items()))
        return [(word, -times) for times, word in ranked]

    def digest(self) -> str:
        """SHA-256 (hex) over each path, its hash and counts, in byte order, and the top words."""
        sha = hashlib.sha256()
        for path, count in sorted((os.fsencode(path), count) for path, count in self.files.items()):
            sha.update(path + b"\0" + count.pack())
        for word, times in self.top():
            sha.update(b"%d %s\0" % (times, word))
        return sha.hexdigest()

    def differences(self, other: Report) -> list[str]:
        """Paths on which the two reports differ, in order."""
        return sorted(
            path
            for path in {*self.files, *self.unread, *other.files, *other.unread}
            if self.files.get(path) != other.files.get(path)
            or self.unread.get(path) != other.unread.get(path)
        )


def standard_library() -> list[str]:
    """Every .py file of the running Python's standard library, without site-packages."""
    top = sysconfig.get_path("stdlib")
    return [path for path in _walk(top, skip="site-packages") if path.endswith(".py")]


def find_files(paths: Iterable[Path]) -> list[str]:
    """The paths given, each directory replaced by every file below it; each path once."""
    found: dict[str, None] = {}
    for path in paths:
        # os.path.isdir is false, not an error, without permission; reading it fails later.
        found.update(dict.fromkeys(_walk(str(path)) if os.path.isdir(path) else [str(path)]))  # noqa: PTH112
    return list(found)


def _walk(top: str, skip: str | None = None) -> list[str]:
    found: list[str] = []

    def keep_unlisted(error: OSError) -> None:
        found.append(str(error.filename))  # reading it fails later, and that is reported

    for directory, subdirectories, names in os.walk(top, onerror=keep_unlisted):
        subdirectories[:] = sorted(name for name in subdirectories if name != skip)
        found += [os.path.join(directory, name) for name in sorted(names)]  # noqa: PTH118 - speed
    return found


def open_regular(path: str) -> IO[bytes]:
    """Open a regular file for unbuffered reading.

    Raises:
        OSError: it cannot be opened, or is a device, a pipe or a socket, which may never end.
    """
    file = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("not a regular file")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a pipe to read it would wait for its writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def fill(file: IO[bytes], room: memoryview) -> int:
    """Read until `room` is full or the file ends.

    Returns:
        How many bytes were read; fewer than there is room for mean that the file has ended.
    """
    got = 0
    while got < len(room):
        count = file.readinto(room[got:])  # type: ignore[attr-defined]
        if not count:
            break
        got += count
    return got


def reason(error: OSError) -> str:
    """Why a file could not be read, in the system's words."""
    return error.strerror or str(error)


def count_serially(
    paths: Sequence[str], progress: Callable[[int, int], None] = lambda _files, _bytes: None
) -> Report:
    """Count the files one after the other in this process.

    Args:
        paths: files; one that cannot be read goes into `unread`.
        progress: called with the number of files and of bytes done so far, often; it may raise, to
            end the work.
    """
    report = Report()
    room = bytearray(CHUNK)
    size = 0
    for done, path in enumerate(paths):
        progress(done, size)
        tally = FileTally()
        try:
            with open_regular(path) as file:
                while got := fill(file, memoryview(room)):
                    tally.feed(bytes(memoryview(room)[:got]))
                    size += got
                    progress(done, size)
        except OSError as error:
            report.unread[path] = reason(error)
        else:
            report.files[path] = tally.finish(report.words)
    progress(len(paths), size)
    return report
