"""Tally: exactly how many objects went into a ring and came out, whatever is killed.

A count next to the tail is two stores where a kill may come between. So before each commit a note
is made, under the side's lock: "when the tail stood here, so many had gone in". Every commit moves
the tail by one object, so the next process reads the count off: the note's, and one more if the
tail stands elsewhere by now. A note is written beside the last one, and then pointed at. The words
are drawn in segment/words.py: QUEUE.
"""

from __future__ import annotations

from typing import Final

from shmkit.segment.participants import NO_WORDS
from shmkit.segment.words import GET_NOTES, HEAD, PUT_NOTES, TAIL

__all__ = ["Tally"]

_COUNT: Final = (1 << 63) - 1  # keeps a damaged count inside its word


class Tally:
    """The objects that went into a ring and came out, exactly, whatever is killed.

    Args:
        words: the segment as 8-byte words.
        maxsize: the most objects there may be; 0 for no limit but room.
    """

    def __init__(self, words: memoryview[int], maxsize: int) -> None:
        self._words = words
        self.maxsize = maxsize
        self._taken_seen = 0

    def put(self) -> int:
        """How many were put; while other processes put, how many a moment ago."""
        return self._count(PUT_NOTES, TAIL)

    def taken(self) -> int:
        """How many were taken out."""
        return self._count(GET_NOTES, HEAD)

    def note_put(self, tail: int, end: int) -> bool:  # noqa: ARG002
        """Note an object that is about to go in; False if there are enough."""
        if self.maxsize:
            put = self.put()
            # What was taken is looked up only if the ring seems full.
            if put - self._taken_seen >= self.maxsize:
                self._taken_seen = self.taken()
                if put - self._taken_seen >= self.maxsize:
                    return False
        self._note(PUT_NOTES, tail)
        return True

    def note_get(self, head: int, end: int) -> bool:  # noqa: ARG002
        """Note an object that is about to come out."""
        self._note(GET_NOTES, head)
        return True

    def close(self) -> None:
        """Let go of the memory."""
        self._words = NO_WORDS

    def _note(self, notes: int, position: int) -> None:
        """Note how many passed up to here; the next store of tail or head is one more."""
        words = self._words
        holds = words[notes] & 1
        at = notes + 1 + 2 * holds
        # The last note's commit happened if the tail or head has moved since.
        count = (words[at + 1] + (words[at] != position)) & _COUNT
        at = notes + 3 - 2 * holds
        # Into the note that is not in use; the switch then makes it the valid one.
        words[at] = position  # step: count.position
        words[at + 1] = count  # step: count.number
        words[notes] = 1 - holds  # step: count.switch

    def _count(self, notes: int, position: int) -> int:
        words = self._words
        while True:
            holds = words[notes]
            at = notes + 1 + 2 * (holds & 1)
            noted, count = words[at], words[at + 1]
            now = words[position]
            # Otherwise a new note was written meanwhile: read again.
            if words[notes] == holds and words[at] == noted:
                return count + (noted != now)
