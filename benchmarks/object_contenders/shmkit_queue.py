"""shmkit's queues, as they come, and bounded by a number of objects."""

from __future__ import annotations

from object_contenders import ROOM
from shmkit import JoinableQueue, Queue

__all__ = ["CONTENDERS"]

CONTENDERS = {
    "shmkit.Queue": lambda _: Queue(),
    "shmkit.Queue, maxsize": lambda size: Queue(max(4, min(ROOM // size, 1000))),
    "shmkit.JoinableQueue": lambda _: JoinableQueue(),
}
