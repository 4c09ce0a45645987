"""Whether the processes of an anonymous ring share one resource tracker.

The tracker removes the names that are still registered when the last process of its family ends.
Objects in overflow are registered with it if the ring is anonymous memory and its creator has the
same tracker: then the tracker goes when nobody of the family can use them any more.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shmkit.segment.words import TRACKER

if TYPE_CHECKING:
    from shmkit.segment.segment import Segment

__all__ = ["shares_tracker"]


def shares_tracker(segment: Segment) -> bool:
    """Whether a segment is anonymous memory, and its creator has this process's tracker.

    The creator notes its own in the segment, before any other process can have it.
    """
    if segment.buffer.url.scheme != "anon":
        return False
    from multiprocessing import resource_tracker

    fd = resource_tracker.getfd()
    # The inode of its pipe: the same for all that share it.
    tracker = 0 if fd is None else os.fstat(fd).st_ino
    if segment.buffer.created:
        segment.words[TRACKER] = tracker
    return bool(tracker) and segment.words[TRACKER] == tracker
