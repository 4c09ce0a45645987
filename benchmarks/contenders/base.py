"""What a contender is: a name, and how to make a one-way channel of it.

A channel is made in the parent and used by forked children:

    parent      channel = contender.open(size, room)    ...    channel.close()
    producer    put = channel.producer()    put(frame) again and again    channel.finish()
    consumer    get = channel.consumer()    get() again and again         channel.finish()

`put` takes a `bytes` and `get` gives one back, whatever the library itself deals in: the copies
that takes are part of what is measured. A contender that `puts_many` has a `put` that takes a list,
one that `gets_many` a `get` that gives one. Each waits when it has to, the way the library waits.

What is not Python cannot be called so: it is a program, which does all of that and takes the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Channel", "Contender", "Program"]

SMALL = (64, 1024)
LARGE = (64 << 10, 1 << 20)


class Channel:
    """One way from producers to consumers; made before they are forked.

    Args:
        size: bytes of the frames that will go through.
        room: bytes the channel should hold at least, where that can be chosen.
    """

    def __init__(self, size: int, room: int) -> None:
        self.size = size
        self.room = room
        self.make()

    def make(self) -> None:
        """Make what the children will share."""
        raise NotImplementedError

    def producer(self) -> Callable[[Any], object]:
        """In a producing process: what puts."""
        raise NotImplementedError

    def consumer(self) -> Callable[[], Any]:
        """In a consuming process: what gets."""
        raise NotImplementedError

    def finish(self) -> None:
        """In either, at its end: see to it that what was put arrives, and leave."""

    def close(self) -> None:
        """In the parent, when the children have ended."""


class Program(Protocol):
    """Something that measures itself, in place of a channel: see measures.py for the arguments."""

    def stream(self, size: int, count: int, room: int, seconds: float) -> float:
        """Frames a second from one process to one other."""

    def round_trips(
        self, size: int, count: int, silence: float, room: int, seconds: float
    ) -> list[float]:
        """Seconds of each, there and back."""


@dataclass(frozen=True)
class Contender:
    """One row of the tables.

    Attributes:
        name: how it is called there.
        open: makes a channel from the size of the frames and the room wanted.
        ours: whether it is the library these benchmarks are for.
        puts_many: `put` takes lists of frames.
        gets_many: `get` gives lists of frames.
        sizes: bytes of the frames it takes part with.
        topologies: which of "spsc", "rtt" and "mpmc" it takes part in.
        program: measures it; then no channel is opened.
        bound: it is no peer, but what ours could reach at best.
    """

    name: str
    open: Callable[[int, int], Channel]
    ours: bool = False
    puts_many: bool = False
    gets_many: bool = False
    sizes: tuple[int, ...] = field(default=SMALL + LARGE)
    topologies: tuple[str, ...] = ("spsc", "rtt")
    program: Program | None = None
    bound: bool = False
