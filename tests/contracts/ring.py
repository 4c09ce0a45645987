"""What a Ring promises wherever its memory is and its two ends are: cases, each run everywhere.

A case takes a `Pair` (ring_pair.py) whose ring is empty and has no roles yet. `CASES` has each with
the options its ring is made with.
"""

from __future__ import annotations

import array
import os
import pickle
import random
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any, NamedTuple

import pytest

from shmkit import (
    ClosedError,
    Empty,
    FrameTooLarge,
    Full,
    Ring,
    RoleTaken,
    ShutDown,
)
from tests.contracts.ring_pair import Pair
from tests.processes import wait_until

__all__ = ["CASES", "Case", "frame", "stream"]

CAPACITY = 4096
LIMIT = CAPACITY - 16
WAIT = 5.0  # seconds: long enough for anything that is to happen
NOISE = random.Random(7).randbytes(1 << 17)
# Where the doorbells' flags are, as DESIGN draws the header: "someone may be asleep".
BELLS = {"data": 0x280, "space": 0x300}


class Case(NamedTuple):
    """A case, and what `Ring.create` gets for it."""

    run: Callable[[Pair], None]
    options: dict[str, Any]


CASES: dict[str, Case] = {}


def case(**options: Any) -> Callable[[Callable[[Pair], None]], Callable[[Pair], None]]:
    """Register a case; its ring has a capacity of 4096 bytes unless `options` say otherwise."""

    def register(function: Callable[[Pair], None]) -> Callable[[Pair], None]:
        CASES[function.__name__] = Case(function, {"capacity": CAPACITY, **options})
        return function

    return register


def frame(number: int, size: int) -> bytes:
    """A frame's bytes, told by its number."""
    start = number * 61 % (len(NOISE) >> 1)
    return NOISE[start : start + size]


# ------------------------------------------------------------------ what runs at an end


def put_all(ring: Ring, sizes: list[int], timeout: float = WAIT) -> None:
    """Frames 0, 1, 2... of these sizes."""
    for number, size in enumerate(sizes):
        ring.put(frame(number, size), timeout)


def check_all(ring: Ring, sizes: list[int], timeout: float = WAIT) -> None:
    """Take them out, and compare them."""
    for number, size in enumerate(sizes):
        got = ring.get(timeout)
        if got != frame(number, size):
            raise AssertionError(f"frame {number} of {size} bytes came as {len(got)} others")


def put_at_each_position(ring: Ring, step: int) -> None:
    """Have the ring empty at each position in turn, and put a frame of limit size there."""
    for filler in range(0, CAPACITY - 16, step):
        ring.put(frame(filler, filler), WAIT)
        ring.put(frame(filler + 1, LIMIT), WAIT)


def check_at_each_position(ring: Ring, step: int) -> None:
    for filler in range(0, CAPACITY - 16, step):
        for number, size in ((filler, filler), (filler + 1, LIMIT)):
            if ring.get(WAIT) != frame(number, size):
                raise AssertionError(f"after {filler} bytes: not frame {number}")


def stream(seed: int, count: int, largest: int) -> Iterator[bytes]:
    """Frames of all sizes, small ones more often."""
    dice = random.Random(seed)
    for number in range(count):
        yield frame(number, min(int(dice.expovariate(6 / largest)), largest))


def put_stream(ring: Ring, seed: int, count: int, largest: int) -> int:
    """Put a stream by every way there is, in turns."""
    frames = stream(seed, count, largest)
    dice = random.Random(seed + 1)
    done = 0
    while one := list(islice(frames, 1)):
        way = dice.randrange(5)
        if way < 2:
            ring.put(one[0], WAIT)
        elif way == 2:
            batch = one + list(islice(frames, dice.randrange(12)))
            if ring.put_many(batch, WAIT) != len(batch):
                raise AssertionError("put_many had time enough, and put fewer")
            done += len(batch) - 1
        elif way == 3:
            with ring.reserve(len(one[0]) + dice.randrange(2), WAIT) as room:
                room[: len(one[0])] = one[0]
                room.truncate(len(one[0]))
        else:
            try:
                with ring.reserve(dice.randrange(largest), WAIT) as room:
                    room[:] = b"\xff" * len(room)
                    raise KeyError
            except KeyError:
                ring.put(bytearray(one[0]), WAIT)
        done += 1
    ring.shutdown()
    return done


def check_stream(ring: Ring, seed: int, count: int, largest: int) -> int:
    """Take a stream out by every way there is, in turns; how many frames came."""
    expected = stream(seed, count, largest)
    dice = random.Random(seed + 2)
    room = bytearray(largest)
    came = 0
    while True:
        way = dice.randrange(5)
        try:
            if way == 0:
                got = [ring.get(WAIT)]
            elif way == 1:
                got = ring.get_many(dice.choice([None, 1, 2, 7]), WAIT)
            elif way == 2:
                size = ring.get_into(room, WAIT)
                got = [bytes(room[:size])]
            elif way == 3:
                with ring.peek(WAIT) as view:
                    got = [bytes(view)]
            else:
                try:
                    with ring.peek(WAIT):
                        raise KeyError
                except KeyError:
                    got = [ring.get(0)]
        except ShutDown:
            return came
        for one in got:
            if one != next(expected, None):
                raise AssertionError(f"frame {came}, of {len(one)} bytes, is not what was put")
            came += 1


def in_place(ring: Ring, size: int, content: bytes, keep: int | None = None) -> int:
    """Reserve, write, truncate, commit."""
    with ring.reserve(size, WAIT) as room:
        assert len(room) == size
        if keep is not None:
            room.truncate(keep)
        room[:] = content
        return len(room)


def discard(ring: Ring, size: int) -> None:
    """Reserve, write, and think better of it."""
    with pytest.raises(KeyError), ring.reserve(size, WAIT) as room:
        room[:] = b"\xee" * size
        raise KeyError


def peeked(ring: Ring, *, release: bool) -> bytes:
    """Look at the next frame."""
    try:
        with ring.peek(WAIT) as view:
            assert view.readonly
            assert view.format == "B"
            found = bytes(view)
            if not release:
                raise KeyError
    except KeyError:
        pass
    return found


def taken_into(ring: Ring, size: int, fill: bytes = b"\xaa") -> tuple[int, bytes]:
    """get_into memory of a size; what was returned, and the memory then."""
    room = bytearray(fill * size)
    return ring.get_into(room, 0), bytes(room)


def drained(ring: Ring) -> list[bytes]:
    """By iteration, to the end."""
    return list(ring)


def asleep(pair: Pair, bell: str) -> None:
    """Wait until an end sleeps at a doorbell."""
    buffer = pair.near.ring.buffer
    wait_until(lambda: buffer[BELLS[bell]])


def fill_up(pair: Pair, size: int = 100) -> list[bytes]:
    """Put until it is full; what was put."""
    put: list[bytes] = []
    while True:
        data = frame(len(put), size)
        try:
            pair.producer.put_nowait(data)
        except Full:
            return put
        put.append(data)


# ------------------------------------------------------------------ one frame, and the next


@case()
def frames_come_as_they_were_put(pair: Pair) -> None:
    for data in (b"a", b"", b"\0" * 17, bytes(range(256)), frame(1, LIMIT), b"\xff"):
        pair.producer.put(data)
        assert pair.consumer.get() == data
    sent = [frame(n, n) for n in range(20)]
    for data in sent:
        pair.producer.put(data)
    assert [pair.consumer.get() for _ in sent] == sent


@case()
def any_contiguous_buffer_is_a_frame(pair: Pair) -> None:
    numbers = array.array("d", [1.5, -2.25, 1e300])
    for data in (
        bytearray(b"bytearray"),
        memoryview(b"--memoryview--")[2:-2],
        memoryview(numbers),
        memoryview(bytes(range(24))).cast("B", (2, 3, 4)),
        numbers,
        array.array("i"),
    ):
        pair.near.ring.put(data) if pair.one_handle else pair.producer.run(put_buffer, bytes(data))
        assert pair.consumer.get() == bytes(data)


def put_buffer(ring: Ring, data: bytes) -> None:
    """As an array, where its length allows."""
    ring.put(array.array("H", data) if len(data) % 2 == 0 else bytearray(data))


@case()
def what_is_no_buffer_is_refused(pair: Pair) -> None:
    for data in ("text", 7, None, [b"a"]):
        with pytest.raises(TypeError):
            pair.producer.put(data)
    with pytest.raises(TypeError):
        pair.producer.put_many([b"good", "bad"])
    pair.producer.put(b"next")
    assert pair.consumer.get() == b"next"
    assert pair.consumer.empty()


@case()
def empty_frames_are_frames(pair: Pair) -> None:
    count = CAPACITY // 16
    for _ in range(count):
        pair.producer.put_nowait(b"")
    with pytest.raises(Full):
        pair.producer.put_nowait(b"")
    assert pair.consumer.qsize() == count
    assert pair.consumer.full()
    assert pair.consumer.get_many() == [b""] * count
    assert pair.consumer.empty()


@case()
def nothing_is_there_at_once(pair: Pair) -> None:
    with pytest.raises(Empty):
        pair.consumer.get_nowait()
    with pytest.raises(Empty):
        pair.consumer.get(0)
    with pytest.raises(Empty):
        pair.consumer.get_many(timeout=0)
    with pytest.raises(Empty):
        pair.consumer.run(taken_into, 10)
    pair.producer.put_nowait(b"x")
    assert pair.consumer.get_nowait() == b"x"


@case()
def a_timeout_ends_a_wait(pair: Pair) -> None:
    for _ in range(2):
        with pytest.raises(Empty):
            pair.consumer.get(timeout=0.01)
        with pytest.raises(Empty):
            pair.consumer.get_many(timeout=0.01)
    put = fill_up(pair)
    for _ in range(2):
        with pytest.raises(Full):
            pair.producer.put(b"y" * 100, timeout=0.01)
        assert pair.producer.put_many([b"y" * 100], timeout=0.01) == 0
        with pytest.raises(Full):
            pair.producer.run(in_place_with_timeout, 100, 0.01)
    assert pair.consumer.get_many() == put


def in_place_with_timeout(ring: Ring, size: int, timeout: float) -> None:
    with ring.reserve(size, timeout):
        raise AssertionError("there is no room")


@case()
def a_negative_timeout_is_none_at_all(pair: Pair) -> None:
    for timeout in (-1, -0.001, -float("inf")):
        with pytest.raises(Empty):
            pair.consumer.get(timeout=timeout)
        with pytest.raises(Empty):
            pair.consumer.get_many(timeout=timeout)
    put = fill_up(pair)
    for timeout in (-1, -0.001):
        with pytest.raises(Full):
            pair.producer.put(b"x" * 100, timeout=timeout)
        assert pair.producer.put_many([b"x" * 100], timeout=timeout) == 0
    assert pair.consumer.get_many(timeout=-1) == put


@case()
def what_is_no_timeout_is_refused(pair: Pair) -> None:
    """A bool also where nothing has to wait: `get(True)` is another queue's."""
    for timeout in (True, False):
        for _ in range(2):
            with pytest.raises(TypeError, match=r"timeout=(True|False).*no `block`"):
                pair.consumer.get(timeout)
            with pytest.raises(TypeError, match=r"timeout=(True|False).*no `block`"):
                pair.producer.put(b"x", timeout=timeout)
            pair.producer.put(b"frame")
        assert pair.consumer.get_many() == [b"frame"] * 2
    for bad, error in ((float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="timeout"):
            pair.consumer.get(timeout=bad)
        with pytest.raises(error, match="timeout"):
            pair.consumer.get_many(timeout=bad)
        fill_up(pair)
        with pytest.raises(error, match="timeout"):
            pair.producer.put(b"x" * 100, timeout=bad)
        pair.consumer.get_many()


@case()
def a_reader_asleep_is_woken(pair: Pair) -> None:
    waiting = pair.consumer.begin("get")
    asleep(pair, "data")
    pair.producer.put(b"good morning")
    assert waiting.result() == b"good morning"
    waiting = pair.consumer.begin("get_many", timeout=WAIT)
    asleep(pair, "data")
    pair.producer.put_many([b"a", b"b"])
    got = waiting.result()
    if len(got) == 1:
        got += pair.consumer.get_many()
    assert got == [b"a", b"b"]


@case()
def a_writer_asleep_is_woken(pair: Pair) -> None:
    put = fill_up(pair)
    last = b"z" * 100
    waiting = pair.producer.begin("put", last)
    asleep(pair, "space")
    assert pair.consumer.get() == put[0]
    waiting.result()
    assert pair.consumer.get_many() == put[1:] + [last]


# ------------------------------------------------------------------ around the end of the ring


@case()
def every_size_goes_around_the_end(pair: Pair) -> None:
    sizes = [*range(130), *range(0, LIMIT, 53), *range(LIMIT - 40, LIMIT + 1)]
    random.Random(3).shuffle(sizes)
    putting = pair.producer.begin(put_all, sizes)
    pair.consumer.run(check_all, sizes)
    putting.result()


@case()
def an_empty_ring_takes_a_frame_of_the_limit_size_at_every_position(pair: Pair) -> None:
    putting = pair.producer.begin(put_at_each_position, 16)
    pair.consumer.run(check_at_each_position, 16)
    putting.result()


@case()
def an_empty_ring_takes_it_without_waiting(pair: Pair) -> None:
    for filler in range(0, CAPACITY - 16, 240):
        pair.producer.put(frame(0, filler))
        assert pair.consumer.get() == frame(0, filler)
        pair.producer.put_nowait(frame(1, LIMIT))
        assert pair.consumer.full()
        assert pair.consumer.get() == frame(1, LIMIT)
        assert pair.consumer.empty()


@case()
def frames_of_the_limit_size_again_and_again(pair: Pair) -> None:
    sizes = [LIMIT] * 3000
    putting = pair.producer.begin(put_all, sizes)
    pair.consumer.run(check_all, sizes)
    putting.result()


@case()
def a_frame_that_can_never_fit_is_told_at_once(pair: Pair) -> None:
    for size in (LIMIT + 1, CAPACITY, 10 * CAPACITY):
        for what, argument in (("put", bytes(size)), ("put_many", [b"", bytes(size)])):
            with pytest.raises(FrameTooLarge) as caught:
                pair.producer.run(what, argument)
            assert (caught.value.size, caught.value.limit) == (size, LIMIT)
            assert str(size) in str(caught.value)
        with pytest.raises(FrameTooLarge):
            pair.producer.run(in_place, size, b"")
    assert pair.consumer.empty()
    fill_up(pair)
    with pytest.raises(FrameTooLarge):
        pair.producer.put(bytes(LIMIT + 1))


# ------------------------------------------------------------------ many at a time


@case()
def batches_come_whole_and_in_order(pair: Pair) -> None:
    sent = [frame(n, n * 7 % 60) for n in range(30)]
    assert pair.producer.put_many(sent) == 30
    assert pair.consumer.get_many(max_frames=1) == sent[:1]
    assert pair.consumer.get_many(max_frames=7) == sent[1:8]
    assert pair.consumer.get() == sent[8]
    assert pair.consumer.get_many(max_frames=1000) == sent[9:]
    assert pair.producer.put_many(iter(sent[:3])) == 3
    assert pair.consumer.get_many() == sent[:3]
    assert pair.producer.put_many([]) == 0
    for most in (0, -1):
        with pytest.raises(ValueError, match="max_frames"):
            pair.consumer.get_many(most)


@case()
def a_batch_that_does_not_fit_goes_in_partly(pair: Pair) -> None:
    sent = [frame(n, 100) for n in range(100)]
    for timeout in (0, 0.01):
        done = pair.producer.put_many(sent, timeout=timeout)
        assert 0 < done < 100
        assert pair.consumer.qsize() == done
        assert pair.consumer.get_many() == sent[:done]


@case()
def a_batch_larger_than_the_ring_flows_through(pair: Pair) -> None:
    sizes = [n * 37 % 300 for n in range(400)]
    putting = pair.producer.begin(put_batch, sizes)
    pair.consumer.run(check_all, sizes)
    assert putting.result() == 400


def put_batch(ring: Ring, sizes: list[int]) -> int:
    return ring.put_many((frame(n, size) for n, size in enumerate(sizes)), WAIT)


@case()
def none_of_a_batch_goes_in_if_one_never_can(pair: Pair) -> None:
    with pytest.raises(FrameTooLarge):
        pair.producer.put_many([b"good", bytes(LIMIT + 1), b"good"])
    assert pair.consumer.empty()


# ------------------------------------------------------------------ in place


@case()
def get_into_fills_memory_of_the_callers(pair: Pair) -> None:
    pair.producer.put(b"abc")
    assert pair.consumer.run(taken_into, 3) == (3, b"abc")
    pair.producer.put(b"abc")
    assert pair.consumer.run(taken_into, 5) == (3, b"abc\xaa\xaa")
    pair.producer.put(b"")
    assert pair.consumer.run(taken_into, 0) == (0, b"")
    pair.producer.put(b"four")
    with pytest.raises(ValueError, match="4 bytes"):
        pair.consumer.run(taken_into, 3)
    assert pair.consumer.qsize() == 1
    with pytest.raises(TypeError):
        pair.consumer.get_into(b"read-only")
    assert pair.consumer.get() == b"four"
    pair.producer.put(array.array("d", [0.5, 1.5]))
    assert pair.consumer.run(taken_as_doubles, 2) == [0.5, 1.5]


def taken_as_doubles(ring: Ring, count: int) -> list[float]:
    room = array.array("d", bytes(8 * count))
    assert ring.get_into(room, 0) == 8 * count
    return list(room)


@case()
def reserve_commits_what_was_written_in_place(pair: Pair) -> None:
    data = frame(0, 333)
    for _ in range(40):  # around the end
        assert pair.producer.run(in_place, 333, data) == 333
        assert pair.consumer.get() == data
        assert pair.producer.run(in_place, 333, data[:111], 111) == 111
        assert pair.consumer.get() == data[:111]
        assert pair.producer.run(in_place, 333, b"", 0) == 0
        assert pair.consumer.get() == b""
    assert pair.producer.run(in_place, LIMIT, frame(1, LIMIT)) == LIMIT
    assert pair.consumer.get() == frame(1, LIMIT)
    with pytest.raises(ValueError, match="-1"):
        pair.producer.run(in_place, -1, b"")
    with pytest.raises(ValueError, match="11"):
        pair.producer.run(in_place, 10, b"", 11)
    assert pair.consumer.empty()


@case()
def reserve_shows_nothing_before_it_is_left(pair: Pair) -> None:
    assert pair.producer.run(is_empty_while_reserved)
    assert pair.consumer.get() == b"ab"


def is_empty_while_reserved(ring: Ring) -> bool:
    with ring.reserve(2) as room:
        room[:] = b"ab"
        return ring.empty() and ring.qsize() == 0


@case()
def an_exception_discards_a_reservation(pair: Pair) -> None:
    pair.producer.put(b"before")
    pair.producer.run(discard, 50)
    assert pair.consumer.qsize() == 1
    pair.producer.put(b"after")
    assert pair.consumer.get_many() == [b"before", b"after"]


@case()
def a_discarded_reservation_takes_no_room(pair: Pair) -> None:
    for discarded in (1000, 2000, 4000, LIMIT):
        for filler in range(0, CAPACITY - 16, 496):
            pair.producer.put(frame(0, filler))
            pair.producer.put(b"")
            assert pair.consumer.get() == frame(0, filler)
            try:
                pair.producer.run(discard_at_once, discarded)
            except Full:
                pass
            assert pair.consumer.get() == b""
            pair.producer.run(discard, discarded)
            assert pair.consumer.empty()
            pair.producer.put_nowait(frame(1, LIMIT))
            assert pair.consumer.get() == frame(1, LIMIT)


def discard_at_once(ring: Ring, size: int) -> None:
    with pytest.raises(KeyError), ring.reserve(size, 0):
        raise KeyError


@case()
def a_reservation_is_left_before_the_next_put(pair: Pair) -> None:
    for what in ("put", "put_many", "reserve"):
        assert "another" in pair.producer.run(nested_put, what)
        assert pair.consumer.get(timeout=0) == b"outer"
    pair.producer.put(b"fine again")
    assert pair.consumer.get() == b"fine again"


def nested_put(ring: Ring, what: str) -> str:
    with ring.reserve(5) as room:
        room[:] = b"outer"
        with pytest.raises(RuntimeError) as caught:
            if what == "reserve":
                with ring.reserve(1):
                    pass
            else:
                getattr(ring, what)([b"x"] if what == "put_many" else b"x")
    return str(caught.value)


@case()
def peek_shows_a_frame_in_place_and_releases_it(pair: Pair) -> None:
    for number in range(50):  # around the end
        pair.producer.put(frame(number, 300))
        assert pair.consumer.run(peeked, release=True) == frame(number, 300)
        assert pair.consumer.empty()


@case()
def an_exception_leaves_a_peeked_frame_in_the_ring(pair: Pair) -> None:
    pair.producer.put_many([b"first", b"second"])
    for _ in range(3):
        assert pair.consumer.run(peeked, release=False) == b"first"
        assert pair.consumer.qsize() == 2
    assert pair.consumer.get() == b"first"
    assert pair.consumer.run(peeked, release=False) == b"second"
    assert pair.consumer.get_many() == [b"second"]


@case()
def a_peek_is_left_before_the_next_get(pair: Pair) -> None:
    for what in ("get", "get_many", "peek", "get_into"):
        pair.producer.put_many([b"first", b"second"])
        assert "another" in pair.consumer.run(nested_get, what)
        assert pair.consumer.get_many() == [b"second"]


def nested_get(ring: Ring, what: str) -> str:
    with ring.peek(), pytest.raises(RuntimeError) as caught:
        if what == "peek":
            with ring.peek():
                pass
        elif what == "get_into":
            ring.get_into(bytearray(10))
        else:
            getattr(ring, what)()
    return str(caught.value)


# ------------------------------------------------------------------ the end


@case()
def iteration_goes_on_until_shut_down_and_empty(pair: Pair) -> None:
    sent = [frame(n, n * 11 % 90) for n in range(200)]
    reading = pair.consumer.begin(drained)
    assert pair.producer.put_many(sent) == 200
    pair.producer.shutdown()
    assert reading.result() == sent


@case()
def shutdown_lets_readers_drain(pair: Pair) -> None:
    pair.producer.put_many([b"one", b"two"])
    pair.producer.shutdown()
    pair.producer.shutdown()  # idempotent
    for what, argument in (("put", b"x"), ("put_nowait", b"x"), ("put_many", [b"x"])):
        with pytest.raises(ShutDown):
            pair.producer.run(what, argument)
    with pytest.raises(ShutDown):
        pair.producer.run(in_place, 3, b"abc")
    assert pair.consumer.get() == b"one"
    assert pair.consumer.get_nowait() == b"two"
    for what in ("get", "get_nowait", "get_many"):
        with pytest.raises(ShutDown):
            pair.consumer.run(what)
    with pytest.raises(ShutDown):
        pair.consumer.run(peeked, release=True)
    assert pair.consumer.run(drained) == []
    assert pair.consumer.statistics().state == "shut down"


@case()
def shutdown_at_once_drops_what_is_there(pair: Pair) -> None:
    pair.producer.put_many([b"one", b"two"])
    assert pair.consumer.get() == b"one"
    pair.producer.shutdown(immediate=True)
    for what in ("get", "get_nowait", "get_many"):
        with pytest.raises(ShutDown):
            pair.consumer.run(what)
    with pytest.raises(ShutDown):
        pair.producer.put(b"x")
    assert pair.consumer.statistics().state == "shut down at once"


@case()
def shutdown_can_become_immediate(pair: Pair) -> None:
    pair.producer.put(b"one")
    pair.producer.shutdown()
    pair.consumer.shutdown(immediate=True)
    pair.consumer.shutdown()  # does not take it back
    with pytest.raises(ShutDown):
        pair.consumer.get()


@case()
def shutdown_wakes_a_reader(pair: Pair) -> None:
    waiting = pair.consumer.begin("get")
    asleep(pair, "data")
    pair.producer.shutdown()
    with pytest.raises(ShutDown):
        waiting.result()


@case()
def shutdown_wakes_a_writer(pair: Pair) -> None:
    put = fill_up(pair)
    waiting = pair.producer.begin("put", b"x" * 100)
    asleep(pair, "space")
    pair.consumer.shutdown()
    with pytest.raises(ShutDown):
        waiting.result()
    assert pair.consumer.run(drained) == put


@case()
def closing_is_no_end(pair: Pair) -> None:
    pair.producer.put(b"last words")
    pair.producer.run("close")
    if pair.one_handle:
        return
    assert pair.consumer.get() == b"last words"
    with pytest.raises(Empty):
        pair.consumer.get(timeout=0.12)  # long enough to look for the dead


@case()
def a_closed_handle_says_so(pair: Pair) -> None:
    pair.producer.put(b"x")
    pair.producer.run("close")
    pair.producer.run("close")
    for what, arguments in (
        ("put", (b"x",)),
        ("put_nowait", (b"x",)),
        ("put_many", ([b"x"],)),
        ("get", ()),
        ("get_nowait", ()),
        ("get_many", ()),
        ("get_into", (bytearray(9),)),
        ("shutdown", ()),
        ("flush", ()),
        ("qsize", ()),
        ("empty", ()),
        ("full", ()),
        ("statistics", ()),
        ("__enter__", ()),
        ("__reduce__", ()),
    ):
        with pytest.raises(ClosedError):
            pair.producer.run(what, *arguments)
    with pytest.raises(ClosedError):
        pair.producer.run(in_place, 3, b"abc")
    with pytest.raises(ClosedError):
        pair.producer.run(drained)
    assert "closed" in pair.producer.run("__repr__")


# ------------------------------------------------------------------ roles, and what is told


@case()
def a_role_is_taken_by_the_first_and_freed_by_close(pair: Pair) -> None:
    pair.producer.put(b"x")
    assert pair.consumer.get() == b"x"
    with pickle.loads(pickle.dumps(pair.near.ring)) as third:
        with pytest.raises(RoleTaken) as caught:
            third.put(b"y")
        assert (caught.value.pid, caught.value.role) == (pair.producer.pid, "producer")
        assert str(pair.producer.pid) in str(caught.value)
        with pytest.raises(RoleTaken) as caught:
            third.get(timeout=0)
        assert (caught.value.pid, caught.value.role) == (pair.consumer.pid, "consumer")
        assert pair.consumer.empty()
        pair.producer.put(b"z")  # the role is where it was
        if not pair.one_handle:
            pair.producer.run("close")
            third.put(b"y")
            assert pair.consumer.get_many(2) == [b"z", b"y"]
            pair.consumer.run("close")
            with pytest.raises(Empty):
                third.get(timeout=0)


@case()
def statistics_tell_what_is_there(pair: Pair) -> None:
    before = pair.consumer.statistics()
    assert (before.capacity, before.used, before.frames) == (CAPACITY, 0, 0)
    assert (before.state, before.producers, before.consumers) == ("open", (), ())
    pair.producer.put_many([b"", b"x", frame(0, 16), frame(0, 17)])
    pair.consumer.get()
    now = pair.consumer.statistics()
    assert (now.frames, now.used) == (3, 32 + 32 + 48)
    assert (now.committed, now.released) == (16 + 32 + 32 + 48, 16)
    assert (now.producers, now.consumers) == ((pair.producer.pid,), (pair.consumer.pid,))
    assert {pair.producer.pid, pair.consumer.pid} <= set(now.participants)
    with pytest.raises(AttributeError):
        now.used = 0
    assert now == pickle.loads(pickle.dumps(now))
    assert pair.producer.statistics().used == now.used


@case()
def sizes_are_told_around_the_end(pair: Pair) -> None:
    model: list[bytes] = []
    dice = random.Random(11)
    for number in range(300):
        data = frame(number, dice.randrange(900))
        try:
            pair.producer.put_nowait(data)
            model.append(data)
        except Full:
            assert model, "an empty ring refused a frame"
        if dice.random() < 0.5 and model:
            assert pair.consumer.get_nowait() == model.pop(0)
        assert pair.consumer.qsize() == len(model)
        assert pair.consumer.empty() == (not model)
        told = pair.consumer.statistics()
        assert sum(len(f) for f in model) <= told.used <= CAPACITY
        if told.used + 16 <= CAPACITY:
            assert not pair.consumer.full()


@case()
def full_means_that_nothing_goes_in(pair: Pair) -> None:
    for first, second in ((16, 4064), (16, LIMIT), (0, LIMIT), (48, 4000), (LIMIT, LIMIT)):
        pair.producer.put(frame(0, first))
        assert pair.consumer.get() == frame(0, first)
        pair.producer.put(frame(1, second))
        while not pair.producer.full():
            pair.producer.put_nowait(b"")
        with pytest.raises(Full):
            pair.producer.put_nowait(b"")
        assert pair.consumer.get_many()[0] == frame(1, second)


@case()
def the_repr_tells_the_state(pair: Pair) -> None:
    pair.producer.put(b"x")
    text = pair.producer.run("__repr__")
    assert "32 of 4096" in text
    assert "producer" in text
    assert "open" in text
    pair.producer.shutdown()
    assert "shut down" in pair.consumer.run("__repr__")


@case(when_full="raise")
def a_ring_may_raise_instead_of_waiting(pair: Pair) -> None:
    put = fill_up(pair)
    for timeout in (None, WAIT):
        with pytest.raises(Full):
            pair.producer.put(b"x" * 100, timeout)
        assert pair.producer.put_many([b"x" * 100], timeout) == 0
    assert pair.consumer.get() == put[0]
    pair.producer.put(b"x" * 100)
    assert pair.consumer.get_many() == put[1:] + [b"x" * 100]


# ------------------------------------------------------------------ both at the same time


@case()
def a_stream_by_every_way_there_is(pair: Pair) -> None:
    putting = pair.producer.begin(put_stream, 5, 2500, LIMIT)
    assert pair.consumer.run(check_stream, 5, 2500, LIMIT) == 2500
    assert putting.result() == 2500
    assert pair.consumer.empty()


@case(capacity=1 << 16)
def a_stream_of_small_frames(pair: Pair) -> None:
    sizes = list(islice(cycle([0, 8, 64, 65]), 20_000))
    putting = pair.producer.begin(put_all, sizes)
    pair.consumer.run(check_all, sizes)
    putting.result()


@case()
def pids_are_right(pair: Pair) -> None:
    assert pair.producer.run(own_pid) == pair.producer.pid
    assert pair.consumer.run(own_pid) == pair.consumer.pid


def own_pid(ring: Ring) -> int:
    return os.getpid()


@case()
def nobody_died(pair: Pair) -> None:
    with pytest.raises(Empty):
        pair.consumer.get(timeout=0.12)
    fill_up(pair)
    with pytest.raises(Full):
        pair.producer.put(b"x" * 100, timeout=0.12)
