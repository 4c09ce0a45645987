"""The standard library's: with a feeder thread (Queue) and without (SimpleQueue)."""

from __future__ import annotations

import multiprocessing

from object_contenders import ROOM

__all__ = ["CONTENDERS"]

_fork = multiprocessing.get_context("fork")

CONTENDERS = {
    "multiprocessing.Queue": lambda _: _fork.Queue(),
    "multiprocessing.Queue, maxsize": lambda size: _fork.Queue(max(4, min(ROOM // size, 1000))),
    "multiprocessing.JoinableQueue": lambda _: _fork.JoinableQueue(),
    "multiprocessing.SimpleQueue": lambda _: _fork.SimpleQueue(),
}
