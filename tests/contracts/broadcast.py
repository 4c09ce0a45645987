"""What a Broadcast promises wherever its memory is: cases, each run on one handle and on two.

A case takes the handle that publishes and the one that subscribes; they may be the same. `CASES`
has each with the options its broadcast is made with.
"""

from __future__ import annotations

import array
import random
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from shmkit import Broadcast, ClosedError, Empty, FrameTooLarge, PeerDied, RoleTaken, ShutDown
from shmkit.segment.words import READERS_BELL
from tests.processes import wait_until

__all__ = ["CASES", "Case", "Reader", "asleep", "numbered"]

CAPACITY = 4096
LIMIT = CAPACITY // 2 - 16
NOISE = random.Random(11).randbytes(1 << 16)
_HEAD = struct.Struct("<QI")


class Case(NamedTuple):
    """A case, and what `Broadcast.create` gets for it."""

    run: Callable[[Broadcast, Broadcast], None]
    options: dict[str, Any]


CASES: dict[str, Case] = {}


def case(**options: Any) -> Callable[..., Any]:
    """Register a case; its broadcast has 4096 bytes unless `options` say otherwise."""

    def register(function: Callable[[Broadcast, Broadcast], None]) -> Any:
        CASES[function.__name__] = Case(function, {"capacity": CAPACITY, **options})
        return function

    return register


def numbered(number: int, largest: int = LIMIT) -> bytes:
    """A frame that tells its number, with a checksum over all of it; most are small."""
    dice = random.Random(number)
    size = min(int(dice.expovariate(8 / largest)), largest - _HEAD.size)
    start = dice.randrange(len(NOISE) - size)
    body = NOISE[start : start + size]
    return _HEAD.pack(number, zlib.crc32(body, number)) + body


class Reader:
    """Reads numbered frames, and checks each of them and what is said to be lost before it."""

    def __init__(self, subscription: Any, first: int | None = 0) -> None:
        self.subscription = subscription
        self.next = first  # None: whatever comes
        self.got = 0
        self._lost = 0

    def get(self, timeout: float | None = 0) -> int:
        """The number of the next frame."""
        return self.check(self.subscription.get(timeout))

    def check(self, frame: bytes) -> int:
        """The number of a frame, which has to be whole, and the right one."""
        number, crc = _HEAD.unpack_from(frame)
        assert crc == zlib.crc32(frame[_HEAD.size :], number), f"frame {number} is torn"
        lost = self.subscription.lost - self._lost
        if self.next is not None:
            assert number == self.next + lost, f"{number} after {self.next} and {lost} lost"
        self._lost += lost
        self.next = number + 1
        self.got += 1
        return int(number)

    def drain(self) -> None:
        """Read until there is nothing."""
        while True:
            try:
                self.get()
            except PeerDied:
                continue  # told once
            except Empty:
                break


def asleep(handle: Any) -> None:
    """Wait until a reader sleeps on the handle's eventcount."""
    words = handle.buffer.view("Q")
    wait_until(lambda: words[READERS_BELL])


# ------------------------------------------------------------------ one frame, and the next


@case()
def frames_come_as_they_were_published(publisher: Broadcast, reader: Broadcast) -> None:
    with reader.subscribe() as subscription:
        for data in (b"a", b"", b"\0" * 17, bytes(range(256)), NOISE[:LIMIT], b"\xff"):
            publisher.publish(data)
            assert subscription.get() == data
        sent = [NOISE[:n] for n in range(20)]
        for data in sent:
            publisher.publish(data)
        assert [subscription.get_nowait() for _ in sent] == sent
        assert subscription.lost == 0
        with pytest.raises(Empty):
            subscription.get_nowait()


@case()
def any_contiguous_buffer_is_a_frame(publisher: Broadcast, reader: Broadcast) -> None:
    subscription = reader.subscribe()

    class Liar(bytes):
        def __len__(self) -> int:
            return 1000

    for data in (
        bytearray(b"bytearray"),
        memoryview(b"--memoryview--")[2:-2],
        memoryview(bytes(range(24))).cast("B", (2, 3, 4)),
        array.array("d", [1.5, -2.25]),
        array.array("i"),
        Liar(b"abc"),
    ):
        publisher.publish(data)
        assert subscription.get() == bytes(memoryview(data))
    for bad in ("text", 7, None, memoryview(b"abcdef")[::2]):
        with pytest.raises(TypeError):
            publisher.publish(bad)
    publisher.publish(b"next")
    assert subscription.get(0) == b"next"


@case()
def everybody_reads_everything(publisher: Broadcast, reader: Broadcast) -> None:
    readers = [Reader(reader.subscribe()) for _ in range(3)] + [Reader(publisher.subscribe())]
    for number in range(200):
        publisher.publish(numbered(number, 100))
        for one in readers[: 1 + number % 4]:
            one.drain()
    for one in readers:
        one.drain()
        assert (one.got, one.next) == (200 - one.subscription.lost, 200)
    assert readers[0].got == 200


@case()
def a_frame_that_can_never_fit_is_told(publisher: Broadcast, reader: Broadcast) -> None:
    subscription = reader.subscribe()
    for size in (LIMIT + 1, CAPACITY, 10 * CAPACITY):
        with pytest.raises(FrameTooLarge) as caught:
            publisher.publish(bytes(size))
        assert (caught.value.size, caught.value.limit) == (size, LIMIT)
    publisher.publish(b"x")
    with pytest.raises(FrameTooLarge):
        publisher.publish(bytes(LIMIT + 1))
    assert subscription.get(0) == b"x"


@case()
def every_size_goes_in_at_every_position(publisher: Broadcast, reader: Broadcast) -> None:
    """With the largest frames and the end of the data anywhere between."""
    one = Reader(reader.subscribe())
    with reader.subscribe() as plain:
        for filler in range(0, CAPACITY // 2 - 16, 16):
            for data in (NOISE[:filler], NOISE[:LIMIT], b"", NOISE[: filler + 9]):
                publisher.publish(data)
                assert plain.get(0) == data
        assert plain.lost == 0
    one.subscription.close()


# ------------------------------------------------------------------ too slow, and too late


@case()
def a_reader_that_is_lapped_is_told_how_many_it_lost(
    publisher: Broadcast, reader: Broadcast
) -> None:
    one = Reader(reader.subscribe())
    number = 0
    for burst in (1, 5, 300, 2, 1000, 7, 64, 65, 66, 3):
        for number in range(number, number + burst):  # noqa: B020
            publisher.publish(numbered(number, 200))
        number += 1
        one.drain()
        assert one.next == number
        assert one.got + one.subscription.lost == number
    assert one.subscription.lost > 1000


@case()
def what_was_published_last_is_there(publisher: Broadcast, reader: Broadcast) -> None:
    """A lapped reader and one that comes late find fifteen sixteenths of the capacity."""
    early = Reader(reader.subscribe())
    for number in range(200):
        publisher.publish(numbered(number, 60))
        late = Reader(reader.subscribe("oldest"), None)
        late.drain()
        assert late.next == number + 1
        assert late.subscription.lost == 0
        kept = sum(len(numbered(n, 60)) + 31 & -16 for n in range(number + 1 - late.got, number))
        assert late.got == number + 1 or kept >= CAPACITY * 15 // 16 - 160
    early.drain()
    assert early.got == late.got
    assert early.subscription.lost == 200 - late.got


@case()
def now_is_what_comes_from_now_on(publisher: Broadcast, reader: Broadcast) -> None:
    for number in range(50):
        publisher.publish(numbered(number, 100))
        one = Reader(reader.subscribe(), number + 1)
        with pytest.raises(Empty):
            one.get()
        one.subscription.close()
    one, other = Reader(reader.subscribe(), 50), Reader(reader.subscribe("now"), 50)
    for number in range(50, 500):
        publisher.publish(numbered(number, 200))
        one.drain()
    other.drain()
    assert one.next == other.next == 500
    assert other.got + other.subscription.lost == one.got == 450


@case()
def oldest_of_nothing_is_what_comes_first(publisher: Broadcast, reader: Broadcast) -> None:
    one = Reader(reader.subscribe("oldest"))
    with pytest.raises(Empty):
        one.get()
    publisher.publish(numbered(0))
    assert one.get() == 0
    for start in ("new", "", None, 0):
        with pytest.raises(ValueError, match="oldest"):
            reader.subscribe(start)  # type: ignore[arg-type]


@case()
def statistics_count(publisher: Broadcast, reader: Broadcast) -> None:
    subscription = reader.subscribe()
    assert reader.statistics().published == reader.statistics().frames == 0
    for number in range(1000):
        publisher.publish(numbered(number, 100))
    seen = reader.statistics()
    assert (seen.capacity, seen.published, seen.state) == (CAPACITY, 1000, "open")
    assert 0 < seen.frames < 200
    assert CAPACITY * 3 // 4 < seen.used <= CAPACITY
    mine = subscription.statistics()
    assert (mine.received, mine.lost, mine.behind) == (0, 0, 1000)
    subscription.get()
    mine = subscription.statistics()
    assert (mine.received, mine.lost) == (1, 1000 - seen.frames)
    assert mine.behind == seen.frames - 1
    assert "999" not in repr(subscription)
    assert str(subscription.lost) in repr(subscription)


# ------------------------------------------------------------------ waiting


@case()
def a_timeout_ends_a_wait(publisher: Broadcast, reader: Broadcast) -> None:
    subscription = reader.subscribe()
    for timeout in (0, 0.01):
        with pytest.raises(Empty):
            subscription.get(timeout=timeout)
    with pytest.raises(Empty):
        subscription.get(timeout=-1)
    bad: Any
    for bad, error in ((float("nan"), ValueError), (True, TypeError), ("1", TypeError)):
        with pytest.raises(error, match="timeout"):
            subscription.get(timeout=bad)
    publisher.publish(b"x")
    assert subscription.get(timeout=0.01) == b"x"


@case()
def all_who_sleep_are_woken(publisher: Broadcast, reader: Broadcast) -> None:
    """Each at its first frame, and at each later one."""
    with ThreadPoolExecutor(4) as threads:
        readers = [reader.subscribe() for _ in range(4)]
        for number in range(10):
            waiting = [threads.submit(one.get, 10) for one in readers]
            asleep(reader)
            publisher.publish(b"%d" % number)
            assert [wait.result(10) for wait in waiting] == [b"%d" % number] * 4


@case()
def shutdown_is_the_end_when_everything_was_read(publisher: Broadcast, reader: Broadcast) -> None:
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(list, reader.subscribe()) for _ in range(3)]
        late = reader.subscribe()
        asleep(reader)
        for data in (b"a", b"b"):
            publisher.publish(data)
        for _ in range(2):
            reader.shutdown()
        assert [wait.result(10) for wait in waiting] == [[b"a", b"b"]] * 3
        assert list(late) == list(reader.subscribe("oldest")) == [b"a", b"b"]
        with pytest.raises(ShutDown):
            late.get()
        with pytest.raises(ShutDown):
            publisher.publish(b"c")
        assert reader.statistics().state == "shut down"


@case()
def an_immediate_shutdown_is_the_end_at_once(publisher: Broadcast, reader: Broadcast) -> None:
    subscription = reader.subscribe()
    publisher.publish(b"a")
    publisher.publish(b"b")
    assert subscription.get() == b"a"
    publisher.shutdown()
    publisher.shutdown(immediate=True)
    publisher.shutdown()
    for one in (subscription, reader.subscribe("oldest")):
        with pytest.raises(ShutDown):
            one.get(timeout=5)
    with pytest.raises(ShutDown):
        publisher.publish(b"c")


# ------------------------------------------------------------------ roles and handles


@case()
def there_is_one_publisher(publisher: Broadcast, reader: Broadcast) -> None:
    subscription = reader.subscribe()
    publisher.publish(b"a")
    if publisher is not reader:
        with pytest.raises(RoleTaken, match="publisher already") as caught:
            reader.publish(b"b")
        assert (caught.value.pid, caught.value.role) == (
            publisher.statistics().publishers[0],
            "publisher",
        )
        publisher.close()
        reader.publish(b"c")
        assert [subscription.get(0), subscription.get(0)] == [b"a", b"c"]
        assert len(reader.statistics().participants) == 1


@case()
def a_successor_goes_on(publisher: Broadcast, reader: Broadcast) -> None:
    if publisher is reader:
        return
    one = Reader(reader.subscribe())
    for number in range(100):
        publisher.publish(numbered(number))
    publisher.close()
    for number in range(100, 400):
        reader.publish(numbered(number))
        one.drain()
    assert one.next == 400
    assert one.got + one.subscription.lost == 400
    assert one.got > 300


@case()
def a_closed_handle_says_so(publisher: Broadcast, reader: Broadcast) -> None:
    subscription, other = reader.subscribe(), reader.subscribe()
    publisher.publish(b"a")
    publisher.publish(b"b")
    assert subscription.get() == b"a"
    with subscription:
        pass
    subscription.close()
    calls: list[Callable[[], object]] = [
        subscription.get,
        subscription.get_nowait,
        subscription.statistics,
        subscription.__enter__,
        lambda: next(iter(subscription)),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="closed"):
            call()
    assert other.get() == b"a"
    with ThreadPoolExecutor(1) as threads:
        other.get()
        waiting = threads.submit(other.get)
        asleep(reader)
        reader.close()
        with pytest.raises(ClosedError):
            waiting.result(5)
    assert subscription.closed
    assert other.closed
    calls = [
        other.get,
        reader.subscribe,
        reader.statistics,
        reader.shutdown,
        reader.__enter__,
        lambda: reader.publish(b"c"),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="closed"):
            call()
    reader.close()
    for closed in (subscription, other, reader):
        assert "closed" in repr(closed)
