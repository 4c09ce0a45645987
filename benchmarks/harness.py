"""Measuring one contender once: children behind a start line, under a deadline, always reaped.

    parent                         child
    make the channel
    fork ------------------------> open its end of the channel
    wait for all "ready" <-------- "ready"
    "go" ------------------------> put or get, as often as it was told
    collect the results <--------- its result
    "leave" ---------------------> finish
    reap

The children are forked: that is the one start method that hands every contender's channel on. Time
is what the consumer sees, from its first frame to its last, on the clock all processes share.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Self

from contenders import Channel, Contender

__all__ = ["BATCH", "Failed", "many_to_many", "round_trips", "stream"]

BATCH = 64  # frames
_fork = multiprocessing.get_context("fork")
_clock = time.perf_counter


class Failed(Exception):
    """A run that gave no result: a child raised, ended early, or was too slow for its deadline."""


class _Child(NamedTuple):
    process: Any
    link: Connection


# -- the parent's side ---------------------------------------------------------------------------


class _Run:
    """The children of one run. Leaving its `with` ends those that are left, and reaps all."""

    def __init__(self, seconds: float) -> None:
        self._end = _clock() + seconds
        self._children: list[_Child] = []

    def start(self, role: Callable[..., Any], *args: Any) -> _Child:
        ours, theirs = _fork.Pipe()
        process = _fork.Process(target=_child, args=(theirs, role, args), daemon=True)
        process.start()
        theirs.close()
        self._children.append(_Child(process, ours))
        return self._children[-1]

    def go(self) -> None:
        """Let all go once all are ready, those started first before the others."""
        self.results(*self._children)
        for child in self._children:
            child.link.send("go")

    def results(self, *children: _Child) -> list[Any]:
        """One message of each, in their order."""
        values: dict[_Child, Any] = {}
        while len(values) < len(children):
            child, value = self.receive(*(child for child in children if child not in values))
            values[child] = value
        return [values[child] for child in children]

    def receive(self, *children: _Child) -> tuple[_Child, Any]:
        """The next message, and whose it is."""
        by_link = {child.link: child for child in children}
        ready = wait(list(by_link), max(0, self._end - _clock()))
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
        if kind is None:
            for child in self._children:
                child.link.send("leave")
            for child in self._children:
                child.process.join(max(0, self._end - _clock()))
        for child in self._children:
            child.process.kill()
            child.process.join()
            child.link.close()
            child.process.close()


@contextmanager
def _channels(contender: Contender, number: int, size: int, room: int) -> Iterator[list[Channel]]:
    with ExitStack() as stack:
        channels = []
        for _ in range(number):
            channels.append(contender.open(size, room))
            stack.callback(channels[-1].close)
        yield channels


# -- the children's side -------------------------------------------------------------------------


class _Line:
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
        role(_Line(link), *args)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        os._exit(1)  # the parent ends the run
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent reports it
        text = str(error) if isinstance(error, Failed) else repr(error)
        link.send(("error", text))
        os._exit(1)


# -- one to one ----------------------------------------------------------------------------------


def _mark(letter: bytes, size: int) -> bytes:
    return (letter * size)[:size]


def stream(contender: Contender, size: int, count: int, room: int, seconds: float) -> float:
    """Stream frames from one process to one other, and see that they arrive.

    Args:
        contender: who carries them.
        size: bytes of each.
        count: how many, 3 or more; rounded up to whole batches for who takes batches.
        room: bytes the channel should hold.
        seconds: after which the run has failed.

    Returns:
        Frames a second.

    Raises:
        Failed: no result, or a wrong one.
    """
    count = max(2, -(-count // BATCH)) * BATCH if contender.puts_many else count
    with _channels(contender, 1, size, room) as channels, _Run(seconds) as run:
        consumer = run.start(_take, contender, channels[0], size, count)
        producer = run.start(_send, contender, channels[0], size, count)
        run.go()
        ((number, took), _) = run.results(consumer, producer)
        return float((number - 1) / took)


def _send(line: _Line, contender: Contender, channel: Channel, size: int, count: int) -> None:
    put = channel.producer()
    first, frame, last = (_mark(letter, size) for letter in (b"first ", b"-", b"last "))
    line.ready()
    if contender.puts_many:
        batch = [frame] * BATCH
        put([first] + batch[1:])
        for _ in range(count // BATCH - 2):
            put(batch)
        put(batch[1:] + [last])
    else:
        put(first)
        for _ in range(count - 2):
            put(frame)
        put(last)
    line.tell(None)
    line.wait_to_leave()
    channel.finish()


def _take(line: _Line, contender: Contender, channel: Channel, size: int, count: int) -> None:
    get = channel.consumer()
    line.ready()
    if contender.gets_many:
        batch = get()
        first = batch[0]
        begin = _clock()
        taken = len(batch)
        early = taken
        while taken < count:
            batch = get()
            taken += len(batch)
        took, last = _clock() - begin, batch[-1]
    else:
        first = get()
        begin = _clock()
        early = taken = 1
        for _ in range(count - 2):
            get()
            taken += 1
        last = get()
        taken += 1
        took = _clock() - begin
    for frame, letter in ((first, b"first "), (last, b"last ")):
        if type(frame) is not bytes or frame != _mark(letter, size):
            raise Failed(f"got {frame!r:.80} for the frame {letter!r}")
    if taken != count:
        raise Failed(f"got {taken} frames, {count} were sent")
    line.tell((count - early + 1, took))
    line.wait_to_leave()
    channel.finish()


# -- there and back ------------------------------------------------------------------------------


def round_trips(
    contender: Contender, size: int, count: int, silence: float, room: int, seconds: float
) -> list[float]:
    """Send frames to a process that sends them back, one at a time.

    Args:
        contender: who carries them.
        size: bytes of each.
        count: how many; a tenth as many before are not counted.
        silence: seconds to wait before each.
        room: bytes the channels should hold.
        seconds: after which the run has failed.

    Returns:
        Seconds from each put to the end of its get, in the order they were made.

    Raises:
        Failed: no result, or a wrong one.
    """
    early = count // 10
    with _channels(contender, 2, size, room) as (there, back), _Run(seconds) as run:
        run.start(_echo, there, back, early + count)
        client = run.start(_call, there, back, size, early, count, silence)
        run.go()
        times: list[float]
        (times,) = run.results(client)
        return times


def _echo(line: _Line, there: Channel, back: Channel, count: int) -> None:
    get, put = there.consumer(), back.producer()
    line.ready()
    for _ in range(count):
        put(get())
    line.wait_to_leave()
    there.finish()
    back.finish()


def _call(
    line: _Line, there: Channel, back: Channel, size: int, early: int, count: int, silence: float
) -> None:
    put, get = there.producer(), back.consumer()
    frames = [_mark(b"%d " % index, size) for index in range(10)]
    times = []
    line.ready()
    for number in range(early + count):
        frame = frames[number % 10]
        if silence:
            time.sleep(silence)
        begin = _clock()
        put(frame)
        answer = get()
        times.append(_clock() - begin)
        if answer != frame:
            raise Failed(f"sent {frame!r:.80}, got {answer!r:.80} back")
    line.tell(times[early:])
    line.wait_to_leave()
    there.finish()
    back.finish()


# -- many to many --------------------------------------------------------------------------------

_END = b"end"  # one of each producer, behind its frames
_STOP = b"stop"  # one for each consumer, when every end was seen


def many_to_many(
    contender: Contender,
    size: int,
    count: int,
    producers: int,
    consumers: int,
    room: int,
    seconds: float,
) -> float:
    """Stream frames from several processes to several others.

    Args:
        contender: who carries them.
        size: bytes of each, more than 4.
        count: how many each producer sends; rounded up to whole batches.
        producers: how many put.
        consumers: how many get.
        room: bytes the channel should hold.
        seconds: after which the run has failed.

    Returns:
        Frames a second, all together: from the first frame anybody got to the last.

    Raises:
        Failed: no result, or a wrong one.
    """
    count = -(-count // BATCH) * BATCH
    with _channels(contender, 1, size, room) as channels, _Run(seconds) as run:
        takers = [run.start(_take_some, contender, channels[0], size) for _ in range(consumers)]
        for number in range(producers):
            run.start(_send_some, contender, channels[0], _mark(b"%d " % number, size), count)
        run.go()
        ends = [run.receive(*takers)[1] for _ in range(producers)]
        put = channels[0].producer()
        shares = []
        for _ in range(consumers):  # one at a time: a batch could take two of them
            put([_STOP] if contender.puts_many else _STOP)
            taker, share = run.receive(*takers)
            if not isinstance(share, tuple):
                raise Failed("the end of a producer's frames came twice")
            takers.remove(taker)
            shares.append(share)
        channels[0].finish()
    taken = sum(number for number, _ in shares)
    if taken != count * producers:
        raise Failed(f"got {taken} frames, {count * producers} were sent")
    begin = min(begin for number, begin in shares if number)
    return float(taken / (max(ends) - begin))


def _send_some(
    line: _Line, contender: Contender, channel: Channel, frame: bytes, count: int
) -> None:
    put = channel.producer()
    line.ready()
    if contender.puts_many:
        batch = [frame] * BATCH
        for _ in range(count // BATCH):
            put(batch)
        put([_END])
    else:
        for _ in range(count):
            put(frame)
        put(_END)
    line.wait_to_leave()
    channel.finish()


def _take_some(line: _Line, contender: Contender, channel: Channel, size: int) -> None:
    take = _take_batches if contender.gets_many else _take_singles
    get = channel.consumer()
    line.ready()
    taken, begin, first = take(line, get, size)
    if taken and (type(first) is not bytes or len(first) != size):
        raise Failed(f"got {first!r:.80} for a frame")
    line.tell((taken, begin))
    line.wait_to_leave()
    channel.finish()


def _take_singles(line: _Line, get: Callable[[], Any], size: int) -> tuple[int, float, Any]:
    first = frame = get()
    begin, taken = _clock(), 0
    while True:
        while len(frame) == size:
            taken += 1
            frame = get()
        if frame == _STOP:
            return taken, begin, first
        line.tell(_clock())
        frame = get()


def _take_batches(line: _Line, get: Callable[[], Any], size: int) -> tuple[int, float, Any]:
    batch = get()
    begin, taken, first = _clock(), 0, batch[0]
    while True:
        taken += len(batch)
        if sum(map(len, batch)) != size * len(batch):
            for _ in range(batch.count(_END)):
                line.tell(_clock())
                taken -= 1
            if _STOP in batch:
                return taken - 1, begin, first
        batch = get()
