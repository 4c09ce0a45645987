"""Shared memory between the Python processes of one machine.

A map of the floors. A module imports from its own floor and from the floors below it:

    tools      for people: the command line, a demo, help for tests
    work       functions that run elsewhere: once, ProcessPoolExecutor
    channels   messages through memory: Ring, Broadcast, Latest, Queue, JoinableQueue, wait;
               and SharedDict
    sync       processes that wait for each other: Lock, Semaphore, Event
    core       the hot steps of rings and locks, in one module
    segment    state that processes share: SharedArray, and what channels and locks are made of
    memory     bytes that processes share: SharedBuffer, SharedMemory, PagedFile, open_bytes
    errors     every exception; beside it deadline: how long a call may wait

Every public name is here: `from shmkit import Ring`. A name is imported when it is first used, so
that `import shmkit` takes little time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmkit.channels.fanout import Broadcast as Broadcast
    from shmkit.channels.fanout import Latest as Latest
    from shmkit.channels.mapping import SharedDict as SharedDict
    from shmkit.channels.objects.queue import JoinableQueue as JoinableQueue
    from shmkit.channels.objects.queue import Queue as Queue
    from shmkit.channels.ring import Ring as Ring
    from shmkit.channels.waiting import wait as wait
    from shmkit.errors import ClosedError as ClosedError
    from shmkit.errors import CorruptSegment as CorruptSegment
    from shmkit.errors import Empty as Empty
    from shmkit.errors import FrameTooLarge as FrameTooLarge
    from shmkit.errors import Full as Full
    from shmkit.errors import IncompatibleSegment as IncompatibleSegment
    from shmkit.errors import PeerDied as PeerDied
    from shmkit.errors import RoleTaken as RoleTaken
    from shmkit.errors import ShmkitError as ShmkitError
    from shmkit.errors import ShutDown as ShutDown
    from shmkit.errors import WorkerDied as WorkerDied
    from shmkit.memory.buffer import SharedBuffer as SharedBuffer
    from shmkit.memory.open_bytes import open_bytes as open_bytes
    from shmkit.memory.paged import PagedFile as PagedFile
    from shmkit.memory.shared_memory import SharedMemory as SharedMemory
    from shmkit.segment.array import SharedArray as SharedArray
    from shmkit.sync.event import Event as Event
    from shmkit.sync.lock import Acquired as Acquired
    from shmkit.sync.lock import Lock as Lock
    from shmkit.sync.semaphore import Semaphore as Semaphore
    from shmkit.work.executor import ProcessPoolExecutor as ProcessPoolExecutor
    from shmkit.work.once import once as once

__version__ = "0.1.0"

_HOME = {
    "Acquired": "shmkit.sync.lock",
    "Broadcast": "shmkit.channels.fanout",
    "ClosedError": "shmkit.errors",
    "CorruptSegment": "shmkit.errors",
    "Empty": "shmkit.errors",
    "Event": "shmkit.sync.event",
    "FrameTooLarge": "shmkit.errors",
    "Full": "shmkit.errors",
    "IncompatibleSegment": "shmkit.errors",
    "JoinableQueue": "shmkit.channels.objects.queue",
    "Latest": "shmkit.channels.fanout",
    "Lock": "shmkit.sync.lock",
    "PagedFile": "shmkit.memory.paged",
    "PeerDied": "shmkit.errors",
    "ProcessPoolExecutor": "shmkit.work.executor",
    "Queue": "shmkit.channels.objects.queue",
    "Ring": "shmkit.channels.ring",
    "RoleTaken": "shmkit.errors",
    "Semaphore": "shmkit.sync.semaphore",
    "SharedArray": "shmkit.segment.array",
    "SharedBuffer": "shmkit.memory.buffer",
    "SharedDict": "shmkit.channels.mapping",
    "SharedMemory": "shmkit.memory.shared_memory",
    "ShmkitError": "shmkit.errors",
    "ShutDown": "shmkit.errors",
    "WorkerDied": "shmkit.errors",
    "once": "shmkit.work.once",
    "open_bytes": "shmkit.memory.open_bytes",
    "wait": "shmkit.channels.waiting",
}

__all__ = [
    "Acquired",
    "Broadcast",
    "ClosedError",
    "CorruptSegment",
    "Empty",
    "Event",
    "FrameTooLarge",
    "Full",
    "IncompatibleSegment",
    "JoinableQueue",
    "Latest",
    "Lock",
    "PagedFile",
    "PeerDied",
    "ProcessPoolExecutor",
    "Queue",
    "Ring",
    "RoleTaken",
    "Semaphore",
    "SharedArray",
    "SharedBuffer",
    "SharedDict",
    "SharedMemory",
    "ShmkitError",
    "ShutDown",
    "WorkerDied",
    "once",
    "open_bytes",
    "wait",
]


if not TYPE_CHECKING:  # to a type checker it would say that there is every name

    def __getattr__(name: str) -> Any:
        """Import a public name at its first use (PEP 562)."""
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
