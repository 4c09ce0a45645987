"""Tally: exactly how many objects went into a ring and came out, whatever is killed.

A count next to the tail is two stores where a kill may come between. So before each commit a note
is made, under the side's lock: "when the tail stood here, so many had gone in". Every commit moves
the tail by one object, so the next process reads the count off: the note's, and one more if the
tail stands elsewhere by now. A note is written beside the last one, and then pointed at. The words
are drawn in segment/words.py: QUEUE. `Cursor.note` in core.py makes the notes.
"""

from __future__ import annotations

from shmkit.core import count_passed
from shmkit.segment.participants import NO_WORDS
from shmkit.segment.words import GET_NOTES, HEAD, PUT_NOTES, TAIL

__all__ = ["Tally"]


class Tally:
    """The objects that went into a ring and came out, exactly, whatever is killed.

    Args:
        words: the segment as 8-byte words.
        maxsize: the most objects there may be; 0 for no limit but room.
    """

    def __init__(self, words: memoryview[int], maxsize: int) -> None:
        self._words = words
        self.maxsize = maxsize

    def put(self) -> int:
        """How many were put; while other processes put, how many a moment ago."""
        return count_passed(self._words, PUT_NOTES, TAIL)

    def taken(self) -> int:
        """How many were taken out."""
        return count_passed(self._words, GET_NOTES, HEAD)

    def close(self) -> None:
        """Let go of the memory."""
        self._words = NO_WORDS
