"""Measuring one contender once: children behind a start line, under a deadline, always reaped.

    parent                         child
    make the channel
    fork ------------------------> open its end of the channel
    wait for all "ready" <-------- "ready"
    "go" ------------------------> put or get, as often as it was told
    collect the results <--------- its result
    "leave" ---------------------> finish
    reap

The children are forked: that is the one start method that hands every contender's channel on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext
from typing import Any, NamedTuple, Self

from contenders import Channel, Contender

__all__ = ["Child", "Failed", "Line", "Run", "channels", "clock"]

_fork = ForkContext()
clock = time.perf_counter


class Failed(Exception):
    """A run that gave no result: a child raised, ended early, or was too slow for its deadline."""


class Child(NamedTuple):
    process: Any
    link: Connection


# -- the parent's side ---------------------------------------------------------------------------


class Run:
    """The children of one run. Leaving its `with` ends those that are left, and reaps all."""

    def __init__(self, seconds: float) -> None:
        self._end = clock() + seconds
        self._children: list[Child] = []

    def start(self, role: Callable[..., Any], *args: Any) -> Child:
        ours, theirs = _fork.Pipe()
        process = _fork.Process(target=_child, args=(theirs, role, args), daemon=True)
        process.start()
        theirs.close()
        self._children.append(Child(process, ours))
        return self._children[-1]

    def go(self) -> None:
        """Let all go once all are ready, those started first before the others."""
        self.results(*self._children)
        for child in self._children:
            child.link.send("go")

    def results(self, *children: Child) -> list[Any]:
        """One message of each, in their order."""
        values: dict[Child, Any] = {}
        while len(values) < len(children):
            child, value = self.receive(*(child for child in children if child not in values))
            values[child] = value
        return [values[child] for child in children]

    def receive(self, *children: Child) -> tuple[Child, Any]:
        """The next message, and whose it is."""
        by_link = {child.link: child for child in children}
        ready = wait(list(by_link), max(0, self._end - clock()))
        if not ready:
            raise Failed("was not done when its time was up")
        child = by_link[ready[0]]  # type: ignore[index]
        try:
            kind, value = child.link.recv()
        except (EOFError, ConnectionResetError):
            raise Failed("a process of it ended early") from None
        if kind == "error":
            raise Failed(value)
        return child, value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                for child in self._children:
                    child.link.send("leave")
                for child in self._children:
                    child.process.join(max(0, self._end - clock()))
        finally:
            for child in self._children:
                child.process.kill()
                child.process.join()
                child.link.close()
                child.process.close()


@contextmanager
def channels(contender: Contender, number: int, size: int, room: int) -> Iterator[list[Channel]]:
    with ExitStack() as stack:
        made = []
        for _ in range(number):
            made.append(contender.open(size, room))
            stack.callback(made[-1].close)
        yield made


# -- the children's side -------------------------------------------------------------------------


class Line:
    """A child's end: the start line, and the way back."""

    def __init__(self, link: Connection) -> None:
        self._link = link

    def ready(self) -> None:
        """Wait until all are."""
        self.tell(None)
        self._link.recv()

    def tell(self, value: Any) -> None:
        """Send a result, or a mark on the way."""
        self._link.send(("value", value))

    def wait_to_leave(self) -> None:
        """Keep what others still read from until nobody needs it any more."""
        self._link.recv()


def _child(link: Connection, role: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        role(Line(link), *args)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        os._exit(1)  # the parent ends the run
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent reports it
        text = str(error) if isinstance(error, Failed) else repr(error)
        link.send(("error", text))
        os._exit(1)
