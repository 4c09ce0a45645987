"""The measures: a stream, round trips, many to many; each sees to it that every frame arrived.

Time is what consumers see, from their first frame to their last, on the clock all processes share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from contenders import Channel, Contender
from harness import Failed, Line, Run, channels, clock

__all__ = ["BATCH", "many_to_many", "round_trips", "stream"]

BATCH = 64  # frames

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
    if contender.program:
        return contender.program.stream(size, count, room, seconds)
    count = max(2, -(-count // BATCH)) * BATCH if contender.puts_many else count
    with channels(contender, 1, size, room) as (channel,), Run(seconds) as run:
        consumer = run.start(_take, contender, channel, size, count)
        producer = run.start(_send, contender, channel, size, count)
        run.go()
        ((number, took), _) = run.results(consumer, producer)
        return float((number - 1) / took)


def _send(line: Line, contender: Contender, channel: Channel, size: int, count: int) -> None:
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


def _take(line: Line, contender: Contender, channel: Channel, size: int, count: int) -> None:
    get = channel.consumer()
    line.ready()
    if contender.gets_many:
        batch = get()
        first = batch[0]
        begin = clock()
        taken = len(batch)
        early = taken
        while taken < count:
            batch = get()
            taken += len(batch)
        took, last = clock() - begin, batch[-1]
    else:
        first = get()
        begin = clock()
        early = taken = 1
        for _ in range(count - 2):
            get()
            taken += 1
        last = get()
        taken += 1
        took = clock() - begin
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
    if contender.program:
        return contender.program.round_trips(size, count, silence, room, seconds)
    early = count // 10
    with channels(contender, 2, size, room) as (there, back), Run(seconds) as run:
        run.start(_echo, there, back, early + count)
        client = run.start(_call, there, back, size, early, count, silence)
        run.go()
        times: list[float]
        (times,) = run.results(client)
        return times


def _echo(line: Line, there: Channel, back: Channel, count: int) -> None:
    get, put = there.consumer(), back.producer()
    line.ready()
    for _ in range(count):
        put(get())
    line.wait_to_leave()
    there.finish()
    back.finish()


def _call(
    line: Line, there: Channel, back: Channel, size: int, early: int, count: int, silence: float
) -> None:
    put, get = there.producer(), back.consumer()
    frames = [_mark(b"%d " % index, size) for index in range(10)]
    times = []
    line.ready()
    for number in range(early + count):
        frame = frames[number % 10]
        if silence:
            time.sleep(silence)
        begin = clock()
        put(frame)
        answer = get()
        times.append(clock() - begin)
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
    with channels(contender, 1, size, room) as (channel,), Run(seconds) as run:
        takers = [run.start(_take_some, contender, channel, size) for _ in range(consumers)]
        for number in range(producers):
            run.start(_send_some, contender, channel, _mark(b"%d " % number, size), count)
        run.go()
        ends = [run.receive(*takers)[1] for _ in range(producers)]
        put = channel.producer()
        shares = []
        for _ in range(consumers):  # one at a time: a batch could take two of them
            put([_STOP] if contender.puts_many else _STOP)
            taker, share = run.receive(*takers)
            if not isinstance(share, tuple):
                raise Failed("the end of a producer's frames came twice")
            takers.remove(taker)
            shares.append(share)
        channel.finish()
    taken = sum(number for number, _ in shares)
    if taken != count * producers:
        raise Failed(f"got {taken} frames, {count * producers} were sent")
    begin = min(begin for number, begin in shares if number)
    return float(taken / (max(ends) - begin))


def _send_some(
    line: Line, contender: Contender, channel: Channel, frame: bytes, count: int
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


def _take_some(line: Line, contender: Contender, channel: Channel, size: int) -> None:
    take = _take_batches if contender.gets_many else _take_singles
    get = channel.consumer()
    line.ready()
    taken, begin, first = take(line, get, size)
    if type(first) is not bytes or (len(first) != size and first not in (_END, _STOP)):
        raise Failed(f"got {first!r:.80} for a frame")
    line.tell((taken, begin))
    line.wait_to_leave()
    channel.finish()


def _take_singles(line: Line, get: Callable[[], Any], size: int) -> tuple[int, float, Any]:
    first = frame = get()
    begin, taken = clock(), 0
    while True:
        while len(frame) == size:
            taken += 1
            frame = get()
        if frame == _STOP:
            return taken, begin, first
        line.tell(clock())
        frame = get()


def _take_batches(line: Line, get: Callable[[], Any], size: int) -> tuple[int, float, Any]:
    batch = get()
    begin, taken, first = clock(), 0, batch[0]
    while True:
        taken += len(batch)
        if sum(map(len, batch)) != size * len(batch):
            for _ in range(batch.count(_END)):
                line.tell(clock())
                taken -= 1
            if _STOP in batch:
                return taken - 1, begin, first
        batch = get()
