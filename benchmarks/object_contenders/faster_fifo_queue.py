"""faster-fifo: pickles through a circular buffer in shared memory, in C++."""

from __future__ import annotations

import faster_fifo
import faster_fifo_reduction  # noqa: F401 - makes its queues travel to processes

from object_contenders import ROOM

__all__ = ["CONTENDERS"]

CONTENDERS = {"faster-fifo": lambda size: faster_fifo.Queue(max(ROOM, 4 * size))}
